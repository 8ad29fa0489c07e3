//! Frames taken in bulk are those that come one by one, and leave the same machine.

mod common;

use common::{apply, cases, machine, step};
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order, PageClass, Pfn};
use proptest::prelude::*;

/// Without per-CPU lists, and so small that the watermarks are met.
fn bare() -> Memory {
    let spec = r#"{"nr_cpus": 2, "min_free_kbytes": 256, "pcp": {"enabled": false},
        "zones": [{"kind": "DMA32", "start_pfn": 0, "spanned": 2048},
                  {"kind": "Normal", "start_pfn": 2048, "spanned": 2500}]}"#;
    Memory::boot(&BootSpec::from_json(spec).expect("valid")).expect("bootable")
}

fn in_bulk(memory: &mut Memory, gfp: Gfp, nr: u32) -> Vec<Pfn> {
    let mut pfns = Vec::new();
    let class = PageClass::Anon;
    // A refusal part of the way is no failure here: both ways must meet it.
    let _ = memory.alloc_bulk(Cpu(1), gfp, None, class, nr, |_, pfn| pfns.push(pfn));
    pfns
}

fn one_by_one(memory: &mut Memory, gfp: Gfp, nr: u32) -> Vec<Pfn> {
    let mut alloc = |_| memory.alloc_class(Cpu(1), gfp, Order::ZERO, None, PageClass::Anon);
    (0..nr).map_while(|at| alloc(at).ok()).collect()
}

fn agree(memory: Memory, steps: &[(common::Step, u32, bool)]) -> Result<(), TestCaseError> {
    let (mut bulk, mut single) = (memory.clone(), memory);
    let (mut bulk_used, mut single_used) = (Vec::new(), Vec::new());
    for (step, nr, zeroed) in steps {
        apply(&mut bulk, &mut bulk_used, step);
        apply(&mut single, &mut single_used, step);
        let gfp = if *zeroed {
            Gfp::HIGHUSER_MOVABLE.with(Gfp::ZERO)
        } else {
            Gfp::HIGHUSER_MOVABLE
        };
        let pfns = in_bulk(&mut bulk, gfp, *nr);
        prop_assert_eq!(&pfns, &one_by_one(&mut single, gfp, *nr));
        let blocks = || pfns.iter().map(|&pfn| (pfn, Order::ZERO));
        bulk_used.extend(blocks());
        single_used.extend(blocks());
        prop_assert_eq!(bulk.digest(), single.digest());
    }
    bulk.check()
        .map_err(|error| TestCaseError::fail(error.to_string()))
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn frames_in_bulk_are_those_that_come_one_by_one(
        steps in prop::collection::vec((step(), 0..300_u32, any::<bool>()), 1..60),
        lists in any::<bool>(),
    ) {
        agree(if lists { machine(true, true) } else { bare() }, &steps)?;
    }

    #[test]
    fn frames_freed_in_a_batch_go_where_single_ones_go(
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..900),
        lists in any::<bool>(),
    ) {
        let mut batch = if lists { machine(true, true) } else { bare() };
        let mut taken = in_bulk(&mut batch, Gfp::HIGHUSER_MOVABLE, 1000);
        let mut single = batch.clone();
        let mut freed = Vec::new();
        for index in order {
            if !taken.is_empty() {
                freed.push(taken.swap_remove(index.index(taken.len())).0);
            }
        }
        batch.free_batch(Cpu(0), &freed);
        for &pfn in &freed {
            single.free_pages(Cpu(0), Pfn(pfn), Order::ZERO);
        }
        prop_assert_eq!(batch.digest(), single.digest());
        batch.check().map_err(|error| TestCaseError::fail(error.to_string()))?;
    }
    #[test]
    fn neighbours_freed_together_go_where_single_ones_go(
        parts in prop::collection::vec((any::<prop::sample::Index>(), 1..700_usize, 0..8_u32), 1..12),
        lists in any::<bool>(),
    ) {
        let mut together = if lists { machine(true, true) } else { bare() };
        let mut taken = in_bulk(&mut together, Gfp::HIGHUSER_MOVABLE, 2000);
        let mut single = together.clone();
        for (index, nr, turned) in parts {
            if taken.is_empty() {
                break;
            }
            let from = index.index(taken.len());
            let mut part: Vec<Pfn> = taken.drain(from..taken.len().min(from + nr)).collect();
            if turned == 0 {
                part.reverse();
            }
            together.free_singles(Cpu(1), &part);
            for &pfn in &part {
                single.free_pages(Cpu(1), pfn, Order::ZERO);
            }
            prop_assert_eq!(together.digest(), single.digest());
        }
        together.check().map_err(|error| TestCaseError::fail(error.to_string()))?;
    }
}
