//! The buddy allocator of one zone: `__rmqueue_smallest()`, `__free_one_page()`,
//! mm/page_alloc.c v6.12.
//!
//! Invariants, checked by `Memory::check`: free blocks are aligned and disjoint, a free block is on
//! the list of its pageblock's migratetype, and no two free buddies are left apart below
//! [`Order::MAX`] unless their pageblocks may not merge.
#![allow(clippy::inline_always)] // see page_alloc

use crate::clock::ZoneLock;
use crate::compaction::CompactState;
use crate::free_area::{FreeArea, Side};
use crate::mem_map::MemMap;
use crate::pcp::Pcp;
use crate::pcp_limits::PcpLimits;
use crate::units::{MigrateType, NodeId, Order, PAGEBLOCK_ORDER, Pfn, ZoneId, ZoneKind};
use crate::vmstat::NumaStat;
use crate::watermark::Watermarks;

/// `pageblock_order` as an [`Order`].
pub(crate) const PAGEBLOCK: Order = match Order::new(PAGEBLOCK_ORDER) {
    Ok(order) => order,
    Err(_) => panic!("pageblock_order is at most MAX_PAGE_ORDER"),
};

/// `struct zone`, include/linux/mmzone.h v6.12.
#[allow(clippy::struct_excessive_bools)] // `zone->flags` and `pcp->flags`, one name a bit
#[derive(Clone, Debug)]
pub struct Zone {
    /// Position in the machine's list of zones.
    pub id: ZoneId,
    /// The node it belongs to.
    pub node: NodeId,
    /// Its type.
    pub kind: ZoneKind,
    /// First frame.
    pub start_pfn: Pfn,
    /// Frames from first to last, holes included.
    pub spanned: u32,
    /// Frames that exist.
    pub present: u32,
    /// Frames given to the allocator.
    pub managed: u64,
    /// The free lists.
    pub free_area: FreeArea,
    /// `NR_FREE_PAGES`: free frames, without those of isolated pageblocks.
    pub nr_free_pages: u64,
    /// `NR_FREE_CMA_PAGES`.
    pub nr_free_cma: u64,
    /// Free frames in `HighAtomic` pageblocks.
    pub nr_free_highatomic: u64,
    /// Frames of pageblocks reserved for high-order atomic requests.
    pub nr_reserved_highatomic: u64,
    /// The watermarks without the boost.
    pub watermark: Watermarks,
    /// Frames added to every watermark after a fallback.
    pub watermark_boost: u64,
    /// Kept back from requests whose highest zone is the index.
    pub lowmem_reserve: [u64; ZoneKind::COUNT],
    /// `ZONE_BELOW_HIGH`.
    pub below_high: bool,
    /// `ZONE_BOOSTED_WATERMARK`: kswapd is to be woken.
    pub boosted_watermark: bool,
    /// `ZONE_RECLAIM_ACTIVE`.
    pub reclaim_active: bool,
    /// Per-CPU lists, by CPU; none when they are switched off.
    pub pcps: Vec<Pcp>,
    /// Limits of the per-CPU lists.
    pub pcp_limits: PcpLimits,
    /// `PCPF_FREE_HIGH_BATCH`: a CPU's cache slice holds more than three batches.
    pub free_high_batch: bool,
    /// Half of `high_min` counts before frees of orders 1 to 3 empty a list: since v6.16.
    pub free_high_half_min: bool,
    /// `ZONE_BELOW_HIGH` of requests that may not reclaim speaks of free frames only: see
    /// [`crate::boot::PcpSpec`].
    pub below_high_by_frames: bool,
    /// Whether requests that prefer this zone look for a whole pageblock elsewhere before they mix
    /// types in one: `alloc_flags_nofragment()`.
    pub avoid_fragment: bool,
    /// `zone->lock`.
    pub lock: ZoneLock,
    /// Where allocations were wanted and taken.
    pub numa: NumaStat,
    /// What compaction remembers between runs.
    pub(crate) compact: CompactState,
}

impl Zone {
    /// One past the last frame: `zone_end_pfn()`.
    pub const fn end_pfn(&self) -> u32 {
        self.start_pfn.0 + self.spanned
    }

    /// Tells whether the frame lies between the zone's first and last: `zone_spans_pfn()`.
    pub const fn spans(&self, pfn: Pfn) -> bool {
        pfn.0 >= self.start_pfn.0 && pfn.0 < self.end_pfn()
    }

