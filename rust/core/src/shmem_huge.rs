//! Huge pages of shared memory: who gets them, mm/shmem.c v6.18, and mapping them whole, mm/memory.c
//! v6.18. A huge mapping of a file has no table of its own on x86 (`arch_needs_pgtable_deposit()`), so
//! that to split it is to take it away: the next fault finds the pages in the cache.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::address_space::{Cause, MmId, VmArea, rss_kind, vm_flags};
use crate::error::AllocError;
use crate::fault::FaultContext;
use crate::folio::HPAGE_PMD_ORDER;
use crate::huge_memory::ThpSettings;
use crate::mem_map::{PageClass, page_flags};
use crate::memory::Memory;
use crate::page_cache::{FileId, FileKind};
use crate::page_table::{LeafId, PTRS_PER_TABLE, Pte, USER_PAGES, slot_of};
use crate::units::{Cpu, Pfn};
use crate::vmstat::VmEvent;
use crate::zap::Unmap;

/// Pages of a huge page.
const HPAGE_PMD_NR: u32 = HPAGE_PMD_ORDER.nr_pages();
/// Flags of a cached frame of shared memory.
pub(crate) const SHMEM_FLAGS: u16 = page_flags::LRU | page_flags::UPTODATE | page_flags::SWAPBACKED;

/// `shmem_enabled`: which pages of shared memory are huge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThpShmem {
    /// Any.
    Always,
    /// Those that end within the object, and those of memory with `VM_HUGEPAGE`.
    WithinSize,
    /// Those of memory with `VM_HUGEPAGE`.
    Advise,
    /// None, unless `MADV_COLLAPSE` makes them.
    #[default]
    Never,
    /// None at all.
    Deny,
    /// Any.
    Force,
}

impl ThpSettings {
    /// Whether the page `index` of an object of `nr_pages` may come as part of a huge page:
    /// `shmem_allowable_huge_orders()`, v6.18, where 2 MiB inherit and smaller sizes are off.
    fn shmem_allows(&self, vma: Option<&VmArea>, index: u64, nr_pages: u64) -> bool {
        if vma.is_some_and(|vma| vma.has(vm_flags::NOHUGEPAGE)) {
            return false;
        }
        let advised = vma.is_some_and(|vma| vma.has(vm_flags::HUGEPAGE));
        match self.shmem {
            ThpShmem::Always | ThpShmem::Force => true,
            ThpShmem::WithinSize => huge_start(index) + PTRS_PER_TABLE <= nr_pages || advised,
            ThpShmem::Advise => advised,
            ThpShmem::Never | ThpShmem::Deny => false,
        }
    }
}

/// First page of the huge page that holds one.
const fn huge_start(index: u64) -> u64 {
    index - index % PTRS_PER_TABLE
}

/// Whether the table that covers `vpn` can map one huge page of the VMA's file:
/// `thp_vma_suitable_order()`, include/linux/huge_mm.h v6.18.
pub(crate) const fn fits_file(vma: &VmArea, vpn: u64) -> bool {
    let start = huge_start(vpn);
    let aligned = vma.start_vpn % PTRS_PER_TABLE == vma.pgoff % PTRS_PER_TABLE;
    aligned && start >= vma.start_vpn && start + PTRS_PER_TABLE <= vma.end_vpn
}

impl Memory {
    /// Brings the huge page that holds page `index` of shared memory into the cache, if it may be one
    /// and none of it is there: `shmem_alloc_and_add_folio()`. `write_end` is the page behind the last
    /// that the object is going to have. Returns the frame of the page.
    pub(crate) fn cache_huge(
        &mut self,
        cpu: Cpu,
        file: FileId,
        index: u32,
        (at, write_end): (Option<(&VmArea, u64)>, u64),
    ) -> Option<Pfn> {
        let object = self.owners.cache.file(file);
        let nr_pages = object.end_index().max(write_end);
        let vma = at.map(|(vma, _)| vma);
        let allowed = object.kind == FileKind::Shmem
            && self.owners.thp.shmem_allows(vma, index.into(), nr_pages)
            && at.is_none_or(|(vma, vpn)| fits_file(vma, vpn));
        let start = index - index % HPAGE_PMD_NR;
        let pages = start..start.checked_add(HPAGE_PMD_NR)?;
        if !allowed || object.cached(pages).next().is_some() {
            return None;
        }
        let gfp = self.owners.thp.gfp(vma);
        let class = PageClass::ShmemThp;
        let Ok(head) = self.alloc_folio(cpu, gfp, HPAGE_PMD_ORDER, class, index.into()) else {
            self.vmstat.count(VmEvent::ThpFileFallback, 1);
            return None;
        };
        self.vmstat.count(VmEvent::ThpFileAlloc, 1);
        self.add_huge_to_cache(file, start, head);
        Some(Pfn(head.0 + index - start))
    }

