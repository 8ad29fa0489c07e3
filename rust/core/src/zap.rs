//! Taking mappings away: `zap_pte_range()`, `free_pgtables()`, `exit_mmap()`, mm/memory.c and
//! mm/mmap.c v6.12.

use crate::address_space::{AddressSpace, MmId, Owners, RssKind, UserStat, rss_kind};
use crate::contig_run::Wild;
use crate::mem_map::{MemMap, page_flags};
use crate::memory::Memory;
use crate::page_cache::{FileId, PageCache};
use crate::page_table::{Level, Pte, Span, USER_PAGES};
use crate::rmap::Rmap;
use crate::units::{Cpu, Order, Pfn};

/// What to do with guard markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Markers {
    /// Remove them: `munmap(2)`, `zap_drop_markers()`.
    Drop,
    /// Keep them: `madvise(MADV_DONTNEED)`.
    Keep,
}

/// The parts of the machine that the end of a mapping touches.
pub(crate) struct Unmap<'a> {
    pub map: &'a mut MemMap,
    pub rmap: &'a mut Rmap,
    pub cache: &'a mut PageCache,
    pub stat: &'a mut UserStat,
    /// Frames that one locked mapping left while others stay: [`Memory::settle_mlock`].
    pub munlocked: &'a mut Vec<Pfn>,
    /// Folios that lost the last mapping of a frame: [`Memory::settle_partial`].
    pub partial: &'a mut Vec<Pfn>,
}

impl Unmap<'_> {
    /// Removes one present mapping from its frame's books and drops its reference; the frame is
    /// returned if that was the last. The entry itself is cleared already.
    #[inline]
    pub fn present(&mut self, mm: MmId, vpn: u64, pte: Pte) -> Option<Pfn> {
        let pfn = pte.pfn();
        let left = if pte.has(Pte::ANON) {
            let left = self.rmap.remove(self.map, pfn, mm, vpn);
            self.stat.nr_anon_mapped -= u64::from(left == 0);
            left
        } else {
            self.cached(mm, vpn, pte)
        };
        let flags = self.map.flags(pfn);
        if flags & (page_flags::MLOCKED | page_flags::LARGE) != 0 {
            if flags & page_flags::MLOCKED != 0 {
                self.munlock(pfn, left, pte);
            }
            if flags & page_flags::LARGE != 0 && left == 0 && pte.has(Pte::ANON) {
                self.unmapped_of_folio(pfn);
            }
        }
        self.map.put_page_testzero(pfn).then_some(pfn)
    }

    /// Takes what an entry that was cleared said out of all books; returns the frame if it is to be
    /// freed.
    fn entry(
        &mut self,
        (mm, space): (MmId, &mut AddressSpace),
        wild: &mut Wild,
        vpn: u64,
        old: Pte,
    ) -> Option<Pfn> {
        if old.has(Pte::ZERO | Pte::GUARD) {
            return None;
        }
        if old.has(Pte::WILD) {
            space.rss[RssKind::Anon as usize] -= 1;
            wild.zapped();
            return None;
        }
        space.rss[rss_kind(self.map, old.pfn()) as usize] -= 1;
        self.present(mm, vpn, old)
    }

    /// The last mapping of a frame of a large folio went: the end of `__folio_remove_rmap()`.
    fn unmapped_of_folio(&mut self, pfn: Pfn) {
        let head = self.map.large_head(pfn);
        if self.partial.last() != Some(&head) {
            self.partial.push(head);
        }
    }

    /// A mapping of a page of a file: `folio_remove_rmap_pte()` of a folio that is not anonymous.
    fn cached(&mut self, mm: MmId, vpn: u64, pte: Pte) -> u32 {
        let pfn = pte.pfn();
        if pte.has(Pte::DIRTY) {
            self.map.add_flags(self.map.counted(pfn), page_flags::DIRTY);
        }
        let file = FileId(self.map.anchor(pfn));
        self.cache
            .count_mapping(file, mm, (vpn, self.map.index(pfn)), -1);
        let left = self.map.dec_mapcount(pfn);
        self.stat.nr_file_mapped -= u64::from(left == 0);
        left
    }

    /// A mapping of a locked frame went: `munlock_vma_folio()`, mm/internal.h v6.12.
    fn munlock(&mut self, pfn: Pfn, left: u32, pte: Pte) {
        if left == 0 {
            let locked = page_flags::MLOCKED | page_flags::UNEVICTABLE;
            self.map.relist_file(pfn, 0, locked);
            self.stat.nr_mlock -= 1;
        } else if pte.has(Pte::LOCKED) {
            self.munlocked.push(pfn);
        }
    }
}

