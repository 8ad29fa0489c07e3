//! kswapd and kcompactd by the simulated clock: `balance_pgdat()` and `kswapd()`, mm/vmscan.c,
//! `kcompactd()`, mm/compaction.c v6.12, in passes.
//!
//! A machine that is booted with [`BackgroundSpec`] has both threads on each node. A request that
//! fails the low mark wakes kswapd; kswapd that is done, or cannot help, wakes kcompactd. They work
//! when time has passed, on the CPU of their node that is furthest behind, for as long as has passed
//! since; a pass that takes longer is made up for by the next. Nothing else decides when they run, so
//! the same operations give the same machine.

use serde::{Deserialize, Serialize};

use crate::memory::Memory;
use crate::reclaim::DEF_PRIORITY;
use crate::units::{Cpu, NodeId, Order, ZoneKind};
use crate::watermark::{AllocFlags, Wmark};
use crate::zone::PAGEBLOCK;

/// `MAX_RECLAIM_RETRIES`, mm/internal.h v6.12: a node where kswapd found nothing so often is hopeless.
const MAX_RECLAIM_RETRIES: u32 = 16;
/// `HPAGE_FRAG_CHECK_INTERVAL_MSEC`, mm/compaction.c v6.12.
const FRAG_CHECK_NS: u64 = 500_000_000;
/// `COMPACT_MAX_DEFER_SHIFT`, mm/compaction.c v6.12.
const COMPACT_MAX_DEFER_SHIFT: u32 = 6;

/// Threads that make room on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackgroundSpec {
    /// `vm.compaction_proactiveness`, 0 to 100; 0 for never.
    #[serde(default = "twenty")]
    pub proactiveness: u32,
}

const fn twenty() -> u32 {
    20
}

/// What a thread was woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wake {
    order: u8,
    highest: ZoneKind,
}

impl Wake {
    fn order(self) -> Order {
        Order::new(self.order).expect("of a request")
    }
}

/// One balancing of a node by kswapd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Balancing {
    wake: Wake,
    priority: u32,
    /// `zone_boosts`, of each zone of the machine.
    boosts: Vec<u64>,
    /// `nr_boost_reclaim`.
    boost_left: u64,
    reclaimed: u64,
}

/// The threads of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Threads {
    /// kswapd is to balance the node next.
    kswapd: Option<Wake>,
    balancing: Option<Balancing>,
    /// `kswapd_failures`.
    failures: u32,
    kcompactd: Option<Wake>,
    /// When kcompactd looks at the fragmentation next.
    next_look_ns: u64,
}

/// All nodes' threads; of no nodes on a machine without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Background {
    nodes: Vec<Threads>,
    /// The time up to which they have worked.
    worked_ns: u64,
}

impl Background {
    /// Threads that sleep, if the machine has them.
    pub fn new(spec: Option<BackgroundSpec>, nr_nodes: usize) -> Self {
        let threads = Threads {
            next_look_ns: FRAG_CHECK_NS,
            ..Threads::default()
        };
        Self {
            nodes: spec.map_or_else(Vec::new, |_| vec![threads; nr_nodes]),
            worked_ns: 0,
        }
    }

    /// kswapd of a node found nothing too often, and sleeps until somebody else reclaims.
    pub fn give_up(&mut self, node: usize) {
        if let Some(threads) = self.nodes.get_mut(node) {
            threads.failures = MAX_RECLAIM_RETRIES;
        }
    }

    /// Whether these can be the threads of a machine of so many nodes and zones.
    pub fn fits(&self, nr_nodes: usize, nr_zones: usize) -> bool {
        let known = |wake: &Option<Wake>| wake.is_none_or(|wake| Order::new(wake.order).is_ok());
        let sound = |threads: &Threads| {
            let balancing = threads.balancing.as_ref();
            known(&threads.kswapd)
                && known(&threads.kcompactd)
                && balancing.is_none_or(|balancing| {
                    balancing.boosts.len() == nr_zones
                        && balancing.priority <= DEF_PRIORITY
                        && known(&Some(balancing.wake))
                })
        };
        self.nodes.len() == nr_nodes && self.nodes.iter().all(sound)
    }
}

/// `wakeup_kswapd()` and `wakeup_kcompactd()` of a thread that is awake or not: the larger order and
/// the higher zone count.
fn wake(slot: &mut Option<Wake>, order: Order, highest: ZoneKind) {
    let wake = Wake {
        order: order.get(),
        highest,
    };
    let (order, highest) = slot.map_or((0, ZoneKind::Dma), |old| (old.order, old.highest));
    *slot = Some(Wake {
        order: wake.order.max(order),
        highest: wake.highest.max(highest),
    });
}

