//! What programs asked is asked; what the kernel made of it is simulated, whatever frames it chose.

use contigmm_core::kmem_replay::ReplayError;
use contigmm_core::program_replay::{Played, ProgramReplay, Requests, Start};
use contigmm_core::{BootSpec, Gfp, Import, Memory, PageClass, Pfn};

const M: Gfp = Gfp::HIGHUSER_MOVABLE;
const U: Gfp = Gfp::KERNEL;
const SECOND: u64 = 1_000_000_000;

/// A zone of eight pageblocks with kswapd and kcompactd. Pageblocks 0 to 3 are a file's pages, every
/// other one of the third and the fourth is free; 4 and 5 are kernel pages, of which the first
/// `listed` stand on CPU 0's list; 6 and 7 are free.
fn machine(listed: u32) -> Memory {
    machine_of(listed, 1, (PageClass::File, 0))
}

/// The same with another type of pageblocks 4 and 5, and other folios in 0 and 1. If these are large,
/// no other page is a file's.
fn machine_of(listed: u32, kernel_type: u8, (class, order): (PageClass, u8)) -> Memory {
    let spec = r#"{"nr_cpus": 2, "background": {}, "costs": {},
        "zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 4096,
         "watermarks": {"min": 20, "low": 400, "high": 500, "promo": 600},
         "pcp_limits": {"batch": 7, "high_min": 500, "high_max": 5000}}]}"#;
    let spec = BootSpec::from_json(spec).expect("valid");
    let mut memory = Memory::boot(&spec).expect("bootable");
    let other = if order > 0 { PageClass::Anon } else { class };
    let odd = || (1024..2048).filter(|pfn| pfn % 2 == 1);
    let mut runs = vec![(0, 1024, class as u8)];
    runs.extend(odd().map(|pfn| (pfn, 1, other as u8)));
    runs.push((2048 + listed, 1024 - listed, PageClass::Kernel as u8));
    let mut free: Vec<(u32, u8)> = odd().map(|pfn| (pfn - 1, 0)).collect();
    free.push((3072, 10));
    let pcp_pfn: Vec<u32> = (2048..2048 + listed).collect();
    let nr_listed = pcp_pfn.len();
    let mut run_order = vec![0; runs.len()];
    run_order[0] = order;
    let state = Import {
        run_start: &runs.iter().map(|run| run.0).collect::<Vec<_>>(),
        run_nr: &runs.iter().map(|run| run.1).collect::<Vec<_>>(),
        run_class: &runs.iter().map(|run| run.2).collect::<Vec<_>>(),
        run_order: &run_order,
        free_pfn: &free.iter().map(|block| block.0).collect::<Vec<_>>(),
        free_order: &free.iter().map(|block| block.1).collect::<Vec<_>>(),
        pageblock_mt: &[1, 1, 1, 1, kernel_type, kernel_type, 1, 1],
        pcp_pfn: &pcp_pfn,
        pcp_order: &vec![0; nr_listed],
        pcp_cpu: &vec![0; nr_listed],
        pcp_high: &[(0, 0, 1000)],
    };
    memory.import(&state).expect("sound");
    memory
}

/// Asked (`Some`) or given back, log2 of the frames, handle, ns.
type Event = (Option<Gfp>, u8, u32, u64);

fn replay(memory: &mut Memory, start: &Start, events: &[Event]) -> Result<Played, ReplayError> {
    let mut replay = ProgramReplay::begin(memory, start)?;
    let played = replay.run(
        memory,
        &Requests {
            alloc: &events
                .iter()
                .map(|e| u8::from(e.0.is_some()))
                .collect::<Vec<_>>(),
            cpu: &vec![0; events.len()],
            order: &events.iter().map(|e| e.1).collect::<Vec<_>>(),
            gfp: &events
                .iter()
                .map(|e| e.0.unwrap_or(U).0)
                .collect::<Vec<_>>(),
            handle: &events.iter().map(|e| e.2).collect::<Vec<_>>(),
            at_ns: &events.iter().map(|e| e.3).collect::<Vec<_>>(),
        },
    )?;
    memory.check().expect("invariants hold");
    Ok(played)
}

/// Frames on free lists and on per-CPU lists.
fn not_in_use(memory: &Memory) -> u64 {
    let free = memory.buddyinfo()[0];
    let free: u64 = free.iter().zip(0..).map(|(nr, order)| nr << order).sum();
    let listed: u64 = memory.pcp_frames()[0].iter().flatten().flatten().sum();
    free + listed
}

