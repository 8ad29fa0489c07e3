//! Many single frames at once: the same frames, lists, counters and times as one after the other,
//! without the steps that would undo each other.

use crate::error::AllocError;
use crate::fallback::Parts;
use crate::gfp::Gfp;
use crate::mem_map::{MemMap, PageClass};
use crate::memory::Memory;
use crate::units::{Cpu, MigrateType, NodeId, Order, Pfn, ZoneKind};
use crate::zone::Zone;
use crate::zonelist::Zonelists;

/// A request for single frames that nothing decides about.
struct Plain {
    cpu: Cpu,
    zeroed: bool,
    highest: ZoneKind,
    migratetype: MigrateType,
    class: PageClass,
}

impl Memory {
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
        let mut left = nr;
        while left > 0 {
            let done = self.alloc_run(cpu, gfp, node, class, left, &mut take);
            left -= done;
            if done == 0 {
                let pfn = self.alloc_class(cpu, gfp, Order::ZERO, node, class)?;
                take(&mut self.map, pfn);
                left -= 1;
            }
        }
        Ok(())
    }

    /// Takes up to `want` frames that lie together or on one per-CPU list; 0 where the next frame is
    /// to be decided about, or its list refilled.
    #[inline]
    fn alloc_run(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        node: Option<NodeId>,
        class: PageClass,
        want: u32,
        take: &mut impl FnMut(&mut MemMap, Pfn),
    ) -> u32 {
        let Some(local) = self.node_of(cpu) else {
            return 0;
        };
        let highest = gfp.highest_zone();
        let zonelist = Zonelists::which(node.unwrap_or(local), gfp.has(Gfp::THISNODE), highest);
        let Some(preferred) = self.zonelists.first(zonelist) else {
            return 0;
        };
        let plain = Plain {
            cpu,
            zeroed: gfp.has(Gfp::ZERO),
            highest,
            migratetype: self.migratetype_of(gfp),
            class,
        };
        let (zone, mut with) = self.parts(preferred);
        if !with.tuning.run_refill || with.map.events.is_on() {
            return 0;
        }
        let nr = if zone.pcps.is_empty() {
            zone.take_plain_run(&mut with, &plain, want, take)
        } else {
            zone.pop_plain_run(&mut with, &plain, want, take)
        };
        zone.count_pages(&mut with, local, u64::from(nr), u64::from(nr));
        zone.numa.hit += u64::from(nr);
        nr
    }
}

impl Zone {
    /// From the free lists: as much of the smallest block as is wanted and the watermark leaves.
    fn take_plain_run(
        &mut self,
        with: &mut Parts<'_>,
        plain: &Plain,
        want: u32,
        take: &mut impl FnMut(&mut MemMap, Pfn),
    ) -> u32 {
        let room = u32::try_from(self.plain_pages(plain.highest)).unwrap_or(u32::MAX);
        let want = want.min(room);
        if want == 0 {
            return 0;
        }
        let run = self.take_run(with.map, Order::ZERO, plain.migratetype, want);
        let Some((start, nr)) = run else {
            return 0;
        };
        with.map.set_heads(start, Order::ZERO, nr, plain.class);
        for pfn in start.0..start.0 + nr {
            take(with.map, Pfn(pfn));
        }
        let costs = with.clock.costs;
        let alloc_ns = u64::from(costs.alloc_ns);
        let zero_ns = if plain.zeroed {
            u64::from(costs.zero_ns)
        } else {
            0
        };
        self.work_locked(with.clock, plain.cpu, alloc_ns, 1);
        // The lock is free when each of the others comes.
        let each = alloc_ns + zero_ns + u64::from(costs.lock_ns) + u64::from(costs.buddy_ns);
        let others = u64::from(nr - 1) * each;
        self.lock.free_at_ns += others;
        with.clock.charge(plain.cpu, others + zero_ns);
        nr
    }

    /// From a CPU's list: as many as it holds.
    fn pop_plain_run(
        &mut self,
        with: &mut Parts<'_>,
        plain: &Plain,
        want: u32,
        take: &mut impl FnMut(&mut MemMap, Pfn),
    ) -> u32 {
        if self.plain_pages(plain.highest) == 0 {
            return 0;
        }
        let pcp = &mut self.pcps[usize::from(plain.cpu.0)];
        let list = pcp.list_mut(Order::ZERO, plain.migratetype);
        let mut nr = 0;
        while nr < want {
            let (first, some) = match list.pop_ascending(want - nr) {
                Some(run) => run,
                None => match list.pop_front() {
                    Some(pfn) => (pfn, 1),
                    None => break,
                },
            };
            with.map
                .set_heads(Pfn(first), Order::ZERO, some, plain.class);
            for pfn in first..first + some {
                take(with.map, Pfn(pfn));
            }
            nr += some;
        }
        pcp.took(nr);
        let costs = &with.clock.costs;
        let zero_ns = if plain.zeroed { costs.zero_ns } else { 0 };
        let each = u64::from(costs.alloc_ns) + u64::from(costs.pcp_ns) + u64::from(zero_ns);
        with.clock.charge(plain.cpu, u64::from(nr) * each);
        nr
    }
}
