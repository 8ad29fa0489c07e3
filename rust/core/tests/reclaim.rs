//! Reclaim: what direct reclaim and kswapd free, what they leave, and when they stop.

use contigmm_core::address_space::{MmId, VmArea, vm_flags};
use contigmm_core::import::Import;
use contigmm_core::mem_map::{FileList, PageClass};
use contigmm_core::page_cache::{FileId, FileKind, FileSpec};
use contigmm_core::zap::Markers;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, NodeId, Order, Pfn, VmEvent};
use proptest::prelude::*;

const CPU: Cpu = Cpu(0);
const FRAMES: u32 = 1 << 15;

/// A machine full of page cache but for a few frames below its low mark.
fn full(seed: u64) -> Memory {
    let spec = format!(
        r#"{{"zones": [{{"kind": "Normal", "start_pfn": 0, "spanned": {FRAMES}}}],
             "pcp": {{"enabled": false}}, "min_free_kbytes": 1024, "seed": {seed}}}"#
    );
    let mut memory = Memory::boot(&BootSpec::from_json(&spec).expect("valid")).expect("it boots");
    let state = Import {
        run_start: &[0],
        run_nr: &[FRAMES - 256],
        run_class: &[PageClass::File as u8],
        free_pfn: &[FRAMES - 256],
        free_order: &[8],
        ..Import::default()
    };
    memory.import(&state).expect("it fits");
    memory
}

/// The same with the cache in one file, page by page in frame order.
fn owned(seed: u64) -> (Memory, FileId) {
    let mut memory = full(seed);
    let file = memory.file_create(FileSpec {
        kind: FileKind::Regular,
        size: 0,
        fill: None,
    });
    let frames: Vec<Pfn> = (0..FRAMES - 256).map(Pfn).collect();
    memory
        .cache_adopt(file, 0, &frames)
        .expect("they have no owner");
    (memory, file)
}

fn free(memory: &Memory) -> u64 {
    memory.zones()[0].nr_free_pages
}

fn pageblocks(memory: &Memory) -> u64 {
    memory.buddyinfo()[0][9] + 2 * memory.buddyinfo()[0][10]
}

#[test]
fn a_request_below_the_mark_is_served_from_clean_cache() {
    let (mut memory, file) = owned(1);
    let cached = memory.file_nr_pages(file);
    let mut got = 0;
    while got < 2000 {
        memory
            .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
            .expect("cache goes");
        got += 1;
    }
    memory.check().expect("sound");
    let stolen = memory.vmstat().get(VmEvent::PgStealDirect);
    assert_eq!(cached - memory.file_nr_pages(file), stolen);
    // As many as were asked for, and what the marks and one boost of a pageblock want free.
    assert!(
        (2000..=2000 + 512 + 288).contains(&stolen),
        "{stolen} for {got}"
    );
    assert!(memory.vmstat().get(VmEvent::AllocStall) > 0);
}

#[test]
fn dirty_pages_stay_and_then_nothing_is_left_to_give() {
    let (mut memory, file) = owned(2);
    for index in 0..FRAMES - 256 {
        let at = u64::from(index) << 12;
        memory.file_write(file, CPU, at, 1).expect("it is cached");
    }
    let refused = loop {
        if let Err(refused) = memory.alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None) {
            break refused;
        }
    };
    assert_eq!(refused.cause(), "no_room");
    assert_eq!(memory.file_nr_pages(file), u64::from(FRAMES - 256));
    memory.check().expect("sound");
}

#[test]
fn kswapd_stops_at_the_high_mark_and_within_its_budget() {
    let mut memory = full(3);
    assert_eq!(memory.kswapd(NodeId(0), CPU, 10), 10, "its budget");
    memory.kswapd(NodeId(0), CPU, u64::MAX);
    let high = memory.zones()[0].watermark.high;
    // Each pass looks at twice as much as the one before, so the last may free as much as all others.
    let missed = high - 256;
    assert!(
        (high + 1..high + missed + 64).contains(&free(&memory)),
        "{} of {high}",
        free(&memory)
    );
    assert_eq!(memory.kswapd(NodeId(0), CPU, u64::MAX), 0, "balanced");
    memory.check().expect("sound");
}

