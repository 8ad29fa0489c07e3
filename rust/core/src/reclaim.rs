//! Reclaim of clean page cache: what direct reclaim and kswapd free, and when they stop.
//! mm/vmscan.c v6.12. There is no swap and no writeback, so dirty, anonymous and shared memory stays.
//!
//! All pages stand in one ring in an order that is drawn from the seed: never in the order of frames,
//! in which no real list stands and which would make whole pageblocks free. The ring is the
//! permutation itself and a position. A generation is one turn: each folio has so many turns left as
//! its flags say (`Memory::spare`), and those that were used since stay one turn more than those that
//! were not, as the two lists of the kernel have it. A page that came since has no turn of its own: it
//! goes when the ring reaches its frame, which is drawn.

use serde::{Deserialize, Serialize};

use crate::mem_map::{BlockHead, FileList, page_flags};
use crate::memory::Memory;
use crate::page_alloc::AllocContext;
use crate::page_cache::FileId;
use crate::units::{Cpu, NodeId, Order, Pfn, ZoneId, ZoneKind};
use crate::vmstat::VmEvent;
use crate::watermark::{AllocFlags, Wmark};
use crate::zone::{PAGEBLOCK, Zone};

/// `SWAP_CLUSTER_MAX`, include/linux/swap.h v6.12: pages reclaimed at a time.
const SWAP_CLUSTER_MAX: u64 = 32;
/// `PAGE_ALLOC_COSTLY_ORDER`, include/linux/mmzone.h v6.12.
const COSTLY_ORDER: u8 = 3;
/// `DEF_PRIORITY`, include/linux/mmzone.h v6.12: rounds before reclaim gives up.
pub(crate) const DEF_PRIORITY: u32 = 12;

/// A folio that was used goes in the third turn at the latest.
const TURNS: u64 = 3;

/// How far the ring of reclaimable pages has been worked off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReclaimQueue {
    next: u32,
}

/// Who reclaims, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reclaimer {
    Direct,
    Kswapd,
}

/// What one pass of kswapd came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// Frames freed.
    pub pages: u64,
    /// It looked at as many as it is to free at most.
    pub enough: bool,
}

/// What a scan looked at, in frames.
#[derive(Clone, Copy, Debug, Default)]
struct Looked {
    freed: u64,
    scanned: u64,
    /// How much of the scan's share that was: of inactive folios, at most a cluster each.
    charged: u64,
}

/// What is reclaimed for.
#[derive(Clone, Copy, Debug)]
struct Scan {
    node: NodeId,
    highest: ZoneKind,
    order: Order,
    cpu: Cpu,
    by: Reclaimer,
    /// A 2^priority-th of the ring is looked at a round.
    priority: u32,
}

impl Memory {
    /// Reclaims for a request that found nothing, and returns how many frames that made free, or 1
    /// where there is room enough for compaction: `__perform_reclaim()`, `do_try_to_free_pages()`.
    pub(crate) fn direct_reclaim(&mut self, ac: &AllocContext) -> u64 {
        let stall = if ac.highest == ZoneKind::Movable {
            VmEvent::AllocStallMovable
        } else {
            VmEvent::AllocStall
        };
        self.vmstat.count(stall, 1);
        let mut total = 0;
        for priority in (0..=DEF_PRIORITY).rev() {
            let (freed, ready) = self.shrink_zones(ac, priority);
            total += freed;
            if total >= SWAP_CLUSTER_MAX {
                break;
            }
            if ready {
                return total.max(1);
            }
        }
        total
    }

    /// One round over the nodes of the zonelist; also whether compaction has room in some zone:
    /// `shrink_zones()`.
    fn shrink_zones(&mut self, ac: &AllocContext, priority: u32) -> (u64, bool) {
        let (mut freed, mut ready, mut last) = (0, false, None);
        let mut at = 0;
        while let Some(&id) = self.zonelists.zones(ac.zonelist).get(at) {
            at += 1;
            if ac.order.get() > COSTLY_ORDER && self.is_ready_to_compact(id, ac) {
                ready = true;
                continue;
            }
            let node = self.zones[id.index()].node;
            if last.replace(node) == Some(node) {
                continue;
            }
            freed += self.shrink_node(Scan {
                node,
                highest: ac.highest,
                order: ac.order,
                cpu: ac.cpu,
                by: Reclaimer::Direct,
                priority,
            });
        }
        (freed, ready)
    }

    /// `compaction_ready()`.
    fn is_ready_to_compact(&self, id: ZoneId, ac: &AllocContext) -> bool {
        let zone = &self.zones[id.index()];
        let none = AllocFlags(0);
        if zone.watermark_ok(ac.order, zone.wmark_pages(Wmark::Min), ac.highest, none) {
            return true;
        }
        let mark = zone.wmark_pages(Wmark::High) + compact_gap(ac.order);
        zone.compaction_suitable(ac.order, ac.highest)
            && zone.watermark_ok(Order::ZERO, mark, ac.highest, none)
    }

