//! One machine's memory: everything that `Machine` snapshots, behind `&mut self`.

use crate::address_space::Owners;
use crate::background::Background;
use crate::boot::BootSpec;
use crate::clock::Clocks;
use crate::cma::CmaArea;
use crate::events::Event;
use crate::fallback::Tuning;
use crate::mem_map::MemMap;
use crate::pcp::{MIGRATE_PCPTYPES, Pcp};
use crate::reclaim::ReclaimQueue;
use crate::units::{Cpu, MigrateType, NodeId, Order, Pfn, ZoneId};
use crate::vmstat::VmStat;
use crate::zone::Zone;
use crate::zonelist::Zonelists;

/// A block on a free list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeBlock {
    /// First frame.
    pub pfn: Pfn,
    /// log2 of its frames.
    pub order: Order,
    /// The list it is on.
    pub migratetype: MigrateType,
}

/// All physical memory of one machine, and who uses it. No locks: the caller serialises.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) map: MemMap,
    pub(crate) zones: Vec<Zone>,
    pub(crate) zonelists: Zonelists,
    pub(crate) cpu_nodes: Vec<NodeId>,
    pub(crate) clock: Clocks,
    pub(crate) vmstat: VmStat,
    pub(crate) tuning: Tuning,
    pub(crate) reclaim: ReclaimQueue,
    pub(crate) background: Background,
    pub(crate) spec: BootSpec,
    pub(crate) owners: Owners,
    /// What was moved since somebody last asked, if anybody does: from, to, order.
    pub(crate) moves: Option<Vec<(Pfn, Pfn, Order)>>,
    /// As many as the description declares.
    pub(crate) cma: Vec<CmaArea>,
}

impl Memory {
    /// The page-frame array.
    pub const fn map(&self) -> &MemMap {
        &self.map
    }

    /// The zones, node by node, low zones first.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// The clocks.
    pub const fn clock(&self) -> &Clocks {
        &self.clock
    }

    /// The clocks, to let time pass.
    pub const fn clock_mut(&mut self) -> &mut Clocks {
        &mut self.clock
    }

    /// The event counters.
    pub const fn vmstat(&self) -> &VmStat {
        &self.vmstat
    }

    /// Keeps the last `capacity` events from now on; not if somebody listens already.
    pub fn trace_start(&mut self, capacity: usize) -> bool {
        let free = !self.map.events.is_on();
        if free {
            self.map.events.start(capacity);
        }
        free
    }

    /// Keeps no events from now on.
    pub fn trace_stop(&mut self) {
        self.map.events.stop();
    }

    /// Takes the events kept, oldest first, with how many were dropped to make room since the last
    /// time.
    pub fn trace_take(&mut self) -> (Vec<Event>, u64) {
        self.map.events.take()
    }

    /// What the machine was booted from.
    pub const fn spec(&self) -> &BootSpec {
        &self.spec
    }

    /// The node of a CPU: `cpu_to_node()`.
    pub fn node_of(&self, cpu: Cpu) -> Option<NodeId> {
        self.cpu_nodes.get(usize::from(cpu.0)).copied()
    }

    /// Free blocks by zone and order: /proc/buddyinfo.
    pub fn buddyinfo(&self) -> Vec<[u64; Order::COUNT]> {
        let row = |zone: &Zone| {
            let mut counts = [0; Order::COUNT];
            for order in Order::all() {
                counts[order.index()] = zone.free_area.nr_free(order);
            }
            counts
        };
        self.zones.iter().map(row).collect()
    }

    /// Frames on per-CPU lists by zone, CPU, migratetype and order of the blocks.
    pub fn pcp_frames(&self) -> Vec<Vec<[[u64; Order::COUNT]; MIGRATE_PCPTYPES]>> {
        let row = |pcp: &Pcp| {
            let mut frames = [[0; Order::COUNT]; MIGRATE_PCPTYPES];
            for (order, migratetype, list) in pcp.lists_by_type() {
                frames[migratetype.index()][order.index()] = (list.len() as u64) << order.get();
            }
            frames
        };
        let rows = |zone: &Zone| zone.pcps.iter().map(row).collect();
        self.zones.iter().map(rows).collect()
    }

    /// Every free block of a zone, list by list (by order, then migratetype), each list head first.
    pub fn free_blocks(&self, zone: ZoneId) -> impl Iterator<Item = FreeBlock> + '_ {
        let zone = &self.zones[zone.index()];
        Order::all().flat_map(move |order| {
            MigrateType::ALL.into_iter().flat_map(move |migratetype| {
                let list = zone.free_area.iter(&self.map, order, migratetype);
                list.map(move |pfn| FreeBlock {
                    pfn,
                    order,
                    migratetype,
                })
            })
        })
    }

    /// Whether no frame in use is a process's, a file's or a run's.
    pub(crate) fn is_ownerless(&self) -> bool {
        let owners = &self.owners;
        let has_spaces = owners.spaces.iter().any(Option::is_some);
        !has_spaces && owners.cache.files.is_empty() && owners.runs.iter().next().is_none()
    }

    /// Pageblocks claimed and blocks stolen so far.
    pub(crate) fn fallbacks(&self) -> (u64, u64) {
        use crate::vmstat::VmEvent;
        (
            self.vmstat.get(VmEvent::PageblockClaim),
            self.vmstat.get(VmEvent::PageSteal),
        )
    }

    /// Free blocks by zone, migratetype and order: the first table of /proc/pagetypeinfo.
    pub fn free_by_type(&self) -> Vec<[[u64; Order::COUNT]; MigrateType::COUNT]> {
        let row = |zone: &Zone| {
            MigrateType::ALL.map(|migratetype| {
                let mut counts = [0; Order::COUNT];
                for order in Order::all() {
                    counts[order.index()] = u64::from(zone.free_area.nr_of(order, migratetype));
                }
                counts
            })
        };
        self.zones.iter().map(row).collect()
    }
}
