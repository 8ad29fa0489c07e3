//! The free scanner: finds frames to migrate to, from the high end of the zone down.
//! mm/compaction.c v6.12.

use super::control::{COMPACT_CLUSTER_MAX, CompactControl, MigrateMode};
use super::{pageblock_end, pageblock_start};
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn, ZoneId, ZoneKind};
use crate::vmstat::VmEvent;
use crate::watermark::AllocFlags;
use crate::zone::PAGEBLOCK;

/// How far a fast search has come.
struct FastSearch {
    /// A frame from here on is taken at once.
    low: u32,
    /// A frame from here on is taken if no other is found.
    min: u32,
    /// The highest pageblock seen.
    highest: u32,
    limit: u32,
    nr_scanned: u64,
}

impl Memory {
    /// Isolates free frames for the pages to migrate: `isolate_freepages()`.
    pub(super) fn isolate_freepages(&mut self, cc: &mut CompactControl) {
        self.fast_isolate_freepages(cc);
        if cc.nr_free_pages > 0 {
            return;
        }
        let zone_end = self.zones[cc.zone.index()].end_pfn();
        let mut start = cc.free_pfn;
        let mut block = pageblock_start(start);
        let mut block_end = pageblock_end(start).min(zone_end);
        let low = pageblock_end(cc.migrate_pfn);
        let mut stride = if cc.mode == MigrateMode::Async {
            COMPACT_CLUSTER_MAX
        } else {
            1
        };
        while block >= low {
            let lies_in = self.lies_in(cc.zone, block, block_end);
            if lies_in
                && self.suitable_migration_target(cc, block)
                && self.isolation_suitable(cc, block)
            {
                let isolated = self.isolate_freepages_block(cc, &mut start, block_end, stride);
                let whole = start == block_end;
                if whole && !cc.no_set_skip_hint {
                    let state = &mut self.zones[cc.zone.index()].compact;
                    state.set_skip(block);
                    state.cached_free_pfn = state.cached_free_pfn.min(block - PAGEBLOCK_NR_PAGES);
                }
                if cc.nr_free_pages >= cc.nr_migrate_pages {
                    if whole {
                        start = block - PAGEBLOCK_NR_PAGES;
                    }
                    break;
                }
                if !whole {
                    break;
                }
                stride = if isolated > 0 {
                    1
                } else {
                    (stride << 1).min(COMPACT_CLUSTER_MAX)
                };
            }
            block_end = block;
            block -= PAGEBLOCK_NR_PAGES; // at least `low`, which is no zone's first pageblock
            start = block;
        }
        cc.free_pfn = start;
    }

    /// `suitable_migration_target()`.
    fn suitable_migration_target(&self, cc: &CompactControl, pfn: u32) -> bool {
        let wanted = cc
            .order
            .filter(|&order| order > Order::ZERO)
            .unwrap_or(PAGEBLOCK);
        let head = self.map.head_at(Pfn(pfn));
        if head.is_some_and(|head| head.class == PageClass::Free && head.order >= wanted) {
            return false;
        }
        let own = self.map.pageblock_migratetype(Pfn(pfn));
        cc.ignore_block_suitable || matches!(own, MigrateType::Movable | MigrateType::Cma)
    }

