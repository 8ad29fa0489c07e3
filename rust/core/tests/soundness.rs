//! Random requests and frees; the full invariant checker after every step.

use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order, Pfn};
use proptest::prelude::*;

const GFPS: [Gfp; 6] = [
    Gfp::HIGHUSER_MOVABLE,
    Gfp::HIGHUSER,
    Gfp::KERNEL,
    Gfp::ATOMIC,
    Gfp(Gfp::KERNEL.0 | Gfp::RECLAIMABLE.0),
    Gfp(Gfp::KERNEL.0 | Gfp::DMA32.0),
];

#[derive(Clone, Debug)]
enum Step {
    Alloc { cpu: u16, gfp: usize, order: u8 },
    Free { which: usize },
    Split { which: usize },
    FreeRun { which: usize },
    Drain,
    Decay { cpu: u16 },
}

fn step() -> impl Strategy<Value = Step> {
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
fn machine(run_refill: bool, hi_store: bool) -> Memory {
    let spec = format!(
        r#"{{"nr_cpus": 2, "min_free_kbytes": 64, "hi_store": {hi_store},
            "pcp": {{"enabled": true, "run_refill": {run_refill}}},
            "zones": [
              {{"kind": "DMA32", "start_pfn": 5, "spanned": 3000, "holes": [[1100, 300]]}},
              {{"kind": "Normal", "start_pfn": 3005, "spanned": 5300}}]}}"#
    );
    Memory::boot(&BootSpec::from_json(&spec).expect("valid")).expect("bootable")
}

/// Applies a step; blocks in use are kept in `used`.
fn apply(memory: &mut Memory, used: &mut Vec<(Pfn, Order)>, step: &Step) -> Option<Pfn> {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_step_keeps_every_invariant(steps in prop::collection::vec(step(), 1..250)) {
        let mut memory = machine(true, true);
        let mut used = Vec::new();
        for step in &steps {
            apply(&mut memory, &mut used, step);
            prop_assert_eq!(memory.check(), Ok(()));
        }
        for (pfn, order) in used {
            memory.free_pages(Cpu(0), pfn, order);
        }
        memory.drain_all_pages(None);
        prop_assert_eq!(memory.check(), Ok(()));
        let free: u64 = memory.zones().iter().map(|zone| zone.nr_free_pages).sum();
        let managed: u64 = memory.zones().iter().map(|zone| zone.managed).sum();
        prop_assert_eq!(free, managed);
    }

    #[test]
    fn shortcuts_change_nothing_but_time_taken(steps in prop::collection::vec(step(), 1..400)) {
        let mut machines = [(true, true), (true, false), (false, true), (false, false)]
            .map(|(run_refill, hi_store)| (machine(run_refill, hi_store), Vec::new()));
        for step in &steps {
            let results: Vec<_> =
                machines.iter_mut().map(|(memory, used)| apply(memory, used, step)).collect();
            prop_assert!(results.iter().all(|result| *result == results[0]));
            let (plain, _) = &machines[3];
            for (memory, _) in &machines[..3] {
                for zone in plain.zones() {
                    prop_assert!(memory.free_blocks(zone.id).eq(plain.free_blocks(zone.id)));
                    let lists = |memory: &Memory| -> Vec<Vec<u32>> {
                        let pcps = &memory.zones()[zone.id.index()].pcps;
                        pcps.iter().flat_map(|pcp| pcp.lists().map(|(_, list)| list.iter().copied().collect())).collect()
                    };
                    prop_assert_eq!(lists(memory), lists(plain));
                }
                prop_assert_eq!(memory.vmstat(), plain.vmstat());
                prop_assert_eq!(memory.clock(), plain.clock());
            }
        }
    }
}
