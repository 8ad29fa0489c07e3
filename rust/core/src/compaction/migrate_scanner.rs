//! The migration scanner: takes what can move off pageblocks, from the low end of the zone up.
//! mm/compaction.c v6.12.

use super::control::{COMPACT_CLUSTER_MAX, CompactControl, FastStart, MigrateMode};
use super::{pageblock_end, pageblock_start};
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn, ZoneId};
use crate::vmstat::VmEvent;
use crate::zone::PAGEBLOCK;

/// `PAGE_ALLOC_COSTLY_ORDER`, include/linux/mmzone.h v6.12.
const COSTLY_ORDER: usize = 3;

/// What the scanner sees at a frame.
enum Seen {
    /// So many frames that are free.
    Free(u32),
    /// So many frames that stay.
    Stays(u32),
    /// A folio of this order that can be isolated.
    Movable(Order),
}

/// The scan of one pageblock.
struct BlockScan {
    low: u32,
    end: u32,
    /// End of the block of the wanted order, while a block with a page that stays is given up.
    next_skip: Option<u32>,
    nr_scanned: u64,
    nr_isolated: u32,
    /// The scan began at the pageblock's start, so that it may set the skip bit.
    owns_skip: bool,
    skip_updated: bool,
}

impl Memory {
    /// Isolates pages of the next suitable pageblock below the free scanner:
    /// `isolate_migratepages()`.
    pub(super) fn isolate_migratepages(&mut self, cc: &mut CompactControl) {
        let zone_start = self.zones[cc.zone.index()].start_pfn.0;
        let mut low = self.fast_find_migrateblock(cc);
        let mut block_start = pageblock_start(low).max(zone_start);
        let mut block_end = pageblock_end(low);
        let mut found_fast = low != cc.migrate_pfn && cc.fast_search_fail == 0;
        while block_end <= cc.free_pfn {
            if self.lies_in(cc.zone, block_start, block_end) {
                let is_start = low.is_multiple_of(PAGEBLOCK_NR_PAGES) || low == zone_start;
                let skipped = is_start && !found_fast && !self.isolation_suitable(cc, low);
                if !skipped {
                    if self.suitable_migration_source(cc, block_start) {
                        self.isolate_migratepages_block(cc, low, block_end);
                        return;
                    }
                    self.update_cached_migrate(cc, block_end);
                }
            }
            found_fast = false;
            (low, block_start) = (block_end, block_end);
            cc.migrate_pfn = block_end;
            block_end = pageblock_end(block_end);
        }
    }

    /// Whether a pageblock's part begins and ends in this zone: `pageblock_pfn_to_page()`.
    pub(super) fn lies_in(&self, zone: ZoneId, start: u32, end: u32) -> bool {
        self.map.zone_of(Pfn(start)) == Some(zone) && self.map.zone_of(Pfn(end - 1)) == Some(zone)
    }

    /// `isolation_suitable()`.
    pub(super) fn isolation_suitable(&self, cc: &CompactControl, pfn: u32) -> bool {
        cc.ignore_skip_hint || !self.zones[cc.zone.index()].compact.is_skipped(pfn)
    }

    /// `suitable_migration_source()`.
    fn suitable_migration_source(&self, cc: &CompactControl, block_start: u32) -> bool {
        let head = self.map.head_at(Pfn(block_start));
        if head.is_some_and(|head| head.compound && head.order >= PAGEBLOCK) {
            return false;
        }
        if cc.mode != MigrateMode::Async || !cc.direct {
            return true;
        }
        let own = self.map.pageblock_migratetype(Pfn(block_start));
        if cc.migratetype == MigrateType::Movable {
            matches!(own, MigrateType::Movable | MigrateType::Cma)
        } else {
            own == cc.migratetype
        }
    }

    /// `update_cached_migrate()`.
    fn update_cached_migrate(&mut self, cc: &CompactControl, pfn: u32) {
        if cc.no_set_skip_hint {
            return;
        }
        let pfn = pageblock_end(pfn);
        let cached = &mut self.zones[cc.zone.index()].compact.cached_migrate_pfn;
        cached[0] = cached[0].max(pfn);
        if cc.mode != MigrateMode::Async {
            cached[1] = cached[1].max(pfn);
        }
    }

