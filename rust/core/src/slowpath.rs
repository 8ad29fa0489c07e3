//! What a request does when the fast path has nothing for it: `__alloc_pages_slowpath()`,
//! mm/page_alloc.c v6.12.

use crate::compaction::{CompactPriority, CompactResult};
use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::memory::Memory;
use crate::page_alloc::{AllocContext, cma_flag, kswapd_flag};
use crate::units::{MigrateType, NodeId, Order, Pfn};
use crate::vmstat::VmEvent;
use crate::watermark::{AllocFlags, Wmark, reserve_of};
use crate::zone::Zone;

/// `PAGE_ALLOC_COSTLY_ORDER`, include/linux/mmzone.h v6.12.
const COSTLY_ORDER: u8 = 3;
/// `MAX_COMPACT_RETRIES`, mm/page_alloc.c v6.12.
const MAX_COMPACT_RETRIES: u32 = 16;
/// `MAX_RECLAIM_RETRIES`, mm/internal.h v6.12.
const MAX_RECLAIM_RETRIES: u32 = 16;

impl Memory {
    /// `__alloc_pages_slowpath()`: the min watermark and the reserves, then compaction and reclaim in
    /// the kernel's order, then the reason of the refusal.
    #[cold]
    pub(crate) fn alloc_slowpath(&mut self, ac: &AllocContext) -> Result<Pfn, AllocError> {
        let flags = gfp_to_alloc_flags(ac);
        if flags.has(AllocFlags::KSWAPD) {
            self.wake_all_kswapds(ac);
        }
        if let Some(pfn) = self.get_page_from_freelist(ac, flags) {
            return Ok(pfn);
        }
        // Reclaim and compaction ask who maps a page, of which the call in hand may know more so far.
        self.owners.cache.settle();
        if !ac.gfp.has(Gfp::DIRECT_RECLAIM) {
            return Err(self.refusal(ac, flags, None));
        }
        if !self.spec.direct_reclaim {
            return self.drain_before_refusal(ac, flags);
        }
        let costly = ac.order.get() > COSTLY_ORDER;
        let mut effort = Effort::default();
        if costly || (ac.order > Order::ZERO && ac.migratetype != MigrateType::Movable) {
            let (got, result) = self.alloc_direct_compact(ac, flags, CompactPriority::Async);
            if let Some(pfn) = got {
                return Ok(pfn);
            }
            effort.compaction = result;
            if costly && ac.gfp.has(Gfp::NORETRY) {
                let hopeless = matches!(result, CompactResult::Skipped | CompactResult::Deferred);
                if hopeless || ac.gfp.has(Gfp::THISNODE) {
                    return Err(self.refusal(ac, flags, Some(result)));
                }
                effort.priority = CompactPriority::Async;
            }
        }
        loop {
            if let Some(pfn) = self.make_room_once(ac, flags, &mut effort) {
                return Ok(pfn);
            }
            if !self.should_retry(ac, flags, &mut effort) {
                return Err(self.refusal(ac, flags, Some(effort.compaction)));
            }
        }
    }

    /// `wake_all_kswapds()`.
    fn wake_all_kswapds(&mut self, ac: &AllocContext) {
        if self.spec.background.is_none() {
            return;
        }
        let list = self.zonelists.zones(ac.zonelist).iter();
        let mut nodes: Vec<NodeId> = list.map(|id| self.zones[id.index()].node).collect();
        nodes.dedup();
        let can_reclaim = ac.gfp.has(Gfp::DIRECT_RECLAIM);
        self.wake_kswapds(&nodes, (ac.order, ac.highest, can_reclaim));
    }

    /// One turn of `retry:`: lists, direct reclaim, direct compaction.
    fn make_room_once(
        &mut self,
        ac: &AllocContext,
        flags: AllocFlags,
        effort: &mut Effort,
    ) -> Option<Pfn> {
        let mut got = self.get_page_from_freelist(ac, flags);
        if got.is_none() {
            effort.reclaimed = self.direct_reclaim(ac);
            got = self.get_page_from_freelist(ac, flags);
        }
        if got.is_none() {
            // The kernel does this once reclaim made progress; see docs/fidelity.md.
            self.unreserve_highatomic(ac, false);
            self.drain_all_pages(None);
            got = self.get_page_from_freelist(ac, flags);
        }
        got.or_else(|| {
            let (got, result) = self.alloc_direct_compact(ac, flags, effort.priority);
            effort.compaction = effort.compaction.max(result);
            effort.last = result;
            got
        })
    }