impl Memory {
    /// A request failed the low mark: `wakeup_kswapd()` for each of the nodes. Who cannot reclaim
    /// itself has kcompactd woken where memory is only broken up.
    pub(crate) fn wake_kswapds(&mut self, nodes: &[NodeId], request: (Order, ZoneKind, bool)) {
        let (order, highest, can_reclaim) = request;
        for &node in nodes {
            let at = usize::from(node.0);
            let Some(threads) = self.background.nodes.get(at) else {
                return;
            };
            let hopeless = threads.failures >= MAX_RECLAIM_RETRIES;
            if hopeless || self.is_balanced_at(node, order, highest) && !self.is_boosted(node) {
                if !can_reclaim {
                    self.wake_kcompactd(node, order, highest);
                }
                continue;
            }
            wake(&mut self.background.nodes[at].kswapd, order, highest);
        }
    }

    fn wake_kcompactd(&mut self, node: NodeId, order: Order, highest: ZoneKind) {
        if order > Order::ZERO {
            let threads = &mut self.background.nodes[usize::from(node.0)];
            wake(&mut threads.kcompactd, order, highest);
        }
    }

    /// Reclaim freed something on a node: `shrink_node()` takes hope again.
    pub(crate) fn note_reclaimed(&mut self, node: NodeId) {
        if let Some(threads) = self.background.nodes.get_mut(usize::from(node.0)) {
            threads.failures = 0;
        }
    }

    /// Lets the threads work for the time that has passed on the CPUs since they last did.
    pub fn work_in_background(&mut self) {
        if self.background.nodes.is_empty() {
            return;
        }
        let until = self.clock.latest_ns();
        let nr_ns = until.saturating_sub(self.background.worked_ns);
        let mut longest = 0;
        for node in (0..=u8::MAX).map(NodeId).take(self.background.nodes.len()) {
            if let Some(cpu) = self.idlest_cpu(node) {
                self.clock.catch_up(cpu, until - nr_ns.min(until));
                longest = longest.max(self.run_threads(node, cpu, (nr_ns, until)));
            }
        }
        self.background.worked_ns += nr_ns.max(longest);
    }

    /// Lets `ns` pass on every CPU, in which the threads work.
    pub fn advance_clock(&mut self, ns: u64) {
        if self.background.nodes.is_empty() {
            return self.clock.advance(ns);
        }
        self.work_in_background();
        let before: Vec<u64> = self.each_cpu().map(|cpu| self.clock.now_ns(cpu)).collect();
        let until = self.clock.latest_ns() + ns;
        let nr_ns = until.saturating_sub(self.background.worked_ns);
        let mut longest = 0;
        for node in (0..=u8::MAX).map(NodeId).take(self.background.nodes.len()) {
            if let Some(cpu) = self.idlest_cpu(node) {
                longest = longest.max(self.run_threads(node, cpu, (nr_ns, until)));
            }
        }
        for (cpu, before) in self.each_cpu().zip(before) {
            self.clock.catch_up(cpu, before + ns);
        }
        self.background.worked_ns += nr_ns.max(longest);
    }

    fn each_cpu(&self) -> impl Iterator<Item = Cpu> + use<> {
        (0..self.clock.nr_cpus()).map(Cpu)
    }

    /// The CPU of a node that is furthest behind, the first of these.
    fn idlest_cpu(&self, node: NodeId) -> Option<Cpu> {
        let here = self
            .each_cpu()
            .filter(|&cpu| self.node_of(cpu) == Some(node));
        here.min_by_key(|&cpu| self.clock.now_ns(cpu))
    }

    /// Works on one CPU for `nr_ns`, at most a pass longer; tells how long.
    fn run_threads(&mut self, node: NodeId, cpu: Cpu, (nr_ns, until): (u64, u64)) -> u64 {
        let start = self.clock.now_ns(cpu);
        let spent = |memory: &Self| memory.clock.now_ns(cpu) - start;
        while spent(self) < nr_ns && self.balance_once(node, cpu) {}
        if spent(self) < nr_ns {
            self.run_kcompactd(node, cpu, until);
        }
        spent(self)
    }

