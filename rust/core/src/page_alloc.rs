//! Allocation over zones: `__alloc_pages()`, `get_page_from_freelist()`, `rmqueue()`,
//! mm/page_alloc.c v6.12.

use crate::error::AllocError;
use crate::fallback::{Fallback, RmqueueMode};
use crate::gfp::Gfp;
use crate::mem_map::{MemMap, PageClass, aligned_blocks};
use crate::memory::Memory;
use crate::pcp::{LockedWork, PcpRequest, pcp_allowed_order};
use crate::units::{Cpu, MigrateType, NodeId, Order, Pfn, ZoneId, ZoneKind};
use crate::vmstat::VmEvent;
use crate::watermark::{AllocFlags, reserve_of};

/// `struct alloc_context`, mm/internal.h v6.12.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AllocContext {
    pub cpu: Cpu,
    pub gfp: Gfp,
    pub order: Order,
    pub node: NodeId,
    pub preferred: ZoneId,
    pub highest: ZoneKind,
    pub migratetype: MigrateType,
    pub class: PageClass,
}

impl AllocContext {
    fn zone_at<'a>(&self, memory: &'a Memory, at: usize) -> Option<&'a ZoneId> {
        let this_node = self.gfp.has(Gfp::THISNODE);
        memory
            .zonelists
            .get(self.node, this_node, self.highest)
            .get(at)
    }
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
    pub fn alloc_class(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        node: Option<NodeId>,
        class: PageClass,
    ) -> Result<Pfn, AllocError> {
        let ac = self.prepare_alloc(cpu, gfp, order, node, class)?;
        self.clock.charge(cpu, u64::from(self.clock.costs.alloc_ns));
        let flags = AllocFlags::WMARK_LOW
            .with(self.alloc_flags_nofragment(&ac))
            .with(cma_flag(&ac));
        if let Some(pfn) = self.get_page_from_freelist(&ac, flags) {
            return Ok(pfn);
        }
        self.alloc_slowpath(&ac)
    }

    /// Allocates `nr` single frames as so many page faults would, handing each to `take`.
    ///
    /// # Errors
    /// Why the next frame could not be had; `take` has had those before it.
    pub fn alloc_bulk(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        node: Option<NodeId>,
        class: PageClass,
        nr: u32,
        mut take: impl FnMut(&mut MemMap, Pfn),
    ) -> Result<(), AllocError> {
        for _ in 0..nr {
            let pfn = self.alloc_class(cpu, gfp, Order::ZERO, node, class)?;
            take(&mut self.map, pfn);
        }
        Ok(())
    }

    /// Frees a block whose last reference is gone: `__free_pages()`. Flags and counts of its frames
    /// must be clear.
    ///
    /// # Panics
    /// When no allocated block of this order starts at `pfn`: an invariant is broken.
    pub fn free_pages(&mut self, cpu: Cpu, pfn: Pfn, order: Order) {
        let head = self
            .map
            .head_at(pfn)
            .expect("a block starts at the frame that is freed");
        assert!(
            head.order == order && is_allocated(head.class),
            "block of order {} at frame {} is {:?}, not allocated with order {}",
            head.order.get(),
            pfn.0,
            head.class,
            order.get(),
        );
        debug_assert!(
            self.map.meta_is_clear(pfn),
            "frame {} is freed while in use",
            pfn.0
        );
        self.free_unref_page(cpu, pfn, order);
    }

    /// Frees a run of single frames in the largest aligned blocks, so that no frame waits in a list
    /// of small ones. Each frame must be an allocated block of order 0.
    ///
    /// # Panics
    /// When one is not: an invariant is broken.
    pub fn free_run(&mut self, cpu: Cpu, start: Pfn, nr: u32) {
        for (pfn, order) in aligned_blocks(start, nr) {
            for frame in pfn.0..pfn.0 + order.nr_pages() {
                let head = self.map.head_at(Pfn(frame)).expect("a single frame");
                assert!(
                    head.order == Order::ZERO && is_allocated(head.class),
                    "frame {frame} is {:?} of order {}",
                    head.class,
                    head.order.get(),
                );
                debug_assert!(
                    self.map.meta_is_clear(Pfn(frame)),
                    "frame {frame} is in use"
                );
                self.map.clear_head(Pfn(frame), Order::ZERO);
            }
            self.map.set_head(pfn, order, PageClass::Kernel);
            self.free_unref_page(cpu, pfn, order);
        }
    }

    /// Frees single frames one after the other, as the RFC gives back the tail of its block.
    pub fn free_each(&mut self, cpu: Cpu, start: Pfn, nr: u32) {
        for frame in start.0..start.0 + nr {
            self.free_pages(cpu, Pfn(frame), Order::ZERO);
        }
    }

    /// Gives the frames of every CPU's lists back to the buddy lists: `drain_all_pages()`, for one
    /// zone or all.
    pub fn drain_all_pages(&mut self, zone: Option<ZoneId>) {
        for at in 0..self.zones.len() {
            if zone.is_some_and(|id| id.index() != at) {
                continue;
            }
            for cpu in 0..self.zones[at].pcps.len() {
                let work = self.zones[at].drain_pcp(&mut self.map, cpu);
                let cpu = Cpu(u16::try_from(cpu).expect("CPUs are u16"));
                self.charge_locked(cpu, at, work);
            }
        }
    }

    /// What each CPU's periodic vmstat update does to its lists: `refresh_cpu_vm_stats()`,
    /// mm/vmstat.c v6.12.
    pub fn decay_pcp(&mut self, cpu: Cpu) {
        for at in 0..self.zones.len() {
            if usize::from(cpu.0) < self.zones[at].pcps.len() {
                let work = self.zones[at].decay_pcp_high(&mut self.map, usize::from(cpu.0));
                self.charge_locked(cpu, at, work);
            }
        }
    }

    /// Makes a block into single frames, each with a reference: `split_page()`.
    ///
    /// # Panics
    /// When no block of this order starts at `pfn`.
    pub fn split_page(&mut self, pfn: Pfn, order: Order) {
        assert_eq!(
            self.map.folio_order(pfn),
            order,
            "split of frame {} at another order",
            pfn.0
        );
        self.map.split_block(pfn);
    }

    /// `prepare_alloc_pages()`.
    #[inline]
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
        if usize::from(node.0) >= self.zonelists.nr_nodes() {
            return Err(AllocError::NoSuchNode(node.0));
        }
        let highest = gfp.highest_zone();
        let list = self.zonelists.get(node, gfp.has(Gfp::THISNODE), highest);
        let preferred = *list.first().ok_or(AllocError::OutOfMemory)?;
        let grouped = !self.tuning.mobility_disabled;
        let migratetype = if grouped {
            gfp.migratetype()
        } else {
            MigrateType::Unmovable
        };
        Ok(AllocContext {
            cpu,
            gfp,
            order,
            node,
            preferred,
            highest,
            migratetype,
            class,
        })
    }

    /// `alloc_flags_nofragment()`.
    #[inline]
    fn alloc_flags_nofragment(&self, ac: &AllocContext) -> AllocFlags {
        let kswapd = if ac.gfp.has(Gfp::KSWAPD_RECLAIM) {
            AllocFlags::KSWAPD
        } else {
            AllocFlags(0)
        };
        let zone = &self.zones[ac.preferred.index()];
        let dma32 = self.zonelists.nr_nodes() == 1 || self.zonelists.has_dma32(zone.node);
        if zone.kind == ZoneKind::Normal && dma32 {
            kswapd.with(AllocFlags::NOFRAGMENT)
        } else {
            kswapd
        }
    }

    /// `get_page_from_freelist()`.
    #[inline]
    fn get_page_from_freelist(&mut self, ac: &AllocContext, flags: AllocFlags) -> Option<Pfn> {
        let mut flags = flags;
        'retry: loop {
            let no_fallback = flags.has(AllocFlags::NOFRAGMENT);
            let mut at = 0;
            while let Some(&id) = ac.zone_at(self, at) {
                at += 1;
                if no_fallback && self.is_remote(ac, id) {
                    flags = flags.without(AllocFlags::NOFRAGMENT);
                    continue 'retry;
                }
                if !self.zone_passes(ac, id, flags) {
                    continue;
                }
                if let Some(pfn) = self.rmqueue(ac, id, flags) {
                    return Some(pfn);
                }
            }
            if !no_fallback {
                return None;
            }
            flags = flags.without(AllocFlags::NOFRAGMENT);
        }
    }

    #[inline]
    fn is_remote(&self, ac: &AllocContext, id: ZoneId) -> bool {
        self.zones[id.index()].node != self.zones[ac.preferred.index()].node
    }

    /// The watermark tests of `get_page_from_freelist()`.
    #[inline]
    fn zone_passes(&mut self, ac: &AllocContext, id: ZoneId, flags: AllocFlags) -> bool {
        let zone = &mut self.zones[id.index()];
        if !zone.below_high {
            let high = zone.wmark_pages(crate::watermark::Wmark::High);
            if zone.watermark_fast(ac.order, high, ac.highest, flags) {
                return true;
            }
            zone.below_high = true;
        }
        let mark = zone.wmark_pages(flags.wmark());
        zone.watermark_fast(ac.order, mark, ac.highest, flags)
            || flags.has(AllocFlags::NO_WATERMARKS)
    }

    /// `rmqueue()` and `prep_new_page()`.
    #[inline]
    fn rmqueue(&mut self, ac: &AllocContext, id: ZoneId, flags: AllocFlags) -> Option<Pfn> {
        let listed = pcp_allowed_order(ac.order) && !self.zones[id.index()].pcps.is_empty();
        let from_list = if listed {
            self.rmqueue_pcplist(ac, id, flags)
        } else {
            None
        };
        let pfn = from_list.or_else(|| self.rmqueue_buddy(ac, id, flags));
        let zone = &mut self.zones[id.index()];
        if zone.boosted_watermark && flags.has(AllocFlags::KSWAPD) {
            zone.boosted_watermark = false;
        }
        let pfn = pfn?;
        self.prep_new_page(ac, pfn);
        self.count_alloc(ac, id);
        if flags.has(AllocFlags::HIGHATOMIC) {
            self.zones[id.index()].reserve_highatomic(&mut self.map, pfn, ac.order);
        }
        Some(pfn)
    }

    #[inline]
    fn rmqueue_pcplist(&mut self, ac: &AllocContext, id: ZoneId, flags: AllocFlags) -> Option<Pfn> {
        let request = PcpRequest {
            cpu: usize::from(ac.cpu.0),
            order: ac.order,
            migratetype: ac.migratetype,
            flags,
            run_refill: self.spec.pcp.run_refill,
        };
        let tuning = self.tuning;
        let mut with = Fallback {
            map: &mut self.map,
            vmstat: &mut self.vmstat,
            tuning,
        };
        let (pfn, work) = self.zones[id.index()].rmqueue_pcplist(&mut with, request);
        self.clock
            .charge(ac.cpu, u64::from(self.clock.costs.pcp_ns));
        if work.blocks > 0 {
            self.vmstat.count(VmEvent::PcpRefill, 1);
            self.charge_locked(ac.cpu, id.index(), work);
        }
        pfn
    }

    /// `rmqueue_buddy()`.
    #[inline]
    fn rmqueue_buddy(&mut self, ac: &AllocContext, id: ZoneId, flags: AllocFlags) -> Option<Pfn> {
        self.charge_locked(ac.cpu, id.index(), LockedWork { blocks: 1 });
        let tuning = self.tuning;
        let zone = &mut self.zones[id.index()];
        if flags.has(AllocFlags::HIGHATOMIC) {
            let pfn = zone.rmqueue_smallest(&mut self.map, ac.order, MigrateType::HighAtomic);
            if pfn.is_some() {
                return pfn;
            }
        }
        let mut with = Fallback {
            map: &mut self.map,
            vmstat: &mut self.vmstat,
            tuning,
        };
        let mut mode = RmqueueMode::Normal;
        let pfn = zone.rmqueue(&mut with, ac.order, ac.migratetype, flags, &mut mode);
        if pfn.is_none() && flags.has(AllocFlags::OOM.with(AllocFlags::NON_BLOCK)) {
            return zone.rmqueue_smallest(&mut self.map, ac.order, MigrateType::HighAtomic);
        }
        pfn
    }

    /// Lets the time pass that work under a zone's lock takes.
    #[inline]
    fn charge_locked(&mut self, cpu: Cpu, zone: usize, work: LockedWork) {
        let hold_ns = u64::from(self.clock.costs.buddy_ns) * u64::from(work.blocks);
        self.clock
            .hold_lock(cpu, &mut self.zones[zone].lock_free_at_ns, hold_ns);
    }

    #[inline]
    fn prep_new_page(&mut self, ac: &AllocContext, pfn: Pfn) {
        if ac.gfp.has(Gfp::COMP) && ac.order > Order::ZERO {
            self.map.set_compound(pfn, ac.order, ac.class);
        } else {
            self.map.set_head(pfn, ac.order, ac.class);
        }
        if ac.gfp.has(Gfp::ZERO) {
            let ns = u64::from(self.clock.costs.zero_ns) << ac.order.get();
            self.clock.charge(ac.cpu, ns);
        }
    }

    /// `__count_zid_vm_events(PGALLOC)` and `zone_statistics()`.
    #[inline]
    fn count_alloc(&mut self, ac: &AllocContext, id: ZoneId) {
        let kind = self.zones[id.index()].kind;
        self.vmstat
            .count(pgalloc(kind), u64::from(ac.order.nr_pages()));
        let local = self.cpu_nodes[usize::from(ac.cpu.0)];
        let preferred_node = self.zones[ac.preferred.index()].node;
        let zone = &mut self.zones[id.index()];
        let hit = zone.node == preferred_node;
        if hit {
            zone.numa.hit += 1;
        } else {
            zone.numa.miss += 1;
        }
        if zone.node == local {
            zone.numa.local += 1;
        } else {
            zone.numa.other += 1;
        }
        if !hit {
            self.zones[ac.preferred.index()].numa.foreign += 1;
        }
    }

    /// `free_unref_page()`: to this CPU's list or to the buddy lists.
    #[inline]
    fn free_unref_page(&mut self, cpu: Cpu, pfn: Pfn, order: Order) {
        self.vmstat
            .count(VmEvent::PgFree, u64::from(order.nr_pages()));
        let id = self
            .map
            .zone_of(pfn)
            .expect("an allocated frame belongs to a zone");
        let zone = &mut self.zones[id.index()];
        if pcp_allowed_order(order) && !zone.pcps.is_empty() {
            let migratetype = match self.map.pageblock_migratetype(pfn) {
                MigrateType::HighAtomic | MigrateType::Cma => Some(MigrateType::Movable),
                MigrateType::Isolate => None,
                listed => Some(listed),
            };
            if let Some(migratetype) = migratetype {
                let at = usize::from(cpu.0);
                let work = zone.free_to_pcp(&mut self.map, at, pfn, order, migratetype);
                self.clock.charge(cpu, u64::from(self.clock.costs.pcp_ns));
                if work.blocks > 0 {
                    self.vmstat.count(VmEvent::PcpDrain, 1);
                    self.charge_locked(cpu, id.index(), work);
                }
                return;
            }
        }
        self.map.clear_head(pfn, order);
        zone.split_large_buddy(&mut self.map, pfn, order);
        self.charge_locked(cpu, id.index(), LockedWork { blocks: 1 });
    }

    /// `__alloc_pages_slowpath()` without reclaim and compaction: the min watermark and the
    /// reserves, then what direct reclaim does on the way (`__alloc_pages_direct_reclaim()` lets the
    /// highatomic reserve go and drains the per-CPU lists), then the reason of the refusal.
    #[cold]
    fn alloc_slowpath(&mut self, ac: &AllocContext) -> Result<Pfn, AllocError> {
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

    /// `unreserve_highatomic_pageblock()`: the first zone that has one.
    fn unreserve_highatomic(&mut self, ac: &AllocContext, force: bool) -> bool {
        let mut at = 0;
        while let Some(&id) = ac.zone_at(self, at) {
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
        let list = self
            .zonelists
            .get(ac.node, ac.gfp.has(Gfp::THISNODE), ac.highest);
        let zones = || list.iter().map(|id| &self.zones[id.index()]);
        if zones().all(|zone| zone.nr_free_pages == 0) {
            return AllocError::OutOfMemory;
        }
        let mark = |zone: &crate::zone::Zone| zone.wmark_pages(flags.wmark());
        let passes = |zone: &&crate::zone::Zone| {
            let extra = u64::from(ac.order.nr_pages() - 1);
            zone.watermark_ok(Order::ZERO, mark(zone) + extra, ac.highest, flags)
        };
        if zones().any(|zone| passes(&zone)) {
            let usable = |&order: &Order| {
                zones().filter(passes).any(|zone| {
                    (0..3).any(|mt| zone.free_area.nr_of(order, MigrateType::ALL[mt]) > 0)
                })
            };
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

/// Tells whether a block of this class may be freed.
const fn is_allocated(class: PageClass) -> bool {
    !matches!(
        class,
        PageClass::Free | PageClass::Nopage | PageClass::Reserved | PageClass::Pcp
    )
}

/// `PGALLOC_<zone>`.
const fn pgalloc(kind: ZoneKind) -> VmEvent {
    match kind {
        ZoneKind::Dma => VmEvent::PgAllocDma,
        ZoneKind::Dma32 => VmEvent::PgAllocDma32,
        ZoneKind::Normal => VmEvent::PgAllocNormal,
        ZoneKind::Movable => VmEvent::PgAllocMovable,
    }
}

/// `gfp_to_alloc_flags_cma()`.
const fn cma_flag(ac: &AllocContext) -> AllocFlags {
    if matches!(ac.migratetype, MigrateType::Movable) {
        AllocFlags::CMA
    } else {
        AllocFlags(0)
    }
}

/// `gfp_to_alloc_flags()`; `__GFP_MEMALLOC` as `__gfp_pfmemalloc_flags()` reads it.
fn gfp_to_alloc_flags(ac: &AllocContext) -> AllocFlags {
    let mut flags = AllocFlags::WMARK_MIN.with(cma_flag(ac));
    if ac.gfp.has(Gfp::HIGH) {
        flags = flags.with(AllocFlags::MIN_RESERVE);
    }
    if ac.gfp.has(Gfp::KSWAPD_RECLAIM) {
        flags = flags.with(AllocFlags::KSWAPD);
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