    /// Isolates free blocks of one pageblock until there are enough; returns the frames, and leaves
    /// in `start` how far it came: `isolate_freepages_block()`.
    fn isolate_freepages_block(
        &mut self,
        cc: &mut CompactControl,
        start: &mut u32,
        end: u32,
        stride: u32,
    ) -> u32 {
        let (mut at, mut nr_scanned, mut total) = (*start, 0_u64, 0);
        while at < end {
            nr_scanned += 1;
            let head = self.map.head_at(Pfn(at));
            let Some(free) = head.filter(|head| head.class == PageClass::Free) else {
                let compound = head.filter(|head| head.compound);
                let nr = compound.map_or(1, |head| head.order.nr_pages());
                if nr > 1 && nr <= end - at {
                    nr_scanned += u64::from(nr - 1);
                    at += nr - 1;
                }
                at = at.saturating_add(stride);
                continue;
            };
            let nr = self.isolate_free_page(cc.zone, free.pfn, free.order);
            if nr == 0 {
                break;
            }
            nr_scanned += u64::from(nr - 1);
            total += nr;
            cc.nr_free_pages += nr;
            cc.free_pages[free.order.index()].push_back(at);
            if cc.nr_migrate_pages <= cc.nr_free_pages {
                at += nr;
                break;
            }
            at = (at + (nr - 1)).saturating_add(stride);
        }
        *start = at.min(end);
        cc.total_free_scanned += nr_scanned;
        self.vmstat
            .count(VmEvent::CompactIsolated, u64::from(total));
        total
    }

    /// Takes a free block off its list if the min mark allows, and marks it as in use; returns its
    /// frames: `__isolate_free_page()`.
    pub(crate) fn isolate_free_page(&mut self, zone: ZoneId, pfn: Pfn, order: Order) -> u32 {
        let nr = order.nr_pages();
        let zone = &mut self.zones[zone.index()];
        let own = self.map.pageblock_migratetype(pfn);
        if own != MigrateType::Isolate {
            let mark = zone.watermark.min + u64::from(nr);
            if !zone.watermark_ok(Order::ZERO, mark, ZoneKind::Dma, AllocFlags::CMA) {
                return 0;
            }
        }
        zone.free_area.del(&mut self.map, pfn, order, own);
        zone.account_removed(u64::from(nr), own);
        self.map.set_head(pfn, order, PageClass::Kernel);
        if order.plus(1) >= PAGEBLOCK {
            for start in (pfn.0..pfn.0 + nr).step_by(PAGEBLOCK_NR_PAGES as usize) {
                let own = self.map.pageblock_migratetype(Pfn(start));
                if own.is_mergeable() && own != MigrateType::Movable {
                    zone.move_freepages_block(&mut self.map, Pfn(start), own, MigrateType::Movable);
                }
            }
        }
        nr
    }

    /// Looks for a target on the free lists before scanning: `fast_isolate_freepages()`.
    fn fast_isolate_freepages(&mut self, cc: &mut CompactControl) {
        if cc.raw_order() == 0 {
            return;
        }
        let scan_start = cc.free_pfn >= self.zones[cc.zone.index()].compact.init_free_pfn;
        let distance = cc.free_pfn.saturating_sub(cc.migrate_pfn);
        let mut search = FastSearch {
            low: pageblock_start(cc.free_pfn - (distance >> 2)),
            min: pageblock_start(cc.free_pfn - (distance >> 1)),
            highest: 0,
            limit: if scan_start {
                PAGEBLOCK_NR_PAGES >> 1
            } else {
                (cc.freelist_scan_limit() >> 1).max(1)
            },
            nr_scanned: 0,
        };
        let mut page = self.search_orders(cc, &mut search);
        if page.is_none() {
            cc.fast_search_fail += 1;
            if scan_start {
                page = self.fallback_target(cc, &search);
            }
        }
        let state = &mut self.zones[cc.zone.index()].compact;
        if search.highest >= PAGEBLOCK_NR_PAGES && search.highest >= state.cached_free_pfn {
            state.cached_free_pfn = search.highest - PAGEBLOCK_NR_PAGES;
        }
        cc.total_free_scanned += search.nr_scanned;
        if let Some(pfn) = page {
            self.fast_isolate_around(cc, pfn);
        }
    }

