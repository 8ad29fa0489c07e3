//! What a request does when the fast path has nothing for it: `__alloc_pages_slowpath()`,
//! mm/page_alloc.c v6.12.

use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::memory::Memory;
use crate::page_alloc::{AllocContext, cma_flag, kswapd_flag};
use crate::units::{MigrateType, Order, Pfn};
use crate::watermark::{AllocFlags, reserve_of};
use crate::zone::Zone;

impl Memory {
    /// `__alloc_pages_slowpath()` without reclaim and compaction: the min watermark and the
    /// reserves, then what direct reclaim does on the way (`__alloc_pages_direct_reclaim()` lets the
    /// highatomic reserve go and drains the per-CPU lists), then the reason of the refusal.
    #[cold]
    pub(crate) fn alloc_slowpath(&mut self, ac: &AllocContext) -> Result<Pfn, AllocError> {
        let flags = gfp_to_alloc_flags(ac);
        if let Some(pfn) = self.get_page_from_freelist(ac, flags) {
            return Ok(pfn);
        }
        if ac.gfp.has(Gfp::DIRECT_RECLAIM) {
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
        }
        Err(self.refusal(ac, flags))
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

    /// Which test refused the request.
    fn refusal(&self, ac: &AllocContext, flags: AllocFlags) -> AllocError {
        let list = self.zonelists.zones(ac.zonelist);
        let zones = || list.iter().map(|id| &self.zones[id.index()]);
        if zones().all(|zone| zone.nr_free_pages == 0) {
            return AllocError::OutOfMemory;
        }
        let mark = |zone: &Zone| zone.wmark_pages(flags.wmark());
        let extra = u64::from(ac.order.nr_pages() - 1);
        let passes =
            |zone: &&Zone| zone.watermark_ok(Order::ZERO, mark(zone) + extra, ac.highest, flags);
        if zones().any(|zone| passes(&zone)) {
            let has = |zone: &Zone, order| {
                MigrateType::MERGEABLE
                    .iter()
                    .any(|&mt| zone.free_area.nr_of(order, mt) > 0)
            };
            let usable = |&order: &Order| zones().filter(passes).any(|zone| has(zone, order));
            let largest = Order::all().rev().find(usable);
            let free = zones().filter(passes).map(|zone| zone.nr_free_pages).sum();
            return AllocError::NoBlock {
                order: ac.order,
                largest,
                free,
            };
        }
        let zone = &self.zones[ac.preferred.index()];
        let needed = reserve_of(mark(zone), flags) + zone.lowmem_reserve[ac.highest.index()];
        AllocError::BelowWatermark {
            zone: zone.id,
            free: zone.nr_free_pages,
            mark: needed,
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