    /// Makes a fresh huge page the pages from `start` on of shared memory, of which none is cached:
    /// `shmem_add_to_page_cache()`. The allocation's reference becomes that of the first page.
    pub(crate) fn add_huge_to_cache(&mut self, file: FileId, start: u32, head: Pfn) {
        for (pfn, index) in self.frames_of(head).zip(start..) {
            let content = self.map.flags(pfn) & page_flags::HAS_CONTENT;
            self.map
                .set_flags(pfn, SHMEM_FLAGS | page_flags::LARGE | content);
            self.map.set_owner(pfn, file.0, index);
            self.owners.cache.file_mut(file).insert(index, pfn);
        }
        self.map.add_refs(head, HPAGE_PMD_NR - 1);
        self.owners.stat.nr_shmem += u64::from(HPAGE_PMD_NR);
        self.owners.stat.nr_file_pages += u64::from(HPAGE_PMD_NR);
    }

    /// A cached page was filled, and with it the folio that it is part of: `folio_mark_uptodate()`.
    #[inline]
    pub(crate) fn mark_uptodate(&mut self, pfn: Pfn) {
        let flags = self.map.flags(pfn);
        if flags & page_flags::UPTODATE != 0 {
            return;
        }
        if flags & page_flags::LARGE == 0 {
            self.map.add_flags(pfn, page_flags::UPTODATE);
            return;
        }
        for pfn in self.frames_of(self.map.large_head(pfn)) {
            self.map.add_flags(pfn, page_flags::UPTODATE);
        }
    }

    /// The part of a fault on a page of shared memory that a huge mapping takes: `wp_huge_pmd()`, which
    /// takes the mapping away, and `do_set_pmd()`. Nothing: the fault goes on page by page.
    pub(crate) fn handle_huge_file_fault(
        &mut self,
        f: &FaultContext,
        file: FileId,
        vpn: u64,
        write: bool,
    ) -> Result<Option<Pte>, Cause> {
        match self.owners.leaf_of(f.mm, vpn) {
            Some(leaf) if self.owners.tables.leaf(leaf).huge => {
                self.split_huge_pmd(f.mm, vpn, leaf);
            }
            Some(_) => return Ok(None),
            None => {}
        }
        let object = self.owners.cache.file(file);
        let index = f.vma.index_of(vpn);
        let private_write = write && !f.vma.has(vm_flags::SHARED);
        let beyond = index >= object.end_index();
        if object.kind != FileKind::Shmem
            || private_write
            || beyond
            || !fits_file(f.vma, vpn)
            || f.vma.has(vm_flags::NOHUGEPAGE)
        {
            return Ok(None);
        }
        let index = u32::try_from(index).map_err(|_| Cause::BeyondEof)?;
        let found = match object.lookup(index) {
            Some(pfn) => Some(pfn),
            None => self.cache_huge(f.cpu, file, index, (Some((f.vma, vpn)), 0)),
        };
        let Some(head) = found.and_then(|pfn| self.huge_head(pfn)) else {
            return Ok(None);
        };
        let bits = if write {
            f.written()
        } else {
            self.read_bits(f, file)
        };
        self.do_set_pmd(f, file, vpn, head, bits)?;
        Ok(Some(self.owners.pte(f.mm, vpn)))
    }

    /// The head of the huge page that a cached frame is part of.
    pub(crate) fn huge_head(&self, pfn: Pfn) -> Option<Pfn> {
        if self.map.flags(pfn) & page_flags::LARGE == 0 {
            return None;
        }
        let head = self.map.large_head(pfn);
        (self.map.folio_order(head) == HPAGE_PMD_ORDER).then_some(head)
    }

    /// Maps a cached huge page whole where there is no table: `do_set_pmd()`, v6.18.
    pub(crate) fn do_set_pmd(
        &mut self,
        f: &FaultContext,
        file: FileId,
        vpn: u64,
        head: Pfn,
        bits: u64,
    ) -> Result<(), AllocError> {
        let pmd = self.ensure_pmd(f.cpu, f.mm, vpn)?;
        let leaf = self.owners.tables.new_leaf(Pfn::NONE);
        self.owners.tables.link_leaf(pmd, vpn, leaf);
        self.mark_uptodate(head);
        let (start, index) = (huge_start(vpn), self.map.index(head));
        for (pfn, nr) in self.frames_of(head).zip(0..) {
            let at = (start + u64::from(nr), index + nr);
            self.map_cached(f.mm, file, at, pfn, bits);
        }
        self.set_huge(leaf, head, bits);
        self.finish_huge_fault(f, leaf);
        self.vmstat.count(VmEvent::ThpFileMapped, 1);
        Ok(())
    }

