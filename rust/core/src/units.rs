//! Units of physical memory: frame numbers, orders, migratetypes. Numbers as in Linux v6.12.

use serde::{Deserialize, Serialize};

use crate::error::AllocError;

/// Bytes of a frame, as a shift: `PAGE_SHIFT`, arch/x86/include/asm/page_types.h.
pub const PAGE_SHIFT: u32 = 12;
/// log2 of a pageblock's frames: `pageblock_order`, include/linux/pageblock-flags.h.
pub const PAGEBLOCK_ORDER: u8 = 9;
/// Frames of a pageblock: `pageblock_nr_pages`.
pub const PAGEBLOCK_NR_PAGES: u32 = 1 << PAGEBLOCK_ORDER;

/// Page frame number, counted in frames. `u32::MAX` is no frame, so a machine has at most
/// 2^32 - 1 of them, just under 16 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pfn(pub u32);

impl Pfn {
    /// No frame.
    pub const NONE: Self = Self(u32::MAX);

    /// Start of the block that pairs with this one: `__find_buddy_pfn()`, mm/internal.h v6.12.
    pub const fn buddy(self, order: Order) -> Self {
        Self(self.0 ^ order.nr_pages())
    }

    /// Index of the pageblock that holds this frame.
    pub const fn pageblock(self) -> usize {
        (self.0 >> PAGEBLOCK_ORDER) as usize
    }
}

/// log2 of a block's length in frames, `0..=MAX_PAGE_ORDER`. Only [`Order::new`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order(u8);

const _: () = assert!(Order::MAX.nr_pages() == 1024, "4 MiB, as /proc/buddyinfo's last column");

impl Order {
    /// `MAX_PAGE_ORDER`, include/linux/mmzone.h: inclusive since v6.4 (before, `MAX_ORDER` was one
    /// past it).
    pub const MAX: Self = Self(10);
    /// One frame.
    pub const ZERO: Self = Self(0);
    /// Number of orders: `NR_PAGE_ORDERS`.
    pub const COUNT: usize = 11;

    /// Checks a raw order at the edge, so that no function further in has to.
    ///
    /// # Errors
    /// [`AllocError::OrderTooLarge`] above [`Order::MAX`].
    pub const fn new(raw: u8) -> Result<Self, AllocError> {
        if raw <= Self::MAX.0 { Ok(Self(raw)) } else { Err(AllocError::OrderTooLarge(raw)) }
    }

    /// The number itself.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Frames of a block of this order.
    pub const fn nr_pages(self) -> u32 {
        1 << self.0
    }
}

/// What may be done with the pages of a pageblock: `enum migratetype`, include/linux/mmzone.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum MigrateType {
    /// Kernel memory that stays where it is.
    Unmovable = 0,
    /// Pages whose content can be copied elsewhere.
    Movable = 1,
    /// Caches that the kernel can drop.
    Reclaimable = 2,
    /// Reserved for atomic allocations of order above 0.
    HighAtomic = 3,
    /// Contiguous memory allocator: movable pages only.
    Cma = 4,
    /// Taken off the allocator while a range is being emptied.
    Isolate = 5,
}

impl MigrateType {
    /// Number of migratetypes: `MIGRATE_TYPES`, with CMA and isolation configured.
    pub const COUNT: usize = 6;

    /// The migratetype of a raw number.
    ///
    /// # Errors
    /// [`AllocError::NoSuchMigrateType`].
    pub const fn new(raw: u8) -> Result<Self, AllocError> {
        Ok(match raw {
            0 => Self::Unmovable,
            1 => Self::Movable,
            2 => Self::Reclaimable,
            3 => Self::HighAtomic,
            4 => Self::Cma,
            5 => Self::Isolate,
            _ => return Err(AllocError::NoSuchMigrateType(raw)),
        })
    }
}
