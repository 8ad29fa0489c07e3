//! kswapd and kcompactd by the clock: who wakes them, how long they work, and when they stop.

use contigmm_core::import::Import;
use contigmm_core::mem_map::PageClass;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order, Pfn, VmEvent};

const CPU: Cpu = Cpu(0);
const FRAMES: u32 = 1 << 15;
const SECOND: u64 = 1_000_000_000;

/// Two CPUs, memory full of `class` but for `free` frames, and the threads if `background` is so.
fn full(class: PageClass, free: u32, background: &str) -> Memory {
    let spec = format!(
        r#"{{"zones": [{{"kind": "Normal", "start_pfn": 0, "spanned": {FRAMES}}}], "nr_cpus": 2,
             "pcp": {{"enabled": false}}, "min_free_kbytes": 1024, "seed": 7 {background}}}"#
    );
    let mut memory = Memory::boot(&BootSpec::from_json(&spec).expect("valid")).expect("it boots");
    let state = Import {
        run_start: &[0],
        run_nr: &[FRAMES - free],
        run_class: &[class as u8],
        free_pfn: &[FRAMES - free],
        free_order: &[u8::try_from(free.ilog2()).expect("small")],
        ..Import::default()
    };
    memory.import(&state).expect("it fits");
    memory
}

const THREADS: &str = r#", "background": {"proactiveness": 0}"#;

fn free(memory: &Memory) -> u64 {
    memory.zones()[0].nr_free_pages
}

fn stolen(memory: &Memory) -> u64 {
    memory.vmstat().get(VmEvent::PgStealKswapd)
}

/// Takes frames until the low mark is failed, which wakes kswapd.
fn down_to_low(memory: &mut Memory) {
    let movable = Gfp::HIGHUSER_MOVABLE;
    while memory.vmstat().get(VmEvent::AllocStall) == 0 && free(memory) > low(memory) {
        memory
            .alloc_pages(CPU, movable, Order::ZERO, None)
            .expect("above the low mark");
    }
    memory
        .alloc_pages(CPU, movable, Order::ZERO, None)
        .expect("above the min mark");
}

fn low(memory: &Memory) -> u64 {
    memory.zones()[0].watermark.low
}

#[test]
fn kswapd_wakes_below_the_low_mark_and_works_while_time_passes() {
    let mut memory = full(PageClass::File, 512, THREADS);
    memory.advance_clock(SECOND);
    assert_eq!(stolen(&memory), 0, "nobody woke it");
    down_to_low(&mut memory);
    assert_eq!(stolen(&memory), 0, "no time has passed");
    memory.advance_clock(SECOND);
    let high = memory.zones()[0].watermark.high;
    assert!(free(&memory) > high, "{} of {high}", free(&memory));
    let done = stolen(&memory);
    memory.advance_clock(SECOND);
    assert_eq!(stolen(&memory), done, "it sleeps");
    memory.check().expect("sound");
}

#[test]
fn without_the_threads_nothing_happens_as_time_passes() {
    let mut memory = full(PageClass::File, 512, "");
    down_to_low(&mut memory);
    memory.advance_clock(SECOND);
    assert_eq!(stolen(&memory), 0);
}

#[test]
fn the_threads_work_no_longer_than_time_passes_but_for_a_pass() {
    let mut memory = full(PageClass::File, 512, THREADS);
    let mut last = 0;
    down_to_low(&mut memory);
    let begin = memory.clock().latest_ns();
    let mut ticks = 0;
    while stolen(&memory) == last || last == 0 {
        last = stolen(&memory);
        memory.advance_clock(100);
        ticks += 1;
        assert!(ticks < 100_000, "it never works");
    }
    // The first pass took longer than its tick, and the second waited until that was made up for.
    let passed = memory.clock().latest_ns() - begin;
    assert!(ticks > 10, "{ticks}");
    assert!(passed >= 100 * (ticks - 1), "{passed}");
}

#[test]
fn system_calls_let_the_threads_work_for_the_time_that_they_took() {
    let mut memory = full(PageClass::File, 512, THREADS);
    down_to_low(&mut memory);
    memory.clock_mut().charge(CPU, SECOND);
    memory.work_in_background();
    assert!(free(&memory) > memory.zones()[0].watermark.high);
    let other = memory.clock().now_ns(Cpu(1));
    assert!(
        0 < other && other < SECOND,
        "on the CPU that was idle: {other}"
    );
}

#[test]
fn kswapd_gives_a_node_up_where_it_finds_nothing_sixteen_times() {
    let mut memory = full(PageClass::Kernel, 512, THREADS);
    down_to_low(&mut memory);
    memory.advance_clock(SECOND);
    assert_eq!(memory.vmstat().get(VmEvent::KswapdWake), 16);
    let _ = memory.alloc_pages(CPU, Gfp::HIGHUSER_MOVABLE, Order::ZERO, None);
    memory.advance_clock(SECOND);
    assert_eq!(memory.vmstat().get(VmEvent::KswapdWake), 16, "hopeless");
}

#[test]
fn a_boost_goes_and_kcompactd_makes_pageblocks() {
    let mut memory = full(PageClass::File, 512, THREADS);
    down_to_low(&mut memory);
    memory.advance_clock(SECOND);
    memory
        .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
        .expect("above the marks");
    let boost = memory.zones()[0].watermark_boost;
    assert!(boost > 0, "a block of another type");
    let _ = memory.alloc_pages(CPU, Gfp::HIGHUSER_MOVABLE, Order::ZERO, None);
    memory.advance_clock(SECOND);
    assert_eq!(memory.zones()[0].watermark_boost, 0);
    assert!(memory.vmstat().get(VmEvent::CompactDaemonWake) > 0);
    memory.check().expect("sound");
}

#[test]
fn the_same_operations_give_the_same_machine_also_from_a_snapshot_within() {
    let run = |restored: bool| {
        let mut memory = full(PageClass::File, 512, THREADS);
        down_to_low(&mut memory);
        memory.advance_clock(100);
        let high = memory.zones()[0].watermark.high;
        assert!(
            stolen(&memory) > 0 && free(&memory) <= high,
            "it is at work"
        );
        if restored {
            memory = Memory::restore(&memory.snapshot(), 1 << 30).expect("its own");
        }
        memory.advance_clock(SECOND);
        memory.digest()
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn a_broken_up_node_is_compacted_within_half_a_second() {
    let mut memory = full(
        PageClass::File,
        512,
        r#", "background": {"proactiveness": 100}"#,
    );
    for pfn in (0..FRAMES - 512).step_by(2) {
        memory.free_pages(CPU, Pfn(pfn), Order::ZERO);
    }
    memory.advance_clock(SECOND / 4);
    assert_eq!(memory.vmstat().get(VmEvent::PgMigrateSuccess), 0);
    memory.advance_clock(SECOND / 2);
    assert!(memory.vmstat().get(VmEvent::PgMigrateSuccess) > 1000);
    memory.check().expect("sound");
}