    /// Whether another turn could help: the end of `__alloc_pages_slowpath()`,
    /// `should_reclaim_retry()`, `should_compact_retry()`. Before it gives up, the highatomic reserve
    /// is let go.
    fn should_retry(&mut self, ac: &AllocContext, flags: AllocFlags, effort: &mut Effort) -> bool {
        let costly = ac.order.get() > COSTLY_ORDER;
        if ac.gfp.has(Gfp::NORETRY) || (costly && !ac.gfp.has(Gfp::RETRY_MAYFAIL)) {
            return false;
        }
        if effort.reclaimed > 0 && !costly {
            effort.no_progress = 0;
        } else {
            effort.no_progress += 1;
        }
        // The kernel tries on if reclaim freed nothing, as others may have written pages back since;
        // here the next turn would find what the last one found.
        let hopeful = effort.reclaimed > 0
            && effort.no_progress <= MAX_RECLAIM_RETRIES
            && self.could_be_served(ac, flags);
        if hopeful || self.unreserve_highatomic(ac, true) {
            return true;
        }
        effort.reclaimed > 0 && self.should_compact_retry(ac, effort)
    }

    /// Whether some zone would hold its min mark for the request if all that is reclaimable were
    /// free: the loop of `should_reclaim_retry()`.
    fn could_be_served(&self, ac: &AllocContext, flags: AllocFlags) -> bool {
        let list = self.zonelists.zones(ac.zonelist).iter();
        list.map(|id| &self.zones[id.index()]).any(|zone| {
            let available = zone.nr_free_pages + self.zone_reclaimable_pages(zone.id);
            let min = zone.wmark_pages(Wmark::Min);
            zone.watermark_ok_at(ac.order, min, ac.highest, flags, available)
        })
    }

    /// `should_compact_retry()`.
    fn should_compact_retry(&self, ac: &AllocContext, effort: &mut Effort) -> bool {
        if ac.order == Order::ZERO {
            return false;
        }
        let costly = ac.order.get() > COSTLY_ORDER;
        if effort.last == CompactResult::Skipped {
            // compaction_zonelist_suitable()
            let list = self.zonelists.zones(ac.zonelist);
            let mut zones = list.iter().map(|id| &self.zones[id.index()]);
            return zones.any(|zone| {
                let reclaimable = self.zone_reclaimable_pages(zone.id) / u64::from(ac.order.get());
                let available = zone.nr_free_pages + reclaimable;
                zone.has_room_to_compact(ac.order, ac.highest, available)
            });
        }
        let most = MAX_COMPACT_RETRIES / if costly { 4 } else { 1 };
        if effort.last == CompactResult::Success {
            effort.compact_retries += 1;
            if effort.compact_retries <= most {
                return true;
            }
        }
        let harder = match effort.priority {
            CompactPriority::Async => CompactPriority::SyncLight,
            CompactPriority::SyncLight if !costly => CompactPriority::SyncFull,
            _ => return false,
        };
        effort.priority = harder;
        effort.compact_retries = 0;
        true
    }

    /// On a machine that does not make room for requests: what direct reclaim does on the way
    /// (`__alloc_pages_direct_reclaim()` lets the highatomic reserve go and drains the per-CPU
    /// lists), then the reason of the refusal.
    fn drain_before_refusal(
        &mut self,
        ac: &AllocContext,
        flags: AllocFlags,
    ) -> Result<Pfn, AllocError> {
        self.unreserve_highatomic(ac, false);
        self.drain_all_pages(None);
        if let Some(pfn) = self.get_page_from_freelist(ac, flags) {
            return Ok(pfn);
        }
        while self.unreserve_highatomic(ac, true) {
            if let Some(pfn) = self.get_page_from_freelist(ac, flags) {
                return Ok(pfn);
            }
        }
        Err(self.refusal(ac, flags, None))
    }

    /// `unreserve_highatomic_pageblock()`: of the first zone that has one to give.
    fn unreserve_highatomic(&mut self, ac: &AllocContext, force: bool) -> bool {
        let mut at = 0;
        while let Some(&id) = self.zonelists.zones(ac.zonelist).get(at) {
            at += 1;
            let zone = &mut self.zones[id.index()];
            if zone.unreserve_highatomic(&mut self.map, ac.migratetype, force) {
                return true;
            }
        }
        false
    }

