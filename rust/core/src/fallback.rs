//! What to do when the lists of a migratetype are empty: claim a pageblock of another type, or steal
//! a block from one. mm/page_alloc.c v6.12.117, which has the rule of v6.15 (`__rmqueue_claim()`,
//! `__rmqueue_steal()`) with the older names of its helpers.

use crate::clock::Clocks;
use crate::events::Tracepoint;
use crate::mem_map::{MemMap, PageClass};
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER, Pfn};
use crate::vmstat::{VmEvent, VmStat};
use crate::watermark::AllocFlags;
use crate::zone::{PAGEBLOCK, Zone, change_pageblock_range};

/// Where `__rmqueue()` found frames last: `enum rmqueue_mode`. A refill goes on there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RmqueueMode {
    Normal,
    Cma,
    Claim,
    Steal,
}

/// What a step on a zone needs besides the zone: the rest of the machine that it touches.
pub(crate) struct Parts<'a> {
    pub map: &'a mut MemMap,
    pub vmstat: &'a mut VmStat,
    pub clock: &'a mut Clocks,
    pub tuning: Tuning,
}

impl Parts<'_> {
    /// The same for a shorter time. Cold functions take it by value, so that what the fast path
    /// works with need not be in memory.
    #[inline(always)]
    #[allow(clippy::inline_always)] // see page_alloc
    pub fn reborrow(&mut self) -> Parts<'_> {
        Parts {
            map: self.map,
            vmstat: self.vmstat,
            clock: self.clock,
            tuning: self.tuning,
        }
    }
}

/// Settings that steer fallback.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// `vm.watermark_boost_factor`.
    pub watermark_boost_factor: u64,
    /// `page_group_by_mobility_disabled`.
    pub mobility_disabled: bool,
    /// Refill per-CPU lists by runs.
    pub run_refill: bool,
}

/// Who is asked when a type has nothing: `fallbacks[]`. CMA, highatomic and isolated pageblocks are
/// never used by fallback.
const fn fallbacks(migratetype: MigrateType) -> [MigrateType; 2] {
    use MigrateType::{Movable, Reclaimable, Unmovable};
    match migratetype {
        Movable => [Reclaimable, Unmovable],
        Reclaimable => [Unmovable, Movable],
        _ => [Reclaimable, Movable],
    }
}

/// Tells whoever listens that a block of one type served another: `mm_page_alloc_extfrag`, with the
/// order asked for and the one found, the type asked for and the one found.
fn note_fallback(
    map: &mut MemMap,
    pfn: Pfn,
    orders: (Order, Order),
    types: (MigrateType, MigrateType),
) {
    let changed = map.pageblock_migratetype(pfn) == types.0;
    map.events.note(
        Tracepoint::PageAllocExtfrag,
        [
            pfn.0,
            orders.0.get().into(),
            orders.1.get().into(),
            types.0 as u32,
            types.1 as u32,
            u32::from(changed),
        ],
    );
}

/// Free and movable frames of a pageblock: `prep_move_freepages_block()`.
struct BlockContents {
    start: Pfn,
    free: u32,
    movable: u32,
}

impl Zone {
    /// Takes a block, from another migratetype's pageblock if need be: `__rmqueue()`.
    #[inline(always)]
    #[allow(clippy::inline_always)] // see page_alloc
    pub(crate) fn rmqueue(
        &mut self,
        with: &mut Parts<'_>,
        order: Order,
        migratetype: MigrateType,
        flags: AllocFlags,
        mode: &mut RmqueueMode,
    ) -> Option<Pfn> {
        if self.nr_free_cma > 0
            && self.nr_free_cma > self.nr_free_pages / 2
            && flags.has(AllocFlags::CMA)
        {
            let pfn = self.rmqueue_smallest(with.map, order, MigrateType::Cma);
            if pfn.is_some() {
                return pfn;
            }
        }
        if *mode == RmqueueMode::Normal {
            let pfn = self.rmqueue_smallest(with.map, order, migratetype);
            if pfn.is_some() {
                return pfn;
            }
        }
        self.rmqueue_fallback(with.reborrow(), order, migratetype, flags, mode)
    }

    /// The rest of `__rmqueue()`, after the lists of the type itself.
    #[cold]
    fn rmqueue_fallback(
        &mut self,
        mut with: Parts<'_>,
        order: Order,
        migratetype: MigrateType,
        flags: AllocFlags,
        mode: &mut RmqueueMode,
    ) -> Option<Pfn> {
        if *mode <= RmqueueMode::Cma && flags.has(AllocFlags::CMA) {
            let pfn = self.rmqueue_smallest(with.map, order, MigrateType::Cma);
            if pfn.is_some() {
                *mode = RmqueueMode::Cma;
                return pfn;
            }
        }
        if *mode <= RmqueueMode::Claim {
            let pfn = self.rmqueue_claim(&mut with, order, migratetype, flags);
            if pfn.is_some() {
                *mode = RmqueueMode::Normal;
                return pfn;
            }
        }
        if flags.has(AllocFlags::NOFRAGMENT) {
            return None;
        }
        let pfn = self.rmqueue_steal(&mut with, order, migratetype)?;
        *mode = RmqueueMode::Steal;
        Some(pfn)
    }