/// Where a frame may be mapped: exactly where for an anonymous one; for a page of a file each mapping
/// that covers it, whether or not its entry is present.
pub(crate) fn mappings_of(
    map: &MemMap,
    rmap: &Rmap,
    cache: &PageCache,
    pfn: Pfn,
) -> Vec<(MmId, u64)> {
    if map.flags(pfn) & page_flags::ANON != 0 {
        return rmap.walk(map, pfn);
    }
    let index = i64::from(map.index(pfn));
    let Some(file) = cache.files.get(&FileId(map.anchor(pfn))) else {
        return Vec::new();
    };
    let covering = file.mappings.keys().filter_map(|&(mm, delta)| {
        let vpn = u64::try_from(index + delta).ok()?;
        (vpn < USER_PAGES).then_some((mm, vpn))
    });
    covering.collect()
}

impl Memory {
    /// Unmaps `nr` pages from `vpn` and returns how many frames that freed: `zap_page_range_single()`.
    /// A huge mapping that the range cuts is split; the folio stays whole until its last page goes.
    pub fn zap(&mut self, mm: MmId, cpu: Cpu, vpn: u64, nr: u64, markers: Markers) -> u64 {
        let (mut at, end, mut freed, mut cleared) = (vpn, vpn + nr, 0, 0);
        self.owners.space_mut(mm).note_hiwater();
        while let Some(span) = self.owners.next_span(mm, at, end) {
            at = span.vpn + span.nr;
            let huge = self.owners.tables.leaf(span.leaf).huge;
            if huge && !span.is_whole() && !self.split_huge_pmd(mm, span.vpn, span.leaf) {
                continue;
            }
            cleared += self.zap_span(mm, span, markers);
            if !self.owners.scratch.is_empty() {
                freed += self.free_scratch(cpu);
            }
            if !self.owners.partial.is_empty() {
                self.settle_partial();
            }
            if span.is_whole() && (huge || markers == Markers::Keep) {
                self.reclaim_pt(mm, cpu, span);
            }
        }
        self.owners.cache.settle();
        let pte_ns = u64::from(self.clock.costs.pte_ns);
        self.clock.charge(cpu, cleared * pte_ns);
        freed
    }

    /// Frees a table that is empty now: the deposited one of a huge mapping, `zap_deposited_table()`,
    /// mm/huge_memory.c v6.12, or one that `MADV_DONTNEED` cleared whole, `try_get_and_clear_pmd()`,
    /// mm/pt_reclaim.c v6.14.
    pub(crate) fn reclaim_pt(&mut self, mm: MmId, cpu: Cpu, span: Span) {
        if !self.owners.tables.leaf(span.leaf).is_empty() {
            return;
        }
        let pgd = self.owners.space(mm).pgd.expect("it has a table");
        self.owners.tables.unlink_leaf(pgd, span.vpn);
        let pfn = self.owners.tables.drop_leaf(span.leaf);
        if pfn != Pfn::NONE {
            self.free_table(cpu, mm, Level::Pte, pfn);
        }
    }

