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
    #[must_use]
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

const _: () = assert!(
    Order::MAX.nr_pages() == 1024,
    "4 MiB, as /proc/buddyinfo's last column"
);

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
        if raw <= Self::MAX.0 {
            Ok(Self(raw))
        } else {
            Err(AllocError::OrderTooLarge(raw))
        }
    }

    /// The number itself.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Frames of a block of this order.
    pub const fn nr_pages(self) -> u32 {
        1 << self.0
    }

    /// The order as an index into an array of [`Order::COUNT`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The order `steps` above, at most [`Order::MAX`].
    #[inline]
    pub(crate) const fn plus(self, steps: u32) -> Self {
        let sum = self.0 as u32 + steps;
        if sum < Self::MAX.0 as u32 {
            Self(sum.to_le_bytes()[0])
        } else {
            Self::MAX
        }
    }

    /// The next order up, or none above [`Order::MAX`].
    pub const fn larger(self) -> Option<Self> {
        if self.0 < Self::MAX.0 {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }

    /// The next order down, or none below order 0.
    pub const fn smaller(self) -> Option<Self> {
        if self.0 > 0 {
            Some(Self(self.0 - 1))
        } else {
            None
        }
    }

    /// This order and every larger one, ascending.
    pub fn and_larger(self) -> impl DoubleEndedIterator<Item = Self> {
        (self.0..=Self::MAX.0).map(Self)
    }

    /// This order and every larger one below `end`, ascending.
    pub(crate) fn up_to(self, end: Self) -> impl DoubleEndedIterator<Item = Self> {
        (self.0..end.0).map(Self)
    }

    /// Order 0 and up, to [`Order::MAX`].
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        Self::ZERO.and_larger()
    }

    /// The largest order whose blocks may start at `pfn` and hold no more than `nr` frames (`nr > 0`).
    pub fn largest_at(pfn: Pfn, nr: u32) -> Self {
        let fits = u8::try_from(nr.ilog2()).expect("ilog2 of u32 is below 32");
        let aligned = u8::try_from(pfn.0.trailing_zeros()).expect("at most 32");
        Self(fits.min(aligned).min(Self::MAX.0))
    }

    /// The smallest order of at least `nr` frames: `get_order()`, include/asm-generic/getorder.h v6.12.
    ///
    /// # Errors
    /// [`AllocError::OrderTooLarge`] above [`Order::MAX`].
    pub fn covering(nr: u32) -> Result<Self, AllocError> {
        let raw = nr.max(1).checked_next_power_of_two().map_or(32, u32::ilog2);
        Self::new(u8::try_from(raw).expect("at most 32"))
    }
}

/// A simulated CPU, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cpu(pub u16);

/// A NUMA node, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u8);

/// Position of a zone in the machine's list of zones (node by node, low zones first).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ZoneId(pub u8);

impl ZoneId {
    /// The id as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// `enum zone_type`, include/linux/mmzone.h v6.12, as configured on x86-64 (no HIGHMEM, no DEVICE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ZoneKind {
    /// Below 16 MiB, for ISA devices.
    #[serde(rename = "DMA")]
    Dma = 0,
    /// Below 4 GiB.
    #[serde(rename = "DMA32")]
    Dma32 = 1,
    /// All else that the kernel may use for itself.
    Normal = 2,
    /// Movable pages only.
    Movable = 3,
}

impl ZoneKind {
    /// `MAX_NR_ZONES` without DEVICE.
    pub const COUNT: usize = 4;

    /// The kernel's name, as in /proc/zoneinfo.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dma => "DMA",
            Self::Dma32 => "DMA32",
            Self::Normal => "Normal",
            Self::Movable => "Movable",
        }
    }

    /// `zone_idx()`, as an index.
    pub const fn index(self) -> usize {
        self as usize
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

    /// The types of ordinary pageblocks, which may fall back on each other.
    pub const MERGEABLE: [Self; 3] = [Self::Unmovable, Self::Movable, Self::Reclaimable];

    /// Every migratetype, by number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Unmovable,
        Self::Movable,
        Self::Reclaimable,
        Self::HighAtomic,
        Self::Cma,
        Self::Isolate,
    ];

    /// The type as an index into an array of [`MigrateType::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Below `MIGRATE_PCPTYPES`: `migratetype_is_mergeable()`, include/linux/mmzone.h v6.12.
    pub const fn is_mergeable(self) -> bool {
        (self as u8) < Self::HighAtomic as u8
    }
}