#[test]
fn while_kswapd_works_each_free_on_its_cpu_empties_lists() {
    let spec = format!(
        r#"{{"nr_cpus": 2, "min_free_kbytes": 1024, "zones": [
            {{"kind": "Normal", "start_pfn": 0, "spanned": {FRAMES},
              "pcp_limits": {{"batch": 63, "high_min": 2000, "high_max": 9000}}}}]}}"#
    );
    let mut memory = Memory::boot(&BootSpec::from_json(&spec).expect("valid")).expect("it boots");
    let waiting: Vec<u32> = (FRAMES - 4096..FRAMES - 2048).collect();
    let state = Import {
        run_start: &[0, FRAMES - 2048],
        run_nr: &[FRAMES - 4096, 2048],
        run_class: &[PageClass::File as u8, PageClass::Kernel as u8],
        pcp_pfn: &waiting,
        pcp_order: &vec![0; waiting.len()],
        pcp_cpu: &vec![1; waiting.len()],
        pcp_high: &[(0, 1, 9000)],
        ..Import::default()
    };
    memory.import(&state).expect("it fits");
    let freed = memory.kswapd(NodeId(0), Cpu(1), 24);
    let left = memory.zones()[0].pcps[1].count;
    // Without the mark they would wait too: the list may hold 9,000.
    assert!(freed <= 24 && u64::from(left) + 40 * freed < 2048, "{left}");
    assert!(!memory.zones()[0].reclaim_active);
    memory.check().expect("sound");
}

#[test]
fn kswapd_takes_a_boost_back() {
    let mut memory = full(4);
    memory.kswapd(NodeId(0), CPU, u64::MAX);
    memory
        .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
        .expect("it is balanced");
    assert_eq!(
        memory.zones()[0].watermark_boost,
        512,
        "a fallback to movable pageblocks"
    );
    memory.kswapd(NodeId(0), CPU, u64::MAX);
    assert_eq!(memory.zones()[0].watermark_boost, 0);
    memory.check().expect("sound");
}

/// Free pageblocks after evicting a tenth of the cache by a plain generator of random frames.
fn at_random(seed: u64) -> u64 {
    let mut memory = full(seed);
    let mut state = seed;
    let mut left = FRAMES / 10;
    while left > 0 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let pfn = Pfn(u32::try_from(state >> 33).expect("31 bits") % (FRAMES - 256));
        if memory.map().class(pfn) == PageClass::File {
            memory.free_pages(CPU, pfn, Order::ZERO);
            left -= 1;
        }
    }
    pageblocks(&memory)
}

#[test]
fn reclaiming_a_tenth_makes_no_more_pageblocks_than_evicting_at_random() {
    let (mut reclaimed, mut random) = (0, 0);
    for seed in 0..10 {
        let mut memory = full(seed);
        // Each request takes one frame of what was reclaimed, so reclaim in the middle of memory.
        let target = free(&memory) + u64::from(FRAMES / 10);
        while memory.vmstat().get(VmEvent::PgStealDirect) + 256 < target {
            memory
                .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
                .expect("cache goes");
        }
        reclaimed += pageblocks(&memory);
        random += at_random(seed);
    }
    assert!(
        reclaimed <= random,
        "{reclaimed} pageblocks, {random} at random"
    );
}

/// Frames on the inactive and on the active list.
fn listed(memory: &Memory) -> [u64; 2] {
    let zone = memory.zones()[0].id;
    [FileList::Inactive, FileList::Active].map(|list| memory.map().nr_file(zone, list))
}

#[test]
fn pages_of_files_count_on_the_list_that_they_were_captured_on() {
    let mut memory = full(5);
    let all = u64::from(FRAMES - 256);
    assert_eq!(listed(&memory), [all, 0]);
    let active: Vec<Pfn> = (0..100).map(Pfn).collect();
    memory.mark_used(&active, true);
    assert_eq!(listed(&memory), [all - 100, 100]);
    memory.mark_used(&[Pfn(500)], false);
    assert_eq!(
        listed(&memory),
        [all - 100, 100],
        "mapped ones are inactive"
    );
}