    /// Reclaims a cluster, and more for large blocks until compaction has room: `shrink_node()`,
    /// `should_continue_reclaim()`.
    fn shrink_node(&mut self, scan: Scan) -> u64 {
        let mut total = 0;
        loop {
            let freed = self.evict(scan, SWAP_CLUSTER_MAX);
            total += freed;
            let hard_pressed = scan.priority + 2 < DEF_PRIORITY;
            let costly = scan.order.get() > COSTLY_ORDER;
            let for_compaction = costly || scan.order > Order::ZERO && hard_pressed;
            let inactive = |zone: &Zone| self.map.nr_file(zone.id, FileList::Inactive);
            let of_node = self.zones.iter().filter(|zone| zone.node == scan.node);
            let enough = of_node.map(inactive).sum::<u64>() > compact_gap(scan.order);
            if freed == 0 || !for_compaction || self.may_compact_on(scan) || !enough {
                return total;
            }
        }
    }

    /// Frames of a zone that reclaim could free at best, without swap: `zone_reclaimable_pages()`.
    pub(crate) fn zone_reclaimable_pages(&self, zone: ZoneId) -> u64 {
        self.map.nr_file(zone, FileList::Inactive) + self.map.nr_file(zone, FileList::Active)
    }

    /// Whether any page of a file stands in the zones that a scan may look at.
    fn has_lists(&self, scan: Scan) -> bool {
        let within = |zone: &&Zone| zone.node == scan.node && zone.kind <= scan.highest;
        let mut zones = self.zones.iter().filter(within);
        zones.any(|zone| self.zone_reclaimable_pages(zone.id) > 0)
    }

    /// Frames on the inactive lists of the zones that a scan may look at.
    fn inactive_within(&self, scan: Scan) -> u64 {
        let within = |zone: &&Zone| zone.node == scan.node && zone.kind <= scan.highest;
        let zones = self.zones.iter().filter(within);
        zones
            .map(|zone| self.map.nr_file(zone.id, FileList::Inactive))
            .sum()
    }

    fn may_compact_on(&self, scan: Scan) -> bool {
        let on_node =
            |zone: &&Zone| zone.node == scan.node && zone.managed > 0 && zone.kind <= scan.highest;
        self.zones.iter().filter(on_node).any(|zone| {
            let min = zone.wmark_pages(Wmark::Min);
            zone.watermark_ok(scan.order, min, scan.highest, AllocFlags(0))
                || zone.compaction_suitable(scan.order, scan.highest)
        })
    }

    /// One run of kswapd: reclaims at most `budget` frames of a node whose zones are below their
    /// high marks or boosted, in passes over larger and larger parts of the ring, and takes back the boost of those that are balanced again:
    /// `balance_pgdat()`. Returns the frames freed.
    pub fn kswapd(&mut self, node: NodeId, cpu: Cpu, budget: u64) -> u64 {
        let boosts: Vec<(usize, u64)> = (0..self.zones.len())
            .filter(|&at| self.zones[at].node == node)
            .map(|at| (at, self.zones[at].watermark_boost))
            .collect();
        let scan = Scan {
            node,
            highest: ZoneKind::Movable,
            order: Order::ZERO,
            cpu,
            by: Reclaimer::Kswapd,
            priority: 0,
        };
        let mut freed = 0;
        self.vmstat.count(VmEvent::KswapdWake, 1);
        self.set_reclaim_active(node, true);
        for priority in (0..=DEF_PRIORITY).rev() {
            if freed >= budget || self.is_balanced_at(node, Order::ZERO, ZoneKind::Movable) {
                break;
            }
            let most = self.high_marks(node).min(budget - freed);
            freed += self.evict(Scan { priority, ..scan }, most);
        }
        self.set_reclaim_active(node, false);
        let boosted = boosts.iter().any(|&(_, boost)| boost > 0);
        for (at, boost) in boosts {
            let zone = &mut self.zones[at];
            zone.watermark_boost -= boost.min(zone.watermark_boost);
        }
        if boosted {
            self.compact_in_background(node, cpu, crate::zone::PAGEBLOCK, ZoneKind::Movable);
        }
        freed
    }

    /// kswapd begins: `pageoutrun` and `set_reclaim_active()`.
    pub(crate) fn note_kswapd_wake(&mut self, node: NodeId) {
        self.vmstat.count(VmEvent::KswapdWake, 1);
        self.set_reclaim_active(node, true);
    }

