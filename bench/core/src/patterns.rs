//! The patterns that are timed. A run boots an allocator, warms its arrays, and times one pattern;
//! of several runs the least and the median are reported, per operation. One thread is timed by its
//! own time on the CPU, so that a busy host does not count; two by the wall.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use cpu_time::ThreadTime;
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::measure::{Subject, Timed, per_op, wall_per_op};
use crate::peers::FrameAllocator;

/// Patterns that are timed at every order, on one thread.
pub const BY_ORDER: [&str; 5] = ["bulk", "repeat", "repeat_cascade", "random", "churn"];
/// The pattern of many single frames a call.
pub const BATCHES: &str = "batch";
/// Patterns that two threads run against one locked allocator.
pub const SHARED: [&str; 2] = ["bulk", "repeat"];

/// Pairs of get and put in the patterns that pair them.
const PAIRS: usize = 1 << 20;
/// Single frames taken or given back in a call.
const BATCH: usize = 64;
const SEED: u64 = 0x636f_6e74_6967;

/// A pattern's name, if it is one.
pub fn known(name: &str) -> Result<String, String> {
    let others = [BATCHES, "boot", "import"];
    if BY_ORDER.iter().chain(&others).any(|&known| known == name) {
        Ok(name.to_owned())
    } else {
        Err(format!("{name:?} is not a pattern"))
    }
}

/// Runs a pattern once; none where the allocator cannot manage so many frames.
pub fn run<A: FrameAllocator>(subject: Subject) -> Option<Timed> {
    let mut allocator = A::boot(subject.frames)?;
    warm(&mut allocator, subject.order);
    let order = subject.order;
    if subject.threads > 1 {
        let threads = u16::try_from(subject.threads).ok()?;
        return Some(shared(allocator, subject.pattern, order, threads));
    }
    Some(match subject.pattern {
        "bulk" => bulk(&mut allocator, order),
        "repeat" => repeat(&mut allocator, order, 1),
        "repeat_cascade" => repeat(&mut allocator, order, 0),
        "random" => random(&mut allocator, order),
        "churn" => churn(&mut allocator, order),
        _ => batch(&mut allocator),
    })
}

/// Takes everything and gives it back in reverse, so that the arrays are resident and the lists are
/// again as after boot.
fn warm<A: FrameAllocator>(allocator: &mut A, order: u8) {
    let taken = take_all(allocator, order);
    for &pfn in taken.iter().rev() {
        allocator.put(0, pfn, order);
    }
    allocator.settle();
}

fn take_all<A: FrameAllocator>(allocator: &mut A, order: u8) -> Vec<u32> {
    let mut taken = Vec::new();
    while let Some(pfn) = allocator.get(0, order) {
        taken.push(pfn);
    }
    taken
}

/// Room for as many blocks, with its memory resident, so that page faults are not timed.
fn room_for(nr: usize) -> Vec<u32> {
    let mut room = vec![1; nr + 1];
    room.clear();
    room
}

/// Everything is taken, then given back in the same order.
fn bulk<A: FrameAllocator>(allocator: &mut A, order: u8) -> Timed {
    let nr = take_all(allocator, order);
    for &pfn in nr.iter().rev() {
        allocator.put(0, pfn, order);
    }
    allocator.settle();
    let mut taken = room_for(nr.len());
    let start = ThreadTime::now();
    while let Some(pfn) = allocator.get(0, order) {
        taken.push(pfn);
    }
    let get = per_op(start, taken.len());
    let start = ThreadTime::now();
    for &pfn in &taken {
        allocator.put(0, pfn, order);
    }
    vec![("get", get), ("put", per_op(start, taken.len()))]
}

/// One block is taken and given back, over and over. With one taken before, its buddy is in use and
/// nothing is split or merged; without, everything is.
fn repeat<A: FrameAllocator>(allocator: &mut A, order: u8, before: u32) -> Timed {
    for _ in 0..before {
        black_box(allocator.get(0, order));
    }
    let start = ThreadTime::now();
    for _ in 0..PAIRS {
        let pfn = allocator.get(0, order).expect("the machine is empty");
        allocator.put(0, black_box(pfn), order);
    }
    vec![("pair", per_op(start, PAIRS))]
}

