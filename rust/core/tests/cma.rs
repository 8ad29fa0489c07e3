//! CMA areas: who may use them, what their owner gets and gives back, beside a model that knows which
//! frames are taken.

mod common;

use std::collections::BTreeSet;

use common::cases;
use contigmm_core::address_space::{VmArea, vm_flags};
use contigmm_core::error::AllocError;
use contigmm_core::fault::Touch;
use contigmm_core::mem_map::PageClass;
use contigmm_core::page_isolation::{Blocked, Obstacle};
use contigmm_core::watermark::AllocFlags;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, MigrateType, Order, Pfn, ZoneKind};
use proptest::prelude::*;

const CPU: Cpu = Cpu(0);
const START: u32 = 8192 + 512;
const NR: u32 = 8 * 512;

fn boot_text(cma: &str) -> Result<Memory, String> {
    let text = format!(
        r#"{{"min_free_kbytes": 256, "cma": [{cma}],
            "zones": [{{"kind": "Normal", "start_pfn": 0, "spanned": 32768, "reserved": [[0, 10]]}}]}}"#
    );
    let spec = BootSpec::from_json(&text).map_err(|error| error.0)?;
    Memory::boot(&spec).map_err(|error| error.0)
}

fn boot(order_per_bit: u8) -> Memory {
    let area = format!(
        r#"{{"name": "dma", "start_pfn": {START}, "nr": {NR}, "order_per_bit": {order_per_bit}}}"#
    );
    boot_text(&area).expect("boots")
}

/// Faults pages in until nothing is left above the marks.
fn fill(memory: &mut Memory, most: u64) -> u64 {
    let mm = memory.mm_create();
    let vma = VmArea {
        start_vpn: 0x1000,
        end_vpn: 0x1000 + most,
        flags: vm_flags::WRITE | 1,
        file: None,
        pgoff: 0,
        prealloc: None,
    };
    let touch = Touch {
        addr: 0x1000 << 12,
        nr: most,
        stride: 4096,
        store: Some(1),
    };
    memory.access(mm, CPU, &touch, &vma).progress.done
}

fn in_area(memory: &Memory, class: PageClass) -> usize {
    let frames = (START..START + NR).filter(|&pfn| memory.map().class(Pfn(pfn)) == class);
    frames.count()
}

#[test]
fn an_area_is_free_for_movable_pages_only() {
    let mut memory = boot(0);
    assert_eq!(memory.check(), Ok(()));
    assert_eq!(memory.zones()[0].nr_free_cma, u64::from(NR));
    while memory
        .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
        .is_ok()
    {}
    assert_eq!(in_area(&memory, PageClass::Kernel), 0);
    assert!(fill(&mut memory, 1000) == 0 || in_area(&memory, PageClass::Anon) > 0);
    assert_eq!(memory.check(), Ok(()));
}

#[test]
fn a_request_that_may_not_use_the_area_does_not_count_it() {
    let memory = boot(0);
    let zone = &memory.zones()[0];
    let mark = zone.nr_free_pages - u64::from(NR) / 2;
    let passes = |flags| zone.watermark_ok(Order::ZERO, mark, ZoneKind::Normal, flags);
    assert!(!passes(AllocFlags(0)));
    assert!(passes(AllocFlags::CMA));
}

#[test]
fn movable_pages_use_the_area_once_half_of_what_is_free_is_in_it() {
    let mut memory = boot(0);
    let outside = memory.zones()[0].nr_free_pages - u64::from(NR);
    fill(&mut memory, outside - u64::from(NR) - 2000);
    assert_eq!(
        in_area(&memory, PageClass::Anon),
        0,
        "most is free elsewhere"
    );
    fill(&mut memory, 3500);
    assert!(
        in_area(&memory, PageClass::Anon) > 500,
        "both are used by turns"
    );
}

#[test]
fn what_stands_in_the_area_moves_when_its_owner_asks() {
    let mut memory = boot(0);
    let used = fill(&mut memory, 30_000);
    assert!(in_area(&memory, PageClass::Anon) > 1000, "{used} pages");
    let first = memory
        .cma_alloc(0, 1000, 0, CPU, Gfp::KERNEL)
        .expect("room elsewhere");
    assert_eq!(first, Pfn(START));
    assert_eq!(in_area(&memory, PageClass::Kernel), 1000);
    assert_eq!(memory.check(), Ok(()));
    assert!(memory.cma_release(0, first, 1000, CPU));
    assert!(!memory.cma_release(0, first, 1000, CPU), "given back once");
    memory.drain_all_pages(None);
    assert_eq!(memory.check(), Ok(()));
    let area = memory.cma_areas().next().expect("one").1;
    assert_eq!(
        (area.allocated, area.failed, area.released),
        (1000, 0, 1000)
    );
}

