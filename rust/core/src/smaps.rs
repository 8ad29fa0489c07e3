//! What /proc says of a range: pagemap and smaps, fs/proc/task_mmu.c v6.12, and mincore, mm/mincore.c.

use crate::address_space::{MmId, VmArea};
use crate::mem_map::page_flags;
use crate::memory::Memory;
use crate::page_table::{Pte, Span};
use crate::units::Pfn;

/// Bits of a pagemap word: Documentation/admin-guide/mm/pagemap.rst.
mod pagemap_bits {
    /// `PM_MMAP_EXCLUSIVE`.
    pub const EXCLUSIVE: u64 = 1 << 56;
    /// `PM_GUARD_REGION`, since v6.14.
    pub const GUARD: u64 = 1 << 58;
    /// `PM_FILE`: not anonymous.
    pub const FILE: u64 = 1 << 61;
    /// `PM_SWAP`.
    pub const SWAP: u64 = 1 << 62;
    /// `PM_PRESENT`.
    pub const PRESENT: u64 = 1 << 63;
    /// A marker's type (31) and offset (`PTE_MARKER_GUARD`) in the place of the frame.
    pub const GUARD_ENTRY: u64 = 4 << 5 | 31;
}

/// `struct mem_size_stats`: bytes of a range, as smaps counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Mapped.
    pub rss: u64,
    /// Mapped, each page divided by its mappings.
    pub pss: u64,
    /// Likewise, dirty pages only.
    pub pss_dirty: u64,
    /// Likewise, anonymous pages only.
    pub pss_anon: u64,
    /// Likewise, pages of shared memory only.
    pub pss_shmem: u64,
    /// Mapped elsewhere too, clean.
    pub shared_clean: u64,
    /// Mapped elsewhere too, dirty.
    pub shared_dirty: u64,
    /// Mapped here only, clean.
    pub private_clean: u64,
    /// Mapped here only, dirty.
    pub private_dirty: u64,
    /// Accessed lately.
    pub referenced: u64,
    /// Anonymous.
    pub anonymous: u64,
    /// Freed by `MADV_FREE` and not written since.
    pub lazyfree: u64,
    /// Anonymous, mapped by huge entries.
    pub anonymous_thp: u64,
    /// Shared memory, mapped by huge entries.
    pub shmem_thp: u64,
    /// Pages that are mapped by two or more entries, counted as pages.
    pub shared_pages: u64,
}

/// `PSS_SHIFT`: fixed point of the proportional sizes.
const PSS_SHIFT: u32 = 12;

