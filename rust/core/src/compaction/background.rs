//! kcompactd, as steps with a budget: `kcompactd_do_work()` and proactive compaction,
//! mm/compaction.c v6.12. The kernel's thread sleeps and is woken; here somebody lets it work.

use super::control::{CompactControl, CompactResult, MigrateMode};
use crate::gfp::Gfp;
use crate::memory::Memory;
use crate::units::{Cpu, NodeId, Order, ZoneId, ZoneKind};
use crate::vmstat::VmEvent;

/// What one step of kcompactd did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionTick {
    /// `fragmentation_score_node()` before.
    pub score_before: u32,
    /// The same afterwards.
    pub score_after: u32,
}

/// `fragmentation_score_wmark()`: where proactive compaction starts above, and stops.
const fn score_marks(proactiveness: u32) -> (u32, u32) {
    let least = 100_u32.saturating_sub(proactiveness);
    let low = if least < 5 { 5 } else { least };
    let high = if low + 10 > 100 { 100 } else { low + 10 };
    (high, low)
}

impl Memory {
    /// Weighted by size, how fragmented the zones of a node are, in per cent:
    /// `fragmentation_score_node()`.
    pub fn fragmentation_score(&self, node: NodeId) -> u32 {
        let zones = || self.zones.iter().filter(|zone| zone.node == node);
        let present: u64 = zones().map(|zone| u64::from(zone.present)).sum();
        let share = |score: u32, own: u32| u64::from(own) * u64::from(score) / (present + 1);
        let score: u64 = zones()
            .map(|zone| share(zone.fragmentation_score(), zone.present))
            .sum();
        u32::try_from(score).expect("per cent")
    }

    /// Compacts a node in the background if its score is above what `proactiveness` (0 to 100, 0 for
    /// never) tolerates: the second half of `kcompactd()`. None when there was nothing to do.
    pub fn compact_proactively(
        &mut self,
        node: NodeId,
        cpu: Cpu,
        proactiveness: u32,
    ) -> Option<CompactionTick> {
        let (high, low) = score_marks(proactiveness);
        let score_before = self.fragmentation_score(node);
        if proactiveness == 0 || score_before <= high {
            return None;
        }
        for zone in self.zones_of(node) {
            let mut cc = CompactControl {
                proactive_below: Some(low),
                ..CompactControl::whole(zone, cpu, MigrateMode::SyncLight)
            };
            self.compact_zone(&mut cc);
            self.count_daemon(&cc);
        }
        Some(CompactionTick {
            score_before,
            score_after: self.fragmentation_score(node),
        })
    }

    /// What kcompactd does when it was woken for a block of `order`: `kcompactd_do_work()`.
    pub fn compact_in_background(
        &mut self,
        node: NodeId,
        cpu: Cpu,
        order: Order,
        highest: ZoneKind,
    ) {
        self.vmstat.count(VmEvent::CompactDaemonWake, 1);
        for zone in self.zones_of(node) {
            if self.zones[zone.index()].kind > highest {
                continue;
            }
            if self.zones[zone.index()].compact.is_deferred(order) {
                continue;
            }
            let mode = MigrateMode::SyncLight;
            let mut cc = CompactControl {
                highest: self.zones[zone.index()].kind,
                ..CompactControl::for_order(zone, cpu, order, Gfp::KERNEL, mode)
            };
            if self.compaction_suit_allocation_order(&cc, order) != CompactResult::Continue {
                continue;
            }
            match self.compact_zone(&mut cc) {
                CompactResult::Success => {
                    let state = &mut self.zones[zone.index()].compact;
                    state.reset_deferral(order, false);
                }
                CompactResult::PartialSkipped | CompactResult::Complete => {
                    self.drain_all_pages(Some(zone));
                    self.zones[zone.index()].compact.defer(order);
                }
                _ => {}
            }
            self.count_daemon(&cc);
        }
    }

    fn zones_of(&self, node: NodeId) -> Vec<ZoneId> {
        let on_node = self
            .zones
            .iter()
            .filter(|zone| zone.node == node && zone.present > 0);
        on_node.map(|zone| zone.id).collect()
    }

    fn count_daemon(&mut self, cc: &CompactControl) {
        self.vmstat.count(
            VmEvent::CompactDaemonMigrateScanned,
            cc.total_migrate_scanned,
        );
        self.vmstat
            .count(VmEvent::CompactDaemonFreeScanned, cc.total_free_scanned);
    }
}
