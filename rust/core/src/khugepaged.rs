//! Making huge pages of small ones: `madvise(MADV_COLLAPSE)`, mm/khugepaged.c v6.12.

use crate::address_space::{MmId, RssKind, VmArea, vm_flags};
use crate::contents::Fill;
use crate::fault::FaultContext;
use crate::folio::HPAGE_PMD_ORDER;
use crate::gfp::Gfp;
use crate::mem_map::{PageClass, page_flags};
use crate::memory::Memory;
use crate::page_cache::FileId;
use crate::page_table::{LeafId, PTRS_PER_TABLE, Pte, Span};
use crate::units::{Cpu, Pfn};
use crate::vmstat::VmEvent;

/// Why a range was not collapsed: `enum scan_result`, as far as a caller can tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollapseError {
    /// No page table, so nothing was ever mapped, or an entry that is no page of anonymous memory:
    /// `-EINVAL`.
    Unfit,
    /// A page has a reference that no mapping explains: `-EAGAIN`.
    Busy,
    /// No huge page could be had: `-ENOMEM`.
    OutOfMemory,
}

impl CollapseError {
    /// Stable name, for those who cannot match on it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unfit => "unfit",
            Self::Busy => "busy",
            Self::OutOfMemory => "out_of_memory",
        }
    }
}

impl Memory {
    /// Replaces what is mapped in the 512 pages from `vpn` on, which is a multiple of 512 in a private
    /// anonymous VMA with these flags, by one huge page. Absent pages and zero pages become part of
    /// it. `hpage_collapse_scan_pmd()` and `collapse_huge_page()`.
    ///
    /// # Errors
    /// Why not; everything is then as it was.
    pub fn collapse(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        vpn: u64,
        flags: u64,
    ) -> Result<(), CollapseError> {
        let leaf = self.owners.leaf_of(mm, vpn).ok_or(CollapseError::Unfit)?;
        if self.owners.tables.leaf(leaf).huge {
            return Ok(());
        }
        self.scan_for_collapse(leaf)?;
        let gfp = Gfp::TRANSHUGE.with(Gfp::ZERO);
        let head = self
            .alloc_folio(cpu, gfp, HPAGE_PMD_ORDER, PageClass::AnonThp, vpn)
            .inspect_err(|_| self.vmstat.count(VmEvent::ThpCollapseAllocFailed, 1))
            .map_err(|_| CollapseError::OutOfMemory)?;
        self.vmstat.count(VmEvent::ThpCollapseAlloc, 1);
        self.copy_to_huge(leaf, head);
        self.zap(mm, cpu, vpn, PTRS_PER_TABLE, crate::zap::Markers::Drop);
        self.own_anon_folio(head, mm, vpn);
        self.owners
            .count_rss(mm, RssKind::Anon, PTRS_PER_TABLE.cast_signed());
        let write = if flags & vm_flags::WRITE == 0 {
            0
        } else {
            Pte::WRITE
        };
        let bits = Pte::ANON | Pte::EXCLUSIVE | Pte::YOUNG | Pte::DIRTY | write;
        self.set_huge(leaf, head, bits);
        if flags & vm_flags::LOCKED != 0 {
            self.mlock_range(mm, vpn, PTRS_PER_TABLE, flags);
        }
        Ok(())
    }

    fn scan_for_collapse(&self, leaf: LeafId) -> Result<(), CollapseError> {
        for &pte in self.owners.tables.leaf(leaf).ptes.iter() {
            if pte.is_none() || pte.has(Pte::ZERO) {
                continue;
            }
            if !pte.has(Pte::ANON) {
                return Err(CollapseError::Unfit); // a guard, a page of a file
            }
            let head = self.map.counted(pte.pfn());
            if !self.has_expected_refs(head) {
                return Err(CollapseError::Busy);
            }
        }
        Ok(())
    }