    /// One pass over the node's share of the ring at a priority: `kswapd_shrink_node()`.
    pub(crate) fn kswapd_pass(
        &mut self,
        node: NodeId,
        cpu: Cpu,
        highest: ZoneKind,
        priority: u32,
    ) -> Pass {
        let wanted = self.high_marks(node);
        let scanned = self.vmstat.get(VmEvent::PgScanKswapd);
        let scan = Scan {
            node,
            highest,
            order: Order::ZERO,
            cpu,
            by: Reclaimer::Kswapd,
            priority,
        };
        let pages = self.evict(scan, wanted);
        Pass {
            pages,
            enough: self.vmstat.get(VmEvent::PgScanKswapd) - scanned >= wanted,
        }
    }

    /// While kswapd works, CPUs keep few frames on their lists: `set_reclaim_active()`.
    pub(crate) fn set_reclaim_active(&mut self, node: NodeId, on: bool) {
        for zone in self.zones.iter_mut().filter(|zone| zone.node == node) {
            zone.reclaim_active = on;
        }
    }

    /// What a pass of kswapd reclaims at most: `kswapd_shrink_node()`.
    fn high_marks(&self, node: NodeId) -> u64 {
        let zones = self.zones.iter().filter(|zone| zone.node == node);
        zones
            .filter(|zone| zone.managed > 0)
            .map(|zone| zone.wmark_pages(Wmark::High).max(SWAP_CLUSTER_MAX))
            .sum()
    }

    /// Goes on in the ring until `nr` frames are freed or the round's share of it was looked at:
    /// `shrink_inactive_list()`, as much as `get_scan_count()` says. A folio counts at most for a
    /// cluster of the share, however large it is, as `shrink_lruvec()` takes a cluster off what is left
    /// to scan for each call that isolates at least one folio. A folio of a pageblock's size has its buddy
    /// behind it: both were mostly allocated one after the other. The last round goes on as long as a turn
    /// meets pages of files.
    fn evict(&mut self, scan: Scan, nr: u64) -> u64 {
        if !self.has_lists(scan) {
            return 0;
        }
        let nr_frames = self.map.nr_frames();
        let bits = u32::BITS - (nr_frames - 1).leading_zeros();
        let turn = 1_u64 << bits;
        let most = (turn * TURNS).min(if scan.priority > 0 {
            (turn >> scan.priority).max(SWAP_CLUSTER_MAX)
        } else {
            u64::MAX
        });
        let share = self.inactive_within(scan) >> scan.priority;
        let mut sum = Looked::default();
        for step in 0..turn * TURNS {
            let looked = step >= most && sum.charged >= share;
            if sum.freed >= nr || looked || (step == turn && sum.scanned == 0) {
                break;
            }
            let pfn = Pfn(permuted(self.reclaim.next, bits, self.spec.seed));
            self.reclaim.next = (self.reclaim.next + 1) & low_bits(bits);
            self.look_at(scan, pfn, &mut sum);
            if self
                .map
                .head_at(pfn)
                .is_some_and(|head| head.order == PAGEBLOCK)
            {
                self.look_at(scan, pfn.buddy(PAGEBLOCK), &mut sum);
            }
        }
        self.count_looked(scan, &sum);
        sum.freed
    }

    /// Looks at the folio that begins at this frame, if one of a file does, and frees it if it was not
    /// used.
    fn look_at(&mut self, scan: Scan, pfn: Pfn, sum: &mut Looked) {
        let head = (pfn.0 < self.map.nr_frames()).then(|| self.map.head_at(pfn));
        let Some(head) = head.flatten().filter(|&head| self.is_on_list(head, scan)) else {
            return;
        };
        let nr_pages = u64::from(head.order.nr_pages());
        sum.scanned += nr_pages;
        if self.map.flags(head.pfn) & page_flags::ACTIVE == 0 {
            sum.charged += nr_pages.min(SWAP_CLUSTER_MAX);
        }
        if !self.spare(head) {
            sum.freed += self.evict_folio(scan.cpu, head);
        }
    }

    fn count_looked(&mut self, scan: Scan, sum: &Looked) {
        let (scan_event, steal_event) = match scan.by {
            Reclaimer::Direct => (VmEvent::PgScanDirect, VmEvent::PgStealDirect),
            Reclaimer::Kswapd => (VmEvent::PgScanKswapd, VmEvent::PgStealKswapd),
        };
        self.vmstat.count(scan_event, sum.scanned);
        self.vmstat.count(steal_event, sum.freed);
        if sum.freed > 0 {
            self.note_reclaimed(scan.node);
        }
        let scan_ns = u64::from(self.clock.costs.scan_ns);
        self.clock.charge(scan.cpu, sum.scanned * scan_ns);
    }

