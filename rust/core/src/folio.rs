//! Large folios: blocks of order 1 and up that user space maps or a file caches, `struct folio`,
//! include/linux/mm_types.h v6.12.
//!
//! Each frame of one keeps flags, map count and owner words of its own, as a single frame does, and
//! is flagged `LARGE`; references are counted at the head (`MemMap::counted`): one a mapping of a
//! frame, and one a frame for the page cache. So half of a huge page can be unmapped, which frees
//! nothing until the folio is split or its last reference goes.

use std::collections::BTreeMap;

use crate::address_space::{ANON_FLAGS, MmId, RssKind};
use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::mem_map::{PageClass, page_flags};
use crate::memory::Memory;
use crate::page_table::{LeafId, PTRS_PER_TABLE, Pte};
use crate::rmap::Rmap;
use crate::units::{Cpu, Order, Pfn};
use crate::vmstat::VmEvent;

/// Order of a huge page: `HPAGE_PMD_ORDER`.
pub const HPAGE_PMD_ORDER: Order = crate::zone::PAGEBLOCK;

/// Folios of which a part is mapped no more, the one queued first in front:
/// `struct deferred_split`, include/linux/mmzone.h v6.12. Memory that is short splits them.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeferredSplit {
    /// Head by the number of its queueing, and back.
    by_age: BTreeMap<u64, u32>,
    ages: BTreeMap<u32, u64>,
}

impl DeferredSplit {
    /// Queues a folio; tells whether it was not queued before.
    fn insert(&mut self, head: Pfn) -> bool {
        let next = self.by_age.last_key_value().map_or(0, |(age, _)| age + 1);
        let new = *self.ages.entry(head.0).or_insert(next) == next;
        if new {
            self.by_age.insert(next, head.0);
        }
        new
    }

    fn remove(&mut self, head: Pfn) {
        if let Some(age) = self.ages.remove(&head.0) {
            self.by_age.remove(&age);
        }
    }

    /// The folio moved; it keeps its place in the queue.
    pub fn rename(&mut self, from: Pfn, to: Pfn) {
        if let Some(age) = self.ages.remove(&from.0) {
            self.ages.insert(to.0, age);
            self.by_age.insert(age, to.0);
        }
    }

    /// Whether a folio is queued.
    pub fn contains(&self, head: Pfn) -> bool {
        self.ages.contains_key(&head.0)
    }

    /// Heads, the one queued first in front.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Pfn> + '_ {
        self.by_age.values().map(|&pfn| Pfn(pfn))
    }

    /// Those of a snapshot.
    pub fn from_heads(heads: impl IntoIterator<Item = Pfn>) -> Self {
        let mut queue = Self::default();
        for head in heads {
            queue.insert(head);
        }
        queue
    }
}

/// The class of a frame that was part of a large folio and is on its own now.
const fn small_class(class: PageClass) -> PageClass {
    match class {
        PageClass::AnonThp => PageClass::Anon,
        PageClass::ShmemThp => PageClass::Shmem,
        PageClass::FileLarge => PageClass::File,
        other => other,
    }
}

impl Memory {
    /// Frames of the folio or block whose head is `head`.
    pub(crate) fn frames_of(&self, head: Pfn) -> impl Iterator<Item = Pfn> + use<> {
        let nr = self.map.folio_order(head).nr_pages();
        (head.0..head.0 + nr).map(Pfn)
    }

    /// A folio that nobody maps yet, with one reference: `folio_alloc()`. `index` is that of its first
    /// page, by which a policy may place it.
    pub(crate) fn alloc_folio(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        class: PageClass,
        index: u64,
    ) -> Result<Pfn, AllocError> {
        let head = self.alloc_placed(cpu, gfp, order, class, index)?;
        self.map.set_compound(head, order, class);
        Ok(head)
    }

