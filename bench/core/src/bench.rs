//! What is run: subjects by options, each by every allocator in turn.

use std::hint::black_box;
use std::process::Command;

use contigmm_core::{BootSpec, Import, Memory, PageClass};
use cpu_time::ThreadTime;

use crate::measure::{Figures, Row, Subject, elapsed_ns, resident_bytes};
use crate::patterns::{BATCHES, BY_ORDER, SHARED, run};
use crate::peers::{BuddySlab, BuddySystem, CPUS, Contigmm, FrameAllocator};

/// Orders that are timed when none is asked for: a page, three folio sizes and the largest.
const ORDERS: [u8; 5] = [0, 3, 6, 9, 10];
/// Frames of 1, 8 and 64 GiB. All patterns are timed at the second, `bulk` at all.
const FRAMES: [u32; 3] = [1 << 18, 1 << 21, 1 << 24];
const MAIN_FRAMES: u32 = FRAMES[1];
/// Frames of 6 GiB, 64 GiB and 1 TiB.
const BOOTS: [u32; 3] = [3 << 19, 1 << 24, 1 << 28];
/// Up to here all frames are taken after the boot, to see how much memory that takes.
const MOST_TOUCHED: u32 = 1 << 24;
/// Runs of a subject with more frames than the main ones.
const RUNS_OF_LARGE: u32 = 3;

/// How much to run.
pub struct Bench {
    /// Runs of each subject.
    pub runs: u32,
    /// Frames of the machines; none for the usual ones.
    pub frames: Vec<u32>,
    /// Orders; none for the usual ones.
    pub orders: Vec<u8>,
    /// Patterns; none for all.
    pub patterns: Vec<String>,
}

impl Bench {
    /// Every subject; in each round every allocator runs once, so that a slow moment of the host
    /// meets them all.
    pub fn all(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for subject in self.subjects() {
            let runs = if subject.frames > MAIN_FRAMES {
                self.runs.min(RUNS_OF_LARGE)
            } else {
                self.runs
            };
            eprintln!("{subject:?}");
            let mut figures = allocators();
            for _ in 0..runs {
                figures[0].runs.extend(run::<Contigmm<false>>(subject));
                figures[1].runs.extend(run::<Contigmm<true>>(subject));
                figures[2].runs.extend(run::<BuddySystem>(subject));
                figures[3].runs.extend(run::<BuddySlab>(subject));
            }
            rows.extend(figures.iter().flat_map(|figures| figures.rows(subject)));
        }
        if self.wants("boot") {
            rows.extend(BOOTS.iter().flat_map(|&frames| self.boot(frames)));
        }
        if self.wants("import") {
            rows.extend(self.import());
        }
        rows
    }

    fn wants(&self, pattern: &str) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|only| only == pattern)
    }

    fn subjects(&self) -> Vec<Subject> {
        let orders: &[u8] = if self.orders.is_empty() {
            &ORDERS
        } else {
            &self.orders
        };
        let mut subjects = Vec::new();
        let mut add = |pattern, order, frames, threads| {
            if self.wants(pattern) {
                subjects.push(Subject {
                    pattern,
                    order,
                    frames,
                    threads,
                });
            }
        };
        let sizes: &[u32] = if self.frames.is_empty() {
            &FRAMES
        } else {
            &self.frames
        };
        for &frames in sizes {
            // Larger and smaller machines are asked for by name, but for `bulk`.
            let whole = frames == MAIN_FRAMES || !self.frames.is_empty();
            for pattern in BY_ORDER {
                for &order in orders.iter().filter(|_| whole || pattern == "bulk") {
                    add(pattern, order, frames, 1);
                }
            }
            if whole && orders.contains(&0) {
                add(BATCHES, 0, frames, 1);
                for pattern in SHARED {
                    add(pattern, 0, frames, u32::from(CPUS));
                }
            }
        }
        subjects
    }

    fn boot(&self, frames: u32) -> Vec<Row> {
        let mut figures = allocators();
        for _ in 0..self.runs {
            figures[0].boot::<Contigmm<false>>(frames);
            figures[1].boot::<Contigmm<true>>(frames);
            figures[2].boot::<BuddySystem>(frames);
            figures[3].boot::<BuddySlab>(frames);
        }
        for (at, figures) in figures.iter_mut().enumerate() {
            figures.bytes_per_frame = resident_of(at, frames);
        }
        let subject = Subject {
            pattern: "boot",
            order: 0,
            frames,
            threads: 1,
        };
        figures
            .iter()
            .flat_map(|figures| figures.rows(subject))
            .collect()
    }

    /// Importing a fragmented machine of 25 GiB: every 16th frame is free.
    fn import(&self) -> Vec<Row> {
        const FRAMES: u32 = 6_553_600;
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
        let mut figures = figures_of::<Contigmm<true>>();
        for _ in 0..self.runs {
            let mut memory = Memory::boot(&spec).expect("a bootable description");
            let start = ThreadTime::now();
            memory.import(&state).expect("a sound state");
            figures.runs.push(vec![("total", elapsed_ns(start))]);
        }
        figures.rows(Subject {
            pattern: "import",
            order: 0,
            frames: FRAMES,
            threads: 1,
        })
    }
}

impl Figures {
    /// One more boot.
    fn boot<A: FrameAllocator>(&mut self, frames: u32) {
        let start = ThreadTime::now();
        if let Some(allocator) = A::boot(frames) {
            self.runs.push(vec![("total", elapsed_ns(start))]);
            black_box(&allocator);
        }
    }
}

/// Prints the bytes a frame that one of the allocators takes, for [`resident_of`].
#[allow(clippy::cast_precision_loss)] // bytes of a bench are far below 2^53
pub fn print_resident(allocator: usize, frames: u32) {
    let bytes = match allocator {
        0 => resident::<Contigmm<false>>(frames),
        1 => resident::<Contigmm<true>>(frames),
        2 => resident::<BuddySystem>(frames),
        _ => resident::<BuddySlab>(frames),
    };
    if let Some(bytes) = bytes {
        println!("{}", bytes as f64 / f64::from(frames));
    }
}

/// Resident bytes of a booted allocator, once all its frames are in use if they are not too many.
fn resident<A: FrameAllocator>(frames: u32) -> Option<u64> {
    let before = resident_bytes()?;
    let mut allocator = A::boot(frames)?;
    if frames <= MOST_TOUCHED {
        allocator.use_all();
    }
    let after = resident_bytes()?;
    black_box(&allocator);
    Some(after.saturating_sub(before))
}

/// The same, of a process of its own, where no memory of earlier runs is used again.
fn resident_of(allocator: usize, frames: u32) -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    let value = format!("{allocator},{frames}");
    let done = Command::new(program)
        .args(["--resident", &value])
        .output()
        .ok()?;
    String::from_utf8(done.stdout).ok()?.trim().parse().ok()
}

fn figures_of<A: FrameAllocator>() -> Figures {
    Figures {
        allocator: A::NAME,
        pcp: A::PCP,
        bytes_per_frame: None,
        runs: Vec::new(),
    }
}

/// The allocators in the order of the rows.
fn allocators() -> [Figures; 4] {
    [
        figures_of::<Contigmm<false>>(),
        figures_of::<Contigmm<true>>(),
        figures_of::<BuddySystem>(),
        figures_of::<BuddySlab>(),
    ]
}
