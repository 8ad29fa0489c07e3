//! Allocation over zones: `__alloc_pages()`, `get_page_from_freelist()`, `rmqueue()`,
//! mm/page_alloc.c v6.12. What happens when that fails is in `slowpath`.
//!
//! A block from a zone with plenty has a path of its own, forced inline, once with order 0 as a
//! constant: the same steps without the tests that cannot fail. That more than halves its time.
#![allow(clippy::inline_always)]

use crate::clock::Clocks;
use crate::error::AllocError;
use crate::events::{NO_PFN, Tracepoint};
use crate::fallback::{Parts, RmqueueMode};
use crate::gfp::Gfp;
use crate::mem_map::{MemMap, PageClass};
use crate::memory::Memory;
use crate::pcp::pcp_allowed_order;
use crate::units::{Cpu, MigrateType, NodeId, Order, Pfn, ZoneId, ZoneKind};
use crate::watermark::{AllocFlags, Wmark};
use crate::zone::Zone;
use crate::zonelist::Zonelists;

/// `struct alloc_context`, mm/internal.h v6.12, and the request itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AllocContext {
    pub cpu: Cpu,
    /// The CPU's node.
    pub local: NodeId,
    pub gfp: Gfp,
    pub order: Order,
    /// Which of the machine's zonelists.
    pub zonelist: usize,
    /// The first zone of the list.
    pub preferred: ZoneId,
    pub highest: ZoneKind,
    pub migratetype: MigrateType,
    /// What the new block is marked as.
    pub class: PageClass,
}

impl Memory {
    /// Allocates 2^order frames in one block, of class `Kernel` until the caller says otherwise:
    /// `__alloc_pages()`. `node` is the preferred one, none for the CPU's own.
    ///
    /// # Errors
    /// Why no block could be had; see [`AllocError`].
    #[inline]
    pub fn alloc_pages(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        node: Option<NodeId>,
    ) -> Result<Pfn, AllocError> {
        self.alloc_class(cpu, gfp, order, node, PageClass::Kernel)
    }

    /// As [`Self::alloc_pages`], with the class of the new block.
    ///
    /// # Errors
    /// The same.
    #[inline]
    pub fn alloc_class(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        node: Option<NodeId>,
        class: PageClass,
    ) -> Result<Pfn, AllocError> {
        if order > Order::ZERO || node.is_some() {
            return match self.alloc_plain(cpu, gfp, order, node, class) {
                Some(pfn) => Ok(pfn),
                None => self.alloc(cpu, gfp, order, node, class),
            };
        }
        if let Some(pfn) = self.hit(cpu, gfp, class) {
            return Ok(pfn);
        }
        // With a constant, of which the compiler makes much.
        match self.alloc_plain(cpu, gfp, Order::ZERO, None, class) {
            Some(pfn) => Ok(pfn),
            None => self.alloc(cpu, gfp, Order::ZERO, None, class),
        }
    }

    /// A single frame off a CPU's list, where nothing is to be decided and the list goes on with the
    /// next frame: see [`Zone::is_plainly_above`]. None where something is. Nothing in here is called,
    /// so that no register need be kept.
    #[inline(always)]
    fn hit(&mut self, cpu: Cpu, gfp: Gfp, class: PageClass) -> Option<Pfn> {
        if self.map.events.is_on() {
            return None;
        }
        let highest = gfp.highest_zone();
        let home = self.zonelists.home(cpu, highest)?;
        let migratetype = self.migratetype_of(gfp);
        let zone = self.zones.get_mut(home)?;
        if !zone.is_plainly_above(highest, Order::ZERO) {
            return None;
        }
        let pfn = zone.pcps.get_mut(usize::from(cpu.0))?.hit(migratetype)?;
        let mut ns = self.clock.costs.pcp_hit_ns();
        if gfp.has(Gfp::ZERO) {
            ns += u64::from(self.clock.costs.zero_ns);
        }
        self.clock.charge(cpu, ns);
        self.map.set_allocated(pfn, Order::ZERO, class, false);
        self.vmstat.count_alloc(zone.kind, 1);
        zone.numa.local += 1;
        zone.numa.hit += 1;
        Some(pfn)
    }