#[test]
fn a_pinned_page_makes_the_next_place_tried() {
    let mut memory = boot(0);
    let outside = memory.zones()[0].nr_free_pages - u64::from(NR);
    fill(&mut memory, outside - u64::from(NR) / 2);
    let (_, pinned) = memory
        .run_alloc(1, CPU, None, Gfp::HIGHUSER_MOVABLE)
        .expect("room");
    let inside = (START..START + NR).contains(&pinned.0);
    assert!(inside, "frame {} should lie in the area", pinned.0);
    let offset = pinned.0 - START;
    assert!(
        (1000..3000).contains(&offset),
        "{offset} frames into the area"
    );
    let before = memory
        .cma_alloc(0, offset - 500, 0, CPU, Gfp::KERNEL)
        .expect("the first place");
    assert_eq!(before, Pfn(START));
    let got = memory
        .cma_alloc(0, 1000, 0, CPU, Gfp::KERNEL)
        .expect("behind the pinned page");
    assert_eq!(got, Pfn(pinned.0 + 1));
    let whole = memory.cma_alloc(0, NR, 0, CPU, Gfp::KERNEL);
    assert_eq!(
        whole,
        Err(AllocError::NoRange { nr: NR }),
        "some of it is taken"
    );
    assert!(memory.cma_release(0, before, offset - 500, CPU));
    assert!(memory.cma_release(0, got, 1000, CPU));
    let whole = memory.cma_alloc(0, NR, 0, CPU, Gfp::KERNEL);
    let blocked = Blocked {
        pfn: pinned,
        by: Obstacle::Pinned,
    };
    assert_eq!(
        whole,
        Err(AllocError::RangeBlocked {
            nr: NR,
            ranges: 1,
            blocked
        })
    );
    assert_eq!(memory.check(), Ok(()));
}

#[test]
fn others_get_no_range_of_an_area() {
    let mut memory = boot(0);
    let gfp = Gfp::HIGHUSER;
    while let Ok(base) = memory.alloc_contig_pages(1 << 11, CPU, None, gfp, PageClass::Kernel) {
        assert!(base.0 + (1 << 11) <= START || base.0 >= START + NR);
    }
    assert_eq!(
        memory.map().pageblock_migratetype(Pfn(START)),
        MigrateType::Cma
    );
    assert_eq!(memory.check(), Ok(()));
}

#[test]
fn areas_that_cannot_be_are_refused() {
    let refused = |start: u64, nr: u64, bit: u8| {
        let area =
            format!(r#"{{"name": "a", "start_pfn": {start}, "nr": {nr}, "order_per_bit": {bit}}}"#);
        boot_text(&area).expect_err("no such area")
    };
    assert!(refused(512, 100, 0).contains("whole pageblocks"));
    assert!(refused(512, 0, 0).contains("whole pageblocks"));
    assert!(
        refused(0, 512, 0).contains("for it alone"),
        "it has reserved frames"
    );
    assert!(refused(32_768, 512, 0).contains("beyond the last frame"));
    assert!(refused(512, 4_294_966_784, 0).contains("beyond the last frame"));
    assert!(refused(512, 512, 10).contains("more than a pageblock"));
    let twice = r#"{"name": "a", "start_pfn": 512, "nr": 1024}, {"name": "b", "start_pfn": 1024, "nr": 512}"#;
    assert!(
        boot_text(twice)
            .expect_err("they overlap")
            .contains("\"b\"")
    );
}

#[derive(Clone, Debug)]
enum Step {
    Fill(u64),
    Take { nr: u32, align: u8 },
    Give { which: usize },
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..8000_u64).prop_map(Step::Fill),
        6 => (1..3000_u32, 0..12_u8).prop_map(|(nr, align)| Step::Take { nr, align }),
        4 => any::<usize>().prop_map(|which| Step::Give { which }),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn what_is_taken_is_aligned_disjoint_and_in_the_area(
        steps in prop::collection::vec(step(), 1..40),
        order_per_bit in 0..4_u8,
    ) {
        let mut memory = boot(order_per_bit);
        let mut taken: Vec<(Pfn, u32)> = Vec::new();
        let mut frames = BTreeSet::new();
        for step in &steps {
            match *step {
                Step::Fill(nr) => {
                    fill(&mut memory, nr);
                }
                Step::Take { nr, align } => {
                    if let Ok(pfn) = memory.cma_alloc(0, nr, align, CPU, Gfp::KERNEL) {
                        prop_assert!(pfn.0.is_multiple_of(1 << align));
                        prop_assert!(pfn.0 >= START && pfn.0 + nr <= START + NR);
                        for frame in pfn.0..pfn.0 + nr {
                            prop_assert!(frames.insert(frame), "frame {} twice", frame);
                        }
                        taken.push((pfn, nr));
                    }
                }
                Step::Give { which } if !taken.is_empty() => {
                    let (pfn, nr) = taken.swap_remove(which % taken.len());
                    prop_assert!(memory.cma_release(0, pfn, nr, CPU));
                    frames.retain(|frame| !(pfn.0..pfn.0 + nr).contains(frame));
                }
                Step::Restore => {
                    let restored = Memory::restore(&memory.snapshot(), 1 << 24).expect("a snapshot");
                    prop_assert_eq!(restored.digest(), memory.digest());
                    memory = restored;
                }
                Step::Give { .. } => {}
            }
            prop_assert_eq!(memory.check(), Ok(()), "after {:?}", step);
        }
    }
}