    /// Empties all lists and counts nothing free.
    pub(crate) fn forget_frames(&mut self) {
        self.free_area = FreeArea::default();
        self.nr_free_pages = 0;
        self.nr_free_cma = 0;
        self.nr_free_highatomic = 0;
        self.nr_reserved_highatomic = 0;
        self.compact = CompactState::default();
        for pcp in &mut self.pcps {
            *pcp = Pcp::default();
        }
    }

    /// Counts free frames that came: `account_freepages()`.
    #[inline]
    pub(crate) fn account_added(&mut self, nr: u64, migratetype: MigrateType) {
        self.nr_free_pages += nr;
        if !migratetype.is_mergeable() {
            self.account_special_added(nr, migratetype);
        }
    }

    /// Counts free frames that went: `account_freepages()`.
    #[inline]
    pub(crate) fn account_removed(&mut self, nr: u64, migratetype: MigrateType) {
        if !migratetype.is_mergeable() {
            self.account_special_removed(nr, migratetype);
        }
        self.nr_free_pages -= nr;
    }

    #[cold]
    fn account_special_added(&mut self, nr: u64, migratetype: MigrateType) {
        match migratetype {
            MigrateType::Isolate => self.nr_free_pages -= nr,
            MigrateType::Cma => self.nr_free_cma += nr,
            _ => self.nr_free_highatomic += nr,
        }
    }

    #[cold]
    fn account_special_removed(&mut self, nr: u64, migratetype: MigrateType) {
        match migratetype {
            MigrateType::Isolate => self.nr_free_pages += nr,
            MigrateType::Cma => self.nr_free_cma -= nr,
            _ => self.nr_free_highatomic -= nr,
        }
    }

    /// Takes the smallest sufficient block and splits it down: `__rmqueue_smallest()`. The head of
    /// the block taken is to be marked by the caller.
    #[inline(always)]
    pub(crate) fn rmqueue_smallest(
        &mut self,
        map: &mut MemMap,
        order: Order,
        migratetype: MigrateType,
    ) -> Option<Pfn> {
        let pfn = self.take_smallest(map, order, migratetype)?;
        map.events.left_list(pfn, order, migratetype);
        Some(pfn)
    }

    /// The same where nobody listens.
    #[inline(always)]
    pub(crate) fn take_smallest(
        &mut self,
        map: &mut MemMap,
        order: Order,
        migratetype: MigrateType,
    ) -> Option<Pfn> {
        let own = if order == Order::ZERO {
            self.free_area.pop(map, Order::ZERO, migratetype)
        } else {
            None
        };
        let pfn = match own {
            Some(pfn) => pfn,
            None => {
                let found = self.free_area.smallest(order, migratetype)?;
                let pfn = self.free_area.pop(map, found, migratetype)?;
                if found > order {
                    self.free_area.fill(map, pfn, (order, found), migratetype);
                }
                pfn
            }
        };
        self.account_removed(u64::from(order.nr_pages()), migratetype);
        Some(pfn)
    }

    /// `page_del_and_expand()`.
    #[inline]
    pub(crate) fn del_and_expand(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        low: Order,
        high: Order,
        migratetype: MigrateType,
    ) {
        self.free_area.del(map, pfn, high, migratetype);
        self.expand(map, pfn, low, high, migratetype);
        self.account_removed(u64::from(low.nr_pages()), migratetype);
    }

    /// Halves a block until `low` is reached: the upper halves go to the heads of their lists, the
    /// lowest is handed out: `expand()`.
    #[inline(always)]
    pub(crate) fn expand(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        low: Order,
        high: Order,
        migratetype: MigrateType,
    ) {
        for half in low.up_to(high).rev() {
            let upper = Pfn(pfn.0 + half.nr_pages());
            self.free_area
                .add(map, upper, half, migratetype, Side::Head);
        }
    }

    /// Frees a block into its own pageblocks' lists, one pageblock at a time:
    /// `split_large_buddy()`.
    pub(crate) fn split_large_buddy(&mut self, map: &mut MemMap, pfn: Pfn, order: Order) {
        let piece = order.min(PAGEBLOCK);
        let mut start = pfn.0;
        while start < pfn.0 + order.nr_pages() {
            let migratetype = map.pageblock_migratetype(Pfn(start));
            self.free_one_page(map, Pfn(start), piece, migratetype, None);
            start += piece.nr_pages();
        }
    }

    /// Frees a block and merges it with its buddies as far as they are free: `__free_one_page()`.
    /// The block's head must be unmarked already. `side` forces an end of the list.
    #[inline(always)]
    pub(crate) fn free_one_page(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        order: Order,
        migratetype: MigrateType,
        side: Option<Side>,
    ) {
        self.account_added(u64::from(order.nr_pages()), migratetype);
        self.merge(map, pfn, order, migratetype, side);
    }

