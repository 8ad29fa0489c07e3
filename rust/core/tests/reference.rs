//! The core against the reference allocator: the same frames, the same lists in the same order, the
//! same per-CPU lists and boosts, after every step.

mod common;

use common::reference::Reference;
use common::{GFPS, Step, cases, step};
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order, PageClass, Pfn};
use proptest::prelude::*;

struct Pair {
    memory: Memory,
    model: Reference,
    used: Vec<(Pfn, Order)>,
}

impl Pair {
    /// The same with somebody who listens: the inlined paths step aside, what happens is the same.
    fn traced(spec: &str) -> Self {
        let mut pair = Self::boot(spec);
        assert!(pair.memory.trace_start(1 << 20), "nobody listens");
        pair
    }

    fn boot(spec: &str) -> Self {
        let memory = Memory::boot(&BootSpec::from_json(spec).expect("valid")).expect("bootable");
        let model = Reference::of(&memory);
        Self {
            memory,
            model,
            used: Vec::new(),
        }
    }

    fn free(&mut self, cpu: u16, pfn: Pfn, order: Order) {
        self.memory.free_pages(Cpu(cpu), pfn, order);
        self.model.free(cpu.into(), pfn.0, order.get().into());
    }

    fn pick(&mut self, which: usize) -> Option<(Pfn, Order)> {
        (!self.used.is_empty()).then(|| self.used.swap_remove(which % self.used.len()))
    }

    fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Alloc { cpu, gfp, order } => {
                let gfp = GFPS[gfp];
                let order = Order::new(order).expect("an order");
                let class = if gfp.has(Gfp::MOVABLE) {
                    PageClass::Anon
                } else {
                    PageClass::Kernel
                };
                let got = self
                    .memory
                    .alloc_class(Cpu(cpu), gfp, order, None, class)
                    .ok();
                let expected = self.model.alloc(cpu.into(), gfp, order.get().into());
                prop_assert_eq!(got.map(|pfn| pfn.0), expected);
                self.used.extend(got.map(|pfn| (pfn, order)));
            }
            Step::Free { which } => {
                if let Some((pfn, order)) = self.pick(which) {
                    self.free(1, pfn, order);
                }
            }
            Step::Split { which } | Step::FreeRun { which } => {
                if let Some((pfn, order)) = self.pick(which) {
                    self.memory.split_page(pfn, order);
                    for frame in (pfn.0..pfn.0 + order.nr_pages()).rev() {
                        self.free(0, Pfn(frame), Order::ZERO);
                    }
                }
            }
            Step::Drain => {
                self.memory.drain_all_pages(None);
                self.model.drain_all();
            }
            Step::Decay { cpu } => {
                self.memory.decay_pcp(Cpu(cpu));
                self.model.decay(cpu.into());
            }
        }
        Ok(())
    }

    /// Holds what was told since the last time against what the reference tells.
    fn compare_events(&mut self) -> Result<(), TestCaseError> {
        let (events, dropped) = self.memory.trace_take();
        let told: Vec<_> = events
            .iter()
            .map(|event| (event.tracepoint, event.fields))
            .collect();
        prop_assert_eq!(dropped, 0);
        prop_assert_eq!(told, self.model.take_events());
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        for zone in self.memory.zones() {
            let at = zone.id.index();
            let blocks: Vec<_> = self
                .memory
                .free_blocks(zone.id)
                .map(|b| (b.pfn.0, u32::from(b.order.get()), b.migratetype.index()))
                .collect();
            prop_assert_eq!(blocks, self.model.free_blocks(at));
            let lists: Vec<Vec<u32>> = zone
                .pcps
                .iter()
                .flat_map(|pcp| pcp.lists().map(|(_, list)| list.iter().collect()))
                .collect();
            prop_assert_eq!(lists, self.model.pcp_lists(at));
            let boost = i64::try_from(zone.watermark_boost).expect("frames");
            prop_assert_eq!(boost, self.model.boost(at));
        }
        Ok(())
    }
}

/// Zones that meet within a pageblock, a hole, a start that is not aligned.
const UNALIGNED: &str = r#"{"nr_cpus": 2, "min_free_kbytes": 64, "direct_reclaim": false, "zones": [
    {"kind": "DMA32", "start_pfn": 5, "spanned": 3000, "holes": [[1100, 300]]},
    {"kind": "Normal", "start_pfn": 3005, "spanned": 5300}]}"#;
