//! Making huge pages of small ones: `madvise(MADV_COLLAPSE)`, mm/khugepaged.c v6.12.

use crate::address_space::{MmId, RssKind, vm_flags};
use crate::contents::Fill;
use crate::folio::HPAGE_PMD_ORDER;
use crate::gfp::Gfp;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::page_table::{LeafId, PTRS_PER_TABLE, Pte};
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
