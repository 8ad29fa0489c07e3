//! Compaction on behalf of one request: `try_to_compact_pages()`, mm/compaction.c, and
//! `__alloc_pages_direct_compact()`, mm/page_alloc.c v6.12.

use super::control::{CompactControl, CompactPriority, CompactResult, MigrateMode};
use crate::gfp::Gfp;
use crate::memory::Memory;
use crate::page_alloc::AllocContext;
use crate::units::{Order, Pfn};
use crate::vmstat::VmEvent;
use crate::watermark::AllocFlags;

impl Memory {
    /// Compacts for a request and takes what came of it; also says how it ended:
    /// `__alloc_pages_direct_compact()`.
    pub(crate) fn alloc_direct_compact(
        &mut self,
        ac: &AllocContext,
        flags: AllocFlags,
        priority: CompactPriority,
    ) -> (Option<Pfn>, CompactResult) {
        if ac.order == Order::ZERO {
            return (None, CompactResult::Skipped);
        }
        let (result, captured) = self.try_to_compact_pages(ac, flags, priority);
        // The kernel counts deferred attempts as stalls.
        if result == CompactResult::Skipped {
            return (None, result);
        }
        self.vmstat.count(VmEvent::CompactStall, 1);
        let got = match captured {
            Some(pfn) => {
                self.prepare_captured(ac, pfn);
                Some(pfn)
            }
            None => self.get_page_from_freelist(ac, flags),
        };
        let Some(pfn) = got else {
            self.vmstat.count(VmEvent::CompactFail, 1);
            return (None, result);
        };
        let zone = self.map.zone_of(pfn).expect("a frame of a zone");
        let state = &mut self.zones[zone.index()].compact;
        state.blockskip_flush = false;
        state.reset_deferral(ac.order, true);
        self.vmstat.count(VmEvent::CompactSuccess, 1);
        (Some(pfn), result)
    }

    /// `prep_new_page()` for a block that never was on a list again.
    fn prepare_captured(&mut self, ac: &AllocContext, pfn: Pfn) {
        if ac.gfp.has(Gfp::COMP) {
            self.map.set_compound(pfn, ac.order, ac.class);
        } else {
            self.map.set_head(pfn, ac.order, ac.class);
        }
        if ac.gfp.has(Gfp::ZERO) {
            let ns = u64::from(self.clock.costs.zero_ns) << ac.order.get();
            self.clock.charge(ac.cpu, ns);
        }
    }

    /// Compacts zone by zone until a block should be there: `try_to_compact_pages()`.
    fn try_to_compact_pages(
        &mut self,
        ac: &AllocContext,
        flags: AllocFlags,
        priority: CompactPriority,
    ) -> (CompactResult, Option<Pfn>) {
        let mut best = CompactResult::Skipped;
        if !ac.gfp.has(Gfp::IO) {
            return (best, None); // gfp_compaction_allowed()
        }
        let mut at = 0;
        while let Some(&id) = self.zonelists.zones(ac.zonelist).get(at) {
            at += 1;
            let state = &mut self.zones[id.index()].compact;
            if priority > CompactPriority::SyncFull && state.is_deferred(ac.order) {
                best = best.max(CompactResult::Deferred);
                continue;
            }
            let mut cc = direct_control(ac, flags, priority, id);
            let mut status = self.compact_zone(&mut cc);
            if cc.captured.is_some() {
                status = CompactResult::Success;
            }
            best = best.max(status);
            let state = &mut self.zones[id.index()].compact;
            if status == CompactResult::Success {
                state.reset_deferral(ac.order, false);
                return (best, cc.captured);
            }
            let went_through = matches!(
                status,
                CompactResult::Complete | CompactResult::PartialSkipped
            );
            if priority != CompactPriority::Async && went_through {
                state.defer(ac.order);
            }
        }
        (best, None)
    }
}

/// The control of `compact_zone_order()`.
fn direct_control(
    ac: &AllocContext,
    flags: AllocFlags,
    priority: CompactPriority,
    zone: crate::units::ZoneId,
) -> CompactControl {
    let mode = if priority == CompactPriority::Async {
        MigrateMode::Async
    } else {
        MigrateMode::SyncLight
    };
    let full = priority == CompactPriority::SyncFull;
    CompactControl {
        alloc_flags: flags,
        highest: ac.highest,
        direct: true,
        whole_zone: full,
        ignore_skip_hint: full,
        ignore_block_suitable: full,
        captures: true,
        ..CompactControl::for_order(zone, ac.cpu, ac.order, ac.gfp, mode)
    }
}