/// Everything is taken, given back in random order, and taken again.
fn random<A: FrameAllocator>(allocator: &mut A, order: u8) -> Timed {
    let mut taken = take_all(allocator, order);
    shuffle(&mut taken);
    let start = ThreadTime::now();
    for &pfn in &taken {
        allocator.put(0, pfn, order);
    }
    let put = per_op(start, taken.len());
    let start = ThreadTime::now();
    for _ in 0..taken.len() {
        black_box(allocator.get(0, order));
    }
    vec![("put", put), ("get", per_op(start, taken.len()))]
}

/// The machine is full; a random block is given back and one is taken.
fn churn<A: FrameAllocator>(allocator: &mut A, order: u8) -> Timed {
    let mut taken = take_all(allocator, order);
    shuffle(&mut taken);
    let nr = taken.len().min(PAIRS);
    let start = ThreadTime::now();
    for slot in &mut taken[..nr] {
        allocator.put(0, *slot, order);
        *slot = allocator
            .get(0, order)
            .expect("a block was just given back");
    }
    vec![("pair", per_op(start, nr))]
}

/// Everything is taken in batches of single frames, and given back in batches in random order.
fn batch<A: FrameAllocator>(allocator: &mut A) -> Timed {
    let nr = take_all(allocator, 0);
    for &pfn in nr.iter().rev() {
        allocator.put(0, pfn, 0);
    }
    allocator.settle();
    let mut taken = room_for(nr.len());
    let start = ThreadTime::now();
    let mut before = usize::MAX;
    while taken.len() != before {
        before = taken.len();
        let batch = u32::try_from(BATCH).expect("small");
        allocator.get_batch(batch, &mut taken);
    }
    let get = per_op(start, taken.len());
    shuffle(&mut taken);
    let start = ThreadTime::now();
    for some in taken.chunks(BATCH) {
        allocator.put_batch(some);
    }
    vec![("get", get), ("put", per_op(start, taken.len()))]
}

/// Threads on CPUs of their own, each call under one lock.
fn shared<A: FrameAllocator>(allocator: A, pattern: &str, order: u8, threads: u16) -> Timed {
    let allocator = Mutex::new(allocator);
    let get = |cpu| allocator.lock().expect("no panic").get(cpu, order);
    let put = |cpu, pfn| allocator.lock().expect("no panic").put(cpu, pfn, order);
    let together = |work: &(dyn Fn(u16) -> usize + Sync)| {
        let start = Instant::now();
        let done: usize = std::thread::scope(|scope| {
            let works: Vec<_> = (0..threads)
                .map(|cpu| scope.spawn(move || work(cpu)))
                .collect();
            works
                .into_iter()
                .map(|work| work.join().expect("no panic"))
                .sum()
        });
        wall_per_op(start, done)
    };
    if pattern == "repeat" {
        return vec![(
            "pair",
            together(&|cpu| {
                for _ in 0..PAIRS {
                    let pfn = get(cpu).expect("the machine is empty");
                    put(cpu, black_box(pfn));
                }
                PAIRS
            }),
        )];
    }
    let taken: Vec<Mutex<Vec<u32>>> = (0..threads).map(|_| Mutex::default()).collect();
    let got = together(&|cpu| {
        let mut own = taken[usize::from(cpu)].lock().expect("no panic");
        own.extend(std::iter::from_fn(|| get(cpu)));
        own.len()
    });
    let given = together(&|cpu| {
        let own = taken[usize::from(cpu)].lock().expect("no panic");
        for &pfn in &*own {
            put(cpu, pfn);
        }
        own.len()
    });
    vec![("get", got), ("put", given)]
}

/// Fisher and Yates, from a fixed seed.
fn shuffle(pfns: &mut [u32]) {
    let mut rng = Pcg64Mcg::seed_from_u64(SEED);
    for at in (1..pfns.len()).rev() {
        let other = rng.next_u64() % (at as u64 + 1);
        pfns.swap(at, usize::try_from(other).expect("an index"));
    }
}