    /// Claims a whole pageblock, the one with the largest free block: `__rmqueue_claim()`.
    fn rmqueue_claim(
        &mut self,
        with: &mut Parts<'_>,
        order: Order,
        start_type: MigrateType,
        flags: AllocFlags,
    ) -> Option<Pfn> {
        let whole_only = order < PAGEBLOCK && flags.has(AllocFlags::NOFRAGMENT);
        let min_order = if whole_only { PAGEBLOCK } else { order };
        for current in min_order.and_larger().rev() {
            let Some(fallback) = self.find_suitable_fallback(current, start_type) else {
                continue;
            };
            if !can_steal_fallback(current, start_type, with.tuning) {
                break;
            }
            let pfn = self
                .free_area
                .first(current, fallback)
                .expect("the list is not empty");
            let pfn = self.try_to_steal_block(with, pfn, current, order, start_type, flags);
            if pfn.is_some() {
                with.vmstat.count(VmEvent::PageblockClaim, 1);
                let orders = (order, current);
                note_fallback(with.map, pfn?, orders, (start_type, fallback));
                return pfn;
            }
        }
        None
    }

    /// Takes a single block and leaves its pageblock as it is: `__rmqueue_steal()`.
    fn rmqueue_steal(
        &mut self,
        with: &mut Parts<'_>,
        order: Order,
        start_type: MigrateType,
    ) -> Option<Pfn> {
        for current in order.and_larger() {
            let Some(fallback) = self.find_suitable_fallback(current, start_type) else {
                continue;
            };
            let pfn = self
                .free_area
                .first(current, fallback)
                .expect("the list is not empty");
            self.del_and_expand(with.map, pfn, order, current, fallback);
            with.vmstat.count(VmEvent::PageSteal, 1);
            note_fallback(with.map, pfn, (order, current), (start_type, fallback));
            return Some(pfn);
        }
        None
    }

    /// The first other type with a free block of this order: `find_suitable_fallback()`.
    pub(crate) fn find_suitable_fallback(
        &self,
        order: Order,
        migratetype: MigrateType,
    ) -> Option<MigrateType> {
        let has = |&other: &MigrateType| self.free_area.first(order, other).is_some();
        fallbacks(migratetype).into_iter().find(has)
    }

    /// `try_to_steal_block()`.
    fn try_to_steal_block(
        &mut self,
        with: &mut Parts<'_>,
        pfn: Pfn,
        current: Order,
        order: Order,
        start_type: MigrateType,
        flags: AllocFlags,
    ) -> Option<Pfn> {
        let block_type = with.map.pageblock_migratetype(pfn);
        if block_type == MigrateType::HighAtomic {
            return None;
        }
        if current >= PAGEBLOCK {
            let nr = u64::from(current.nr_pages());
            self.free_area.del(with.map, pfn, current, block_type);
            self.account_removed(nr, block_type);
            change_pageblock_range(with.map, pfn, current, start_type);
            self.expand(with.map, pfn, order, current, start_type);
            self.account_added(nr - u64::from(order.nr_pages()), start_type);
            return Some(pfn);
        }
        if self.boost_watermark(with.tuning) && flags.has(AllocFlags::KSWAPD) {
            self.boosted_watermark = true;
        }
        let block = self.prep_move_freepages_block(with.map, pfn)?;
        let alike = match (start_type, block_type) {
            (MigrateType::Movable, _) => block.movable,
            (_, MigrateType::Movable) => PAGEBLOCK_NR_PAGES - block.free - block.movable,
            _ => 0,
        };
        if block.free + alike < PAGEBLOCK_NR_PAGES / 2 && !with.tuning.mobility_disabled {
            return None;
        }
        self.move_block(with.map, block.start, block_type, start_type);
        self.rmqueue_smallest(with.map, order, start_type)
    }

    /// Raises the watermarks so that reclaim makes later fallbacks rarer: `boost_watermark()`.
    fn boost_watermark(&mut self, tuning: Tuning) -> bool {
        let pageblock = u64::from(PAGEBLOCK_NR_PAGES);
        if tuning.watermark_boost_factor == 0 || pageblock * 4 > self.managed {
            return false;
        }
        let high = self.watermark.high;
        let factor = tuning.watermark_boost_factor;
        let max_boost = high / 10_000 * factor + high % 10_000 * factor / 10_000;
        if max_boost == 0 {
            return false;
        }
        self.watermark_boost = (self.watermark_boost + pageblock).min(max_boost.max(pageblock));
        true
    }