    /// A block off the list that the request prefers, where nothing is to be decided: see
    /// [`Zone::is_plainly_above`]. None where something is.
    #[inline(always)]
    fn alloc_plain(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        node: Option<NodeId>,
        class: PageClass,
    ) -> Option<Pfn> {
        if self.map.events.is_on() {
            return None;
        }
        let local = self.node_of(cpu)?;
        let highest = gfp.highest_zone();
        let zonelist = Zonelists::which(node.unwrap_or(local), gfp.has(Gfp::THISNODE), highest);
        let preferred = self.zonelists.first(zonelist)?;
        let migratetype = self.migratetype_of(gfp);
        let (zone, mut with) = self.parts(preferred);
        if !zone.is_plainly_above(highest, order) {
            return None;
        }
        let pfn = zone.rmqueue_plain(&mut with, cpu, order, migratetype)?;
        with.map
            .set_allocated(pfn, order, class, gfp.has(Gfp::COMP));
        zone.count_alloc(&mut with, cpu, local, gfp, order);
        zone.numa.hit += 1;
        Some(pfn)
    }

    /// `__alloc_pages()`.
    #[inline(never)]
    fn alloc(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        node: Option<NodeId>,
        class: PageClass,
    ) -> Result<Pfn, AllocError> {
        let ac = self.prepare_alloc(cpu, gfp, order, node, class)?;
        if self.map.events.is_on() {
            return self.alloc_traced(ac);
        }
        self.alloc_prepared(ac)
    }

    /// The same while somebody listens.
    #[cold]
    fn alloc_traced(&mut self, ac: AllocContext) -> Result<Pfn, AllocError> {
        self.map.events.begin(ac.cpu, self.clock.now_ns(ac.cpu));
        let got = self.alloc_prepared(ac);
        self.map.events.note(
            Tracepoint::PageAlloc,
            [
                got.map_or(NO_PFN, |pfn| pfn.0),
                ac.order.get().into(),
                ac.migratetype as u32,
                ac.gfp.0,
            ],
        );
        got
    }

    #[inline(always)]
    fn alloc_prepared(&mut self, ac: AllocContext) -> Result<Pfn, AllocError> {
        let (zone, mut with) = self.parts(ac.preferred);
        let flags = zone.fast_flags(&ac);
        if zone.passes(&ac, flags)
            && let Some(pfn) = zone.rmqueue_any(&mut with, &ac, flags)
        {
            zone.numa.hit += 1;
            return Ok(pfn);
        }
        self.alloc_further(ac, flags)
    }

    /// The rest of the zonelist, then the slow path.
    #[cold]
    fn alloc_further(&mut self, ac: AllocContext, flags: AllocFlags) -> Result<Pfn, AllocError> {
        match self.get_page_from(&ac, flags, 1) {
            Some(pfn) => Ok(pfn),
            None => self.alloc_slowpath(&ac),
        }
    }

    /// A zone, and the rest of the machine that a step on it touches.
    #[inline(always)]
    pub(crate) fn parts(&mut self, id: ZoneId) -> (&mut Zone, Parts<'_>) {
        let zone = &mut self.zones[id.index()];
        let parts = Parts {
            map: &mut self.map,
            vmstat: &mut self.vmstat,
            clock: &mut self.clock,
            tuning: self.tuning,
        };
        (zone, parts)
    }

    /// `prepare_alloc_pages()`.
    #[inline(always)]
    fn prepare_alloc(
        &self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        node: Option<NodeId>,
        class: PageClass,
    ) -> Result<AllocContext, AllocError> {
        let local = self.node_of(cpu).ok_or(AllocError::NoSuchCpu(cpu.0))?;
        let node = node.unwrap_or(local);
        let highest = gfp.highest_zone();
        let zonelist = Zonelists::which(node, gfp.has(Gfp::THISNODE), highest);
        let Some(preferred) = self.zonelists.first(zonelist) else {
            let exists = usize::from(node.0) < self.zonelists.nr_nodes();
            return Err(if exists {
                AllocError::OutOfMemory
            } else {
                AllocError::NoSuchNode(node.0)
            });
        };
        Ok(AllocContext {
            cpu,
            local,
            gfp,
            order,
            zonelist,
            preferred,
            highest,
            migratetype: self.migratetype_of(gfp),
            class,
        })
    }

    /// `gfp_migratetype()`: the lists that a request uses.
    #[inline(always)]
    pub(crate) fn migratetype_of(&self, gfp: Gfp) -> MigrateType {
        if self.tuning.mobility_disabled {
            MigrateType::Unmovable
        } else {
            gfp.migratetype()
        }
    }

    /// `get_page_from_freelist()`.
    pub(crate) fn get_page_from_freelist(
        &mut self,
        ac: &AllocContext,
        flags: AllocFlags,
    ) -> Option<Pfn> {
        self.get_page_from(ac, flags, 0)
    }