impl Memory {
    /// The spans of a range that have tables.
    pub(crate) fn spans(&self, mm: MmId, vpn: u64, nr: u64) -> impl Iterator<Item = Span> + '_ {
        let (mut at, end) = (vpn, vpn + nr);
        std::iter::from_fn(move || {
            let span = self.owners.next_span(mm, at, end)?;
            at = span.vpn + span.nr;
            Some(span)
        })
    }

    /// The present entries of a range and their virtual pages.
    pub(crate) fn entries(
        &self,
        mm: MmId,
        vpn: u64,
        nr: u64,
    ) -> impl Iterator<Item = (u64, Pte)> + '_ {
        self.spans(mm, vpn, nr).flat_map(|span| {
            let ptes = &self.owners.tables.leaf(span.leaf).ptes[span.slots()];
            (span.vpn..)
                .zip(ptes.iter().copied())
                .filter(|(_, pte)| !pte.is_none())
        })
    }

    /// One word a page, as a privileged reader of /proc/PID/pagemap sees it: `pte_to_pagemap_entry()`.
    pub fn pagemap(&self, mm: MmId, vpn: u64, nr: u64) -> Vec<u64> {
        let mut words = vec![0; usize::try_from(nr).expect("a range fits in memory")];
        for (at, pte) in self.entries(mm, vpn, nr) {
            words[usize::try_from(at - vpn).expect("within the range")] = self.pagemap_word(pte);
        }
        words
    }

    fn pagemap_word(&self, pte: Pte) -> u64 {
        use pagemap_bits::{EXCLUSIVE, FILE, GUARD, GUARD_ENTRY, PRESENT, SWAP};
        if pte.has(Pte::GUARD) {
            return SWAP | GUARD | GUARD_ENTRY;
        }
        let word = PRESENT | u64::from(pte.pfn().0);
        if pte.has(Pte::ZERO) {
            // `pagemap_pmd_range()` finds the huge one's page, which is not anonymous.
            let huge = pte.pfn() != self.owners.zero_pfn;
            return word | if huge { FILE } else { 0 };
        }
        let file = if pte.has(Pte::ANON | Pte::WILD) {
            0
        } else {
            FILE
        };
        let alone = !pte.has(Pte::WILD) && self.map.mapcount(pte.pfn()) == 1;
        word | file | if alone { EXCLUSIVE } else { 0 }
    }

    /// One byte a page, 1 where it is in memory: `mincore_pte_range()`. A page of a file is looked up
    /// in the cache, and there if it was filled: `mincore_page()`.
    pub fn mincore(&self, mm: MmId, vpn: u64, nr: u64, vma: &VmArea) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(nr).expect("a range fits in memory")];
        if let Some(file) = vma.file {
            let file = self.owners.cache.file(file);
            for (page, byte) in (vma.index_of(vpn)..).zip(&mut bytes) {
                let cached = u32::try_from(page).ok().and_then(|page| file.lookup(page));
                let filled = |pfn| self.map.flags(pfn) & page_flags::UPTODATE != 0;
                *byte = u8::from(cached.is_some_and(filled));
            }
        }
        for (at, _) in self
            .entries(mm, vpn, nr)
            .filter(|(_, pte)| pte.is_present())
        {
            bytes[usize::try_from(at - vpn).expect("within the range")] = 1;
        }
        bytes
    }

    /// Sizes of a range: `smaps_pte_entry()` and `smaps_account()`.
    pub fn usage(&self, mm: MmId, vpn: u64, nr: u64) -> Usage {
        let mut usage = Usage::default();
        let normal = |pte: &Pte| pte.is_present() && !pte.has(Pte::ZERO);
        for span in self.spans(mm, vpn, nr) {
            let leaf = self.owners.tables.leaf(span.leaf);
            let used = if leaf.huge { leaf.used_bits() } else { 0 };
            for pte in leaf.ptes[span.slots()].iter().filter(|pte| normal(pte)) {
                self.account_page(&mut usage, pte.with(used));
                *if leaf.is_huge_file() {
                    &mut usage.shmem_thp
                } else {
                    &mut usage.anonymous_thp
                } += if leaf.huge { 4096 } else { 0 };
            }
        }
        usage.pss >>= PSS_SHIFT;
        usage.pss_dirty >>= PSS_SHIFT;
        usage.pss_anon >>= PSS_SHIFT;
        usage.pss_shmem >>= PSS_SHIFT;
        usage
    }

    fn account_page(&self, usage: &mut Usage, pte: Pte) {
        let size = 4096;
        let (mapcount, flags) = self.mapcount_and_flags(pte);
        let dirty = pte.has(Pte::DIRTY) || flags & page_flags::DIRTY != 0;
        let anon = pte.has(Pte::ANON | Pte::WILD);
        usage.rss += size;
        if anon {
            usage.anonymous += size;
            if flags & page_flags::SWAPBACKED == 0 && !dirty {
                usage.lazyfree += size;
            }
        }
        if pte.has(Pte::YOUNG) || flags & page_flags::REFERENCED != 0 {
            usage.referenced += size;
        }
        let pss = (size << PSS_SHIFT) / u64::from(mapcount.max(1));
        usage.pss += pss;
        usage.pss_dirty += if dirty { pss } else { 0 };
        usage.pss_anon += if anon { pss } else { 0 };
        let shmem = !anon && flags & page_flags::SWAPBACKED != 0;
        usage.pss_shmem += if shmem { pss } else { 0 };
        usage.shared_pages += u64::from(mapcount > 1);
        *match (mapcount > 1, dirty) {
            (true, true) => &mut usage.shared_dirty,
            (true, false) => &mut usage.shared_clean,
            (false, true) => &mut usage.private_dirty,
            (false, false) => &mut usage.private_clean,
        } += size;
    }

    fn mapcount_and_flags(&self, pte: Pte) -> (u32, u16) {
        if pte.has(Pte::WILD) {
            return (1, page_flags::SWAPBACKED);
        }
        let pfn = pte.pfn();
        let dirty = if pte.has(Pte::ANON) {
            0
        } else {
            self.map.flags(self.map.counted(pfn)) & page_flags::DIRTY
        };
        (self.map.mapcount(pfn), self.map.flags(pfn) | dirty)
    }

    /// The entry of a virtual page, for tests and checks; none where there is no table.
    pub fn pte(&self, mm: MmId, vpn: u64) -> Pte {
        self.owners.pte(mm, vpn)
    }

    /// The frame that a virtual page shows, if one is present.
    pub fn pfn_at(&self, mm: MmId, vpn: u64) -> Option<Pfn> {
        let pte = self.owners.pte(mm, vpn);
        pte.is_present().then(|| pte.pfn())
    }
}
