//! Whether compaction is worth a try, and how fragmented a zone is. mm/compaction.c v6.12.

use super::control::{CompactControl, CompactResult};
use super::{last_pageblock, pageblock_end, pageblock_start};
use crate::fragmentation::ContigPageInfo;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::reclaim::compact_gap;
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn, ZoneId, ZoneKind};
use crate::watermark::{AllocFlags, Wmark};
use crate::zone::{PAGEBLOCK, Zone};

/// `sysctl_extfrag_threshold`, mm/compaction.c v6.12.
const EXTFRAG_THRESHOLD: i32 = 500;
/// `PAGE_ALLOC_COSTLY_ORDER`, include/linux/mmzone.h v6.12.
const COSTLY_ORDER: u8 = 3;

impl Zone {
    /// Free blocks by order: a row of /proc/buddyinfo.
    fn nr_free_by_order(&self) -> [u64; Order::COUNT] {
        let mut row = [0; Order::COUNT];
        for order in Order::all() {
            row[order.index()] = self.free_area.nr_free(order);
        }
        row
    }

    /// `fragmentation_score_zone()`: per cent of the free frames that are in no block of a
    /// pageblock.
    pub(super) fn fragmentation_score(&self) -> u32 {
        ContigPageInfo::new(&self.nr_free_by_order(), PAGEBLOCK).extfrag(PAGEBLOCK)
    }

    /// Enough frames to migrate to, with `free` of them free: `__compaction_suitable()`.
    pub(crate) fn has_room_to_compact(&self, order: Order, highest: ZoneKind, free: u64) -> bool {
        let mark = if order.get() > COSTLY_ORDER {
            Wmark::Low
        } else {
            Wmark::Min
        };
        let needed = self.wmark_pages(mark) + compact_gap(order);
        self.watermark_ok_at(Order::ZERO, needed, highest, AllocFlags::CMA, free)
    }

    /// `compaction_suitable()`.
    pub(crate) fn compaction_suitable(&self, order: Order, highest: ZoneKind) -> bool {
        if !self.has_room_to_compact(order, highest, self.nr_free_pages) {
            return false;
        }
        if order.get() <= COSTLY_ORDER {
            return true;
        }
        let info = ContigPageInfo::new(&self.nr_free_by_order(), order);
        !(0..=EXTFRAG_THRESHOLD).contains(&info.fragmentation_index(order))
    }
}

impl Memory {
    /// `compaction_suit_allocation_order()`.
    pub(super) fn compaction_suit_allocation_order(
        &self,
        cc: &CompactControl,
        order: Order,
    ) -> CompactResult {
        let zone = &self.zones[cc.zone.index()];
        let mark = zone.wmark_pages(cc.alloc_flags.wmark());
        if zone.watermark_ok(order, mark, cc.highest, cc.alloc_flags) {
            CompactResult::Success
        } else if zone.compaction_suitable(order, cc.highest) {
            CompactResult::Continue
        } else {
            CompactResult::Skipped
        }
    }

    /// Clears skip bits of pageblocks that have something to give or take, from both ends, if a
    /// direct run went through since: `__reset_isolation_suitable()`.
    pub(crate) fn reset_isolation_suitable(&mut self, zone: ZoneId) {
        let at = zone.index();
        if !std::mem::take(&mut self.zones[at].compact.blockskip_flush) {
            return;
        }
        let (start, end) = (self.zones[at].start_pfn.0, self.zones[at].end_pfn());
        let (mut source, mut target) = (start, end - 1);
        let (mut lowest, mut highest) = (target, source);
        let (mut source_set, mut target_set) = (false, false);
        while source < target {
            let is_source = self.reset_isolation_pfn(zone, source, (true, source_set));
            let is_target = self.reset_isolation_pfn(zone, target, (target_set, true));
            let state = &mut self.zones[at].compact;
            if is_source && source < lowest {
                source_set = true;
                lowest = source;
                state.init_migrate_pfn = source;
                state.cached_migrate_pfn = [source; 2];
            }
            if is_target && target > highest {
                target_set = true;
                highest = target;
                state.init_free_pfn = target;
                state.cached_free_pfn = target;
            }
            source = source.saturating_add(PAGEBLOCK_NR_PAGES);
            target = target.saturating_sub(PAGEBLOCK_NR_PAGES);
        }
        if lowest >= highest {
            let last = last_pageblock(&self.zones[at]);
            let state = &mut self.zones[at].compact;
            state.cached_migrate_pfn = [source; 2];
            state.cached_free_pfn = target.min(last);
        }
    }

    /// Clears one pageblock's bit if a sample of its frames can be moved or used:
    /// `__reset_isolation_pfn()`.
    fn reset_isolation_pfn(
        &mut self,
        zone: ZoneId,
        pfn: u32,
        (check_source, check_target): (bool, bool),
    ) -> bool {
        let own = &self.zones[zone.index()];
        let huge = |pfn| {
            let head = self.map.head_at(Pfn(pfn));
            head.is_some_and(|head| head.compound && head.order >= PAGEBLOCK)
        };
        if self.map.zone_of(Pfn(pfn)) != Some(zone) || huge(pageblock_start(pfn)) {
            return false;
        }
        if check_source && check_target && !own.compact.is_skipped(pfn) {
            return true;
        }
        let movable = self.map.pageblock_migratetype(Pfn(pfn)) == MigrateType::Movable;
        if !check_source && check_target && !movable {
            return false;
        }
        let first = pageblock_start(pfn).max(own.start_pfn.0);
        let end = pageblock_end(pfn).min(own.end_pfn());
        let found = (first..end).step_by(1 << COSTLY_ORDER).any(|at| {
            let class = self.map.class(Pfn(at));
            (check_source && class.is_lru()) || (check_target && class == PageClass::Free)
        });
        if found {
            self.zones[zone.index()].compact.clear_skip(pfn);
        }
        found
    }
}
