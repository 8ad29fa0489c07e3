//! The patterns that are timed. A run boots an allocator, warms its arrays, and times one pattern;
//! of several runs the least and the median are reported, per operation. Time is the thread's own on
//! the CPU, so that a busy host does not count.

use std::hint::black_box;

use contigmm_core::{BootSpec, Import, Memory, PageClass};
use cpu_time::ThreadTime;
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

use crate::peers::{BuddySlab, BuddySystem, Contigmm, FrameAllocator};

/// One figure: `bench-core/1`.
#[derive(Debug, Serialize)]
pub struct Row {
    pattern: &'static str,
    op: &'static str,
    allocator: &'static str,
    order: u8,
    frames: u32,
    pcp: bool,
    threads: u32,
    min_ns: f64,
    median_ns: f64,
    runs: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_frame: Option<u32>,
}

/// How much to run.
pub struct Bench {
    /// Runs of each pattern.
    pub runs: u32,
    /// Frames of the machine.
    pub frames: u32,
    /// The only pattern to run, if not all.
    pub only: Option<String>,
}

/// Pairs of get and put in the patterns that pair them.
const PAIRS: u32 = 1 << 20;
/// Single frames taken and given back together.
const BATCH: u32 = 64;
/// Frames of 1 TiB.
const TEBIBYTE: u32 = 1 << 28;
const SEED: u64 = 0x636f_6e74_6967;

