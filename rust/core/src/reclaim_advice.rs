//! What a process says of pages that it will not need: `MADV_FREE`, `MADV_COLD`, `MADV_PAGEOUT`,
//! mm/madvise.c v6.12. There is no swap, so only what was given up, or is a page of a file, goes.

use crate::address_space::MmId;
use crate::mem_map::{MemMap, page_flags};
use crate::memory::Memory;
use crate::page_table::{PTRS_PER_TABLE, Pte};
use crate::units::{Cpu, Pfn};

impl Memory {
    /// Marks anonymous pages that nobody else maps as given up: clean, and not to be kept when
    /// memory is short. A write takes that back. `madvise_free_pte_range()`.
    pub fn lazy_free(&mut self, mm: MmId, cpu: Cpu, vpn: u64, nr: u64) {
        self.split_cut_folios(mm, cpu, vpn, nr);
        self.for_each_pte(mm, vpn, nr, |memory, _, pte| {
            let pfn = pte.pfn();
            let alone = pte.has(Pte::ANON) && memory.map.mapcount(pfn) == 1;
            if !alone || memory.map.flags(pfn) & (page_flags::PINNED | page_flags::MLOCKED) != 0 {
                return pte;
            }
            memory
                .map
                .clear_flags(pfn, page_flags::SWAPBACKED | page_flags::DIRTY);
            pte.without(Pte::DIRTY | Pte::YOUNG)
        });
    }

    /// Makes pages that nobody else maps look unused: `madvise_cold_or_pageout_pte_range()`.
    pub fn cold(&mut self, mm: MmId, cpu: Cpu, vpn: u64, nr: u64) {
        self.split_cut_folios(mm, cpu, vpn, nr);
        self.for_each_pte(mm, vpn, nr, |memory, _, pte| {
            let shared = !pte.is_present()
                || pte.has(Pte::ZERO | Pte::WILD)
                || memory.map.mapcount(pte.pfn()) > 1;
            if shared { pte } else { pte.without(Pte::YOUNG) }
        });
    }

    /// Reclaims pages that nobody else maps: those given up are freed, those of files are unmapped
    /// and stay in the cache. Returns how many frames were freed. `reclaim_pages()`, mm/vmscan.c. Large
    /// folios that are to be kept are split, as there is no swap that could take one whole; of those
    /// given up and written again only the huge mapping is: `unmap_huge_pmd_lazyfree()`.
    pub fn page_out(&mut self, mm: MmId, cpu: Cpu, vpn: u64, nr: u64) -> u64 {
        let mut freed = self.split_cut_folios(mm, cpu, vpn, nr);
        let kept = |map: &MemMap, head, _| {
            map.class(head).is_anon() && map.flags(head) & page_flags::SWAPBACKED != 0
        };
        freed += self.split_folios(mm, cpu, vpn, nr, kept);
        self.keep_written_again(mm, vpn, nr);
        for vpn in self.cold_candidates(mm, vpn, nr) {
            freed += self.zap(mm, cpu, vpn, 1, crate::zap::Markers::Keep);
        }
        freed
    }

    /// Splits the huge mappings of what was given up and written again, and takes the giving up back.
    fn keep_written_again(&mut self, mm: MmId, vpn: u64, nr: u64) {
        let spans: Vec<_> = self.spans(mm, vpn, nr).collect();
        for span in spans {
            let leaf = self.owners.tables.leaf(span.leaf);
            if !leaf.huge || leaf.used_bits() & Pte::DIRTY == 0 {
                continue;
            }
            let head = leaf.ptes[0].pfn();
            let kept = self.map.flags(head) & page_flags::SWAPBACKED != 0;
            if kept || !self.is_mapped_only_by(head, mm) {
                continue;
            }
            self.split_huge_pmd(mm, span.vpn, span.leaf);
            for pfn in self.frames_of(head) {
                self.map.add_flags(pfn, page_flags::SWAPBACKED);
            }
        }
    }

    /// Splits the large folios of which the range has a part only, where nobody else maps them: what
    /// all three kinds of advice begin with. Returns how many frames were freed.
    fn split_cut_folios(&mut self, mm: MmId, cpu: Cpu, vpn: u64, nr: u64) -> u64 {
        let cut = |map: &MemMap, head, mapped| mapped < map.folio_order(head).nr_pages();
        self.split_folios(mm, cpu, vpn, nr, cut)
    }

    /// Splits the large folios mapped in the range that nobody else maps and that `wanted` picks by
    /// head and by how many pages of it the range has. Returns how many frames were freed.
    fn split_folios(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        vpn: u64,
        nr: u64,
        wanted: impl Fn(&MemMap, Pfn, u32) -> bool,
    ) -> u64 {
        let mut freed = 0;
        let mut at = vpn;
        while let Some(span) = self.owners.next_span(mm, at, vpn + nr) {
            at = span.vpn + span.nr;
            for (head, mapped) in self.folios_in(mm, span.vpn, span.nr) {
                if wanted(&self.map, head, mapped) && self.is_mapped_only_by(head, mm) {
                    freed += self.split_folio(cpu, head).unwrap_or(0);
                }
            }
        }
        freed
    }

    /// Heads of the large folios that are mapped in the range, which lies within one table,
    /// and how many pages of each are.
    fn folios_in(&self, mm: MmId, vpn: u64, nr: u64) -> Vec<(Pfn, u32)> {
        debug_assert!(vpn % PTRS_PER_TABLE + nr <= PTRS_PER_TABLE);
        let mut folios: Vec<(Pfn, u32)> = Vec::new();
        for (_, pte) in self.entries(mm, vpn, nr) {
            let normal = pte.is_present() && !pte.has(Pte::ZERO | Pte::WILD);
            if !normal || self.map.flags(pte.pfn()) & page_flags::LARGE == 0 {
                continue;
            }
            let head = self.map.large_head(pte.pfn());
            match folios.last_mut() {
                Some((last, pages)) if *last == head => *pages += 1,
                _ => folios.push((head, 1)),
            }
        }
        folios
    }

    /// Virtual pages whose pages can go.
    fn cold_candidates(&self, mm: MmId, vpn: u64, nr: u64) -> Vec<u64> {
        let goes = |pte: &Pte| {
            if !pte.is_present() || pte.has(Pte::ZERO | Pte::WILD | Pte::LOCKED) {
                return false;
            }
            let (flags, maps) = (self.map.flags(pte.pfn()), self.map.mapcount(pte.pfn()));
            let given_up = flags & page_flags::SWAPBACKED == 0 && !pte.has(Pte::DIRTY);
            maps == 1 && (!pte.has(Pte::ANON) || given_up)
        };
        self.entries(mm, vpn, nr)
            .filter(|(_, pte)| goes(pte))
            .map(|(vpn, _)| vpn)
            .collect()
    }
}