    /// Lets a folio stay for this turn if it was used, and takes one of its turns:
    /// `folio_check_references()`, `shrink_active_list()`. A page that was used once stays one turn;
    /// one on the active list, or a large folio with entries that were used, goes through both lists.
    fn spare(&mut self, head: BlockHead) -> bool {
        let flags = self.map.flags(head.pfn);
        if flags & page_flags::ACTIVE != 0 {
            self.map
                .relist_file(head.pfn, page_flags::REFERENCED, page_flags::ACTIVE);
            true
        } else if flags & page_flags::REFERENCED != 0 {
            self.map.clear_flags(head.pfn, page_flags::REFERENCED);
            true
        } else {
            false
        }
    }

    /// Says that folios of files were used when they were captured: mapped, or on the active list. A
    /// single page that was only mapped stays a turn of reclaim, others two.
    pub fn mark_used(&mut self, heads: &[Pfn], active: bool) {
        for &pfn in heads {
            let Some(head) = self.map.head_at(pfn) else {
                continue;
            };
            if head.class.is_file() {
                let twice = active || head.order > Order::ZERO;
                let flag = if twice {
                    page_flags::ACTIVE
                } else {
                    page_flags::REFERENCED
                };
                self.map.relist_file(pfn, flag, 0);
            }
        }
    }

    /// A page of a file in a zone that the request may use.
    fn is_on_list(&self, head: BlockHead, scan: Scan) -> bool {
        let zone = self.map.zone_of(head.pfn).map(|id| &self.zones[id.index()]);
        head.class.is_file()
            && zone.is_some_and(|zone| zone.node == scan.node && zone.kind <= scan.highest)
    }

    /// Unmaps and frees a clean folio of the page cache; returns its frames, 0 if it stays.
    pub(crate) fn evict_folio(&mut self, cpu: Cpu, head: BlockHead) -> u64 {
        let nr = u64::from(head.order.nr_pages());
        let stays = page_flags::DIRTY
            | page_flags::WRITEBACK
            | page_flags::LOCKED
            | page_flags::PINNED
            | page_flags::MLOCKED
            | page_flags::UNEVICTABLE;
        if self.map.flags(head.pfn) & stays != 0 {
            return 0;
        }
        if self.is_stock(head) {
            self.map.relist_file(head.pfn, 0, page_flags::STOCK);
            self.free_pages(cpu, head.pfn, head.order);
            return nr;
        }
        if self.map.flags(head.pfn) & page_flags::LRU == 0 || !self.has_expected_refs(head.pfn) {
            return 0;
        }
        let (file, index) = (FileId(self.map.anchor(head.pfn)), self.map.index(head.pfn));
        let end = index + head.order.nr_pages();
        self.cache_drop(file, cpu, index..end)
    }
}

/// `compact_gap()`, include/linux/compaction.h v6.12: frames that compaction may hold meanwhile.
pub(crate) const fn compact_gap(order: Order) -> u64 {
    2 << order.get()
}

const fn low_bits(bits: u32) -> u32 {
    if bits >= u32::BITS {
        u32::MAX
    } else {
        (1 << bits) - 1
    }
}

/// The `i`-th of all numbers of so many bits, in an order that `seed` draws: each step can be undone.
fn permuted(i: u32, bits: u32, seed: u64) -> u32 {
    let mask = low_bits(bits);
    let half = bits.div_ceil(2).max(1);
    let seed = seed.to_le_bytes();
    let key = u32::from_le_bytes([seed[0], seed[1], seed[2], seed[3]]);
    let mut x = i;
    for round in [0x9e37_79b1_u32, 0x85eb_ca77, 0xc2b2_ae3d] {
        x = x.wrapping_add(key) & mask;
        x ^= x >> half;
        x = x.wrapping_mul(round) & mask;
    }
    x ^ (x >> half)
}

#[cfg(test)]
mod tests {
    use super::permuted;
    use crate::gfp::Gfp;
    use crate::memory::Memory;
    use crate::units::{Cpu, Order};

    #[test]
    fn a_refused_request_looks_for_no_page_of_a_file_where_there_is_none() {
        let spec = r#"{"zones": [{"kind": "DMA", "start_pfn": 0, "spanned": 2048}]}"#;
        let spec = serde_json::from_str(spec).expect("a spec");
        let mut memory = Memory::boot(&spec).expect("it boots");
        let mut ask = || memory.alloc_pages(Cpu(0), Gfp::KERNEL, Order::ZERO, None);
        while ask().is_ok() {}
        assert_eq!(memory.reclaim.next, 0, "the ring was gone through");
    }

    #[test]
    fn every_frame_has_one_place_in_the_queue() {
        for (bits, seed) in [(1, 0), (4, 9), (11, 77), (16, u64::MAX)] {
            let mut seen = vec![false; 1 << bits];
            for i in 0..1 << bits {
                let at = permuted(i, bits, seed) as usize;
                assert!(!std::mem::replace(&mut seen[at], true), "{at} twice");
            }
        }
    }
}