    /// Clears the entries of one leaf; frames to free are left in the scratch list. Returns the
    /// number of entries cleared.
    fn zap_span(&mut self, mm: MmId, span: Span, markers: Markers) -> u64 {
        let Owners {
            spaces,
            tables,
            rmap,
            cache,
            stat,
            wild,
            scratch,
            munlocked,
            partial,
            ..
        } = &mut self.owners;
        let mut unmap = Unmap {
            map: &mut self.map,
            rmap,
            cache,
            stat,
            munlocked,
            partial,
        };
        let space = spaces[mm.0 as usize]
            .as_mut()
            .expect("a live address space");
        let (mut cleared, mut lone) = (0, 0);
        let leaf = tables.leaf_mut(span.leaf);
        leaf.huge = false;
        for (vpn, pte) in (span.vpn..).zip(&mut leaf.ptes[span.slots()]) {
            if pte.is_none() || pte.has(Pte::GUARD) && markers == Markers::Keep {
                continue;
            }
            let old = std::mem::take(pte);
            cleared += 1;
            if old.has(Pte::ANON)
                && let Some(last) = unmap.map.unmap_lone(old.pfn())
            {
                lone += 1;
                if last {
                    scratch.push(old.pfn());
                }
                continue;
            }
            scratch.extend(unmap.entry((mm, &mut *space), wild, vpn, old));
        }
        space.rss[RssKind::Anon as usize] -= lone;
        stat.nr_anon_mapped -= lone;
        self.settle_mlock();
        cleared
    }

    /// Unlocks the frames that have lost their last locked mapping: `munlock_folio()`.
    pub(crate) fn settle_mlock(&mut self) {
        while let Some(pfn) = self.owners.munlocked.pop() {
            if self.map.flags(pfn) & page_flags::MLOCKED != 0 && !self.is_locked_somewhere(pfn) {
                let locked = page_flags::MLOCKED | page_flags::UNEVICTABLE;
                self.map.relist_file(pfn, 0, locked);
                self.owners.stat.nr_mlock -= 1;
            }
        }
    }

    fn is_locked_somewhere(&mut self, pfn: Pfn) -> bool {
        self.owners.cache.settle();
        let mappings = mappings_of(&self.map, &self.owners.rmap, &self.owners.cache, pfn);
        mappings.into_iter().any(|(mm, vpn)| {
            let pte = self.owners.pte(mm, vpn);
            pte.is_present() && pte.pfn() == pfn && pte.has(Pte::LOCKED)
        })
    }

    /// Frees the page tables of `start..end` that no VMA between `floor` and `ceiling` needs (all in
    /// bytes, a `ceiling` of 0 is the top) and returns how many: `free_pgtables()`.
    pub fn free_pgtables(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        range: std::ops::Range<u64>,
        floor: u64,
        ceiling: u64,
    ) -> u64 {
        let Some(pgd) = self.owners.space(mm).pgd else {
            return 0;
        };
        let mut freed = Vec::new();
        self.owners
            .tables
            .free_pgd_range(pgd, range, (floor, ceiling), &mut freed);
        for &(level, pfn) in &freed {
            self.free_table(cpu, mm, level, pfn);
        }
        freed.len() as u64
    }

    /// Removes an address space and returns how many frames that freed, page tables not counted:
    /// `exit_mmap()` and `__mmdrop()`.
    pub fn mm_exit(&mut self, mm: MmId, cpu: Cpu) -> u64 {
        let freed = self.zap(mm, cpu, 0, USER_PAGES, Markers::Drop);
        self.free_pgtables(mm, cpu, 0..USER_PAGES * 4096, 0, 0);
        if let Some(pgd) = self.owners.space_mut(mm).pgd.take() {
            let pfn = self.owners.tables.drop_dir(pgd);
            self.free_table(cpu, mm, Level::Pgd, pfn);
        }
        for pfn in std::mem::take(&mut self.owners.space_mut(mm).table_stock) {
            self.owners.stat.nr_page_table_pages -= 1;
            self.free_pages(cpu, pfn, Order::ZERO);
        }
        debug_assert_eq!(self.owners.space(mm).rss, [0; 3]);
        self.owners.spaces[mm.0 as usize] = None;
        self.owners.free_spaces.push(mm.0);
        freed
    }
}