    /// Searches the movable list of each smaller order, round robin from the last that had one.
    fn search_orders(&mut self, cc: &mut CompactControl, search: &mut FastSearch) -> Option<u32> {
        cc.search_order = cc.search_order.min(cc.raw_order() - 1);
        let mut at = cc.search_order;
        loop {
            let order = Order::all().nth(at).expect("below the wanted order");
            if self.zones[cc.zone.index()].free_area.nr_free(order) > 0 {
                let (found, nr_scanned) = self.search_target(cc, order, search);
                if let Some(pfn) = found {
                    let nr = self.isolate_free_page(cc.zone, Pfn(pfn), order);
                    search.nr_scanned += u64::from(nr.saturating_sub(1));
                    if nr > 0 {
                        cc.nr_free_pages += nr;
                        cc.free_pages[order.index()].push_back(pfn);
                        self.vmstat.count(VmEvent::CompactIsolated, u64::from(nr));
                    }
                    return Some(pfn).filter(|_| nr > 0);
                }
                if nr_scanned >= search.limit {
                    search.limit = (search.limit >> 1).max(1);
                }
            }
            at = next_search_order(cc, at)?;
        }
    }

    /// Searches one list from its tail; returns the block found and how many were looked at. The
    /// list is turned so that the block stands at its head.
    fn search_target(
        &mut self,
        cc: &mut CompactControl,
        order: Order,
        search: &mut FastSearch,
    ) -> (Option<u32>, u32) {
        let zone = &mut self.zones[cc.zone.index()];
        let (mut found, mut candidate, mut looked_at) = (None, None, 0);
        let mut last = None;
        for pfn in zone
            .free_area
            .iter_reverse(&self.map, order, MigrateType::Movable)
        {
            looked_at += 1;
            search.nr_scanned += 1;
            last = Some(pfn);
            if pfn.0 >= search.highest {
                search.highest = pageblock_start(pfn.0).max(zone.start_pfn.0);
            }
            if pfn.0 >= search.low {
                cc.fast_search_fail = 0;
                cc.search_order = order.index();
                found = Some(pfn);
                break;
            }
            if pfn.0 >= search.min && candidate.is_none_or(|best: Pfn| pfn > best) {
                candidate = Some(pfn);
                search.limit >>= 1;
            }
            if looked_at >= search.limit {
                break;
            }
            last = None;
        }
        let found = found.or(candidate);
        if let Some(head) = found.or(last) {
            zone.free_area
                .rotate_to_head(&mut self.map, order, MigrateType::Movable, head);
        }
        (found.map(|pfn| pfn.0), looked_at)
    }

    /// Where to scan when the lists had nothing in the upper half.
    fn fallback_target(&mut self, cc: &mut CompactControl, search: &FastSearch) -> Option<u32> {
        if search.highest >= search.min {
            cc.free_pfn = search.highest;
            return Some(search.highest);
        }
        if !cc.direct {
            return None;
        }
        cc.free_pfn = search.min;
        let end = pageblock_end(search.min).min(self.zones[cc.zone.index()].end_pfn());
        let suitable = self.lies_in(cc.zone, search.min, end)
            && self.suitable_migration_target(cc, search.min);
        suitable.then_some(search.min)
    }

    /// Isolates what else is free around a block that was found: `fast_isolate_around()`.
    fn fast_isolate_around(&mut self, cc: &mut CompactControl, pfn: u32) {
        let enough = cc.nr_free_pages >= cc.nr_migrate_pages;
        if enough || (cc.direct && cc.mode == MigrateMode::Async) {
            return;
        }
        let zone = &self.zones[cc.zone.index()];
        let mut start = pageblock_start(pfn).max(zone.start_pfn.0);
        let end = pageblock_end(pfn).min(zone.end_pfn());
        if !self.lies_in(cc.zone, start, end) {
            return;
        }
        self.isolate_freepages_block(cc, &mut start, end, 1);
        if start == end && !cc.no_set_skip_hint {
            self.zones[cc.zone.index()].compact.set_skip(pfn);
        }
    }
}

/// The order to search next, none when all were: `next_search_order()`.
fn next_search_order(cc: &mut CompactControl, order: usize) -> Option<usize> {
    let next = order.checked_sub(1).unwrap_or(cc.raw_order() - 1);
    if next == cc.search_order {
        cc.search_order = cc.search_order.checked_sub(1).unwrap_or(cc.raw_order() - 1);
        return None;
    }
    Some(next)
}