/// What happens to pages of files.
#[derive(Clone, Debug)]
enum Step {
    /// A page of the file is written.
    Write(u64),
    /// The file ends at this page.
    Truncate(u64),
    /// A write of so many pages that nobody owns.
    WriteOut(u32),
    /// Folios from this frame on are found to be used.
    Use(u32, bool),
    /// The mapped pages are locked, or no longer.
    Lock(bool),
    /// Mappings of the file come, or go.
    Map(u64),
    Unmap(u64),
    /// Requests of this order take memory until reclaim was needed so often.
    Take(u8, u64),
    /// Every so many-th of what requests took goes back.
    Give(usize),
    Kswapd(u64),
    Compact,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..64_u64).prop_map(Step::Write),
        (0..64_u64).prop_map(Step::Truncate),
        (1..64_u32).prop_map(Step::WriteOut),
        (0..1500_u32, any::<bool>()).prop_map(|(at, active)| Step::Use(at, active)),
        any::<bool>().prop_map(Step::Lock),
        (0..64_u64).prop_map(Step::Map),
        (0..64_u64).prop_map(Step::Unmap),
        (0..5_u8, 1..40_u64).prop_map(|(order, nr)| Step::Take(order, nr)),
        (1..4_usize).prop_map(Step::Give),
        (1..200_u64).prop_map(Step::Kswapd),
        Just(Step::Compact),
        Just(Step::Restore),
    ]
}

/// A small machine with one file that one process maps.
struct Mapped {
    memory: Memory,
    file: FileId,
    mm: MmId,
    taken: Vec<(Pfn, Order)>,
}

impl Mapped {
    fn new() -> Self {
        let spec = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 2048}],
                       "min_free_kbytes": 128}"#;
        let mut memory = Memory::boot(&BootSpec::from_json(spec).expect("valid")).expect("boots");
        let file = memory.file_create(FileSpec {
            kind: FileKind::Regular,
            size: 64 << 12,
            fill: None,
        });
        let mm = memory.mm_create();
        Self {
            memory,
            file,
            mm,
            taken: Vec::new(),
        }
    }

    fn apply(&mut self, step: &Step) {
        let Self {
            memory,
            file,
            mm,
            taken,
        } = self;
        match *step {
            Step::Write(page) => drop(memory.file_write(*file, CPU, page << 12, 1)),
            Step::Truncate(page) => {
                memory.file_truncate(*file, CPU, page << 12);
                memory.file_truncate(*file, CPU, 64 << 12);
            }
            Step::WriteOut(nr) => drop(memory.write_pages(CPU, 0, nr << 12)),
            Step::Use(at, active) => {
                let heads: Vec<Pfn> = (at..at + 100).map(Pfn).collect();
                memory.mark_used(&heads, active);
            }
            Step::Lock(on) => {
                let flags = if on { vm_flags::LOCKED } else { 0 };
                memory.mlock_range(*mm, 0, 64, flags);
            }
            Step::Map(page) => {
                let vma = VmArea {
                    start_vpn: 0,
                    end_vpn: 64,
                    flags: 1,
                    file: Some(*file),
                    pgoff: 0,
                    prealloc: None,
                };
                memory.populate(*mm, CPU, page, 64 - page, &vma, false);
            }
            Step::Unmap(page) => drop(memory.zap(*mm, CPU, page, 64 - page, Markers::Drop)),
            Step::Take(order, nr) => {
                let order = Order::new(order).expect("small");
                let stop = memory.vmstat().get(VmEvent::AllocStall) + nr;
                while memory.vmstat().get(VmEvent::AllocStall) < stop
                    && let Ok(pfn) = memory.alloc_pages(CPU, Gfp::KERNEL, order, None)
                {
                    taken.push((pfn, order));
                }
            }
            Step::Give(each) => {
                let (given, kept): (Vec<_>, Vec<_>) = std::mem::take(taken)
                    .into_iter()
                    .enumerate()
                    .partition(|(at, _)| at % each == 0);
                *taken = kept.into_iter().map(|(_, block)| block).collect();
                for (_, (pfn, order)) in given {
                    memory.free_pages(CPU, pfn, order);
                }
            }
            Step::Kswapd(budget) => drop(memory.kswapd(NodeId(0), CPU, budget)),
            Step::Compact => memory.compact_memory(CPU),
            Step::Restore => {
                *memory = Memory::restore(&memory.snapshot(), 1 << 30).expect("its own");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pages_of_files_are_counted_as_a_recount_counts_them(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut world = Mapped::new();
        for step in &steps {
            world.apply(step);
            prop_assert_eq!(world.memory.check(), Ok(()), "after {:?}", step);
        }
    }
}
