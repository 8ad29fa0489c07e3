//! What a recording asks is asked; which block it got there is never looked at.

use contigmm_core::kmem_replay::{Recorded, Replay, ReplayError, Replayed, Step};
use contigmm_core::{BootSpec, Cpu, Gfp, Import, Memory, PageClass};

const U: u8 = 0;
const M: u8 = 1;

/// Two pageblocks in use, the first of them with one frame in two free; the rest as `free` says.
fn machine(free: &[(u32, u8)], types: &[u8]) -> Memory {
    let nr_frames = u32::try_from(types.len() * 512).expect("small");
    let spec = format!(
        r#"{{"nr_cpus": 2, "min_free_kbytes": 0, "zones": [
            {{"kind": "Normal", "start_pfn": 0, "spanned": {nr_frames},
             "pcp_limits": {{"batch": 63, "high_min": 500, "high_max": 5000}}}}]}}"#
    );
    let mut memory = Memory::boot(&BootSpec::from_json(&spec).expect("valid")).expect("bootable");
    let mut runs = Vec::new();
    let mut next = 0;
    let mut free = free.to_vec();
    free.sort_unstable();
    for &(pfn, order) in &free {
        runs.push((next, pfn - next));
        next = pfn + (1 << order);
    }
    runs.push((next, nr_frames - next));
    runs.retain(|&(_, nr)| nr > 0);
    let columns = |at: fn(&(u32, u32)) -> u32| runs.iter().map(at).collect::<Vec<u32>>();
    let free_pfn: Vec<u32> = free.iter().map(|&(pfn, _)| pfn).collect();
    let free_order: Vec<u8> = free.iter().map(|&(_, order)| order).collect();
    let state = Import {
        run_start: &columns(|&(start, _)| start),
        run_nr: &columns(|&(_, nr)| nr),
        run_class: &vec![PageClass::Slab as u8; runs.len()],
        free_pfn: &free_pfn,
        free_order: &free_order,
        pageblock_mt: types,
        ..Import::default()
    };
    memory.import(&state).expect("sound");
    memory
}

type Event = (Step, u8, u8, u32); // order, migratetype, handle

fn replay(memory: &mut Memory, events: &[Event]) -> Result<Replayed, ReplayError> {
    let mut replay = Replay::begin(memory)?;
    let zeros = vec![0; events.len()];
    replay.run(
        memory,
        &Recorded {
            step: &events.iter().map(|e| e.0 as u8).collect::<Vec<_>>(),
            cpu: &zeros,
            zone: &zeros,
            order: &events.iter().map(|e| e.1).collect::<Vec<_>>(),
            migratetype: &events.iter().map(|e| e.2).collect::<Vec<_>>(),
            handle: &events.iter().map(|e| e.3).collect::<Vec<_>>(),
        },
    )?;
    memory.check().expect("invariants hold");
    Ok(replay.replayed)
}

#[test]
fn a_block_goes_back_to_where_the_simulation_took_it() {
    let mut memory = machine(&[(1024, 10)], &[M; 4]);
    let before = memory.buddyinfo();
    let events = [
        (Step::Take, 4, M, 16),
        (Step::Take, 0, M, 2047),
        (Step::Give, 4, 0, 16),
        (Step::Give, 0, 0, 2047),
    ];
    // Handle 16 names a frame that is in use: the real kernel took it after an unseen return.
    let found = replay(&mut memory, &events).expect("sound");
    assert_eq!(found.taken, 2);
    assert_eq!(found.unknown_frees, 0);
    let mut after = before;
    after[0][4] += 1; // what stood for handle 16 at the start
    assert_eq!(memory.buddyinfo(), after);
}

#[test]
fn names_of_handles_do_not_matter() {
    let run = |rename: fn(u32) -> u32| {
        let mut memory = machine(&[(1024, 10), (600, 0), (602, 0)], &[M; 4]);
        let mut events = Vec::new();
        for i in 0..40 {
            events.push((Step::Take, 0, M, rename(1024 + 3 * i)));
        }
        for i in (0..40).step_by(2) {
            events.push((Step::Give, 0, 0, rename(1024 + 3 * i)));
        }
        replay(&mut memory, &events).expect("sound");
        memory.buddyinfo()
    };
    assert_eq!(run(|handle| handle), run(|handle| 3071 - handle));
}