fn hopeless() -> Start {
    Start {
        hopeless: vec![true],
        ..Start::default()
    }
}

#[test]
fn what_was_asked_and_given_back_is_free_again() {
    let mut memory = machine(0);
    let before = not_in_use(&memory);
    let mut events: Vec<Event> = (0..100).map(|i| (Some(M), 0, 3072 + i, 0)).collect();
    events.push((Some(U), 3, 3200, 0));
    events.extend((0..100).map(|i| (None, 0, 3072 + i, 0)));
    events.push((None, 3, 3200, 0));
    let played = replay(&mut memory, &hopeless(), &events).expect("sound");
    assert_eq!((played.allocs, played.frees, played.refused), (101, 101, 0));
    assert!(played.refilled > 0, "per-CPU lists were refilled");
    assert_eq!(not_in_use(&memory), before);
}

#[test]
fn names_of_handles_do_not_matter() {
    let run = |rename: fn(u32) -> u32| {
        let mut memory = machine(0);
        let mut events: Vec<Event> = (0..500).map(|i| (Some(M), 0, rename(i), 0)).collect();
        events.extend((0..500).step_by(3).map(|i| (None, 0, rename(i), 0)));
        replay(&mut memory, &hopeless(), &events).expect("sound");
        memory.buddyinfo()
    };
    assert_eq!(run(|i| 3072 + i), run(|i| 4095 - 2 * i));
}

#[test]
fn a_frame_that_was_in_use_at_the_start_is_given_back_itself() {
    let mut memory = machine(0);
    let events: Vec<Event> = vec![(None, 4, 2048, 0), (None, 0, 1025, 0)];
    let before = memory.buddyinfo()[0];
    let played = replay(&mut memory, &hopeless(), &events).expect("sound");
    assert_eq!(played.unknown_frees, 0);
    let mut after = before;
    after[4] += 1; // the other frame waits on a list
    assert_eq!(memory.buddyinfo()[0], after);
    assert_eq!(memory.map().class(Pfn(1025)), PageClass::Pcp);
}

#[test]
fn what_was_never_in_use_cannot_come_back() {
    let mut memory = machine(0);
    let before = not_in_use(&memory);
    let played = replay(&mut memory, &hopeless(), &[(None, 0, 3072, 0)]).expect("sound");
    assert_eq!(played.unknown_frees, 1);
    assert_eq!(not_in_use(&memory), before);
}

#[test]
fn another_kernel_page_stands_for_one_that_was_taken_for_listed() {
    let mut memory = machine(40);
    let before = not_in_use(&memory);
    let twice: Vec<Event> = vec![(None, 0, 2048, 0), (None, 0, 2048, 0)];
    let played = replay(&mut memory, &hopeless(), &twice).expect("sound");
    assert_eq!((played.redrawn, played.unknown_frees), (1, 1));
    assert_eq!(not_in_use(&memory), before + 1);
}

#[test]
fn a_handle_that_comes_back_without_its_program_leaves_its_frame_behind() {
    let mut memory = machine(0);
    let before = not_in_use(&memory);
    let events: Vec<Event> = vec![(Some(U), 0, 5, 0), (None, 0, 5, 0)];
    let played = replay(&mut memory, &hopeless(), &events).expect("sound");
    assert_eq!(played.left_behind, 1);
    assert_eq!(not_in_use(&memory), before);
}

#[test]
fn kswapd_makes_room_unless_it_had_given_up() {
    let run = |start: &Start| {
        let mut memory = machine(0);
        let mut events: Vec<Event> = (0..1250).map(|i| (Some(M), 0, 3000 - i, 0)).collect();
        events.push((None, 0, 3000, SECOND / 50));
        replay(&mut memory, start, &events).expect("sound")
    };
    assert!(run(&Start::default()).reclaimed > 0);
    let played = run(&hopeless());
    assert_eq!((played.reclaimed, played.refused), (0, 0));
}

#[test]
fn what_was_reclaimed_here_is_given_back_in_vain() {
    let mut memory = machine(0);
    let mut events: Vec<Event> = (0..1250).map(|i| (Some(U), 0, 4095 - i, 0)).collect();
    events.extend((0..1024).map(|i| (None, 0, i, SECOND / 50)));
    let played = replay(&mut memory, &Start::default(), &events).expect("sound");
    assert!(played.reclaimed > 0);
    assert!(played.reclaimed_before > 0);
}

