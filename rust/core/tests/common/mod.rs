//! Random requests and frees on a small machine, shared by the tests.
#![allow(dead_code)] // each test program uses its part

pub mod reference;

use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order, Pfn};
use proptest::prelude::*;

/// So many cases; a failing one is printed, not written to a file.
pub fn cases(nr: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(nr)
    }
}

pub const GFPS: [Gfp; 6] = [
    Gfp::HIGHUSER_MOVABLE,
    Gfp::HIGHUSER,
    Gfp::KERNEL,
    Gfp::ATOMIC,
    Gfp(Gfp::KERNEL.0 | Gfp::RECLAIMABLE.0),
    Gfp(Gfp::KERNEL.0 | Gfp::DMA32.0),
];

#[derive(Clone, Debug)]
pub enum Step {
    Alloc { cpu: u16, gfp: usize, order: u8 },
    Free { which: usize },
    Split { which: usize },
    FreeRun { which: usize },
    Drain,
    Decay { cpu: u16 },
}

pub fn step() -> impl Strategy<Value = Step> {
    let order = prop_oneof![4 => Just(0_u8), 3 => 1..=4_u8, 2 => 5..=9_u8, 1 => Just(10_u8)];
    prop_oneof![
        12 => (0..2_u16, 0..GFPS.len(), order).prop_map(|(cpu, gfp, order)| Step::Alloc { cpu, gfp, order }),
        8 => any::<usize>().prop_map(|which| Step::Free { which }),
        1 => any::<usize>().prop_map(|which| Step::Split { which }),
        1 => any::<usize>().prop_map(|which| Step::FreeRun { which }),
        1 => Just(Step::Drain),
        1 => (0..2_u16).prop_map(|cpu| Step::Decay { cpu }),
    ]
}

/// Two zones that meet within a pageblock, a hole, and a start that is not aligned.
pub fn machine(run_refill: bool, hi_store: bool) -> Memory {
    let spec = format!(
        r#"{{"nr_cpus": 2, "min_free_kbytes": 64, "direct_reclaim": false, "hi_store": {hi_store},
            "pcp": {{"enabled": true, "run_refill": {run_refill}}},
            "zones": [
              {{"kind": "DMA32", "start_pfn": 5, "spanned": 3000, "holes": [[1100, 300]]}},
              {{"kind": "Normal", "start_pfn": 3005, "spanned": 5300}}]}}"#
    );
    Memory::boot(&BootSpec::from_json(&spec).expect("valid")).expect("bootable")
}

/// Applies a step; blocks in use are kept in `used`.
pub fn apply(memory: &mut Memory, used: &mut Vec<(Pfn, Order)>, step: &Step) -> Option<Pfn> {
    match *step {
        Step::Alloc { cpu, gfp, order } => {
            let order = Order::new(order).expect("an order");
            let pfn = memory.alloc_pages(Cpu(cpu), GFPS[gfp], order, None).ok()?;
            used.push((pfn, order));
            Some(pfn)
        }
        Step::Free { which } => {
            let (pfn, order) = pick(used, which)?;
            memory.free_pages(Cpu(1), pfn, order);
            Some(pfn)
        }
        Step::Split { which } => {
            let (pfn, order) = pick(used, which)?;
            memory.split_page(pfn, order);
            used.extend((0..order.nr_pages()).map(|i| (Pfn(pfn.0 + i), Order::ZERO)));
            Some(pfn)
        }
        Step::FreeRun { which } => {
            let (pfn, order) = pick(used, which)?;
            memory.split_page(pfn, order);
            let keep = order.nr_pages() / 3;
            used.extend((0..keep).map(|i| (Pfn(pfn.0 + i), Order::ZERO)));
            memory.free_run(Cpu(0), Pfn(pfn.0 + keep), order.nr_pages() - keep);
            Some(pfn)
        }
        Step::Drain => {
            memory.drain_all_pages(None);
            None
        }
        Step::Decay { cpu } => {
            memory.decay_pcp(Cpu(cpu));
            None
        }
    }
}

fn pick(used: &mut Vec<(Pfn, Order)>, which: usize) -> Option<(Pfn, Order)> {
    (!used.is_empty()).then(|| used.swap_remove(which % used.len()))
}
