//! Faults on pages of files: `do_fault()` and what it calls, mm/memory.c and mm/filemap.c v6.12, with
//! the neighbours that are mapped and read along.

use crate::address_space::{Cause, MmId, VmArea, rss_kind, vm_flags};
use crate::error::AllocError;
use crate::fault::{FaultContext, GFP_ANON};
use crate::gfp::Gfp;
use crate::mem_map::page_flags;
use crate::memory::Memory;
use crate::page_cache::{FileId, FileKind, MAX_READ_AHEAD};
use crate::page_table::{LeafId, PTRS_PER_TABLE, Pte, slot_of};
use crate::shmem_huge::SHMEM_FLAGS;
use crate::units::{Cpu, Order, Pfn};
use crate::vmstat::VmEvent;

/// Pages mapped around a read fault: `fault_around_pages`, 64 KiB.
const FAULT_AROUND_PAGES: u64 = 16;
/// `VM_EXEC`, include/linux/mm.h v6.12.
const VM_EXEC: u64 = 1 << 2;
/// `VM_SEQ_READ` and `VM_RAND_READ`, include/linux/mm.h v6.12.
const VM_SEQ_READ: u64 = 1 << 15;
const VM_RAND_READ: u64 = 1 << 16;
/// `VM_DONTEXPAND`: of mappings with an object, only the kernel's own pages have it.
const VM_DONTEXPAND: u64 = 1 << 18;

impl Memory {
    /// `do_fault()`. Cached neighbours are mapped before the page itself is looked for, so also where
    /// the file has ended.
    pub(crate) fn do_fault(
        &mut self,
        f: &FaultContext,
        file: FileId,
        leaf: LeafId,
        vpn: u64,
        (write, around): (bool, bool),
    ) -> Result<Pte, Cause> {
        if around {
            self.do_fault_around(f, file, leaf, vpn);
            let pte = self.owners.tables.leaf(leaf).ptes[slot_of(vpn, 0)];
            if !pte.is_none() {
                return Ok(pte); // as part of a large folio
            }
        }
        let index = f.vma.index_of(vpn);
        if index >= self.owners.cache.file(file).end_index() {
            return Err(Cause::BeyondEof);
        }
        let index = u32::try_from(index).map_err(|_| Cause::BeyondEof)?;
        if write && !f.vma.has(vm_flags::SHARED) {
            return self.do_cow_fault(f, file, vpn, index);
        }
        let pfn = match self.owners.cache.file(file).lookup(index) {
            Some(pfn) => pfn,
            None => {
                let pfn = self.sync_mmap_readahead(f, file, (vpn, index))?;
                if !write && !f.vma.has(VM_DONTEXPAND) {
                    // filemap_fault() drops the lock to read, and the fault begins again.
                    self.do_fault_around(f, file, leaf, vpn);
                    let pte = self.owners.tables.leaf(leaf).ptes[slot_of(vpn, 0)];
                    if !pte.is_none() {
                        return Ok(pte);
                    }
                }
                pfn
            }
        };
        let bits = if write {
            f.written()
        } else {
            self.read_bits(f, file)
        };
        if self.is_folio_absent(f, file, vpn, pfn) {
            self.map_folio_around(f, file, (leaf, vpn), pfn, bits); // `finish_fault()`
        }
        Ok(self.map_cached(f.mm, file, (vpn, index), pfn, bits))
    }

    /// Bits of an entry made by a read fault: `vma->vm_page_prot`. A shared page of a disk's file is
    /// mapped read-only first, so that its first write is seen: `vma_wants_writenotify()`.
    pub(crate) fn read_bits(&self, f: &FaultContext, file: FileId) -> u64 {
        let writable = f.vma.has(vm_flags::SHARED)
            && f.vma.has(vm_flags::WRITE)
            && self.owners.cache.file(file).kind == FileKind::Shmem;
        Pte::YOUNG | if writable { Pte::WRITE } else { 0 }
    }

