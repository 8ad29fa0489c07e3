//! Why the allocator refused. A refusal is a value; its errno is made here and nowhere else.

use thiserror::Error;

use crate::page_isolation::Blocked;
use crate::units::{Order, ZoneId};

/// `ENOMEM`, include/uapi/asm-generic/errno-base.h v6.12.
pub const ENOMEM: i32 = 12;
/// `EINVAL`, include/uapi/asm-generic/errno-base.h v6.12.
pub const EINVAL: i32 = 22;

/// A refused request for frames, with what the caller needs to decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AllocError {
    /// Above `MAX_PAGE_ORDER`.
    #[error("order {0} is above MAX_PAGE_ORDER")]
    OrderTooLarge(u8),
    /// Not in `enum migratetype`.
    #[error("no migratetype has the number {0}")]
    NoSuchMigrateType(u8),
    /// The machine has no such CPU.
    #[error("no CPU has the number {0}")]
    NoSuchCpu(u16),
    /// The machine has no such node.
    #[error("no node has the number {0}")]
    NoSuchNode(u8),
    /// The best zone has frames, but giving them would leave fewer than its mark.
    #[error("zone {} has {free} free frames, the mark is {mark}", zone.0)]
    BelowWatermark {
        /// The preferred zone.
        zone: ZoneId,
        /// Its free frames.
        free: u64,
        /// The mark that decided, `lowmem_reserve` included.
        mark: u64,
    },
    /// Enough frames are free, but not in one block, and compaction was not tried.
    #[error("no free block of order {} (the largest has order {largest:?}) among {free} free frames", order.get())]
    NoBlock {
        /// The order asked for.
        order: Order,
        /// Of the free blocks that the request may use, the largest.
        largest: Option<Order>,
        /// Free frames of the zones that passed their watermark.
        free: u64,
    },
    /// Enough frames are free, but not in one block, and compaction made none.
    #[error("no free block of order {} (the largest has order {largest:?}) among {free} free frames, and compaction made none", order.get())]
    CompactionFailed {
        /// The order asked for.
        order: Order,
        /// Of the free blocks that the request may use, the largest.
        largest: Option<Order>,
        /// Free frames of the zones that passed their watermark.
        free: u64,
    },
    /// Too few frames are free, and reclaim made no more so.
    #[error("zone {} has {free} free frames where {mark} are needed, and reclaim made no more", zone.0)]
    NoRoom {
        /// The preferred zone.
        zone: ZoneId,
        /// Its free frames.
        free: u64,
        /// The mark that decided, `lowmem_reserve` included.
        mark: u64,
    },
    /// `alloc_contig_range()` does not know one of these flags.
    #[error("a contiguous range is not allocated with the flags {0:#x}")]
    UnsupportedGfp(u32),
    /// No zone or CMA area that the request may use has an aligned range of so many frames.
    #[error("nothing that the request may use has a range of {nr} frames")]
    NoRange {
        /// The frames asked for.
        nr: u32,
    },
    /// Something stood in the way in every range of that many frames.
    #[error("in {ranges} ranges of {nr} frames something is in the way, most often {}, as at frame {}", blocked.by.noun(), blocked.pfn.0)]
    RangeBlocked {
        /// The frames asked for.
        nr: u32,
        /// Ranges that were looked at.
        ranges: u32,
        /// What stood in the way of most of them, and where it did so first.
        blocked: Blocked,
    },
    /// No zone that the request may use has a free frame.
    #[error("no free frame in any zone that the request may use")]
    OutOfMemory,
}

impl AllocError {
    /// Linux's number for this refusal, positive.
    pub const fn errno(self) -> i32 {
        match self {
            Self::OrderTooLarge(_)
            | Self::UnsupportedGfp(_)
            | Self::NoSuchMigrateType(_)
            | Self::NoSuchCpu(_)
            | Self::NoSuchNode(_) => EINVAL,
            Self::BelowWatermark { .. }
            | Self::NoBlock { .. }
            | Self::CompactionFailed { .. }
            | Self::NoRoom { .. }
            | Self::NoRange { .. }
            | Self::RangeBlocked { .. }
            | Self::OutOfMemory => ENOMEM,
        }
    }

    /// Stable name of the variant, for those who cannot match on it.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::OrderTooLarge(_) => "order_too_large",
            Self::NoSuchMigrateType(_) => "no_such_migrate_type",
            Self::NoSuchCpu(_) => "no_such_cpu",
            Self::NoSuchNode(_) => "no_such_node",
            Self::BelowWatermark { .. } => "below_watermark",
            Self::NoBlock { .. } => "no_block",
            Self::CompactionFailed { .. } => "compaction_failed",
            Self::NoRoom { .. } => "no_room",
            Self::UnsupportedGfp(_) => "unsupported_gfp",
            Self::NoRange { .. } => "no_range",
            Self::RangeBlocked { blocked, .. } => blocked.by.cause(),
            Self::OutOfMemory => "out_of_memory",
        }
    }
}