    /// Makes the 512 pages of shared memory behind `vpn` one huge page, and maps it whole; holes become
    /// part of it. `vpn` is a multiple of 512 within the VMA, as is its page. `hpage_collapse_scan_file()`,
    /// `collapse_file()` and `collapse_pte_mapped_thp()`, v6.18.
    ///
    /// # Errors
    /// Why not; if the table maps something else than the object, its pages are one huge page now.
    pub fn collapse_file(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        vpn: u64,
        vma: &VmArea,
    ) -> Result<(), CollapseError> {
        let file = vma.file.ok_or(CollapseError::Unfit)?;
        let start = u32::try_from(vma.index_of(vpn)).map_err(|_| CollapseError::Unfit)?;
        let cached = self.owners.cache.file(file).lookup(start);
        let head = match cached.and_then(|pfn| self.huge_head(pfn)) {
            Some(head) => head,
            None => self.make_cached_huge(cpu, file, start)?,
        };
        let f = FaultContext { mm, cpu, vma };
        if let Some(leaf) = self.owners.leaf_of(mm, vpn) {
            if self.owners.tables.leaf(leaf).huge {
                return Ok(());
            }
            let shown = |(pfn, pte): (u32, &Pte)| {
                pte.is_none() || pte.is_present() && pte.pfn().0 == pfn && !pte.has(Pte::ZERO)
            };
            if !(head.0..)
                .zip(self.owners.tables.leaf(leaf).ptes.iter())
                .all(shown)
            {
                return Err(CollapseError::Unfit); // a private copy, a guard
            }
            self.zap(mm, cpu, vpn, PTRS_PER_TABLE, crate::zap::Markers::Keep);
            self.drop_empty_table(mm, cpu, vpn);
        }
        let bits = self.read_bits(&f, file);
        let mapped = self.do_set_pmd(&f, file, vpn, head, bits);
        self.owners.cache.settle();
        mapped.map_err(|_| CollapseError::OutOfMemory)
    }

    /// Puts one huge page into the cache in place of the pages from `start` on: `collapse_file()`.
    fn make_cached_huge(
        &mut self,
        cpu: Cpu,
        file: FileId,
        start: u32,
    ) -> Result<Pfn, CollapseError> {
        let end = start
            .checked_add(HPAGE_PMD_ORDER.nr_pages())
            .ok_or(CollapseError::Unfit)?;
        let old: Vec<_> = self.owners.cache.file(file).cached(start..end).collect();
        if old.is_empty() {
            return Err(CollapseError::Unfit);
        }
        if old
            .iter()
            .any(|&(_, pfn)| !self.has_expected_refs(self.map.counted(pfn)))
        {
            return Err(CollapseError::Busy);
        }
        let gfp = Gfp::TRANSHUGE.with(Gfp::ZERO);
        let class = PageClass::ShmemThp;
        let head = self
            .alloc_folio(cpu, gfp, HPAGE_PMD_ORDER, class, start.into())
            .inspect_err(|_| self.vmstat.count(VmEvent::ThpCollapseAllocFailed, 1))
            .map_err(|_| CollapseError::OutOfMemory)?;
        self.vmstat.count(VmEvent::ThpCollapseAlloc, 1);
        let tables = self.tables_over(file, start);
        for &(index, pfn) in &old {
            let to = Pfn(head.0 + index - start);
            // What was never written is told by the page's place in the file.
            self.owners
                .contents
                .copy(&mut self.map, pfn, to, Fill::ZERO);
        }
        self.cache_drop(file, cpu, start..end);
        self.add_huge_to_cache(file, start, head);
        self.map.add_flags(head, page_flags::DIRTY);
        for (mm, vpn) in tables {
            self.drop_empty_table(mm, cpu, vpn);
        }
        Ok(head)
    }

    /// Address spaces and virtual pages at which one table maps the huge page from page `start` of a
    /// file on: what `retract_page_tables()` looks at, v6.18.
    fn tables_over(&self, file: FileId, start: u32) -> Vec<(MmId, u64)> {
        let mappings = self.owners.cache.file(file).mappings.keys();
        let over = mappings.filter_map(|&(mm, delta)| {
            let vpn = u64::try_from(i64::from(start) + delta).ok()?;
            vpn.is_multiple_of(PTRS_PER_TABLE).then_some((mm, vpn))
        });
        over.collect()
    }

    /// Frees the table that covers `vpn` if it has no entry.
    fn drop_empty_table(&mut self, mm: MmId, cpu: Cpu, vpn: u64) {
        let nr = PTRS_PER_TABLE;
        if let Some(leaf) = self.owners.leaf_of(mm, vpn) {
            self.reclaim_pt(mm, cpu, Span { leaf, vpn, nr });
        }
    }

    /// `__collapse_huge_page_copy()`.
    fn copy_to_huge(&mut self, leaf: LeafId, head: Pfn) {
        for slot in 0..self.owners.tables.leaf(leaf).ptes.len() {
            let pte = self.owners.tables.leaf(leaf).ptes[slot];
            if pte.has(Pte::ANON) {
                let to = Pfn(head.0 + u32::try_from(slot).expect("at most 512"));
                let contents = &mut self.owners.contents;
                contents.copy(&mut self.map, pte.pfn(), to, Fill::ZERO);
            }
        }
    }
}
