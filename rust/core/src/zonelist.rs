//! In which order zones are asked: `build_zonelists()`, mm/page_alloc.c v6.12.
#![allow(clippy::inline_always)] // see page_alloc

use crate::units::{Cpu, NodeId, ZoneId, ZoneKind};
use crate::zone::Zone;

/// `PENALTY_FOR_NODE_WITH_CPUS`, mm/page_alloc.c v6.12.
const PENALTY_FOR_NODE_WITH_CPUS: u64 = 1;
/// No zone's number.
const NOWHERE: ZoneId = ZoneId(u8::MAX);
/// `MAX_NUMNODES` of a default x86-64 configuration (`NODES_SHIFT` 6).
const MAX_NUMNODES: u64 = 64;

/// The zones to ask, for each node, with and without fallback to others, by highest allowed zone.
#[derive(Clone, Debug, Default)]
pub struct Zonelists {
    /// By node, fallback or not, highest zone.
    lists: Vec<Vec<ZoneId>>,
    /// First zone of each list: the preferred one.
    first: Vec<Option<ZoneId>>,
    /// By CPU that has lists, and highest zone: the preferred one where no node is asked for, if it is
    /// on the CPU's own.
    home: Vec<[ZoneId; ZoneKind::COUNT]>,
    nr_nodes: usize,
    /// Whether the node has frames in `Dma32`.
    dma32: Vec<bool>,
}

impl Zonelists {
    /// Builds the lists of every node. `distances[a][b]` is the SLIT distance; `cpu_nodes` by
    /// CPU, of which the first `nr_listed` have lists of free frames.
    pub(crate) fn build(
        zones: &[Zone],
        distances: &[Vec<u32>],
        cpu_nodes: &[NodeId],
        nr_listed: usize,
    ) -> Self {
        let has_cpus = |node| cpu_nodes.iter().any(|cpu| usize::from(cpu.0) == node);
        let node_has_cpus: Vec<bool> = (0..distances.len()).map(has_cpus).collect();
        let has_memory: Vec<bool> = (0..distances.len())
            .map(|node| {
                zones
                    .iter()
                    .any(|zone| usize::from(zone.node.0) == node && zone.managed > 0)
            })
            .collect();
        let mut load = vec![0_u64; distances.len()];
        let mut lists = Vec::new();
        for node in 0..distances.len() {
            let order = node_order(node, distances, &node_has_cpus, &has_memory, &mut load);
            let own = if has_memory[node] {
                vec![node]
            } else {
                Vec::new()
            };
            lists.extend(by_highest(zones, &order));
            lists.extend(by_highest(zones, &own));
        }
        let first = lists.iter().map(|list| list.first().copied()).collect();
        let home = cpu_nodes.iter().take(nr_listed).map(|&node| {
            let own = |id: &ZoneId| zones[id.index()].node == node;
            let start = Self::which(node, false, ZoneKind::Dma);
            std::array::from_fn(|at| {
                let first = lists.get(start + at).and_then(|list| list.first());
                first.copied().filter(own).unwrap_or(NOWHERE)
            })
        });
        let home = home.collect();
        let is_dma32 = |zone: &&Zone| zone.kind == ZoneKind::Dma32 && zone.present > 0;
        let mut dma32 = vec![false; distances.len()];
        for zone in zones.iter().filter(is_dma32) {
            dma32[usize::from(zone.node.0)] = true;
        }
        Self {
            lists,
            first,
            home,
            nr_nodes: distances.len(),
            dma32,
        }
    }

    /// Number of nodes.
    pub(crate) fn nr_nodes(&self) -> usize {
        self.nr_nodes
    }

    /// Whether `Dma32` is populated on this node.
    pub(crate) fn has_dma32(&self, node: NodeId) -> bool {
        self.dma32[usize::from(node.0)]
    }

    /// Which list a request uses: `node_zonelist()` and `highest_zoneidx`.
    #[inline]
    pub(crate) fn which(node: NodeId, this_node: bool, highest: ZoneKind) -> usize {
        (usize::from(node.0) * 2 + usize::from(this_node)) * ZoneKind::COUNT + highest.index()
    }

    /// The zones of a list, in the order in which they are asked.
    #[inline]
    pub(crate) fn zones(&self, which: usize) -> &[ZoneId] {
        &self.lists[which]
    }

    /// The index of the zone that a CPU's request prefers that asks for no node, if it is on the CPU's
    /// own; else that of no zone, or nothing where no such CPU has lists.
    #[inline(always)]
    pub(crate) fn home(&self, cpu: Cpu, highest: ZoneKind) -> Option<usize> {
        let home = self.home.get(usize::from(cpu.0))?;
        Some(home[highest.index()].index())
    }

    /// The first zone of a list; none where the node does not exist either.
    #[inline]
    pub(crate) fn first(&self, which: usize) -> Option<ZoneId> {
        self.first.get(which).copied().flatten()
    }
}

/// `find_next_best_node()`, repeated until every node with memory has its place.
fn node_order(
    local: usize,
    distances: &[Vec<u32>],
    has_cpus: &[bool],
    has_memory: &[bool],
    load: &mut [u64],
) -> Vec<usize> {
    let mut order = Vec::new();
    let mut previous = local;
    if has_memory[local] {
        order.push(local);
    }
    loop {
        let candidates = (0..distances.len()).filter(|&n| has_memory[n] && !order.contains(&n));
        let score = |&n: &usize| {
            let penalty = if has_cpus[n] {
                PENALTY_FOR_NODE_WITH_CPUS
            } else {
                0
            };
            let distance = u64::from(distances[local][n]) + u64::from(n < local) + penalty;
            distance * MAX_NUMNODES + load[n]
        };
        let Some(best) = candidates.min_by_key(score) else {
            return order;
        };
        if distances[local][best] != distances[local][previous] {
            load[best] += 1;
        }
        order.push(best);
        previous = best;
    }
}

/// Zones of the nodes in order, each node's highest zone first: `build_zonerefs_node()`.
fn by_highest(zones: &[Zone], nodes: &[usize]) -> [Vec<ZoneId>; ZoneKind::COUNT] {
    std::array::from_fn(|highest| {
        let mut list = Vec::new();
        for &node in nodes {
            let mut own: Vec<&Zone> = zones
                .iter()
                .filter(|zone| usize::from(zone.node.0) == node && zone.managed > 0)
                .filter(|zone| zone.kind.index() <= highest)
                .collect();
            own.sort_by_key(|zone| std::cmp::Reverse(zone.kind));
            list.extend(own.iter().map(|zone| zone.id));
        }
        list
    })
}