    /// Maps the absent pages of a large folio around `vpn` one by one, if the VMA and the table have
    /// all of it, but `vpn` itself: `filemap_map_folio_range()`, mm/filemap.c v6.18.
    pub(crate) fn map_folio_around(
        &mut self,
        f: &FaultContext,
        file: FileId,
        (leaf, vpn): (LeafId, u64),
        pfn: Pfn,
        bits: u64,
    ) {
        let Some((start, head)) = self.folio_in_table(f.vma, file, vpn, pfn) else {
            return;
        };
        let index = self.map.index(head);
        for (pfn, nr) in self.frames_of(head).zip(0..) {
            let at = start + u64::from(nr);
            if at == vpn || !self.owners.tables.leaf(leaf).ptes[slot_of(at, 0)].is_none() {
                continue;
            }
            let mut pte = self.map_cached(f.mm, file, (at, index + nr), pfn, bits);
            if f.vma.has(vm_flags::LOCKED) {
                pte = self.lock_frame(pte);
            }
            self.owners.tables.leaf_mut(leaf).ptes[slot_of(at, 0)] = pte;
        }
    }

    /// Whether the entries of the folio that `vpn` is to show are all absent.
    pub(crate) fn is_folio_absent(
        &self,
        f: &FaultContext,
        file: FileId,
        vpn: u64,
        pfn: Pfn,
    ) -> bool {
        let Some((start, head)) = self.folio_in_table(f.vma, file, vpn, pfn) else {
            return false;
        };
        let nr = u64::from(self.map.folio_order(head).nr_pages());
        (start..start + nr).all(|at| self.owners.pte(f.mm, at).is_none())
    }

    /// First virtual page and head of the large folio that `vpn` shows, if the VMA, the table and,
    /// unless it is shared memory, the file have all of it.
    fn folio_in_table(&self, vma: &VmArea, file: FileId, vpn: u64, pfn: Pfn) -> Option<(u64, Pfn)> {
        if self.map.flags(pfn) & page_flags::LARGE == 0 {
            return None;
        }
        let head = self.map.large_head(pfn);
        let nr = u64::from(self.map.folio_order(head).nr_pages());
        let object = self.owners.cache.file(file);
        let whole = object.kind == FileKind::Shmem
            || object.end_index() >= u64::from(self.map.index(head)) + nr;
        let start = vpn.checked_sub(u64::from(pfn.0 - head.0))?;
        let inside = start >= vma.start_vpn
            && start + nr <= vma.end_vpn
            && start % PTRS_PER_TABLE + nr <= PTRS_PER_TABLE;
        (whole && inside).then_some((start, head))
    }

    /// Frames of shared memory that somebody maps huge: `NR_SHMEM_PMDMAPPED`.
    pub fn nr_shmem_pmdmapped(&self) -> u64 {
        let heads: BTreeSet<Pfn> = self
            .mms()
            .flat_map(|mm| self.spans(mm, 0, USER_PAGES))
            .map(|span| self.owners.tables.leaf(span.leaf))
            .filter(|leaf| leaf.is_huge_file())
            .map(|leaf| leaf.ptes[0].pfn())
            .collect();
        heads.len() as u64 * u64::from(HPAGE_PMD_NR)
    }

    /// Takes a huge mapping of a file away: the end of `__split_huge_pmd_locked()` for what is not
    /// anonymous, mm/huge_memory.c v6.18. The cache keeps the pages.
    pub(crate) fn unmap_huge_file(&mut self, mm: MmId, vpn: u64, leaf: LeafId) {
        let start = huge_start(vpn);
        let table = self.owners.tables.leaf_mut(leaf);
        table.huge = false;
        let used = table.used_bits();
        let ptes = std::mem::replace(&mut *table.ptes, [Pte::NONE; 512]);
        for (pte, at) in ptes.into_iter().zip(start..) {
            let kind = rss_kind(&self.map, pte.pfn());
            self.owners.count_rss(mm, kind, -1);
            let owners = &mut self.owners;
            let mut unmap = Unmap {
                map: &mut self.map,
                rmap: &mut owners.rmap,
                cache: &mut owners.cache,
                stat: &mut owners.stat,
                munlocked: &mut owners.munlocked,
                partial: &mut owners.partial,
            };
            let last = unmap.present(mm, at, pte.with(used));
            debug_assert_eq!(last, None, "the cache holds it");
        }
        self.settle_mlock();
        self.owners.cache.settle();
        let pgd = self.owners.space(mm).pgd.expect("it has a table");
        self.owners.tables.unlink_leaf(pgd, start);
        self.owners.tables.drop_leaf(leaf);
    }
}