    /// Counts what a pageblock holds, if it lies in this zone: `prep_move_freepages_block()`.
    fn prep_move_freepages_block(&self, map: &MemMap, pfn: Pfn) -> Option<BlockContents> {
        let start = Pfn(pfn.0 & !(PAGEBLOCK_NR_PAGES - 1));
        let last = Pfn(start.0 + PAGEBLOCK_NR_PAGES - 1);
        if !self.spans(start) || !self.spans(last) {
            return None;
        }
        let mut contents = BlockContents {
            start,
            free: 0,
            movable: 0,
        };
        let mut next = start.0;
        while next <= last.0 {
            let head = map.block_of(Pfn(next));
            let behind = head.pfn.0 + head.order.nr_pages();
            let nr = behind - next;
            if head.class == PageClass::Free {
                contents.free += nr;
            } else if head.class.is_lru() {
                contents.movable += nr;
            }
            next = behind;
        }
        Some(contents)
    }

    /// Gives a pageblock to another type, if it lies in this zone: `move_freepages_block()`.
    pub(crate) fn move_freepages_block(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        from: MigrateType,
        to: MigrateType,
    ) -> bool {
        let start = Pfn(pfn.0 & !(PAGEBLOCK_NR_PAGES - 1));
        let whole = self.spans(start) && self.spans(Pfn(start.0 + PAGEBLOCK_NR_PAGES - 1));
        if whole {
            self.move_block(map, start, from, to);
        }
        whole
    }

    /// Moves a pageblock's free blocks to the tails of another type's lists and changes its type:
    /// `__move_freepages_block()`.
    pub(crate) fn move_block(
        &mut self,
        map: &mut MemMap,
        start: Pfn,
        from: MigrateType,
        to: MigrateType,
    ) {
        let whole = map.pageblock_is_whole(start);
        let end = start.0 + PAGEBLOCK_NR_PAGES;
        let mut next = start.0;
        while next < end {
            // A block in use may begin before the pageblock.
            let head = map.block_of(Pfn(next));
            let nr = head.order.nr_pages();
            let own = whole || map.zone_of(Pfn(next)) == Some(self.id);
            if head.class == PageClass::Free && own {
                self.free_area
                    .move_to_tail(map, head.pfn, head.order, from, to);
                self.account_removed(u64::from(nr), from);
                self.account_added(u64::from(nr), to);
            }
            next = head.pfn.0 + nr;
        }
        map.set_pageblock_migratetype(start, to);
    }

    /// Keeps the pageblock of a high-order atomic allocation for more of them:
    /// `reserve_highatomic_pageblock()`.
    pub(crate) fn reserve_highatomic(&mut self, map: &mut MemMap, pfn: Pfn, order: Order) {
        let pageblock = u64::from(PAGEBLOCK_NR_PAGES);
        let percent = self.managed / 100;
        if percent < pageblock || self.nr_reserved_highatomic >= percent.next_multiple_of(pageblock)
        {
            return;
        }
        let migratetype = map.pageblock_migratetype(pfn);
        if !migratetype.is_mergeable() {
            return;
        }
        if order < PAGEBLOCK {
            if self.move_freepages_block(map, pfn, migratetype, MigrateType::HighAtomic) {
                self.nr_reserved_highatomic += pageblock;
            }
        } else {
            change_pageblock_range(map, pfn, order, MigrateType::HighAtomic);
            self.nr_reserved_highatomic += u64::from(order.nr_pages());
        }
    }

    /// Gives one reserved pageblock to the type of a request in need; false when there is none:
    /// `unreserve_highatomic_pageblock()` for one zone.
    pub(crate) fn unreserve_highatomic(
        &mut self,
        map: &mut MemMap,
        to: MigrateType,
        force: bool,
    ) -> bool {
        let pageblock = u64::from(PAGEBLOCK_NR_PAGES);
        if !force && self.nr_reserved_highatomic <= pageblock {
            return false;
        }
        for order in Order::all() {
            let Some(pfn) = self.free_area.first(order, MigrateType::HighAtomic) else {
                continue;
            };
            let nr = u64::from(order.nr_pages());
            self.nr_reserved_highatomic -= pageblock.max(nr).min(self.nr_reserved_highatomic);
            if order >= PAGEBLOCK {
                self.free_area
                    .move_to_tail(map, pfn, order, MigrateType::HighAtomic, to);
                self.account_removed(nr, MigrateType::HighAtomic);
                self.account_added(nr, to);
                change_pageblock_range(map, pfn, order, to);
                return true;
            }
            return self.move_freepages_block(map, pfn, MigrateType::HighAtomic, to);
        }
        false
    }
}

/// Whether a pageblock may be claimed for the free block of `order` found in it:
/// `can_steal_fallback()`. The order is the candidate's, not the request's.
pub(crate) fn can_steal_fallback(order: Order, start_type: MigrateType, tuning: Tuning) -> bool {
    order.get() >= PAGEBLOCK_ORDER / 2
        || matches!(
            start_type,
            MigrateType::Reclaimable | MigrateType::Unmovable
        )
        || tuning.mobility_disabled
}