    /// One pass of kswapd; false when it sleeps: the loop of `balance_pgdat()`.
    fn balance_once(&mut self, node: NodeId, cpu: Cpu) -> bool {
        let at = usize::from(node.0);
        let Some(mut now) = self.background.nodes[at]
            .balancing
            .take()
            .or_else(|| self.begin_balancing(node))
        else {
            return false;
        };
        let balanced = self.is_balanced_at(node, now.wake.order(), now.wake.highest);
        if !balanced && now.boost_left > 0 {
            (now.boost_left, now.priority) = (0, DEF_PRIORITY);
        }
        if now.boost_left == 0 && balanced {
            self.end_balancing(node, &now);
            return true;
        }
        let raise = now.boost_left == 0 || now.priority > DEF_PRIORITY - 2;
        let freed = self.kswapd_pass(node, cpu, now.wake.highest, now.priority);
        now.reclaimed += freed.pages;
        now.boost_left = now.boost_left.saturating_sub(freed.pages);
        let fruitless_boost = now.boost_left > 0 && freed.pages == 0;
        if raise && !freed.enough || freed.pages == 0 {
            now.priority -= 1;
        }
        if fruitless_boost || now.priority == 0 {
            if now.reclaimed == 0 {
                self.background.nodes[at].failures += 1;
            }
            self.end_balancing(node, &now);
            return self.background.nodes[at].failures < MAX_RECLAIM_RETRIES;
        }
        self.background.nodes[at].balancing = Some(now);
        true
    }

    /// kswapd wakes, if it was woken: the beginning of `balance_pgdat()`.
    fn begin_balancing(&mut self, node: NodeId) -> Option<Balancing> {
        let wake = self.background.nodes[usize::from(node.0)].kswapd.take()?;
        let boosts = self.zones.iter();
        let boosts: Vec<u64> = boosts
            .map(|zone| zone.watermark_boost * u64::from(zone.node == node))
            .collect();
        self.note_kswapd_wake(node);
        Some(Balancing {
            wake,
            priority: DEF_PRIORITY,
            boost_left: boosts.iter().sum(),
            boosts,
            reclaimed: 0,
        })
    }

    /// `out:` of `balance_pgdat()`, and `kswapd_try_to_sleep()`.
    fn end_balancing(&mut self, node: NodeId, done: &Balancing) {
        self.set_reclaim_active(node, false);
        let mut boosted = false;
        for (zone, &boost) in self.zones.iter_mut().zip(&done.boosts) {
            boosted |= boost > 0;
            zone.watermark_boost -= boost.min(zone.watermark_boost);
        }
        if boosted {
            self.wake_kcompactd(node, PAGEBLOCK, done.wake.highest);
        }
        if self.is_balanced_at(node, Order::ZERO, done.wake.highest) {
            for at in 0..self.zones.len() {
                if self.zones[at].node == node {
                    self.reset_isolation_suitable(self.zones[at].id);
                }
            }
            self.wake_kcompactd(node, done.wake.order(), done.wake.highest);
            return;
        }
        let threads = &mut self.background.nodes[usize::from(node.0)];
        if threads.failures < MAX_RECLAIM_RETRIES {
            wake(&mut threads.kswapd, Order::ZERO, done.wake.highest); // no sleep yet
        }
    }

    /// kcompactd: what it was woken for, or else proactive compaction each half second, later when the
    /// last brought nothing.
    fn run_kcompactd(&mut self, node: NodeId, cpu: Cpu, until: u64) {
        let at = usize::from(node.0);
        if let Some(wake) = self.background.nodes[at].kcompactd.take() {
            self.compact_in_background(node, cpu, wake.order(), wake.highest);
            self.background.nodes[at].next_look_ns = self.clock.now_ns(cpu) + FRAG_CHECK_NS;
            return;
        }
        let spec = self.spec.background;
        let proactiveness = spec.map_or(0, |spec| spec.proactiveness);
        if proactiveness == 0 || until < self.background.nodes[at].next_look_ns {
            return;
        }
        let tick = self.compact_proactively(node, cpu, proactiveness);
        let in_vain = tick.is_some_and(|tick| tick.score_after >= tick.score_before);
        let shift = if in_vain { COMPACT_MAX_DEFER_SHIFT } else { 0 };
        self.background.nodes[at].next_look_ns = until + (FRAG_CHECK_NS << shift);
    }

    /// `pgdat_watermark_boosted()`.
    fn is_boosted(&self, node: NodeId) -> bool {
        let mut zones = self.zones.iter().filter(|zone| zone.node == node);
        zones.any(|zone| zone.watermark_boost > 0)
    }

    /// Whether a zone of the node holds its high mark: `pgdat_balanced()`.
    pub(crate) fn is_balanced_at(&self, node: NodeId, order: Order, highest: ZoneKind) -> bool {
        let mut zones = self
            .zones
            .iter()
            .filter(|zone| zone.node == node && zone.managed > 0 && zone.kind <= highest)
            .peekable();
        zones.peek().is_none()
            || zones.any(|zone| {
                let high = zone.wmark_pages(Wmark::High);
                zone.watermark_ok(order, high, highest, AllocFlags(0))
            })
    }
}