/// Nanoseconds an operation of one run, by what was done.
type Timed = Vec<(&'static str, f64)>;

/// What can be timed on an allocator.
#[derive(Clone, Copy)]
struct Pattern {
    name: &'static str,
    order: u8,
}

const PATTERNS: [Pattern; 7] = [
    Pattern {
        name: "bulk",
        order: 0,
    },
    Pattern {
        name: "bulk",
        order: 9,
    },
    Pattern {
        name: "repeat",
        order: 0,
    },
    Pattern {
        name: "repeat_cascade",
        order: 0,
    },
    Pattern {
        name: "random",
        order: 0,
    },
    Pattern {
        name: "churn",
        order: 0,
    },
    Pattern {
        name: "batch",
        order: 0,
    },
];

/// One allocator's figures of one pattern: by run, by what was done.
struct Figures {
    allocator: &'static str,
    pcp: bool,
    bytes_per_frame: Option<u32>,
    runs: Vec<Timed>,
}

impl Figures {
    fn of<A: FrameAllocator>() -> Self {
        let (allocator, pcp, bytes_per_frame) = (A::NAME, A::PCP, A::BYTES_PER_FRAME);
        Self {
            allocator,
            pcp,
            bytes_per_frame,
            runs: Vec::new(),
        }
    }

    /// One more run, if the allocator can manage so many frames.
    fn run<A: FrameAllocator>(&mut self, pattern: Pattern, frames: u32) {
        let Some(mut allocator) = A::boot(frames) else {
            return;
        };
        warm(&mut allocator);
        self.runs.push(match pattern.name {
            "bulk" => bulk(&mut allocator, pattern.order),
            "repeat" => repeat(&mut allocator, 1),
            "repeat_cascade" => repeat(&mut allocator, 0),
            "random" => random(&mut allocator),
            "churn" => churn(&mut allocator),
            _ => batch(&mut allocator),
        });
    }

    fn boot<A: FrameAllocator>(&mut self) {
        let start = ThreadTime::now();
        let Some(allocator) = A::boot(TEBIBYTE) else {
            return;
        };
        self.runs.push(vec![("total", elapsed_ns(start))]);
        black_box(&allocator);
    }

    fn rows(&self, pattern: Pattern, frames: u32, rows: &mut Vec<Row>) {
        let Some(first) = self.runs.first() else {
            return;
        };
        for (at, &(op, _)) in first.iter().enumerate() {
            let mut ns: Vec<f64> = self.runs.iter().map(|run| run[at].1).collect();
            ns.sort_by(f64::total_cmp);
            rows.push(Row {
                pattern: pattern.name,
                op,
                allocator: self.allocator,
                order: pattern.order,
                frames,
                pcp: self.pcp,
                threads: 1,
                min_ns: ns[0],
                median_ns: ns[ns.len() / 2],
                runs: u32::try_from(ns.len()).expect("runs are counted by a u32"),
                bytes_per_frame: self.bytes_per_frame,
            });
        }
    }
}

impl Bench {
    /// Every pattern; in each round every allocator runs once, so that a slow moment of the host
    /// meets them all.
    pub fn all(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for pattern in PATTERNS
            .into_iter()
            .filter(|pattern| self.wants(pattern.name))
        {
            let mut figures = allocators();
            for _ in 0..self.runs {
                figures[0].run::<Contigmm<false>>(pattern, self.frames);
                figures[1].run::<Contigmm<true>>(pattern, self.frames);
                figures[2].run::<BuddySystem>(pattern, self.frames);
                figures[3].run::<BuddySlab>(pattern, self.frames);
            }
            for figures in &figures {
                figures.rows(pattern, self.frames, &mut rows);
            }
        }
        self.boot(&mut rows);
        self.import(&mut rows);
        rows
    }

    fn boot(&self, rows: &mut Vec<Row>) {
        if !self.wants("boot") {
            return;
        }
        let mut figures = allocators();
        for _ in 0..self.runs {
            figures[0].boot::<Contigmm<false>>();
            figures[1].boot::<Contigmm<true>>();
            figures[2].boot::<BuddySystem>();
            figures[3].boot::<BuddySlab>();
        }
        let pattern = Pattern {
            name: "boot",
            order: 0,
        };
        for figures in &figures {
            figures.rows(pattern, TEBIBYTE, rows);
        }
    }

    fn wants(&self, pattern: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == pattern)
    }

    /// Importing a fragmented machine of 25 GiB: every 16th frame is free.
    fn import(&self, rows: &mut Vec<Row>) {
        const FRAMES: u32 = 6_553_600;
        if !self.wants("import") {
            return;
        }
        let json =
            format!(r#"{{"zones": [{{"kind": "Normal", "start_pfn": 0, "spanned": {FRAMES}}}]}}"#);
        let spec = BootSpec::from_json(&json).expect("a valid description");
        let free_pfn: Vec<u32> = (0..FRAMES).step_by(16).collect();
        let free_order = vec![0; free_pfn.len()];
        let run_start: Vec<u32> = free_pfn.iter().map(|pfn| pfn + 1).collect();
        let run_nr = vec![15; free_pfn.len()];
        let run_class = vec![PageClass::Anon as u8; free_pfn.len()];
        let state = Import {
            run_start: &run_start,
            run_nr: &run_nr,
            run_class: &run_class,
            free_pfn: &free_pfn,
            free_order: &free_order,
            ..Import::default()
        };
        let mut figures = Figures::of::<Contigmm<true>>();
        for _ in 0..self.runs {
            let mut memory = Memory::boot(&spec).expect("a bootable description");
            let start = ThreadTime::now();
            memory.import(&state).expect("a sound state");
            figures.runs.push(vec![("total", elapsed_ns(start))]);
        }
        figures.rows(
            Pattern {
                name: "import",
                order: 0,
            },
            FRAMES,
            rows,
        );
    }
}

/// The allocators in the order of the rows.
fn allocators() -> [Figures; 4] {
    [
        Figures::of::<Contigmm<false>>(),
        Figures::of::<Contigmm<true>>(),
        Figures::of::<BuddySystem>(),
        Figures::of::<BuddySlab>(),
    ]
}

/// Takes everything and gives it back in reverse, so that the arrays are resident and the lists are
/// again as after boot.
fn warm<A: FrameAllocator>(allocator: &mut A) {
    let taken = take_all(allocator, 0);
    for &pfn in taken.iter().rev() {
        allocator.put(pfn, 0);
    }
    allocator.settle();
}

fn take_all<A: FrameAllocator>(allocator: &mut A, order: u8) -> Vec<u32> {
    let mut taken = Vec::new();
    while let Some(pfn) = allocator.get(order) {
        taken.push(pfn);
    }
    taken
}

/// Everything is taken, then given back in the same order.
fn bulk<A: FrameAllocator>(allocator: &mut A, order: u8) -> Timed {
    let mut taken = take_all(allocator, order);
    for &pfn in taken.iter().rev() {
        allocator.put(pfn, order);
    }
    allocator.settle();
    taken.clear();
    let start = ThreadTime::now();
    while let Some(pfn) = allocator.get(order) {
        taken.push(pfn);
    }
    let get = per_op(start, taken.len());
    let start = ThreadTime::now();
    for &pfn in &taken {
        allocator.put(pfn, order);
    }
    vec![("get", get), ("put", per_op(start, taken.len()))]
}

/// One frame is taken and given back, over and over. With one frame taken before, its buddy is in
/// use and nothing is split or merged; without, everything is.
fn repeat<A: FrameAllocator>(allocator: &mut A, before: u32) -> Timed {
    for _ in 0..before {
        black_box(allocator.get(0));
    }
    let start = ThreadTime::now();
    for _ in 0..PAIRS {
        let pfn = allocator.get(0).expect("the machine is empty");
        allocator.put(black_box(pfn), 0);
    }
    vec![("pair", per_op(start, PAIRS as usize))]
}

/// Everything is taken, given back in random order, and taken again.
fn random<A: FrameAllocator>(allocator: &mut A) -> Timed {
    let mut taken = take_all(allocator, 0);
    shuffle(&mut taken);
    let start = ThreadTime::now();
    for &pfn in &taken {
        allocator.put(pfn, 0);
    }
    let put = per_op(start, taken.len());
    let start = ThreadTime::now();
    for _ in 0..taken.len() {
        black_box(allocator.get(0));
    }
    vec![("put", put), ("get", per_op(start, taken.len()))]
}

/// The machine is full; a random frame is given back and one is taken.
fn churn<A: FrameAllocator>(allocator: &mut A) -> Timed {
    let mut taken = take_all(allocator, 0);
    shuffle(&mut taken);
    let start = ThreadTime::now();
    for slot in taken.iter_mut().take(PAIRS as usize) {
        allocator.put(*slot, 0);
        *slot = allocator.get(0).expect("a frame was just given back");
    }
    vec![("pair", per_op(start, taken.len().min(PAIRS as usize)))]
}

/// Single frames in batches: time for each frame taken and given back.
fn batch<A: FrameAllocator>(allocator: &mut A) -> Timed {
    let mut taken = Vec::with_capacity(BATCH as usize);
    let rounds = PAIRS / BATCH;
    let start = ThreadTime::now();
    for _ in 0..rounds {
        taken.clear();
        allocator.get_batch(BATCH, &mut taken);
        for &pfn in &taken {
            allocator.put(pfn, 0);
        }
    }
    vec![("pair", per_op(start, (rounds * BATCH) as usize))]
}

/// Fisher and Yates, from a fixed seed.
fn shuffle(pfns: &mut [u32]) {
    let mut rng = Pcg64Mcg::seed_from_u64(SEED);
    for at in (1..pfns.len()).rev() {
        let other = rng.next_u64() % (at as u64 + 1);
        pfns.swap(at, usize::try_from(other).expect("an index"));
    }
}

#[allow(clippy::cast_precision_loss)] // nanoseconds of a bench are far below 2^53
fn elapsed_ns(start: ThreadTime) -> f64 {
    start.elapsed().as_nanos() as f64
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^53
fn per_op(start: ThreadTime, operations: usize) -> f64 {
    elapsed_ns(start) / operations as f64
}