    /// `get_page_from_freelist()`, the zones before `first` having been tried.
    #[cold]
    fn get_page_from(&mut self, ac: &AllocContext, flags: AllocFlags, first: usize) -> Option<Pfn> {
        let mut flags = flags;
        let mut at = first;
        'retry: loop {
            let no_fallback = flags.has(AllocFlags::NOFRAGMENT);
            while let Some(&id) = self.zonelists.zones(ac.zonelist).get(at) {
                at += 1;
                if no_fallback && self.is_remote(ac, id) {
                    flags = flags.without(AllocFlags::NOFRAGMENT);
                    at = 0;
                    continue 'retry;
                }
                if let Some(pfn) = self.get_page_from_zone(ac, id, flags) {
                    return Some(pfn);
                }
            }
            if !no_fallback {
                return None;
            }
            flags = flags.without(AllocFlags::NOFRAGMENT);
            at = 0;
        }
    }

    fn get_page_from_zone(
        &mut self,
        ac: &AllocContext,
        id: ZoneId,
        flags: AllocFlags,
    ) -> Option<Pfn> {
        let (zone, mut with) = self.parts(id);
        if !zone.passes(ac, flags) {
            return None;
        }
        let pfn = zone.rmqueue_any(&mut with, ac, flags)?;
        if self.is_remote(ac, id) {
            self.zones[id.index()].numa.miss += 1;
            self.zones[ac.preferred.index()].numa.foreign += 1;
        } else {
            self.zones[id.index()].numa.hit += 1;
        }
        Some(pfn)
    }

    fn is_remote(&self, ac: &AllocContext, id: ZoneId) -> bool {
        self.zones[id.index()].node != self.zones[ac.preferred.index()].node
    }
}

impl Zone {
    /// The flags of the fast path: `ALLOC_WMARK_LOW`, `alloc_flags_nofragment()` of the preferred
    /// zone, `gfp_to_alloc_flags_cma()`.
    #[inline(always)]
    fn fast_flags(&self, ac: &AllocContext) -> AllocFlags {
        let flags = AllocFlags::WMARK_LOW
            .with(kswapd_flag(ac.gfp))
            .with(cma_flag(ac));
        if self.avoid_fragment {
            flags.with(AllocFlags::NOFRAGMENT)
        } else {
            flags
        }
    }

    /// The watermark tests of `get_page_from_freelist()`.
    #[inline(always)]
    fn passes(&mut self, ac: &AllocContext, flags: AllocFlags) -> bool {
        if !self.below_high {
            let high = self.wmark_pages(Wmark::High);
            if self.watermark_fast(ac.order, high, ac.highest, flags) {
                return true;
            }
            self.below_high = !self.below_high_by_frames
                || ac.gfp.has(Gfp::DIRECT_RECLAIM)
                || !self.watermark_fast(Order::ZERO, high, ac.highest, flags);
        }
        let mark = self.wmark_pages(flags.wmark());
        self.watermark_fast(ac.order, mark, ac.highest, flags)
            || flags.has(AllocFlags::NO_WATERMARKS)
    }

    /// `rmqueue()`, `prep_new_page()` and the counters of a zone's own.
    #[inline(always)]
    fn rmqueue_any(
        &mut self,
        with: &mut Parts<'_>,
        ac: &AllocContext,
        flags: AllocFlags,
    ) -> Option<Pfn> {
        let mut pfn = None;
        if pcp_allowed_order(ac.order) && !self.pcps.is_empty() {
            pfn = self.rmqueue_pcplist(with, ac, flags);
        }
        if pfn.is_none() {
            pfn = self.rmqueue_buddy(with, ac, flags);
        }
        if self.boosted_watermark && flags.has(AllocFlags::KSWAPD) {
            self.boosted_watermark = false;
        }
        let pfn = pfn?;
        with.map
            .set_allocated(pfn, ac.order, ac.class, ac.gfp.has(Gfp::COMP));
        self.count_alloc(with, ac.cpu, ac.local, ac.gfp, ac.order);
        if flags.has(AllocFlags::HIGHATOMIC) {
            self.reserve_highatomic(with.map, pfn, ac.order);
        }
        Some(pfn)
    }

    /// Whether a block may be taken from the request's own list, if that has one, without a look at
    /// flags: all marks are held even if nothing of the reserves counted as free, no pageblock is of
    /// a special type that comes first, and kswapd is not to be woken.
    #[inline(always)]
    fn is_plainly_above(&self, highest: ZoneKind, order: Order) -> bool {
        self.plain_pages(highest) > u64::from(order.nr_pages() - 1)
    }