#[test]
fn what_nobody_took_was_stolen_in_silence() {
    let odd: Vec<(u32, u8)> = (0..100).map(|i| (2 * i, 0)).collect();
    let mut memory = machine(&odd, &[M, M]);
    // Frame 0 is free, and somebody uses it as unmovable memory. What no event took was a batch of
    // stolen blocks: those of a claimed pageblock have their events, but the first.
    let found = replay(&mut memory, &[(Step::Alloc, 0, U, 0)]).expect("sound");
    assert_eq!((found.silent, found.missing), (1, 0));
    assert_eq!((found.claims, found.steals), (0, 63));
}

#[test]
fn a_refill_that_came_in_silence_takes_its_whole_batch() {
    let mut memory = machine(&[(0, 10), (1024, 10)], &[M; 4]);
    let found = replay(&mut memory, &[(Step::Alloc, 0, M, 5)]).expect("sound");
    assert_eq!(found.taken, 63);
}

#[test]
fn a_batch_that_must_not_fragment_stops_short_instead_of_stealing() {
    let spec = r#"{"nr_cpus": 2, "min_free_kbytes": 0, "zones": [
        {"kind": "DMA32", "start_pfn": 0, "spanned": 1024,
         "pcp_limits": {"batch": 63, "high_min": 500, "high_max": 5000}},
        {"kind": "Normal", "start_pfn": 1024, "spanned": 1024,
         "pcp_limits": {"batch": 63, "high_min": 500, "high_max": 5000}}]}"#;
    let mut memory = Memory::boot(&BootSpec::from_json(spec).expect("valid")).expect("bootable");
    let mut replay = Replay::begin(&mut memory).expect("nobody uses it");
    let handles: Vec<u32> = (1024..1024 + 20).collect();
    // Ten blocks of 63 came. What somebody then uses unseen is of a batch of its own, not their rest.
    let step: Vec<u8> = (0..20)
        .map(|at| if at < 10 { Step::Refill } else { Step::Alloc } as u8)
        .collect();
    let events = Recorded {
        step: &step,
        cpu: &[0; 20],
        zone: &[1; 20],
        order: &[0; 20],
        migratetype: &[M; 20],
        handle: &handles,
    };
    replay.run(&mut memory, &events).expect("sound");
    assert!(replay.replayed.taken > 63, "{:?}", replay.replayed);
}

#[test]
fn a_free_of_what_was_never_in_use_is_counted_and_left_out() {
    let mut memory = machine(&[(0, 10)], &[M; 4]);
    let before = memory.buddyinfo();
    let found = replay(&mut memory, &[(Step::Drain, 0, 0, 7)]).expect("sound");
    assert_eq!(found.unknown_frees, 1);
    assert_eq!(memory.buddyinfo(), before);
}

#[test]
fn a_request_that_nothing_can_serve_is_missing() {
    let mut memory = machine(&[(1, 0), (2, 0)], &[M; 4]);
    let events = [(Step::Take, 1, M, 1), (Step::Give, 1, 0, 1)];
    let found = replay(&mut memory, &events).expect("sound");
    assert_eq!(found.missing, 1);
}

#[test]
fn events_that_cannot_be_are_refused() {
    let refusal = |event: Event| {
        let mut memory = machine(&[(0, 10)], &[M; 4]);
        replay(&mut memory, &[event]).expect_err("cannot be").0
    };
    assert!(refusal((Step::Take, 11, M, 0)).contains("order 11"));
    assert!(refusal((Step::Take, 0, 77, 0)).contains("migratetype 77"));
    assert!(refusal((Step::Take, 4, M, 2040)).contains("beyond the last"));
}

#[test]
fn a_machine_with_owners_is_refused() {
    let mut memory = machine(&[(0, 10)], &[M; 4]);
    memory
        .run_alloc(3, Cpu(0), None, Gfp::HIGHUSER)
        .expect("room for a run");
    assert!(Replay::begin(&mut memory).is_err());
}