    /// Isolates up to a cluster of pages of one pageblock: `isolate_migratepages_block()`.
    pub(crate) fn isolate_migratepages_block(
        &mut self,
        cc: &mut CompactControl,
        low: u32,
        end: u32,
    ) {
        let gives_up = cc.direct && cc.mode == MigrateMode::Async;
        let mut scan = BlockScan {
            low,
            end,
            next_skip: gives_up.then(|| block_end(cc, low)),
            nr_scanned: 0,
            nr_isolated: 0,
            owns_skip: false,
            skip_updated: false,
        };
        while scan.low < end {
            if scan.next_skip.is_some_and(|next| scan.low >= next) {
                if scan.nr_isolated > 0 {
                    break;
                }
                scan.next_skip = Some(block_end(cc, scan.low));
            }
            if !self.scan_frame(cc, &mut scan) {
                break;
            }
        }
        scan.low = scan.low.min(end);
        if scan.low == end && (scan.nr_isolated == 0 || cc.finish_pageblock) {
            if scan.owns_skip && !scan.skip_updated && !cc.no_set_skip_hint {
                self.zones[cc.zone.index()].compact.set_skip(low);
            }
            self.update_cached_migrate(cc, scan.low);
        }
        cc.total_migrate_scanned += scan.nr_scanned;
        self.vmstat
            .count(VmEvent::CompactIsolated, u64::from(scan.nr_isolated));
        cc.migrate_pfn = scan.low;
    }

    /// Looks at one frame, or at all of a block; false when the scan of the pageblock ends here.
    fn scan_frame(&mut self, cc: &mut CompactControl, scan: &mut BlockScan) -> bool {
        let pfn = scan.low;
        scan.nr_scanned += 1;
        let is_start = pfn.is_multiple_of(PAGEBLOCK_NR_PAGES)
            || pfn == self.zones[cc.zone.index()].start_pfn.0;
        if !scan.owns_skip && is_start {
            if !self.isolation_suitable(cc, pfn) {
                scan.low = scan.end;
                return false;
            }
            scan.owns_skip = true;
        }
        match self.seen_at(cc, Pfn(pfn)) {
            Seen::Free(nr) => {
                scan.pass(nr);
                true
            }
            Seen::Stays(nr) => {
                scan.pass(nr);
                scan.give_up(cc);
                true
            }
            Seen::Movable(order) => self.isolate_folio(cc, scan, Pfn(pfn), order),
        }
    }

    /// Puts a folio on the list of those to migrate; false when the scan ends.
    fn isolate_folio(
        &mut self,
        cc: &mut CompactControl,
        scan: &mut BlockScan,
        pfn: Pfn,
        order: Order,
    ) -> bool {
        if scan.owns_skip && !scan.skip_updated {
            scan.skip_updated = true;
            if self.test_and_set_skip(cc, pfn.0) && !cc.finish_pageblock {
                scan.low = scan.end;
                return false;
            }
        }
        cc.migrate_pages.push((pfn, order));
        cc.nr_migrate_pages += order.nr_pages();
        scan.nr_isolated += order.nr_pages();
        scan.pass(order.nr_pages());
        cc.nr_migrate_pages < COMPACT_CLUSTER_MAX || cc.finish_pageblock
    }

    /// `test_and_set_skip()`.
    fn test_and_set_skip(&mut self, cc: &CompactControl, pfn: u32) -> bool {
        if cc.ignore_skip_hint {
            return false;
        }
        let state = &mut self.zones[cc.zone.index()].compact;
        let skipped = state.is_skipped(pfn);
        if !skipped && !cc.no_set_skip_hint {
            state.set_skip(pfn);
        }
        skipped
    }

    /// The tests of `isolate_migratepages_block()` on one page.
    fn seen_at(&self, cc: &CompactControl, pfn: Pfn) -> Seen {
        let Some(head) = self.map.head_at(pfn) else {
            return Seen::Stays(1); // within a block that is no folio
        };
        if head.class == PageClass::Free {
            return Seen::Free(head.order.nr_pages());
        }
        if head.class == PageClass::Hugetlb {
            return Seen::Stays(head.order.nr_pages());
        }
        let too_large =
            head.order >= PAGEBLOCK || cc.order.is_some_and(|order| head.order >= order);
        if head.compound && too_large && !cc.alloc_contig {
            return Seen::Stays(head.order.nr_pages());
        }
        let cached = !head.class.is_anon() && head.class != PageClass::Mlocked;
        if !self.can_isolate(head) || (cached && !cc.may_enter_fs) {
            return Seen::Stays(1);
        }
        Seen::Movable(head.order)
    }