    /// How many single frames may be taken so, one after the other.
    #[inline(always)]
    pub(crate) fn plain_pages(&self, highest: ZoneKind) -> u64 {
        let mark = if self.below_high {
            self.watermark.low
        } else {
            self.watermark.high
        };
        let needed = mark
            + self.watermark_boost
            + self.lowmem_reserve[highest.index()]
            + self.nr_free_highatomic;
        if self.nr_free_cma > 0 || self.boosted_watermark {
            return 0;
        }
        self.nr_free_pages.saturating_sub(needed)
    }

    /// Takes a block off the request's own list, if there is one.
    #[inline(always)]
    fn rmqueue_plain(
        &mut self,
        with: &mut Parts<'_>,
        cpu: Cpu,
        order: Order,
        migratetype: MigrateType,
    ) -> Option<Pfn> {
        if !self.pcps.is_empty() && pcp_allowed_order(order) {
            return self.pop_pcp(with, cpu, order, migratetype);
        }
        let pfn = self.take_smallest(with.map, order, migratetype)?;
        self.work_locked(with.clock, cpu, u64::from(with.clock.costs.alloc_ns), 1);
        Some(pfn)
    }

    /// The clock and the counters of an allocation.
    #[inline(always)]
    fn count_alloc(
        &mut self,
        with: &mut Parts<'_>,
        cpu: Cpu,
        local: NodeId,
        gfp: Gfp,
        order: Order,
    ) {
        if gfp.has(Gfp::ZERO) {
            let ns = u64::from(with.clock.costs.zero_ns) << order.get();
            with.clock.charge(cpu, ns);
        }
        self.count_pages(with, local, u64::from(order.nr_pages()), 1);
    }

    /// Counts `nr_pages` in `nr` allocations.
    #[inline(always)]
    pub(crate) fn count_pages(
        &mut self,
        with: &mut Parts<'_>,
        local: NodeId,
        nr_pages: u64,
        nr: u64,
    ) {
        with.vmstat.count_alloc(self.kind, nr_pages);
        if self.node == local {
            self.numa.local += nr;
        } else {
            self.numa.other += nr;
        }
    }

    /// `rmqueue_buddy()`.
    #[inline(always)]
    fn rmqueue_buddy(
        &mut self,
        with: &mut Parts<'_>,
        ac: &AllocContext,
        flags: AllocFlags,
    ) -> Option<Pfn> {
        let alloc_ns = u64::from(with.clock.costs.alloc_ns);
        if flags.has(AllocFlags::HIGHATOMIC) {
            let pfn = self.rmqueue_reserved(with.map, ac.order);
            if pfn.is_some() {
                self.work_locked(with.clock, ac.cpu, alloc_ns, 1);
                return pfn;
            }
        }
        let mut mode = RmqueueMode::Normal;
        let fallbacks = with.vmstat.fallbacks();
        let pfn = self.rmqueue(with, ac.order, ac.migratetype, flags, &mut mode);
        let fallbacks = with.vmstat.fallbacks() - fallbacks;
        let hold_ns = with.clock.costs.locked_ns(1, fallbacks);
        with.clock
            .hold_lock(ac.cpu, &mut self.lock, alloc_ns, hold_ns);
        if pfn.is_none() && flags.has(AllocFlags::OOM.with(AllocFlags::NON_BLOCK)) {
            return self.rmqueue_reserved(with.map, ac.order);
        }
        pfn
    }

    #[cold]
    fn rmqueue_reserved(&mut self, map: &mut MemMap, order: Order) -> Option<Pfn> {
        self.rmqueue_smallest(map, order, MigrateType::HighAtomic)
    }

    /// Lets the time pass that a CPU takes for `blocks` blocks under the zone's lock.
    #[inline(always)]
    pub(crate) fn work_locked(
        &mut self,
        clock: &mut Clocks,
        cpu: Cpu,
        before_ns: u64,
        blocks: u32,
    ) {
        let hold_ns = clock.costs.locked_ns(blocks, 0);
        clock.hold_lock(cpu, &mut self.lock, before_ns, hold_ns);
    }
}

/// `gfp_to_alloc_flags_cma()`.
#[inline]
pub(crate) const fn cma_flag(ac: &AllocContext) -> AllocFlags {
    if matches!(ac.migratetype, MigrateType::Movable) {
        AllocFlags::CMA
    } else {
        AllocFlags(0)
    }
}

/// `ALLOC_KSWAPD`, which is `__GFP_KSWAPD_RECLAIM`'s bit.
#[inline]
pub(crate) const fn kswapd_flag(gfp: Gfp) -> AllocFlags {
    AllocFlags(gfp.0 & AllocFlags::KSWAPD.0)
}

const _: () = assert!(
    Gfp::KSWAPD_RECLAIM.0 == AllocFlags::KSWAPD.0,
    "mm/internal.h v6.12"
);
