//! Compaction: two scanners move pages from the low end of a zone to free frames at its high end, so
//! that free memory grows together. mm/compaction.c v6.12.
//!
//! One run has one [`CompactControl`]. The migration scanner (`migrate_scanner`) takes what can move
//! off a pageblock, the free scanner (`free_scanner`) finds it new frames, `migrate_list` moves it,
//! and this file says when a run begins and ends. What the kernel does because others run at the
//! same time (contended locks, signals, throttling) does not happen here.

mod background;
mod capture;
mod control;
mod direct;
mod free_scanner;
mod migrate_list;
mod migrate_scanner;
mod state;
mod suitability;

pub use background::CompactionTick;
pub(crate) use control::{CompactControl, MigrateMode};
pub use control::{CompactPriority, CompactResult};
pub(crate) use state::CompactState;

use crate::events::Tracepoint;
use crate::fallback::can_steal_fallback;
use crate::memory::Memory;
use crate::units::{Cpu, MigrateType, Order, PAGEBLOCK_NR_PAGES, ZoneId};
use crate::vmstat::VmEvent;
use crate::zone::Zone;
use migrate_list::Migrated;

/// First frame of a frame's pageblock: `pageblock_start_pfn()`.
pub(crate) const fn pageblock_start(pfn: u32) -> u32 {
    pfn & !(PAGEBLOCK_NR_PAGES - 1)
}

/// One past the last frame of a frame's pageblock: `pageblock_end_pfn()`.
pub(crate) const fn pageblock_end(pfn: u32) -> u32 {
    pageblock_start(pfn).saturating_add(PAGEBLOCK_NR_PAGES)
}

/// The last pageblock of a zone.
const fn last_pageblock(zone: &Zone) -> u32 {
    pageblock_start(zone.end_pfn() - 1)
}

/// What one run remembers from step to step.
struct Progress {
    /// Pageblock of the last migration, 0 when its frames were flushed.
    last_migrated: u32,
    /// Keep the cached start of sync runs at that of async ones.
    update_cached: bool,
}

impl Memory {
    /// Compacts every zone as far as it goes: a write of 1 to /proc/sys/vm/compact_memory,
    /// `compact_nodes()`. The work is done by `cpu`.
    pub fn compact_memory(&mut self, cpu: Cpu) {
        for at in 0..self.zones.len() {
            let zone = self.zones[at].id;
            if self.zones[at].present > 0 {
                self.compact_zone(&mut CompactControl::whole(zone, cpu, MigrateMode::Sync));
            }
        }
    }

    /// Runs compaction in one zone: `compact_zone()`.
    pub(crate) fn compact_zone(&mut self, cc: &mut CompactControl) -> CompactResult {
        if let Some(order) = cc.order {
            let suitable = self.compaction_suit_allocation_order(cc, order);
            if suitable != CompactResult::Continue {
                return suitable;
            }
            if self.zones[cc.zone.index()].compact.is_restarting(order) {
                self.reset_isolation_suitable(cc.zone);
            }
        }
        self.place_scanners(cc);
        self.note_compaction(cc, None);
        let cached = self.zones[cc.zone.index()].compact.cached_migrate_pfn;
        let mut progress = Progress {
            last_migrated: 0,
            update_cached: cc.mode == MigrateMode::Async && cached[0] == cached[1],
        };
        let result = loop {
            let state = self.compact_finished(cc);
            if state != CompactResult::Continue {
                break state;
            }
            if let Some(end) = self.compact_step(cc, &mut progress) {
                break end;
            }
        };
        self.release_free_pages(cc);
        let scanned = cc.total_migrate_scanned + cc.total_free_scanned;
        self.clock
            .charge(cc.cpu, scanned * u64::from(self.clock.costs.scan_ns));
        self.vmstat
            .count(VmEvent::CompactMigrateScanned, cc.total_migrate_scanned);
        self.vmstat
            .count(VmEvent::CompactFreeScanned, cc.total_free_scanned);
        self.note_compaction(cc, Some(result));
        result
    }

    /// Tells whoever listens that a run begins, or how it ended.
    fn note_compaction(&mut self, cc: &CompactControl, result: Option<CompactResult>) {
        let zone = &self.zones[cc.zone.index()];
        let sync = u32::from(cc.mode != MigrateMode::Async);
        let (start, end) = (zone.start_pfn.0, zone.end_pfn());
        let (migrate, free) = (cc.migrate_pfn, cc.free_pfn);
        let events = &mut self.map.events;
        let Some(result) = result else {
            events.begin(cc.cpu, self.clock.now_ns(cc.cpu));
            let fields = [start, migrate, free, end, sync];
            return events.note(Tracepoint::CompactionBegin, fields);
        };
        let fields = [start, migrate, free, end, sync, result.number()];
        events.note(Tracepoint::CompactionEnd, fields);
    }

