//! Simulated time: a clock for each CPU, and a queue before each zone's lock. Integers only.
//!
//! A CPU that wants a zone's lock waits until the lock is free, so contention is seen on machines
//! with many CPUs although the simulation is one thread. Whoever lets the CPU go on that is furthest
//! behind, as `contention` does, serves the lock first come, first served, as Linux's queued
//! spinlock does (kernel/locking/qspinlock.c v6.12).
#![allow(clippy::inline_always)] // see page_alloc

use serde::{Deserialize, Serialize};

use crate::cost::CostModel;
use crate::units::{Cpu, NodeId};

/// The lock of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneLock {
    /// When it is free again.
    pub free_at_ns: u64,
    /// Who held it last; [`Self::NOBODY`] had it.
    pub(crate) holder: u16,
}

impl ZoneLock {
    /// No CPU: machines have at most 65,535.
    pub(crate) const NOBODY: u16 = u16::MAX;
}

impl Default for ZoneLock {
    fn default() -> Self {
        Self {
            free_at_ns: 0,
            holder: Self::NOBODY,
        }
    }
}

/// The clocks of all CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    now_ns: Vec<u64>,
    /// What steps cost.
    pub costs: CostModel,
    /// The node of each CPU, which the description tells.
    #[serde(skip)]
    nodes: Vec<NodeId>,
}

impl Clocks {
    /// Clocks at 0, one for each CPU of these nodes.
    pub fn new(nodes: Vec<NodeId>, costs: CostModel) -> Self {
        Self {
            now_ns: vec![0; nodes.len()],
            costs,
            nodes,
        }
    }

    /// Takes the times of a snapshot; none if they are those of another number of CPUs.
    pub(crate) fn with_times(self, saved: Self) -> Option<Self> {
        (saved.now_ns.len() == self.nodes.len()).then_some(Self {
            nodes: self.nodes,
            ..saved
        })
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

    /// Works for `before_ns`, then waits for a lock, fetches it, and holds it for `hold_ns`.
    #[inline(always)]
    pub fn hold_lock(&mut self, cpu: Cpu, lock: &mut ZoneLock, before_ns: u64, hold_ns: u64) {
        let fetch_ns = if lock.holder == cpu.0 {
            0
        } else {
            self.hand_over(cpu, lock)
        };
        let now = &mut self.now_ns[usize::from(cpu.0)];
        let held_from = (*now + before_ns).max(lock.free_at_ns) + fetch_ns;
        *now = held_from + u64::from(self.costs.lock_ns) + hold_ns;
        lock.free_at_ns = *now;
    }

    /// Makes the CPU the holder; returns how long what it needs is under way.
    #[cold]
    fn hand_over(&self, cpu: Cpu, lock: &mut ZoneLock) -> u64 {
        let before = std::mem::replace(&mut lock.holder, cpu.0);
        let node = |at: u16| self.nodes.get(usize::from(at));
        let costs = &self.costs;
        let ns = if before == ZoneLock::NOBODY {
            0
        } else if node(before) == node(cpu.0) {
            costs.handover_ns
        } else {
            costs.handover_far_ns
        };
        u64::from(ns)
    }
}