    /// Looks for a source that has free frames already: `fast_find_migrateblock()`.
    fn fast_find_migrateblock(&mut self, cc: &mut CompactControl) -> u32 {
        let pfn = cc.migrate_pfn;
        let zone_start = self.zones[cc.zone.index()].start_pfn.0;
        let continues = pfn != zone_start && !pfn.is_multiple_of(PAGEBLOCK_NR_PAGES);
        let may_search = !cc.direct || cc.migratetype == MigrateType::Movable;
        if cc.ignore_skip_hint
            || cc.finish_pageblock
            || continues
            || cc.raw_order() <= COSTLY_ORDER
            || !may_search
        {
            return pfn;
        }
        let mut distance = cc.free_pfn.saturating_sub(pfn) >> 1;
        if pfn != zone_start {
            distance >>= 2;
        }
        let high = pageblock_start(pfn + distance);
        let limit = cc.freelist_scan_limit();
        let mut nr_scanned = 0;
        let mut found = None;
        for order in Order::all().rev() {
            if order.index() >= cc.raw_order() || order.index() < COSTLY_ORDER {
                continue;
            }
            if found.is_some() || nr_scanned >= limit {
                break;
            }
            found = self.search_source(cc.zone, order, high, (&mut nr_scanned, limit));
        }
        cc.total_migrate_scanned += u64::from(nr_scanned);
        let Some(free) = found else {
            cc.fast_search_fail += 1;
            return reinit_migrate_pfn(cc);
        };
        cc.fast_search_fail = 0;
        cc.fast_start = match cc.fast_start {
            FastStart::Unset => FastStart::At(free),
            FastStart::At(lowest) => FastStart::At(lowest.min(free)),
            FastStart::Used => FastStart::Used,
        };
        pageblock_start(free).max(zone_start)
    }

    /// The first free block below `high` on the movable list of one order whose pageblock is not to
    /// be skipped. The list is turned so that the next search begins behind it.
    fn search_source(
        &mut self,
        zone: ZoneId,
        order: Order,
        high: u32,
        (nr_scanned, limit): (&mut u32, u32),
    ) -> Option<u32> {
        let zone = &mut self.zones[zone.index()];
        let mut found = None;
        let mut last = None;
        for pfn in zone.free_area.iter(&self.map, order, MigrateType::Movable) {
            *nr_scanned += 1;
            if *nr_scanned > limit {
                last = Some(pfn);
                break;
            }
            if pfn.0 < high && !zone.compact.is_skipped(pfn.0) {
                (found, last) = (Some(pfn.0), Some(pfn));
                break;
            }
        }
        if let Some(last) = last {
            zone.free_area
                .rotate_behind(&mut self.map, order, MigrateType::Movable, last);
        }
        found
    }
}

/// `reinit_migrate_pfn()`.
fn reinit_migrate_pfn(cc: &mut CompactControl) -> u32 {
    if let FastStart::At(pfn) = cc.fast_start {
        cc.migrate_pfn = pfn;
        cc.fast_start = FastStart::Used;
    }
    cc.migrate_pfn
}

/// End of the block of the wanted order that holds a frame: `block_end_pfn()`.
fn block_end(cc: &CompactControl, pfn: u32) -> u32 {
    let nr = 1 << cc.raw_order();
    (pfn & !(nr - 1)).saturating_add(nr)
}

impl BlockScan {
    /// Goes on behind `nr` frames, the first of which is counted.
    fn pass(&mut self, nr: u32) {
        self.low = self.low.saturating_add(nr);
        self.nr_scanned += u64::from(nr - 1);
    }

    /// A page stays, so that its block of the wanted order cannot come together: what was isolated
    /// of it goes back, and the scan goes on behind it.
    fn give_up(&mut self, cc: &mut CompactControl) {
        let Some(next) = self.next_skip else { return };
        if self.nr_isolated > 0 {
            cc.migrate_pages.clear();
            cc.nr_migrate_pages = 0;
            self.nr_isolated = 0;
        }
        if self.low <= next {
            self.low = next;
            self.next_skip = Some(next.saturating_add(1 << cc.raw_order()));
        }
    }
}