    /// Where the scanners begin: at the ends of the zone, or where the last run stopped.
    fn place_scanners(&mut self, cc: &mut CompactControl) {
        let zone = &mut self.zones[cc.zone.index()];
        let (start, end) = (zone.start_pfn.0, zone.end_pfn());
        if cc.whole_zone {
            (cc.migrate_pfn, cc.free_pfn) = (start, last_pageblock(zone));
            return;
        }
        let last = last_pageblock(zone);
        let state = &mut zone.compact;
        if !(start..end).contains(&state.cached_free_pfn) {
            state.cached_free_pfn = last;
        }
        let sync = usize::from(cc.mode != MigrateMode::Async);
        if !(start..end).contains(&state.cached_migrate_pfn[sync]) {
            state.cached_migrate_pfn = [start; 2];
        }
        cc.free_pfn = state.cached_free_pfn;
        cc.migrate_pfn = state.cached_migrate_pfn[sync];
        cc.whole_zone = cc.migrate_pfn <= state.init_migrate_pfn;
    }

    /// One batch: isolate, migrate, flush; the result when the run is over.
    fn compact_step(
        &mut self,
        cc: &mut CompactControl,
        progress: &mut Progress,
    ) -> Option<CompactResult> {
        cc.finish_pageblock =
            pageblock_start(progress.last_migrated) == pageblock_start(cc.migrate_pfn);
        loop {
            self.isolate_migratepages(cc);
            let zone = &mut self.zones[cc.zone.index()];
            if cc.migrate_pages.is_empty() {
                if progress.update_cached {
                    zone.compact.cached_migrate_pfn[1] = zone.compact.cached_migrate_pfn[0];
                }
                break;
            }
            progress.update_cached = false;
            progress.last_migrated = pageblock_start(cc.migrate_pfn - 1).max(zone.start_pfn.0);
            let migrated = self.migrate_isolated(cc);
            if migrated == Migrated::NoTarget && !cc.scanners_met() {
                return Some(CompactResult::Contended);
            }
            let rescan = migrated != Migrated::All
                && !cc.migrate_pfn.is_multiple_of(PAGEBLOCK_NR_PAGES)
                && !cc.ignore_skip_hint
                && !cc.finish_pageblock
                && cc.mode < MigrateMode::Sync;
            if !rescan {
                if cc.captured.is_some() {
                    return Some(CompactResult::Success);
                }
                break;
            }
            cc.finish_pageblock = true;
            if cc.order == Some(crate::zone::PAGEBLOCK) {
                progress.last_migrated = 0;
            }
        }
        self.flush_freed(cc, progress);
        None
    }

    /// Flushes the per-CPU list when the scanner has left the block that it emptied, so that what
    /// was freed there can merge.
    fn flush_freed(&mut self, cc: &mut CompactControl, progress: &mut Progress) {
        let Some(order) = cc.order else { return };
        let current = cc.migrate_pfn & !(order.nr_pages() - 1);
        if order > Order::ZERO && progress.last_migrated != 0 && progress.last_migrated < current {
            self.drain_local(cc.cpu, cc.zone);
            self.capture_freed(cc);
            cc.freed.clear();
            progress.last_migrated = 0;
        }
    }

    /// Gives one CPU's list of one zone back: `drain_local_pages()`.
    fn drain_local(&mut self, cpu: Cpu, zone: ZoneId) {
        let zone = &mut self.zones[zone.index()];
        if usize::from(cpu.0) < zone.pcps.len() {
            let blocks = zone.drain_pcp(&mut self.map, usize::from(cpu.0));
            zone.work_locked(&mut self.clock, cpu, 0, blocks);
        }
    }

    /// Whether a run is over: `__compact_finished()`.
    fn compact_finished(&mut self, cc: &CompactControl) -> CompactResult {
        let zone = &mut self.zones[cc.zone.index()];
        if cc.scanners_met() {
            zone.compact.cached_migrate_pfn = [zone.start_pfn.0; 2];
            zone.compact.cached_free_pfn = last_pageblock(zone);
            zone.compact.blockskip_flush |= cc.direct;
            return if cc.whole_zone {
                CompactResult::Complete
            } else {
                CompactResult::PartialSkipped
            };
        }
        if let Some(enough) = cc.proactive_below {
            return if zone.fragmentation_score() > enough {
                CompactResult::Continue
            } else {
                CompactResult::Success
            };
        }
        let Some(order) = cc.order else {
            return CompactResult::Continue;
        };
        if !cc.migrate_pfn.is_multiple_of(PAGEBLOCK_NR_PAGES) {
            return CompactResult::Continue;
        }
        let (own, tuning) = (cc.migratetype, self.tuning);
        let serves = |order| {
            let claimable = || {
                zone.find_suitable_fallback(order, own).is_some()
                    && can_steal_fallback(order, own, tuning)
            };
            let cma =
                own == MigrateType::Movable && zone.free_area.nr_of(order, MigrateType::Cma) > 0;
            zone.free_area.nr_of(order, own) > 0 || cma || claimable()
        };
        if order.and_larger().any(serves) {
            CompactResult::Success
        } else {
            CompactResult::Continue
        }
    }

    /// Gives back what the free scanner took too much: `release_free_list()`.
    fn release_free_pages(&mut self, cc: &mut CompactControl) {
        let mut highest = None;
        for order in Order::all() {
            while let Some(pfn) = cc.free_pages[order.index()].pop_front() {
                self.free_pages(cc.cpu, crate::units::Pfn(pfn), order);
                highest = highest.max(Some(pfn));
            }
        }
        cc.nr_free_pages = 0;
        if let Some(highest) = highest {
            let state = &mut self.zones[cc.zone.index()].compact;
            state.cached_free_pfn = state.cached_free_pfn.max(pageblock_start(highest));
        }
    }
}