    /// `do_cow_fault()`: a private copy of a page of a file.
    fn do_cow_fault(
        &mut self,
        f: &FaultContext,
        file: FileId,
        vpn: u64,
        index: u32,
    ) -> Result<Pte, Cause> {
        let source = match self.owners.cache.file(file).lookup(index) {
            Some(pfn) => {
                self.mark_uptodate(pfn); // shmem_get_folio_gfp() clears it
                pfn
            }
            None => self.sync_mmap_readahead(f, file, (vpn, index))?,
        };
        let fill = self.owners.cache.file(file).fill_of(index);
        let new = |memory: &mut Self| memory.new_anon(f, vpn, Gfp::HIGHUSER_MOVABLE);
        let pfn = self.holding(f.cpu, source, new)?;
        self.owners.contents.copy(&mut self.map, source, pfn, fill);
        let copy_ns = u64::from(self.clock.costs.copy_ns);
        self.clock.charge(f.cpu, copy_ns);
        Ok(Pte::present(pfn, Pte::ANON | Pte::EXCLUSIVE | f.written()))
    }

    /// `do_sync_mmap_readahead()`, mm/filemap.c v6.12: brings a missing page of a file into the cache
    /// and, from a disk, its neighbours; of code those behind it only, up to the end of the VMA (v6.16).
    fn sync_mmap_readahead(
        &mut self,
        f: &FaultContext,
        file: FileId,
        (vpn, index): (u64, u32),
    ) -> Result<Pfn, AllocError> {
        let wanted = self.cache_page(f.cpu, file, index, Some((f.vma, vpn)))?;
        let object = self.owners.cache.file(file);
        if object.kind == FileKind::Shmem || f.vma.has(VM_RAND_READ) {
            return Ok(wanted);
        }
        let back = if f.vma.has(VM_SEQ_READ | VM_EXEC) {
            0
        } else {
            MAX_READ_AHEAD / 2
        };
        let start = index.saturating_sub(back);
        let mut end = u64::from(start + MAX_READ_AHEAD).min(object.end_index());
        if f.vma.has(VM_EXEC) && !f.vma.has(VM_SEQ_READ) {
            end = end.min(f.vma.index_of(f.vma.end_vpn));
        }
        let nr = u32::try_from(end).expect("within the file") - start;
        // Neighbours for which there is no frame are simply not read.
        self.holding(f.cpu, wanted, |memory| {
            memory.cache_insert(file, f.cpu, start, nr)
        });
        Ok(wanted)
    }

    /// Virtual pages that a read fault at `vpn` may map: `do_fault_around()`.
    fn around_window(f: &FaultContext, vpn: u64) -> std::ops::Range<u64> {
        let slot = vpn % PTRS_PER_TABLE;
        let from = (slot / FAULT_AROUND_PAGES * FAULT_AROUND_PAGES)
            .max(slot - slot.min(vpn - f.vma.start_vpn));
        let to = (from + FAULT_AROUND_PAGES)
            .min(PTRS_PER_TABLE)
            .min(slot + f.vma.end_vpn - vpn);
        vpn - slot + from..vpn - slot + to
    }

    /// Whether a read fault maps its neighbours. Where there is no page table yet,
    /// `filemap_map_pages()` installs one only if the first cached page is not the last of a disk's
    /// file (`can_map_large`, v6.18), or else maps nothing. The kernel's own pages have no neighbours.
    pub(crate) fn maps_around(&self, f: &FaultContext, vpn: u64) -> bool {
        let Some(file) = f.vma.file else {
            return false;
        };
        if f.vma.has(VM_DONTEXPAND) {
            return false;
        }
        if self.owners.leaf_of(f.mm, vpn).is_some() {
            return true;
        }
        let object = self.owners.cache.file(file);
        let first = Self::around_window(f, vpn)
            .map(|at| f.vma.index_of(at))
            .take_while(|&index| index < object.end_index())
            .find(|&index| u32::try_from(index).is_ok_and(|index| object.lookup(index).is_some()));
        first.is_some_and(|index| object.kind == FileKind::Shmem || index + 1 < object.end_index())
    }