#[test]
fn a_handle_follows_its_frame_where_compaction_moves_it() {
    let mut memory = machine(0);
    let before = not_in_use(&memory);
    let mut events: Vec<Event> = vec![(Some(M), 10, 3072, 0)];
    events.extend((0..8).map(|i| (Some(U), 3, 2048 + 8 * i, 0)));
    events.extend((1025..2048).step_by(2).map(|pfn| (None, 0, pfn, 0)));
    let played = replay(&mut memory, &hopeless(), &events).expect("sound");
    assert!(played.migrated > 0, "{played:?}");
    assert!(played.reclaimed_before <= played.reclaimed);
    let reclaimed = played.reclaimed - played.reclaimed_before;
    assert_eq!(not_in_use(&memory), before - 1024 - 64 + 512 + reclaimed);
}

#[test]
fn lists_that_nobody_uses_shrink_within_a_second() {
    let drained = |at_ns| {
        let mut memory = machine(900);
        replay(&mut memory, &hopeless(), &[(None, 0, 0, at_ns)])
            .expect("sound")
            .drained
    };
    assert_eq!(drained(0), 0);
    assert!(drained(SECOND) > 0);
}

#[test]
fn lists_shrink_at_whole_seconds_of_the_clock() {
    let drained = |at_ns| {
        let mut memory = machine(900);
        let start = Start {
            at_ns,
            ..hopeless()
        };
        let events: Vec<Event> = vec![(None, 0, 0, SECOND / 4)];
        replay(&mut memory, &start, &events).expect("sound").drained
    };
    assert_eq!(
        drained(SECOND / 2),
        0,
        "the next whole second is half a second away"
    );
    assert!(drained(9 * SECOND / 10) > 0);
}

#[test]
fn kernel_pages_make_up_a_quarter_of_a_list_at_most() {
    let played = |asked: u32| {
        let mut memory = machine_of(400, 0, (PageClass::File, 0));
        let events: Vec<Event> = (0..asked).map(|i| (Some(U), 0, i, 0)).collect();
        replay(&mut memory, &hopeless(), &events).expect("sound")
    };
    assert_eq!(played(100).refilled, 0);
    assert!(played(101).refilled > 0);
}

#[test]
fn folios_that_were_used_lately_stay_longer_than_others() {
    let stays = |young: [bool; 2]| {
        let mut memory = machine_of(0, 1, (PageClass::FileLarge, 9));
        memory.mark_used(&[Pfn(0), Pfn(512)], true);
        let start = Start {
            inactive: vec![0, 512],
            young: young.to_vec(),
            ..Start::default()
        };
        let mut events: Vec<Event> = (0..1250).map(|i| (Some(M), 0, 4095 - i, 0)).collect();
        events.push((None, 0, 4095, SECOND / 50));
        let played = replay(&mut memory, &start, &events).expect("sound");
        assert_eq!(played.reclaimed, 512);
        [0, 512].map(|pfn| memory.map().class(Pfn(pfn)) == PageClass::FileLarge)
    };
    assert_eq!(stays([true, false]), [true, false]);
    assert_eq!(stays([false, true]), [false, true]);
}

#[test]
fn a_boost_counts_until_kswapd_has_worked() {
    let below = |boost| {
        let mut memory = machine(0);
        let start = Start {
            boosts: vec![boost],
            ..Start::default()
        };
        let events: Vec<Event> = vec![(Some(M), 0, 0, 0), (None, 0, 0, SECOND / 50)];
        replay(&mut memory, &start, &events)
            .expect("sound")
            .reclaimed
    };
    assert_eq!(below(0), 0);
    assert!(below(3000) > 0);
}

#[test]
fn events_that_cannot_be_are_refused() {
    let refusal = |event: Event| {
        let mut memory = machine(0);
        replay(&mut memory, &Start::default(), &[event])
            .expect_err("cannot be")
            .0
    };
    assert_eq!(refusal((None, 11, 0, 0)), "event 0 has the order 11");
    assert_eq!(
        refusal((None, 1, 4095, 0)),
        "event 0 names frame 4095, beyond the last"
    );
    let mut memory = machine(0);
    assert!(memory.trace_start(8));
    let error = ProgramReplay::begin(&mut memory, &Start::default()).expect_err("is listened to");
    assert_eq!(
        error.0,
        "the tracepoints of the machine are listened to already"
    );
}
