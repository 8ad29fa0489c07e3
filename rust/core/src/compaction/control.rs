//! What one run of compaction is about: `struct compact_control`, mm/internal.h v6.12.

use std::collections::VecDeque;

use crate::gfp::Gfp;
use crate::units::{Cpu, MigrateType, Order, PAGEBLOCK_ORDER, Pfn, ZoneId, ZoneKind};
use crate::watermark::AllocFlags;

/// `COMPACT_CLUSTER_MAX`, include/linux/swap.h v6.12: pages isolated at a time.
pub(super) const COMPACT_CLUSTER_MAX: u32 = 32;

/// How much a migration may wait: `enum migrate_mode`, include/linux/migrate_mode.h v6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MigrateMode {
    Async,
    SyncLight,
    Sync,
}

/// How hard direct compaction tries: `enum compact_priority`, include/linux/compaction.h v6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CompactPriority {
    /// `COMPACT_PRIO_SYNC_FULL`: the whole zone, hints ignored.
    SyncFull,
    /// `COMPACT_PRIO_SYNC_LIGHT`.
    SyncLight,
    /// `COMPACT_PRIO_ASYNC`.
    Async,
}

/// How a run ended: `enum compact_result`, include/linux/compaction.h v6.12, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CompactResult {
    /// Not started: too few free frames, or no use.
    Skipped,
    /// Not started: it failed too often.
    Deferred,
    /// Not over yet.
    Continue,
    /// The scanners met after the whole zone.
    Complete,
    /// The scanners met after a part of the zone.
    PartialSkipped,
    /// Given up: no frames to migrate to.
    Contended,
    /// A block should be there.
    Success,
}

impl CompactResult {
    /// Its number in `enum compact_result`.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Skipped => 1,
            Self::Deferred => 2,
            Self::Continue => 4,
            Self::Complete => 5,
            Self::PartialSkipped => 6,
            Self::Contended => 7,
            Self::Success => 8,
        }
    }
}

/// The state of one run.
#[allow(clippy::struct_excessive_bools)] // the bits of `struct compact_control`, one name each
#[derive(Clone, Debug)]
pub(crate) struct CompactControl {
    pub zone: ZoneId,
    pub cpu: Cpu,
    /// What a block is wanted for, none for the whole of memory (`is_via_compact_memory()`).
    pub order: Option<Order>,
    /// Where the next search of the free lists begins.
    pub search_order: usize,
    pub migratetype: MigrateType,
    pub mode: MigrateMode,
    pub alloc_flags: AllocFlags,
    pub highest: ZoneKind,
    /// Only anonymous pages without `__GFP_FS`.
    pub may_enter_fs: bool,
    pub direct: bool,
    pub whole_zone: bool,
    pub ignore_skip_hint: bool,
    /// For contiguous ranges: hints are not written either.
    pub no_set_skip_hint: bool,
    pub ignore_block_suitable: bool,
    /// For contiguous ranges: large folios of any order move.
    pub alloc_contig: bool,
    /// Proactive: stop at this score.
    pub proactive_below: Option<u32>,
    /// Finish the pageblock in hand, however many pages that takes.
    pub finish_pageblock: bool,
    /// Frames to migrate to, by order of the blocks.
    pub free_pages: [VecDeque<u32>; Order::COUNT],
    pub nr_free_pages: u32,
    /// Folios taken off their pageblock, ascending.
    pub migrate_pages: Vec<(Pfn, Order)>,
    pub nr_migrate_pages: u32,
    pub migrate_pfn: u32,
    pub free_pfn: u32,
    pub fast_start: FastStart,
    pub fast_search_fail: u32,
    pub total_migrate_scanned: u64,
    pub total_free_scanned: u64,
    /// Whether a block that comes together is kept for the request.
    pub captures: bool,
    pub captured: Option<Pfn>,
    /// Starts of the blocks of `order` in which frames were freed since the last look.
    pub freed: Vec<u32>,
}

/// `fast_start_pfn`: the lowest frame that a search of the free lists jumped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FastStart {
    /// Nothing found yet.
    Unset,
    At(u32),
    /// The scan went back there; not again.
    Used,
}

impl CompactControl {
    /// A run over a whole zone without an order: `compact_node()`.
    pub fn whole(zone: ZoneId, cpu: Cpu, mode: MigrateMode) -> Self {
        Self {
            zone,
            cpu,
            order: None,
            search_order: 0,
            migratetype: MigrateType::Unmovable,
            mode,
            alloc_flags: AllocFlags(0),
            highest: ZoneKind::Dma,
            may_enter_fs: true,
            direct: false,
            whole_zone: true,
            ignore_skip_hint: true,
            no_set_skip_hint: false,
            ignore_block_suitable: false,
            alloc_contig: false,
            proactive_below: None,
            finish_pageblock: false,
            free_pages: std::array::from_fn(|_| VecDeque::new()),
            nr_free_pages: 0,
            migrate_pages: Vec::new(),
            nr_migrate_pages: 0,
            migrate_pfn: 0,
            free_pfn: 0,
            fast_start: FastStart::Unset,
            fast_search_fail: 0,
            total_migrate_scanned: 0,
            total_free_scanned: 0,
            captures: false,
            captured: None,
            freed: Vec::new(),
        }
    }

    /// A run for a block of `order`, from where the last one stopped.
    pub fn for_order(zone: ZoneId, cpu: Cpu, order: Order, gfp: Gfp, mode: MigrateMode) -> Self {
        Self {
            order: Some(order),
            search_order: order.index(),
            migratetype: gfp.migratetype(),
            may_enter_fs: gfp.has(Gfp::FS),
            whole_zone: false,
            ignore_skip_hint: false,
            ..Self::whole(zone, cpu, mode)
        }
    }

    /// `compact_scanners_met()`.
    pub const fn scanners_met(&self) -> bool {
        self.free_pfn >> PAGEBLOCK_ORDER <= self.migrate_pfn >> PAGEBLOCK_ORDER
    }

    /// `freelist_scan_limit()`.
    pub fn freelist_scan_limit(&self) -> u32 {
        COMPACT_CLUSTER_MAX
            .checked_shr(self.fast_search_fail)
            .unwrap_or(0)
            + 1
    }

    /// The order as a number where the kernel compares it with 0.
    pub fn raw_order(&self) -> usize {
        self.order.map_or(0, Order::index)
    }
}