/// The same as v6.16 has it.
const HALF_MIN: &str = r#"{"nr_cpus": 2, "min_free_kbytes": 64, "direct_reclaim": false,
    "pcp": {"free_high_half_min": true}, "zones": [
    {"kind": "DMA32", "start_pfn": 5, "spanned": 3000, "holes": [[1100, 300]]},
    {"kind": "Normal", "start_pfn": 3005, "spanned": 5300}]}"#;
/// The same where only a want of frames lets a zone count as below its high mark.
const BY_FRAMES: &str = r#"{"nr_cpus": 2, "min_free_kbytes": 64, "direct_reclaim": false,
    "pcp": {"below_high_by_frames": true}, "zones": [
    {"kind": "DMA32", "start_pfn": 5, "spanned": 3000, "holes": [[1100, 300]]},
    {"kind": "Normal", "start_pfn": 3005, "spanned": 5300}]}"#;
/// Large enough for a highatomic reserve.
const RESERVING: &str = r#"{"nr_cpus": 2, "min_free_kbytes": 512, "direct_reclaim": false, "zones": [
    {"kind": "Normal", "start_pfn": 512, "spanned": 60000}]}"#;

/// Requests of several kinds until few frames are free, or until nothing more is given.
fn fill(pair: &mut Pair, leave: u64) {
    for at in 0..20_000 {
        let free: u64 = pair
            .memory
            .zones()
            .iter()
            .map(|zone| zone.nr_free_pages)
            .sum();
        if free <= leave {
            return;
        }
        let order = [4, 0, 1, 7, 3, 2][at % 6];
        let gfp = [0, 0, 2, 4][at % 4];
        pair.apply(&Step::Alloc { cpu: 0, gfp, order })
            .expect("equal");
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn every_step_is_the_references_on_unaligned_zones(
        steps in prop::collection::vec(step(), 1..500),
    ) {
        let mut pair = Pair::boot(UNALIGNED);
        for step in &steps {
            pair.apply(step)?;
            pair.compare()?;
        }
    }

    #[test]
    fn every_step_is_the_references_where_half_of_high_min_counts_before_a_list_is_emptied(
        steps in prop::collection::vec(step(), 1..500),
    ) {
        let mut pair = Pair::boot(HALF_MIN);
        for step in &steps {
            pair.apply(step)?;
            pair.compare()?;
        }
    }

    #[test]
    fn every_step_is_the_references_where_only_frames_count_for_the_high_mark(
        steps in prop::collection::vec(step(), 1..500),
    ) {
        let mut pair = Pair::boot(BY_FRAMES);
        fill(&mut pair, 2000);
        for step in &steps {
            pair.apply(step)?;
            pair.compare()?;
        }
    }

    #[test]
    fn every_step_is_the_references_when_memory_is_short(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut pair = Pair::boot(UNALIGNED);
        fill(&mut pair, 400);
        for step in &steps {
            pair.apply(step)?;
            pair.compare()?;
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn every_event_is_the_references(steps in prop::collection::vec(step(), 1..300)) {
        let mut pair = Pair::traced(UNALIGNED);
        for step in &steps {
            pair.apply(step)?;
            pair.compare_events()?;
            pair.compare()?;
        }
    }

    #[test]
    fn every_event_is_the_references_when_memory_is_short(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut pair = Pair::traced(UNALIGNED);
        fill(&mut pair, 400);
        pair.compare_events()?;
        for step in &steps {
            pair.apply(step)?;
            pair.compare_events()?;
            pair.compare()?;
        }
    }

    #[test]
    fn every_event_is_the_references_with_a_highatomic_reserve(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut pair = Pair::traced(RESERVING);
        fill(&mut pair, 1500);
        for step in &steps {
            pair.apply(step)?;
            pair.compare_events()?;
        }
        pair.compare()?;
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn every_step_is_the_references_with_a_highatomic_reserve(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut pair = Pair::boot(RESERVING);
        fill(&mut pair, 1500);
        for step in &steps {
            pair.apply(step)?;
            pair.compare()?;
        }
    }
}
