//! Random requests and frees; the full invariant checker after every step.

mod common;

use common::{apply, cases, machine, step};
use contigmm_core::contig_range::ContigGfp;
use contigmm_core::page_isolation::Obstacle;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, MigrateType, Order, PageClass};
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(48))]

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
                        pcps.iter().flat_map(|pcp| pcp.lists().map(|(_, list)| list.iter().collect())).collect()
                    };
                    prop_assert_eq!(lists(memory), lists(plain));
                }
                prop_assert_eq!(memory.vmstat(), plain.vmstat());
                prop_assert_eq!(memory.clock(), plain.clock());
            }
        }
    }

    #[test]
    fn a_restored_machine_goes_on_as_the_saved_one(
        before in prop::collection::vec(step(), 1..200),
        after in prop::collection::vec(step(), 1..200),
    ) {
        let mut saved = machine(true, true);
        let mut used = Vec::new();
        for step in &before {
            apply(&mut saved, &mut used, step);
        }
        let mut used_too = used.clone();
        let mut restored = Memory::restore(&saved.snapshot(), 1 << 20).expect("a snapshot");
        prop_assert_eq!(restored.digest(), saved.digest());
        for step in &after {
            let result = apply(&mut saved, &mut used, step);
            prop_assert_eq!(apply(&mut restored, &mut used_too, step), result);
        }
        prop_assert_eq!(restored.digest(), saved.digest());
        prop_assert_eq!(restored.snapshot(), saved.snapshot());
    }
}

/// Found by the soak: only the first half of the block has a head to be seen.
#[test]
fn a_range_that_begins_within_a_kernel_block_is_refused() {
    let mut memory = machine(true, true);
    let block = memory
        .alloc_pages(Cpu(0), Gfp::KERNEL, Order::MAX, None)
        .expect("the machine is empty");
    let gfp = ContigGfp::new(Gfp::HIGHUSER_MOVABLE).expect("allowed");
    let half = (block.0 + 512, block.0 + 1024);
    let blocked = memory
        .alloc_contig_range(half, MigrateType::Movable, Cpu(0), gfp, PageClass::Kernel)
        .expect_err("in use");
    assert_eq!((blocked.pfn, blocked.by), (block, Obstacle::Unmovable));
    assert_eq!(memory.check(), Ok(()));
}

#[test]
fn bytes_that_are_no_snapshot_are_refused() {
    let good = machine(true, true).snapshot();
    let refused = |bytes: &[u8], most: u64| {
        Memory::restore(bytes, most)
            .map(|_| ())
            .expect_err("no snapshot")
    };
    assert!(refused(b"", 1 << 20).to_string().contains("does not begin"));
    assert!(
        refused(&good[..20], 1 << 20)
            .to_string()
            .contains("does not begin")
    );
    assert!(
        refused(&good[..good.len() - 1], 1 << 20)
            .to_string()
            .contains("damaged")
    );
    assert!(
        refused(&good, 100)
            .to_string()
            .contains("more than 100 bytes")
    );
    let mut other = good.clone();
    other[10] ^= 1;
    assert!(refused(&other, 1 << 20).to_string().contains("digest"));
}

#[test]
fn a_free_tebibyte_is_saved_in_a_few_kilobytes() {
    let json = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 268435456}]}"#;
    let spec = contigmm_core::BootSpec::from_json(json).expect("valid");
    let memory = Memory::boot(&spec).expect("boots");
    let start = std::time::Instant::now();
    let bytes = memory.snapshot();
    assert!(bytes.len() < 16 << 10, "{} bytes", bytes.len());
    assert!(
        start.elapsed().as_millis() < 2_000,
        "took {:?}",
        start.elapsed()
    );
}

/// `reserve_highatomic_pageblock()`, mm/page_alloc.c, v6.12: what an atomic request of an order above
/// zero gets when memory is short comes from a pageblock that is kept for such requests from then on.
#[test]
fn a_large_atomic_request_when_memory_is_short_reserves_its_pageblock() {
    let json = r#"{"min_free_kbytes": 512, "direct_reclaim": false, "zones": [
        {"kind": "Normal", "start_pfn": 512, "spanned": 60000}]}"#;
    let mut memory = Memory::boot(&BootSpec::from_json(json).unwrap()).unwrap();
    let order = Order::new(3).unwrap();
    let atomic = |memory: &mut Memory| memory.alloc_pages(Cpu(0), Gfp::ATOMIC, order, None);
    atomic(&mut memory).unwrap();
    assert_eq!(
        memory.zones()[0].nr_reserved_highatomic,
        0,
        "there is plenty"
    );
    while memory.zones()[0].nr_free_pages > memory.zones()[0].watermark.low {
        memory
            .alloc_pages(Cpu(0), Gfp::KERNEL, Order::ZERO, None)
            .unwrap();
    }
    atomic(&mut memory).unwrap();
    assert_eq!(memory.zones()[0].nr_reserved_highatomic, 512);
    assert_eq!(memory.check(), Ok(()));
}