    /// Makes a fresh anonymous folio the pages from `vpn` on; the entries are the caller's:
    /// `folio_add_new_anon_rmap()`. The allocation's reference becomes that of the first entry.
    pub(crate) fn own_anon_folio(&mut self, head: Pfn, mm: MmId, vpn: u64) {
        for (pfn, vpn) in self.frames_of(head).zip(vpn..) {
            let content = self.map.flags(pfn) & page_flags::HAS_CONTENT;
            self.map
                .set_flags(pfn, ANON_FLAGS | page_flags::LARGE | content);
            Rmap::add_new(&mut self.map, pfn, mm, vpn);
        }
        let nr = self.map.folio_order(head).nr_pages();
        self.map.add_refs(head, nr - 1);
        self.owners.stat.nr_anon_mapped += u64::from(nr);
    }

    /// Frees a large folio whose last reference is gone, and tells how many frames that are:
    /// `__folio_put()`.
    pub(crate) fn free_folio(&mut self, cpu: Cpu, head: Pfn) -> u64 {
        let order = self.map.folio_order(head);
        self.map.relist_file(head, 0, page_flags::ACTIVE);
        for pfn in self.frames_of(head) {
            if self.map.flags(pfn) & page_flags::HAS_CONTENT != 0 {
                self.owners.contents.clear(&mut self.map, pfn);
            }
            self.map.reset_meta(pfn);
        }
        self.owners.deferred.remove(head);
        self.free_pages(cpu, head, order);
        u64::from(order.nr_pages())
    }

    /// Queues the folios that lost the last mapping of some frame and live on:
    /// `deferred_split_folio()`, mm/huge_memory.c v6.12.
    pub(crate) fn settle_partial(&mut self) {
        while let Some(head) = self.owners.partial.pop() {
            let alive = self.map.flags(head) & page_flags::LARGE != 0;
            if alive && self.owners.deferred.insert(head) {
                self.vmstat.count(VmEvent::ThpDeferredSplitPage, 1);
            }
        }
    }

    /// Maps the pages of a huge mapping one by one; nothing is copied or freed: `__split_huge_pmd()`,
    /// mm/huge_memory.c v6.12. One of a file goes altogether. Tells whether the table is still there.
    pub(crate) fn split_huge_pmd(&mut self, mm: MmId, vpn: u64, leaf: LeafId) -> bool {
        self.vmstat.count(VmEvent::ThpSplitPmd, 1);
        if self.owners.tables.leaf(leaf).is_huge_file() {
            self.unmap_huge_file(mm, vpn, leaf);
            return false;
        }
        let zero_pfn = self.owners.zero_pfn;
        let leaf = self.owners.tables.leaf_mut(leaf);
        leaf.huge = false;
        let used = leaf.used_bits();
        for pte in leaf.ptes.iter_mut() {
            *pte = if pte.has(Pte::ZERO) {
                pte.moved_to(zero_pfn)
            } else {
                pte.with(used)
            };
        }
        true
    }

    /// Splits the huge mapping that begins before `vpn` and ends behind it, if there is one: a VMA
    /// will end here. `vma_adjust_trans_huge()`, mm/huge_memory.c v6.12.
    pub fn split_huge_at(&mut self, mm: MmId, vpn: u64) {
        let Some(leaf) = self.owners.leaf_of(mm, vpn) else {
            return;
        };
        let inside = !vpn.is_multiple_of(PTRS_PER_TABLE);
        if inside && self.owners.tables.leaf(leaf).huge {
            self.split_huge_pmd(mm, vpn, leaf);
        }
    }

    /// Whether every reference to a frame or its folio is a mapping, or the page cache's:
    /// `folio_expected_ref_count()`, include/linux/mm.h v6.18.
    pub(crate) fn has_expected_refs(&self, head: Pfn) -> bool {
        let cached = u32::from(self.map.class(head).is_cached());
        let users = self
            .frames_of(head)
            .map(|pfn| self.map.mapcount(pfn) + cached);
        users.sum::<u32>() == self.map.refcount(head)
    }

    /// Whether no other address space maps any frame of a folio:
    /// `folio_maybe_mapped_shared()`, include/linux/mm.h v6.18.
    pub(crate) fn is_mapped_only_by(&self, head: Pfn, mm: MmId) -> bool {
        if self.map.class(head).is_cached() {
            let mappings = self.frames_of(head).flat_map(|pfn| self.rmap_walk(pfn));
            return mappings.into_iter().all(|(by, _)| by == mm);
        }
        self.frames_of(head)
            .all(|pfn| self.map.mapcount(pfn) == 0 || self.owners.rmap.only_by(&self.map, pfn, mm))
    }

