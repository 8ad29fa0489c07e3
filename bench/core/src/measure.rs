//! Times of runs, and the rows that are made of them.

use std::time::Instant;

use cpu_time::ThreadTime;
use serde::Serialize;

/// One figure: `bench-core/1`.
#[derive(Debug, Serialize)]
pub struct Row {
    pub pattern: &'static str,
    pub op: &'static str,
    pub allocator: &'static str,
    pub order: u8,
    pub frames: u32,
    pub pcp: bool,
    pub threads: u32,
    pub min_ns: f64,
    pub median_ns: f64,
    pub runs: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_frame: Option<f64>,
}

/// What is timed: a pattern of requests, of one order, on a machine of so many frames.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    pub pattern: &'static str,
    pub order: u8,
    pub frames: u32,
    pub threads: u32,
}

/// Nanoseconds an operation of one run, by what was done.
pub type Timed = Vec<(&'static str, f64)>;

/// One allocator's figures of one subject, by run.
pub struct Figures {
    pub allocator: &'static str,
    pub pcp: bool,
    pub bytes_per_frame: Option<f64>,
    pub runs: Vec<Timed>,
}

impl Figures {
    /// The least and the median of the runs, a row for each thing that was done.
    pub fn rows(&self, subject: Subject) -> Vec<Row> {
        let Some(first) = self.runs.first() else {
            return Vec::new();
        };
        let row = |(at, &(op, _)): (usize, &(&'static str, f64))| {
            let mut ns: Vec<f64> = self.runs.iter().map(|run| run[at].1).collect();
            ns.sort_by(f64::total_cmp);
            Row {
                pattern: subject.pattern,
                op,
                allocator: self.allocator,
                order: subject.order,
                frames: subject.frames,
                pcp: self.pcp,
                threads: subject.threads,
                min_ns: ns[0],
                median_ns: ns[ns.len() / 2],
                runs: u32::try_from(ns.len()).expect("runs are counted by a u32"),
                bytes_per_frame: self.bytes_per_frame,
            }
        };
        first.iter().enumerate().map(row).collect()
    }
}

/// The thread's own time since `start`: a busy host does not count.
#[allow(clippy::cast_precision_loss)] // nanoseconds of a bench are far below 2^53
pub fn elapsed_ns(start: ThreadTime) -> f64 {
    start.elapsed().as_nanos() as f64
}

/// The same for each of the operations.
#[allow(clippy::cast_precision_loss)] // counts are far below 2^53
pub fn per_op(start: ThreadTime, operations: usize) -> f64 {
    elapsed_ns(start) / operations.max(1) as f64
}

/// Time of the wall for each of the operations, where threads wait for each other.
#[allow(clippy::cast_precision_loss)] // as above
pub fn wall_per_op(start: Instant, operations: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / operations.max(1) as f64
}

/// Resident bytes of this process, where /proc tells them.
pub fn resident_bytes() -> Option<u64> {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
}