    /// `do_fault_around()` and `filemap_map_pages()`: maps what is cached already around `vpn`.
    fn do_fault_around(&mut self, f: &FaultContext, file: FileId, leaf: LeafId, vpn: u64) {
        let end_index = self.owners.cache.file(file).end_index();
        for at in Self::around_window(f, vpn).filter(|&at| at != vpn) {
            let index = f.vma.index_of(at);
            if index >= end_index || !self.owners.tables.leaf(leaf).ptes[slot_of(at, 0)].is_none() {
                continue;
            }
            let Ok(index) = u32::try_from(index) else {
                continue;
            };
            let cached = self.owners.cache.file(file).lookup(index);
            let uptodate = |pfn: &Pfn| self.map.flags(*pfn) & page_flags::UPTODATE != 0;
            let Some(pfn) = cached.filter(uptodate) else {
                continue;
            };
            let bits = self.read_bits(f, file);
            self.map_folio_around(f, file, (leaf, at), pfn, bits);
            let pte = self.map_cached(f.mm, file, (at, index), pfn, bits);
            let pte = if f.vma.has(vm_flags::LOCKED) {
                self.lock_frame(pte)
            } else {
                pte
            };
            self.owners.tables.leaf_mut(leaf).ptes[slot_of(at, 0)] = pte;
        }
    }

    /// One more mapping of a cached frame: `set_pte_range()` and `folio_add_file_rmap_pte()`.
    pub(crate) fn map_cached(
        &mut self,
        mm: MmId,
        file: FileId,
        (vpn, index): (u64, u32),
        pfn: Pfn,
        bits: u64,
    ) -> Pte {
        self.map.get_page(pfn);
        self.mark_uptodate(pfn);
        self.owners.stat.nr_file_mapped += u64::from(self.map.mapcount(pfn) == 0);
        self.map.add_mapcount(pfn, 1);
        self.owners.cache.count_mapping(file, mm, (vpn, index), 1);
        let kind = rss_kind(&self.map, pfn);
        self.owners.count_rss(mm, kind, 1);
        Pte::present(pfn, bits)
    }

    /// Brings a page of a file into the cache, for a fault `at` a virtual page of a VMA or for the file's
    /// own sake: `filemap_get_pages()`, `shmem_get_folio()`.
    pub(crate) fn cache_page(
        &mut self,
        cpu: Cpu,
        file: FileId,
        index: u32,
        at: Option<(&VmArea, u64)>,
    ) -> Result<Pfn, AllocError> {
        if let Some(pfn) = self.cache_huge(cpu, file, index, (at, u64::from(index) + 1)) {
            return Ok(pfn);
        }
        let kind = self.owners.cache.file(file).kind;
        let (gfp, flags) = match kind {
            FileKind::Regular => (
                Gfp::HIGHUSER_MOVABLE,
                page_flags::LRU | page_flags::UPTODATE,
            ),
            FileKind::Shmem => (GFP_ANON, SHMEM_FLAGS),
        };
        let class = Self::cache_class(kind);
        let pfn = self.alloc_placed(cpu, gfp, Order::ZERO, class, u64::from(index))?;
        if kind == FileKind::Regular {
            self.vmstat.count(VmEvent::PgMajFault, 1);
        } else {
            self.owners.stat.nr_shmem += 1;
        }
        self.owners.stat.nr_file_pages += 1;
        self.map.set_flags(pfn, flags);
        self.map.set_owner(pfn, file.0, index);
        self.owners.cache.file_mut(file).insert(index, pfn);
        self.map.list_file(pfn);
        Ok(pfn)
    }
}
