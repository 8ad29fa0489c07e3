//! Simulated time: a clock for each CPU, and what each step of the allocator costs. Integers only.
//!
//! A CPU that wants a zone's lock waits until the lock is free, so contention is seen on machines
//! with many CPUs although the simulation is one thread.
#![allow(clippy::inline_always)] // see page_alloc

use serde::{Deserialize, Serialize};

use crate::units::Cpu;

/// Simulated nanoseconds of each step. Measured magnitudes of a current x86-64 server, not of a
/// particular one; a machine description may replace them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostModel {
    /// Entering and leaving the allocator: zonelist, watermark.
    pub alloc_ns: u32,
    /// Taking from or putting on a per-CPU list.
    pub pcp_ns: u32,
    /// Taking and releasing an uncontended zone lock.
    pub lock_ns: u32,
    /// Under the lock: one block taken or freed.
    pub buddy_ns: u32,
    /// Zeroing a frame.
    pub zero_ns: u32,
    /// Copying a frame.
    pub copy_ns: u32,
    /// A page fault, without the frame.
    pub fault_ns: u32,
    /// Entering and leaving a system call.
    pub syscall_ns: u32,
    /// One page-table entry set or cleared.
    pub pte_ns: u32,
    /// One frame looked at by a scanner of compaction or reclaim.
    pub scan_ns: u32,
}

impl Default for CostModel {
    fn default() -> Self {
        Self {
            alloc_ns: 40,
            pcp_ns: 15,
            lock_ns: 20,
            buddy_ns: 30,
            zero_ns: 100,
            copy_ns: 200,
            fault_ns: 400,
            syscall_ns: 100,
            pte_ns: 8,
            scan_ns: 10,
        }
    }
}

/// The clocks of all CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    now_ns: Vec<u64>,
    /// What steps cost.
    pub costs: CostModel,
}

impl Clocks {
    /// `nr_cpus` clocks at 0.
    pub fn new(nr_cpus: u16, costs: CostModel) -> Self {
        Self {
            now_ns: vec![0; usize::from(nr_cpus)],
            costs,
        }
    }

    /// Number of CPUs.
    pub fn nr_cpus(&self) -> u16 {
        u16::try_from(self.now_ns.len()).expect("made from a u16")
    }

    /// Time on this CPU, in ns since boot.
    #[inline]
    pub fn now_ns(&self, cpu: Cpu) -> u64 {
        self.now_ns[usize::from(cpu.0)]
    }

    /// The latest clock.
    pub fn latest_ns(&self) -> u64 {
        self.now_ns.iter().copied().max().unwrap_or(0)
    }

    /// Lets `ns` pass on one CPU.
    #[inline]
    pub fn charge(&mut self, cpu: Cpu, ns: u64) {
        self.now_ns[usize::from(cpu.0)] += ns;
    }

    /// Lets `ns` pass on every CPU.
    pub fn advance(&mut self, ns: u64) {
        for now in &mut self.now_ns {
            *now += ns;
        }
    }

    /// Moves a CPU that was idle forward to `ns`; a clock never goes back.
    pub fn catch_up(&mut self, cpu: Cpu, ns: u64) {
        let now = &mut self.now_ns[usize::from(cpu.0)];
        *now = (*now).max(ns);
    }

    /// Works for `before_ns`, then waits for a lock and holds it for `hold_ns`.
    #[inline(always)]
    pub fn hold_lock(&mut self, cpu: Cpu, free_at_ns: &mut u64, before_ns: u64, hold_ns: u64) {
        let now = &mut self.now_ns[usize::from(cpu.0)];
        let held_from = (*now + before_ns).max(*free_at_ns);
        *now = held_from + u64::from(self.costs.lock_ns) + hold_ns;
        *free_at_ns = *now;
    }
}
