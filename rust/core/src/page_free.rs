//! Giving frames back: `__free_pages()`, `free_unref_page()`, mm/page_alloc.c v6.12, whole, in
//! pieces, and from per-CPU lists.
//!
//! A single frame that nothing is to be decided about has a path of its own, forced inline.
#![allow(clippy::inline_always)]

use crate::events::Tracepoint;
use crate::mem_map::{PageClass, aligned_blocks};
use crate::memory::Memory;
use crate::pcp::pcp_allowed_order;
use crate::units::{Cpu, MigrateType, Order, Pfn, ZoneId};
use crate::vmstat::VmEvent;
use crate::zone::PAGEBLOCK;

impl Memory {
    /// Frees a block whose last reference is gone: `__free_pages()`. Flags, counts and owners of its
    /// frames must be clear.
    ///
    /// # Panics
    /// When no allocated block of this order starts at `pfn`: an invariant is broken.
    #[inline]
    pub fn free_pages(&mut self, cpu: Cpu, pfn: Pfn, order: Order) {
        if order == Order::ZERO {
            self.free_single(cpu, pfn);
        } else {
            self.free_allocated(cpu, pfn, order);
        }
    }

    /// Frees single frames one after the other, in this order. Quicker than so many calls where they
    /// lie apart, as what is needed of the next ones is fetched meanwhile.
    ///
    /// # Panics
    /// When one is no allocated block of order 0: an invariant is broken.
    pub fn free_batch(&mut self, cpu: Cpu, pfns: &[u32]) {
        const AHEAD: usize = 32;
        for some in pfns.chunks(AHEAD) {
            self.map.look_at(some.iter().copied());
            for &pfn in some {
                self.map.events.note(Tracepoint::PageFreeBatched, [pfn]);
                self.free_single(cpu, Pfn(pfn));
            }
        }
    }

    /// A single frame, where nothing is to be decided, or else as any other block.
    #[inline(always)]
    fn free_single(&mut self, cpu: Cpu, pfn: Pfn) {
        let unlisted = self.map.is_unlisted_head(pfn, Order::ZERO);
        let (id, migratetype) = self.map.pageblock(pfn);
        let whole = self.map.pageblock_is_whole(pfn);
        let Some(id) = id.filter(|_| unlisted && whole && !self.map.events.is_on()) else {
            return self.free_allocated(cpu, pfn, Order::ZERO);
        };
        debug_assert!(
            self.map.meta_is_clear(pfn),
            "frame {} is freed while in use",
            pfn.0
        );
        let zone = &mut self.zones[id.index()];
        match zone.pcps.get_mut(usize::from(cpu.0)) {
            Some(pcp) => {
                let steady = !zone.reclaim_active && !zone.below_high && migratetype.is_mergeable();
                if !steady || !pcp.put_single(pfn, migratetype, zone.pcp_limits) {
                    return self.free_allocated(cpu, pfn, Order::ZERO);
                }
                self.map.set_head(pfn, Order::ZERO, PageClass::Pcp);
                self.clock.charge(cpu, u64::from(self.clock.costs.pcp_ns));
            }
            None => {
                zone.free_single(&mut self.map, pfn, migratetype);
                zone.work_locked(&mut self.clock, cpu, 0, 1);
            }
        }
        self.vmstat.count(VmEvent::PgFree, 1);
    }

    #[inline(never)]
    fn free_allocated(&mut self, cpu: Cpu, pfn: Pfn, order: Order) {
        if !self.map.is_unlisted_head(pfn, order) {
            self.leave_list(pfn, order);
        }
        debug_assert!(
            self.map.meta_is_clear(pfn),
            "frame {} is freed while in use",
            pfn.0
        );
        self.free_unref_page(cpu, pfn, order);
    }

    /// A page of a file leaves its list: `__page_cache_release()`, mm/swap.c v6.12.
    #[cold]
    fn leave_list(&mut self, pfn: Pfn, order: Order) {
        if !self.map.is_allocated_head(pfn, order) {
            self.freed_wrongly(pfn, order);
        }
        self.map.unlist_file(pfn);
    }

    #[cold]
    fn freed_wrongly(&self, pfn: Pfn, order: Order) -> ! {
        let block = self.map.block_of(pfn);
        panic!(
            "frame {} is freed with order {}, but is in {block:?}",
            pfn.0,
            order.get()
        )
    }

    #[cold]
    fn note_free(&mut self, cpu: Cpu, pfn: Pfn, order: Order) {
        self.map.events.begin(cpu, self.clock.now_ns(cpu));
        let fields = [pfn.0, order.get().into()];
        self.map.events.note(Tracepoint::PageFree, fields);
    }

