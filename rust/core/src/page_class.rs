//! What a frame is used for, and the flags of one in use.

use serde::{Deserialize, Serialize};

/// What a frame is used for. Names as in the decoder of machine captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum PageClass {
    /// In the buddy allocator.
    Free = 0,
    /// A hole: no memory.
    Nopage = 1,
    /// `PG_reserved`: never given to the allocator.
    Reserved = 2,
    /// Offline.
    Offline = 3,
    /// Broken.
    Hwpoison = 4,
    /// A page of a hugetlb pool.
    Hugetlb = 5,
    /// Slab.
    Slab = 6,
    /// A page table.
    Pgtable = 7,
    /// Anonymous, order 0.
    Anon = 8,
    /// Anonymous, part of a large folio.
    AnonThp = 9,
    /// Shared memory, order 0.
    Shmem = 10,
    /// Shared memory, part of a large folio.
    ShmemThp = 11,
    /// Page cache, order 0.
    File = 12,
    /// Page cache, part of a large folio.
    FileLarge = 13,
    /// Locked by `mlock(2)`.
    Mlocked = 14,
    /// Movable, but on no LRU list.
    MovableOfflru = 15,
    /// The zero page.
    ZeroPage = 16,
    /// Other kernel memory.
    Kernel = 17,
    /// On a per-CPU list.
    Pcp = 18,
}

impl PageClass {
    /// Number of classes.
    pub const COUNT: usize = 19;
    /// Every class, by number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Free,
        Self::Nopage,
        Self::Reserved,
        Self::Offline,
        Self::Hwpoison,
        Self::Hugetlb,
        Self::Slab,
        Self::Pgtable,
        Self::Anon,
        Self::AnonThp,
        Self::Shmem,
        Self::ShmemThp,
        Self::File,
        Self::FileLarge,
        Self::Mlocked,
        Self::MovableOfflru,
        Self::ZeroPage,
        Self::Kernel,
        Self::Pcp,
    ];

    /// The class of a raw number, if there is one.
    pub fn new(raw: u8) -> Option<Self> {
        Self::ALL.get(usize::from(raw)).copied()
    }

    /// The class as an index into an array of [`PageClass::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Anonymous: its owner is who maps it.
    pub const fn is_anon(self) -> bool {
        matches!(self, Self::Anon | Self::AnonThp)
    }

    /// Of shared memory.
    pub const fn is_shmem(self) -> bool {
        matches!(self, Self::Shmem | Self::ShmemThp)
    }

    /// In the page cache: its owner is a file.
    pub const fn is_cached(self) -> bool {
        self.is_shmem() || self.is_file()
    }

    /// In the page cache, of a file on a disk.
    pub const fn is_file(self) -> bool {
        matches!(self, Self::File | Self::FileLarge)
    }

    /// On an LRU list (`PageLRU`), so that the page could be migrated: what
    /// `prep_move_freepages_block()` counts as movable, mm/page_alloc.c v6.12.
    pub const fn is_lru(self) -> bool {
        matches!(
            self,
            Self::Anon
                | Self::AnonThp
                | Self::Shmem
                | Self::ShmemThp
                | Self::File
                | Self::FileLarge
                | Self::Mlocked
        )
    }
}

/// Flags of an allocated frame: the bits of `page->flags` that the simulation uses.
pub mod page_flags {
    /// `PG_locked`.
    pub const LOCKED: u16 = 1 << 0;
    /// `PG_referenced`.
    pub const REFERENCED: u16 = 1 << 1;
    /// `PG_uptodate`.
    pub const UPTODATE: u16 = 1 << 2;
    /// `PG_dirty`.
    pub const DIRTY: u16 = 1 << 3;
    /// `PG_lru`.
    pub const LRU: u16 = 1 << 4;
    /// `PG_active`.
    pub const ACTIVE: u16 = 1 << 5;
    /// `PG_unevictable`.
    pub const UNEVICTABLE: u16 = 1 << 6;
    /// `PG_mlocked`.
    pub const MLOCKED: u16 = 1 << 7;
    /// `PG_swapbacked`.
    pub const SWAPBACKED: u16 = 1 << 8;
    /// `PAGE_MAPPING_ANON`: (anchor, index) is a reverse map, not a cache index.
    pub const ANON: u16 = 1 << 9;
    /// Part of a large folio that has an owner (`PG_head` and the tails): see `folio`.
    pub const LARGE: u16 = 1 << 10;
    /// The contents table has an overlay for this frame.
    pub const HAS_CONTENT: u16 = 1 << 11;
    /// Pinned for good by a contiguous run.
    pub const PINNED: u16 = 1 << 12;
    /// `PG_writeback`.
    pub const WRITEBACK: u16 = 1 << 13;
    /// The reverse map goes on in a side chain.
    pub const CHAINED: u16 = 1 << 14;
    /// Taken off its LRU list for migration or reclaim: `folio_isolate_lru()`.
    pub const ISOLATED: u16 = 1 << 15;

    /// What is known of captured pages that nobody was given; owned ones have other flags as well.
    pub const STOCK: u16 = DIRTY | REFERENCED | ACTIVE;
}