    /// Makes single frames of a large folio, and frees those that nobody uses; tells how many, or
    /// nothing where somebody else has a reference, and all stays. Huge mappings of it are split, and
    /// anonymous pages that hold zeros only give way to the zero page. `split_folio()`,
    /// mm/huge_memory.c v6.12.
    pub fn split_folio(&mut self, cpu: Cpu, head: Pfn) -> Option<u64> {
        if !self.has_expected_refs(head) {
            return None;
        }
        let class = small_class(self.map.class(head));
        let cached = u32::from(class.is_cached());
        if class.is_cached() {
            self.unmap_folio(cpu, head);
        }
        for (mm, vpn) in self.rmap_walk(head) {
            let leaf = self.owners.leaf_of(mm, vpn).expect("it maps the folio");
            if self.owners.tables.leaf(leaf).huge {
                self.split_huge_pmd(mm, vpn, leaf);
            }
        }
        self.owners.deferred.remove(head);
        self.map.sub_refs(head, self.map.refcount(head) - 1);
        let frames = self.frames_of(head);
        self.map.set_class(head, class);
        self.map.split_block(head);
        let dirty = self.map.flags(head) & page_flags::DIRTY;
        let mut freed = 0;
        for pfn in frames {
            self.map.clear_flags(pfn, page_flags::LARGE);
            match self.map.mapcount(pfn) + cached {
                0 => freed += self.free_frame(cpu, pfn),
                users => {
                    if cached > 0 {
                        self.map.add_flags(pfn, dirty);
                    }
                    self.map.add_refs(pfn, users - 1);
                    if class.is_anon() && self.owners.contents.is_zero(&self.map, pfn) {
                        freed += self.map_to_zero_page(cpu, pfn);
                    }
                }
            }
        }
        self.vmstat.count(VmEvent::ThpSplitPage, 1);
        Some(freed)
    }

    /// Takes away all mappings of a folio of a file, whose pages are not mapped again when it is split:
    /// `unmap_folio()`, mm/huge_memory.c v6.12.
    fn unmap_folio(&mut self, cpu: Cpu, head: Pfn) {
        for pfn in self.frames_of(head) {
            self.unmap_cached(cpu, pfn);
        }
        self.owners.cache.settle();
    }

    /// Maps the zero page where a frame of zeros was mapped, but not where that is locked:
    /// `try_to_map_unused_to_zeropage()`, mm/migrate.c v6.12. Returns how many frames that freed.
    fn map_to_zero_page(&mut self, cpu: Cpu, pfn: Pfn) -> u64 {
        let Ok(zero_pfn) = self.zero_frame(cpu) else {
            return 0;
        };
        let mut freed = 0;
        for (mm, vpn) in self.rmap_walk(pfn) {
            let pte = self.owners.pte_mut(mm, vpn);
            if pte.has(Pte::LOCKED) {
                continue;
            }
            let old = std::mem::replace(pte, Pte::present(zero_pfn, Pte::ZERO | Pte::YOUNG));
            self.owners.count_rss(mm, RssKind::Anon, -1);
            freed += self.drop_mapping(mm, cpu, vpn, old);
        }
        freed
    }

    /// Splits queued folios, the one queued first in front, until `nr` frames were freed; tells how
    /// many: `deferred_split_scan()`, mm/huge_memory.c v6.12.
    pub fn split_deferred(&mut self, cpu: Cpu, nr: u64) -> u64 {
        let queued: Vec<Pfn> = self.owners.deferred.iter().collect();
        let mut freed = 0;
        for head in queued {
            if freed >= nr {
                break;
            }
            freed += self.split_folio(cpu, head).unwrap_or(0);
        }
        freed
    }

    /// Folios that wait to be split.
    pub fn nr_deferred(&self) -> u64 {
        self.owners.deferred.iter().len() as u64
    }
}