    /// Frees a run of single frames in the largest aligned blocks, so that no frame waits in a list
    /// of small ones. Each frame must be an allocated block of order 0.
    ///
    /// # Panics
    /// When one is not: an invariant is broken.
    pub fn free_run(&mut self, cpu: Cpu, start: Pfn, nr: u32) {
        for (pfn, order) in aligned_blocks(start, nr) {
            for frame in pfn.0..pfn.0 + order.nr_pages() {
                if !self.map.is_allocated_head(Pfn(frame), Order::ZERO) {
                    self.freed_wrongly(Pfn(frame), Order::ZERO);
                }
                debug_assert!(
                    self.map.meta_is_clear(Pfn(frame)),
                    "frame {frame} is in use"
                );
                self.map.clear_head(Pfn(frame), Order::ZERO);
            }
            self.map.set_head(pfn, order, PageClass::Kernel);
            self.free_pages(cpu, pfn, order);
        }
    }

    /// Frees single frames one after the other, as the RFC gives back the tail of its block.
    pub fn free_each(&mut self, cpu: Cpu, start: Pfn, nr: u32) {
        for frame in start.0..start.0 + nr {
            self.free_pages(cpu, Pfn(frame), Order::ZERO);
        }
    }

    /// Makes a block into single frames, each with a reference: `split_page()`.
    ///
    /// # Panics
    /// When no block of this order starts at `pfn`.
    pub fn split_page(&mut self, pfn: Pfn, order: Order) {
        let own = self.map.folio_order(pfn);
        assert_eq!(own, order, "split of frame {} at another order", pfn.0);
        self.map.split_block(pfn);
    }

    /// Gives the frames of every CPU's lists back to the buddy lists: `drain_all_pages()`, for one
    /// zone or all.
    pub fn drain_all_pages(&mut self, zone: Option<ZoneId>) {
        for at in 0..self.zones.len() {
            if zone.is_some_and(|id| id.index() != at) {
                continue;
            }
            for cpu in 0..self.zones[at].pcps.len() {
                let zone = &mut self.zones[at];
                let blocks = zone.drain_pcp(&mut self.map, cpu);
                let cpu = Cpu(u16::try_from(cpu).expect("CPUs are u16"));
                zone.work_locked(&mut self.clock, cpu, 0, blocks);
            }
        }
    }

    /// What each CPU's periodic vmstat update does to its lists: `refresh_cpu_vm_stats()`,
    /// mm/vmstat.c v6.12.
    pub fn decay_pcp(&mut self, cpu: Cpu) {
        for zone in &mut self.zones {
            if usize::from(cpu.0) < zone.pcps.len() {
                let blocks = zone.decay_pcp_high(&mut self.map, usize::from(cpu.0));
                zone.work_locked(&mut self.clock, cpu, 0, blocks);
            }
        }
    }

    /// `free_unref_page()`: to this CPU's list or to the buddy lists.
    #[inline(always)]
    fn free_unref_page(&mut self, cpu: Cpu, pfn: Pfn, order: Order) {
        if self.map.events.is_on() {
            self.note_free(cpu, pfn, order);
        }
        self.vmstat
            .count(VmEvent::PgFree, u64::from(order.nr_pages()));
        let (id, migratetype) = self.map.pageblock(pfn);
        let id = id.expect("an allocated frame belongs to a zone");
        let zone = &mut self.zones[id.index()];
        let isolated = migratetype == MigrateType::Isolate;
        if pcp_allowed_order(order) && !zone.pcps.is_empty() && !isolated {
            // HIGHATOMIC and CMA frames may serve movable requests until they are drained.
            let mergeable = migratetype.is_mergeable();
            let listed = if mergeable {
                migratetype
            } else {
                MigrateType::Movable
            };
            let at = usize::from(cpu.0);
            let blocks = zone.free_to_pcp(&mut self.map, at, pfn, order, listed);
            self.clock.charge(cpu, u64::from(self.clock.costs.pcp_ns));
            if blocks > 0 {
                self.vmstat.count(VmEvent::PcpDrain, 1);
                zone.work_locked(&mut self.clock, cpu, 0, blocks);
            }
            return;
        }
        self.map.clear_head(pfn, order);
        if order < PAGEBLOCK {
            zone.free_one_page(&mut self.map, pfn, order, migratetype, None);
        } else {
            zone.split_large_buddy(&mut self.map, pfn, order);
        }
        zone.work_locked(&mut self.clock, cpu, 0, 1);
    }
}
