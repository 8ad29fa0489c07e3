//! How long an allocation takes when many CPUs want the lock of one zone: the simulated allocator,
//! with the CPU that is furthest behind going on next, so that the lock is had first come, first
//! served.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde_json::json;

use crate::boot::{BootError, BootSpec};
use crate::cost::CostModel;
use crate::gfp::Gfp;
use crate::memory::Memory;
use crate::pcp_limits::PcpLimits;
use crate::units::{Cpu, NodeId, Order};
use crate::vmstat::VmEvent;

/// What the CPUs do: each allocates movable blocks from node 0 as fast as it can, and keeps them.
#[derive(Clone, Debug)]
pub struct ContentionSpec {
    /// Frames of the one zone.
    pub frames: u32,
    /// The node of each CPU; the zone is on node 0.
    pub cpu_nodes: Vec<u8>,
    /// log2 of the frames of a block.
    pub order: Order,
    /// Blocks for each CPU.
    pub blocks: u32,
    /// Frames that a refill of single frames takes: fixed, or none for the tuning of Linux since
    /// v6.7.
    pub batch: Option<u32>,
    /// What steps cost.
    pub costs: CostModel,
}

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contention {
    /// Simulated time of all CPUs together, in ns.
    pub total_ns: u64,
    /// Blocks allocated.
    pub blocks: u64,
    /// Times that the zone's lock was taken.
    pub holds: u64,
}

/// Lets the CPUs allocate.
///
/// # Errors
/// [`BootError`] when there is no such machine, or too little memory for the blocks.
pub fn run(spec: &ContentionSpec) -> Result<Contention, BootError> {
    let mut memory = Memory::boot(&boot_spec(spec)?)?;
    let gfp = Gfp::HIGHUSER_MOVABLE.with(Gfp::THISNODE);
    let mut waiting: BinaryHeap<Reverse<(u64, u16, u32)>> = (0..memory.clock().nr_cpus())
        .map(|cpu| Reverse((0, cpu, spec.blocks)))
        .collect();
    let mut done = Contention::default();
    while let Some(Reverse((now, cpu, left))) = waiting.pop() {
        if left == 0 {
            done.total_ns += now;
            continue;
        }
        memory
            .alloc_pages(Cpu(cpu), gfp, spec.order, Some(NodeId(0)))
            .map_err(|error| BootError(format!("too little memory for the blocks: {error}")))?;
        done.blocks += 1;
        waiting.push(Reverse((memory.clock().now_ns(Cpu(cpu)), cpu, left - 1)));
    }
    done.holds = memory.vmstat().get(VmEvent::PcpRefill);
    Ok(done)
}

fn boot_spec(spec: &ContentionSpec) -> Result<BootSpec, BootError> {
    let nodes = spec.cpu_nodes.iter().copied().max().unwrap_or(0);
    let distance = |a: u8, b: u8| if a == b { 10 } else { 20 };
    let distances: Vec<Vec<u32>> = (0..=nodes)
        .map(|a| (0..=nodes).map(|b| distance(a, b)).collect())
        .collect();
    // With no room above two batches a refill is one batch: nr_pcp_alloc(), mm/page_alloc.c v6.12.
    let pcp_limits = spec.batch.map(|batch| PcpLimits {
        batch,
        high_min: 2 * batch,
        high_max: 2 * batch,
    });
    let json = json!({
        "nr_cpus": spec.cpu_nodes.len(),
        "cpu_nodes": spec.cpu_nodes,
        "distances": distances,
        "costs": spec.costs,
        "zones": [{
            "kind": "Normal",
            "start_pfn": 0,
            "spanned": spec.frames,
            "pcp_limits": pcp_limits,
        }],
    });
    BootSpec::from_json(&json.to_string())
}