    /// Which test refused the request, after compaction ended so (none: it was not tried).
    fn refusal(
        &self,
        ac: &AllocContext,
        flags: AllocFlags,
        compaction: Option<CompactResult>,
    ) -> AllocError {
        let list = self.zonelists.zones(ac.zonelist);
        let zones = || list.iter().map(|id| &self.zones[id.index()]);
        let mark = |zone: &Zone| zone.wmark_pages(flags.wmark());
        let extra = u64::from(ac.order.nr_pages() - 1);
        let passes =
            |zone: &&Zone| zone.watermark_ok(Order::ZERO, mark(zone) + extra, ac.highest, flags);
        let (order, compacted) = (ac.order, compaction > Some(CompactResult::Skipped));
        if zones().any(|zone| passes(&zone)) && (compacted || compaction.is_none()) {
            let has = |zone: &Zone, order| {
                MigrateType::MERGEABLE
                    .iter()
                    .any(|&mt| zone.free_area.nr_of(order, mt) > 0)
            };
            let usable = |&order: &Order| zones().filter(passes).any(|zone| has(zone, order));
            let largest = Order::all().rev().find(usable);
            let free = zones().filter(passes).map(|zone| zone.nr_free_pages).sum();
            return if compacted {
                AllocError::CompactionFailed {
                    order,
                    largest,
                    free,
                }
            } else {
                AllocError::NoBlock {
                    order,
                    largest,
                    free,
                }
            };
        }
        let preferred = &self.zones[ac.preferred.index()];
        let reserve = preferred.lowmem_reserve[ac.highest.index()];
        let (zone, free) = (preferred.id, preferred.nr_free_pages);
        let mark = reserve_of(mark(preferred), flags) + reserve;
        if compaction.is_some() {
            AllocError::NoRoom { zone, free, mark }
        } else if zones().all(|zone| zone.nr_free_pages == 0) {
            AllocError::OutOfMemory
        } else {
            AllocError::BelowWatermark { zone, free, mark }
        }
    }

    /// Counts a process that the caller ended for want of memory: `OOM_KILL`, mm/oom_kill.c v6.12.
    pub fn count_oom_kill(&mut self) {
        self.vmstat.count(VmEvent::OomKill, 1);
    }

    /// Whether requests that may wait compact and reclaim before they are refused, from now on.
    pub const fn set_direct_reclaim(&mut self, on: bool) {
        self.spec.direct_reclaim = on;
    }
}

/// What a request has tried so far.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// How compaction ended at best.
    compaction: CompactResult,
    /// How the last compaction ended.
    last: CompactResult,
    /// How hard the next one tries; at first `DEF_COMPACT_PRIORITY`.
    priority: CompactPriority,
    compact_retries: u32,
    /// Frames that the last reclaim freed.
    reclaimed: u64,
    /// `no_progress_loops`.
    no_progress: u32,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            compaction: CompactResult::Skipped,
            last: CompactResult::Skipped,
            priority: CompactPriority::SyncLight,
            compact_retries: 0,
            reclaimed: 0,
            no_progress: 0,
        }
    }
}

/// `gfp_to_alloc_flags()`; `__GFP_MEMALLOC` as `__gfp_pfmemalloc_flags()` reads it.
fn gfp_to_alloc_flags(ac: &AllocContext) -> AllocFlags {
    let mut flags = AllocFlags::WMARK_MIN
        .with(cma_flag(ac))
        .with(kswapd_flag(ac.gfp));
    if ac.gfp.has(Gfp::HIGH) {
        flags = flags.with(AllocFlags::MIN_RESERVE);
    }
    if !ac.gfp.has(Gfp::DIRECT_RECLAIM) && !ac.gfp.has(Gfp::NOMEMALLOC) {
        flags = flags.with(AllocFlags::NON_BLOCK);
        if ac.order > Order::ZERO && flags.has(AllocFlags::MIN_RESERVE) {
            flags = flags.with(AllocFlags::HIGHATOMIC);
        }
    }
    if ac.gfp.has(Gfp::MEMALLOC) && !ac.gfp.has(Gfp::NOMEMALLOC) {
        flags = flags.with(AllocFlags::NO_WATERMARKS);
    }
    flags
}
