//! Copying the mappings of an address space: `copy_page_range()`, mm/memory.c v6.12.

use std::ops::Range;

use crate::address_space::{
    ANON_FLAGS, Cause, MmId, Owners, Progress, RssKind, rss_kind, vm_flags,
};
use crate::gfp::Gfp;
use crate::mem_map::{MemMap, PageClass, page_flags};
use crate::memory::Memory;
use crate::page_cache::{FileId, PageCache};
use crate::page_table::{LeafId, Pte, Span, slot_of};
use crate::rmap::Rmap;
use crate::units::{Cpu, Order};

/// A range of virtual pages to copy, and the flags of its VMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkRange {
    /// Virtual pages.
    pub vpns: Range<u64>,
    /// `vm_flags` of the parent's VMA.
    pub flags: u64,
}

/// Bits that the child's copy does not have: `__copy_present_ptes()`.
const NOT_INHERITED: u64 = Pte::LOCKED | Pte::YOUNG;

impl Memory {
    /// Copies the entries of the ranges: private pages become copy-on-write in both, pinned ones are
    /// copied at once. Ranges that are not to be copied (`VM_DONTCOPY`, `VM_WIPEONFORK`, files
    /// that were never written privately) are left out by the caller. `done` counts ranges.
    pub fn fork(&mut self, parent: MmId, child: MmId, cpu: Cpu, ranges: &[ForkRange]) -> Progress {
        for (done, range) in (0..).zip(ranges) {
            if let Err(cause) = self.copy_page_range(parent, child, cpu, range) {
                self.owners.cache.settle();
                return Progress::blocked(done, cause);
            }
        }
        self.owners.cache.settle();
        Progress::finished(ranges.len() as u64)
    }

    fn copy_page_range(
        &mut self,
        parent: MmId,
        child: MmId,
        cpu: Cpu,
        range: &ForkRange,
    ) -> Result<(), Cause> {
        let mut at = range.vpns.start;
        while let Some(span) = self.owners.next_span(parent, at, range.vpns.end) {
            at = span.vpn + span.nr;
            let leaf = self.owners.tables.leaf(span.leaf);
            if leaf.ptes[span.slots()].iter().all(|pte| pte.is_none()) || leaf.is_huge_file() {
                continue; // `copy_huge_pmd()` leaves files to faults
            }
            let huge = leaf.huge;
            if huge && !span.is_whole() {
                self.split_huge_pmd(parent, span.vpn, span.leaf);
            }
            let to = self.ensure_leaf(cpu, child, span.vpn)?;
            let copy = Copy {
                parent,
                child,
                cpu,
                shared: range.flags & vm_flags::SHARED != 0,
            };
            self.copy_span(&copy, span, to)?;
            self.owners.tables.leaf_mut(to).huge = huge && span.is_whole(); // `copy_huge_pmd()`
        }
        Ok(())
    }

    /// `copy_pte_range()`.
    fn copy_span(&mut self, copy: &Copy, span: Span, to: LeafId) -> Result<(), Cause> {
        let pte_ns = u64::from(self.clock.costs.pte_ns);
        self.clock.charge(copy.cpu, span.nr * pte_ns);
        let mut copied = *self.owners.tables.leaf(to).ptes;
        let mut pinned = Vec::new();
        let Owners {
            spaces,
            tables,
            rmap,
            cache,
            wild,
            ..
        } = &mut self.owners;
        let child = spaces[copy.child.0 as usize].as_mut();
        let rss = &mut child.expect("a live address space").rss;
        let from = &mut tables.leaf_mut(span.leaf).ptes;
        for (vpn, slot) in (span.vpn..).zip(span.slots()) {
            let pte = &mut from[slot];
            if pte.has(Pte::ANON) {
                let pfn = pte.pfn();
                if !copy.shared {
                    if self.map.flags(pfn) & page_flags::PINNED != 0 {
                        pinned.push((vpn, *pte));
                        continue;
                    }
                    *pte = pte.without(Pte::WRITE | Pte::EXCLUSIVE);
                }
                self.map.get_page(pfn);
                rmap.dup(&mut self.map, pfn, vpn, copy.parent, copy.child);
                rss[RssKind::Anon as usize] += 1;
                copied[slot] = pte.without(NOT_INHERITED);
            } else if pte.has(Pte::GUARD | Pte::ZERO) {
                copied[slot] = *pte;
            } else if pte.has(Pte::WILD) {
                wild.present += 1;
                rss[RssKind::Anon as usize] += 1;
                copied[slot] = *pte;
            } else if !pte.is_none() {
                rss[rss_kind(&self.map, pte.pfn()) as usize] += 1;
                copied[slot] = copy.cached(&mut self.map, cache, vpn, *pte);
            }
        }
        *tables.leaf_mut(to).ptes = copied;
        for (vpn, pte) in pinned {
            self.copy_present_page(copy, vpn, pte)?;
        }
        Ok(())
    }

    /// `copy_present_page()`: the child gets a copy at once, so that the parent keeps the frame that
    /// a device may be writing to.
    fn copy_present_page(&mut self, copy: &Copy, vpn: u64, old: Pte) -> Result<(), Cause> {
        let gfp = Gfp::HIGHUSER_MOVABLE;
        let pfn = self.alloc_class(copy.cpu, gfp, Order::ZERO, None, PageClass::Anon)?;
        self.map.set_flags(pfn, ANON_FLAGS);
        Rmap::add_new(&mut self.map, pfn, copy.child, vpn);
        let fill = crate::contents::Fill::ZERO;
        self.owners
            .contents
            .copy(&mut self.map, old.pfn(), pfn, fill);
        let copy_ns = u64::from(self.clock.costs.copy_ns);
        self.clock.charge(copy.cpu, copy_ns);
        self.owners.stat.nr_anon_mapped += 1;
        self.owners.count_rss(copy.child, RssKind::Anon, 1);
        let write = old.0 & Pte::WRITE;
        let pte = Pte::present(
            pfn,
            Pte::ANON | Pte::EXCLUSIVE | Pte::YOUNG | Pte::DIRTY | write,
        );
        let leaf = self.ensure_leaf(copy.cpu, copy.child, vpn)?;
        self.owners.tables.leaf_mut(leaf).ptes[slot_of(vpn, 0)] = pte;
        Ok(())
    }
}

/// One range's copy.
struct Copy {
    parent: MmId,
    child: MmId,
    cpu: Cpu,
    shared: bool,
}

impl Copy {
    /// One more mapping of a page of a file, and its entry.
    fn cached(&self, map: &mut MemMap, cache: &mut PageCache, vpn: u64, pte: Pte) -> Pte {
        let pfn = pte.pfn();
        map.get_page(pfn);
        map.add_mapcount(pfn, 1);
        let page = (vpn, map.index(pfn));
        cache.count_mapping(FileId(map.anchor(pfn)), self.child, page, 1);
        let clean = if self.shared { Pte::DIRTY } else { 0 };
        pte.without(NOT_INHERITED | clean)
    }
}