    /// The same of a single frame whose pageblock is of one zone. Its head is still marked.
    #[inline(always)]
    pub(crate) fn free_single(&mut self, map: &mut MemMap, pfn: Pfn, migratetype: MigrateType) {
        self.account_added(1, migratetype);
        let buddy = pfn.buddy(Order::ZERO);
        if map.is_free_head(buddy, Order::ZERO) {
            map.clear_head(pfn, Order::ZERO);
            self.free_area.del(map, buddy, Order::ZERO, migratetype);
            let pair = Pfn(pfn.0 & buddy.0);
            return self.merge_pair(map, pair, migratetype);
        }
        let side = self.merge_side(map, pfn, Order::ZERO);
        self.free_area.add(map, pfn, Order::ZERO, migratetype, side);
    }

    #[inline(never)]
    fn merge_pair(&mut self, map: &mut MemMap, pair: Pfn, migratetype: MigrateType) {
        self.merge(map, pair, Order::ZERO.plus(1), migratetype, None);
    }

    /// `__free_one_page()` without its count.
    #[inline(always)]
    fn merge(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        order: Order,
        migratetype: MigrateType,
        side: Option<Side>,
    ) {
        let mut pfn = pfn;
        let mut order = order;
        // Within a pageblock: one migratetype, and nothing is in the hi store.
        while order < PAGEBLOCK {
            let buddy = pfn.buddy(order);
            if !map.is_free_head(buddy, order) || !self.shares_zone(map, pfn, buddy) {
                let side = side.unwrap_or_else(|| self.merge_side(map, pfn, order));
                self.free_area.add(map, pfn, order, migratetype, side);
                return;
            }
            self.free_area.del(map, buddy, order, migratetype);
            pfn = Pfn(pfn.0 & buddy.0);
            order = order.plus(1);
        }
        self.merge_pageblocks(map, pfn, order, migratetype, side);
    }

    /// Whether two frames of one pageblock are of one zone.
    #[inline(always)]
    fn shares_zone(&self, map: &MemMap, pfn: Pfn, buddy: Pfn) -> bool {
        map.pageblock_is_whole(pfn) || map.zone_of(buddy) == Some(self.id)
    }

    /// `__free_one_page()` from `pageblock_order` on.
    #[inline(never)]
    fn merge_pageblocks(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        order: Order,
        migratetype: MigrateType,
        side: Option<Side>,
    ) {
        let mut pfn = pfn;
        let mut order = order;
        while let Some(larger) = order.larger() {
            let buddy = pfn.buddy(order);
            if !map.is_free_head(buddy, order) || map.zone_of(buddy) != Some(self.id) {
                break;
            }
            let buddy_mt = map.pageblock_migratetype(buddy);
            let mergeable = migratetype.is_mergeable() && buddy_mt.is_mergeable();
            if buddy_mt != migratetype && !mergeable {
                break;
            }
            self.free_area.del(map, buddy, order, buddy_mt);
            if buddy_mt != migratetype {
                change_pageblock_range(map, buddy, order, migratetype);
            }
            pfn = Pfn(pfn.0 & buddy.0);
            order = larger;
        }
        // buddy_merge_likely() is for smaller blocks.
        self.free_area
            .add(map, pfn, order, migratetype, side.unwrap_or(Side::Head));
    }

    /// Tail when the next merge is likely: `buddy_merge_likely()`, for a block below a pageblock.
    #[inline]
    fn merge_side(&self, map: &MemMap, pfn: Pfn, order: Order) -> Side {
        let larger = order.plus(1);
        let higher = Pfn(pfn.0 & !(larger.nr_pages() - 1));
        let higher_buddy = higher.buddy(larger);
        if !map.is_free_head(higher_buddy, larger) {
            return Side::Head;
        }
        let sure = larger < PAGEBLOCK && map.pageblock_is_whole(pfn);
        if sure || map.zone_of(higher_buddy) == Some(self.id) {
            Side::Tail
        } else {
            Side::Head
        }
    }
}

/// Gives every pageblock of a large block a migratetype: `change_pageblock_range()`.
pub(crate) fn change_pageblock_range(
    map: &mut MemMap,
    pfn: Pfn,
    order: Order,
    migratetype: MigrateType,
) {
    let mut start = pfn.0;
    while start < pfn.0 + order.nr_pages() {
        map.set_pageblock_migratetype(Pfn(start), migratetype);
        start += PAGEBLOCK.nr_pages();
    }
}
