//! Per-CPU lists of free frames: `struct per_cpu_pages`, mm/page_alloc.c v6.12.
#![allow(clippy::inline_always)] // see page_alloc

use crate::events::Tracepoint;
use crate::fallback::{Parts, RmqueueMode};
use crate::mem_map::{MemMap, PageClass};
use crate::page_alloc::AllocContext;
use crate::pcp_limits::PcpLimits;
use crate::pcp_list::PcpList;
use crate::units::{Cpu, MigrateType, Order, PAGEBLOCK_ORDER, Pfn, ZoneKind};
use crate::vmstat::VmEvent;
use crate::watermark::{AllocFlags, Wmark};
use crate::zone::Zone;

/// `NR_PCP_LISTS`: orders 0 to 3 by type, and two for huge pages.
pub(crate) const NR_PCP_LISTS: usize = NR_LOWORDER_PCP_LISTS + 2;
/// `NR_LOWORDER_PCP_LISTS`.
const NR_LOWORDER_PCP_LISTS: usize = MIGRATE_PCPTYPES * (PAGE_ALLOC_COSTLY_ORDER as usize + 1);
/// `MIGRATE_PCPTYPES`: types with lists of their own.
pub const MIGRATE_PCPTYPES: usize = 3;
/// `PAGE_ALLOC_COSTLY_ORDER`, include/linux/mmzone.h v6.12: larger requests are given up sooner.
pub const PAGE_ALLOC_COSTLY_ORDER: u8 = 3;
/// `CONFIG_PCP_BATCH_SCALE_MAX`.
const BATCH_SCALE_MAX: u8 = 5;
/// Frames that a drain looks at before it frees the first: about a batch.
const LOOK_AHEAD: usize = 64;

/// The lists of one CPU in one zone.
#[derive(Clone, Debug, Default)]
pub struct Pcp {
    /// Frames on all lists.
    pub count: u32,
    /// Frames above which some go back.
    pub high: u32,
    /// Doubles the refill: `alloc_factor`.
    pub(crate) alloc_factor: u8,
    /// Frames freed lately, not allocated again: `free_count`.
    pub(crate) free_count: u32,
    /// `PCPF_PREV_FREE_HIGH_ORDER`.
    pub(crate) prev_free_high_order: bool,
    /// Heads of blocks; the front is handed out first.
    pub(crate) lists: [PcpList; NR_PCP_LISTS],
}

/// `pcp_allowed_order()`.
#[inline]
pub(crate) const fn pcp_allowed_order(order: Order) -> bool {
    order.get() <= PAGE_ALLOC_COSTLY_ORDER || order.get() == PAGEBLOCK_ORDER
}

/// `order_to_pindex()`.
#[inline]
pub(crate) fn order_to_pindex(migratetype: MigrateType, order: Order) -> usize {
    if order.get() > PAGE_ALLOC_COSTLY_ORDER {
        NR_LOWORDER_PCP_LISTS + usize::from(migratetype == MigrateType::Movable)
    } else {
        MIGRATE_PCPTYPES * order.index() + migratetype.index()
    }
}

/// `pindex_to_order()`.
#[inline]
pub(crate) fn pindex_to_order(pindex: usize) -> Order {
    let raw = if pindex >= NR_LOWORDER_PCP_LISTS {
        PAGEBLOCK_ORDER
    } else {
        u8::try_from(pindex / MIGRATE_PCPTYPES).expect("at most 3")
    };
    Order::new(raw).expect("at most pageblock_order")
}

impl Pcp {
    /// Greatest `alloc_factor`.
    pub(crate) const MAX_ALLOC_FACTOR: u8 = BATCH_SCALE_MAX;

    /// The blocks of each list, next to be handed out first, with the order of the list's blocks.
    pub fn lists(&self) -> impl Iterator<Item = (Order, &PcpList)> {
        self.lists
            .iter()
            .enumerate()
            .map(|(pindex, list)| (pindex_to_order(pindex), list))
    }

    /// The same with the list's migratetype; huge blocks that are not movable count as unmovable.
    pub(crate) fn lists_by_type(&self) -> impl Iterator<Item = (Order, MigrateType, &PcpList)> {
        self.lists().enumerate().map(|(pindex, (order, list))| {
            let raw = if pindex >= NR_LOWORDER_PCP_LISTS {
                pindex - NR_LOWORDER_PCP_LISTS
            } else {
                pindex % MIGRATE_PCPTYPES
            };
            (order, MigrateType::ALL[raw], list)
        })
    }

    /// The list of blocks of this order and type.
    pub(crate) fn list_mut(&mut self, order: Order, migratetype: MigrateType) -> &mut PcpList {
        &mut self.lists[order_to_pindex(migratetype, order)]
    }

    /// Takes a single frame off its list, if that goes on with the one beside it.
    #[inline(always)]
    pub(crate) fn hit(&mut self, migratetype: MigrateType) -> Option<Pfn> {
        let pfn = self.lists[order_to_pindex(migratetype, Order::ZERO)].pop_within_run()?;
        self.free_count >>= 1;
        self.count -= 1;
        Some(Pfn(pfn))
    }

    /// Puts a single frame on its list, if that leaves it short of the limit: [`Self::room`], where
    /// neither reclaim nor a want of frames changes the limit.
    #[inline(always)]
    pub(crate) fn put_single(
        &mut self,
        pfn: Pfn,
        migratetype: MigrateType,
        limits: PcpLimits,
    ) -> bool {
        if self.room(limits) == 0 {
            return false;
        }
        self.lists[order_to_pindex(migratetype, Order::ZERO)].push_front(pfn.0, Order::ZERO);
        self.put(1, limits);
        true
    }

    /// Counts single frames that were taken off a list: the same as after each.
    pub(crate) fn took(&mut self, nr: u32) {
        self.count -= nr;
        self.free_count = self.free_count.checked_shr(nr).unwrap_or(0);
    }

    /// How many single frames may come before one more meets the limit.
    #[inline(always)]
    pub(crate) fn room(&self, limits: PcpLimits) -> u32 {
        let high = self.high.clamp(limits.high_min, limits.high_max);
        high.saturating_sub(self.count + 1)
    }

    /// Counts single frames that were put on a list and left [`Self::room`]: the same as after each.
    #[inline(always)]
    pub(crate) fn put(&mut self, nr: u32, limits: PcpLimits) {
        self.alloc_factor = self.alloc_factor.checked_shr(nr).unwrap_or(0);
        self.prev_free_high_order = false;
        self.high = self.high.clamp(limits.high_min, limits.high_max);
        self.count += nr;
        let most = limits.batch << BATCH_SCALE_MAX;
        if self.free_count < most {
            self.free_count = (self.free_count + nr).min(most);
        }
    }

    /// The counts alone.
    pub(crate) fn without_blocks(self) -> Self {
        Self {
            lists: Default::default(),
            ..self
        }
    }

    /// What a free changes besides the lists: `free_unref_page_commit()`.
    pub(crate) fn count_free(&mut self, order: Order, limits: PcpLimits) {
        self.alloc_factor >>= 1;
        self.count += order.nr_pages();
        if self.free_count < limits.batch << BATCH_SCALE_MAX {
            self.free_count += order.nr_pages();
        }
    }

    /// Learns from a recorded refill of single frames that was larger than expected how far the
    /// factor must have grown.
    pub(crate) fn was_refilled(&mut self, order: Order, blocks: u32, base: u32) {
        let least = blocks.div_ceil(base.max(1)).max(1).next_power_of_two();
        let factor = u8::try_from(least.ilog2()).expect("below 32") + 1;
        if order == Order::ZERO && blocks > base {
            self.alloc_factor = self.alloc_factor.max(factor.min(BATCH_SCALE_MAX));
        }
    }

    /// How many blocks a refill takes: `nr_pcp_alloc()`.
    pub(crate) fn nr_alloc(&mut self, limits: PcpLimits, below_high: bool, order: Order) -> u32 {
        let base = limits.batch;
        self.high = self.high.clamp(limits.high_min, limits.high_max);
        if self.high < base {
            return 1;
        }
        let mut batch = if order > Order::ZERO {
            base
        } else {
            base << self.alloc_factor
        };
        if limits.high_min != limits.high_max && !below_high {
            self.high = (self.high + batch).min(limits.high_max);
        }
        if order == Order::ZERO {
            let room = i64::from(self.high) - i64::from(self.count) - i64::from(base);
            let max = u32::try_from(room).unwrap_or(0).max(base);
            if batch <= max && self.alloc_factor < BATCH_SCALE_MAX {
                self.alloc_factor += 1;
            }
            batch = batch.min(max);
        }
        if batch > 1 {
            (batch >> order.get()).max(2)
        } else {
            batch
        }
    }

    /// How many frames go back: `nr_pcp_free()`.
    fn nr_free(&self, batch: u32, high: u32, free_high: bool) -> u32 {
        if free_high {
            return self.count.min(batch << BATCH_SCALE_MAX);
        }
        if high < batch {
            return 1;
        }
        // clamp_t(), whose bounds may be the wrong way round.
        if self.free_count >= high - batch {
            high - batch
        } else {
            self.free_count.max(batch)
        }
    }

    /// The limit that a free is held against: `nr_pcp_high()`.
    pub(crate) fn nr_high(
        &mut self,
        limits: PcpLimits,
        reclaim_active: bool,
        below_high: bool,
        free_high: bool,
    ) -> u32 {
        let PcpLimits {
            batch,
            high_min,
            high_max,
        } = limits;
        let high = self.high.clamp(high_min, high_max);
        self.high = high;
        if high == 0 {
            return 0;
        }
        if free_high {
            self.high = high.saturating_sub(batch << BATCH_SCALE_MAX).max(high_min);
            return 0;
        }
        let shrunk = high
            .saturating_sub(self.free_count.max(batch))
            .max(high_min);
        if reclaim_active {
            self.high = shrunk;
            return (batch << 2).min(self.high);
        }
        if high_min == high_max {
            return high;
        }
        if below_high {
            self.high = shrunk;
            return self.count.max(high_min);
        }
        if self.count >= high {
            let need = self.free_count + batch;
            if self.high < need {
                self.high = need.clamp(high_min, high_max);
            }
        }
        high
    }
}

/// Tells whoever listens of a run of blocks as of so many taken one by one.
#[inline]
fn note_run(map: &mut MemMap, start: Pfn, order: Order, nr: u32, migratetype: MigrateType) {
    if map.events.is_on() {
        for at in 0..nr {
            let pfn = Pfn(start.0 + (at << order.get()));
            map.events.left_list(pfn, order, migratetype);
        }
    }
}

impl Zone {
    /// Takes a block from a CPU's list, refilled if it is empty: `rmqueue_pcplist()`.
    #[inline(always)]
    pub(crate) fn rmqueue_pcplist(
        &mut self,
        with: &mut Parts<'_>,
        ac: &AllocContext,
        flags: AllocFlags,
    ) -> Option<Pfn> {
        let pindex = order_to_pindex(ac.migratetype, ac.order);
        let pcp = &mut self.pcps[usize::from(ac.cpu.0)];
        pcp.free_count >>= 1;
        let ns = with.clock.costs.pcp_hit_ns();
        with.clock.charge(ac.cpu, ns);
        if let Some(pfn) = pcp.lists[pindex].pop_front() {
            pcp.count -= ac.order.nr_pages();
            return Some(Pfn(pfn));
        }
        self.refill(with.reborrow(), *ac, flags, pindex)
    }

    /// The same when the list has a block; else nothing.
    #[inline(always)]
    pub(crate) fn pop_pcp(
        &mut self,
        with: &mut Parts<'_>,
        cpu: Cpu,
        order: Order,
        migratetype: MigrateType,
    ) -> Option<Pfn> {
        let pcp = &mut self.pcps[usize::from(cpu.0)];
        let pfn = pcp.lists[order_to_pindex(migratetype, order)].pop_front()?;
        pcp.free_count >>= 1;
        pcp.count -= order.nr_pages();
        let ns = with.clock.costs.pcp_hit_ns();
        with.clock.charge(cpu, ns);
        Some(Pfn(pfn))
    }

    #[cold]
    fn refill(
        &mut self,
        mut with: Parts<'_>,
        ac: AllocContext,
        flags: AllocFlags,
        pindex: usize,
    ) -> Option<Pfn> {
        let cpu = usize::from(ac.cpu.0);
        let pcp = &mut self.pcps[cpu];
        let count = pcp.nr_alloc(self.pcp_limits, self.below_high, ac.order);
        let mut list = std::mem::take(&mut pcp.lists[pindex]);
        let fallbacks = with.vmstat.fallbacks();
        let blocks = self.rmqueue_bulk(&mut with, &ac, flags, count, &mut list);
        let pfn = list.pop_front();
        let pcp = &mut self.pcps[cpu];
        pcp.lists[pindex] = list;
        pcp.count += (blocks - u32::from(pfn.is_some())) << ac.order.get();
        with.vmstat.count(VmEvent::PcpRefill, 1);
        let fallbacks = with.vmstat.fallbacks() - fallbacks;
        let hold_ns = with.clock.costs.refill_ns(blocks, ac.order, fallbacks);
        with.clock.hold_lock(ac.cpu, &mut self.lock, 0, hold_ns);
        pfn.map(Pfn)
    }

    /// Appends up to `count` blocks to a list: `rmqueue_bulk()`.
    fn rmqueue_bulk(
        &mut self,
        with: &mut Parts<'_>,
        ac: &AllocContext,
        flags: AllocFlags,
        count: u32,
        list: &mut PcpList,
    ) -> u32 {
        let (order, migratetype) = (ac.order, ac.migratetype);
        let mut mode = RmqueueMode::Normal;
        let mut taken = 0;
        while taken < count {
            // The shortcut steps aside where CMA, claim or steal would decide.
            let plain = mode == RmqueueMode::Normal && self.nr_free_cma == 0;
            if plain && with.tuning.run_refill {
                let run = self.take_run(with.map, order, migratetype, count - taken);
                if let Some((start, nr)) = run {
                    note_run(with.map, start, order, nr, migratetype);
                    with.map.set_heads(start, order, nr, PageClass::Pcp);
                    list.push_back_run(start.0, nr, order);
                    taken += nr;
                    continue;
                }
            }
            let Some(pfn) = self.rmqueue(with, order, migratetype, flags, &mut mode) else {
                break;
            };
            with.map.set_head(pfn, order, PageClass::Pcp);
            list.push_back(pfn.0, order);
            taken += 1;
        }
        taken
    }

    /// Takes up to `count` blocks from the smallest sufficient block at once: the same blocks, and
    /// the same rest on the lists, as so many calls of `__rmqueue_smallest()`. Their heads are to be
    /// marked by the caller.
    ///
    /// The lists between `order` and the block's order are empty, so each later call would take
    /// what the one before put back, in ascending order.
    pub(crate) fn take_run(
        &mut self,
        map: &mut MemMap,
        order: Order,
        migratetype: MigrateType,
        count: u32,
    ) -> Option<(Pfn, u32)> {
        let found = self.free_area.smallest(order, migratetype)?;
        let start = self.free_area.pop(map, found, migratetype)?;
        let nr = count.min(found.nr_pages() >> order.get());
        self.put_back_rest(map, start, (order, found), nr << order.get(), migratetype);
        self.account_removed(u64::from(nr) << order.get(), migratetype);
        Some((start, nr))
    }

    /// Puts what is left of a block after its first `used` frames on the lists, as the repeated
    /// `expand()` would.
    fn put_back_rest(
        &mut self,
        map: &mut MemMap,
        start: Pfn,
        (low, high): (Order, Order),
        used: u32,
        migratetype: MigrateType,
    ) {
        let mut start = start.0;
        let mut used = used;
        let mut half = high;
        while let Some(smaller) = half.smaller().filter(|&smaller| smaller >= low && used > 0) {
            half = smaller;
            let nr = half.nr_pages();
            if used > nr {
                start += nr;
                used -= nr;
            } else {
                let upper = Pfn(start + nr);
                self.free_area
                    .add(map, upper, half, migratetype, crate::free_area::Side::Head);
                if used == nr {
                    return;
                }
            }
        }
    }

    /// Puts a freed block on a CPU's list, and gives frames back when there are too many:
    /// `free_unref_page_commit()`. The migratetype is the list's, not the pageblock's.
    #[inline(always)]
    pub(crate) fn free_to_pcp(
        &mut self,
        map: &mut MemMap,
        cpu: usize,
        pfn: Pfn,
        order: Order,
        migratetype: MigrateType,
    ) -> u32 {
        let pindex = order_to_pindex(migratetype, order);
        let limits = self.pcp_limits;
        let batch = limits.batch;
        map.set_head(pfn, order, PageClass::Pcp);
        let pcp = &mut self.pcps[cpu];
        pcp.alloc_factor >>= 1;
        pcp.lists[pindex].push_front(pfn.0, order);
        pcp.count += order.nr_pages();
        let mut free_high = false;
        if order > Order::ZERO && order.get() <= PAGE_ALLOC_COSTLY_ORDER {
            // free_frozen_page_commit(), mm/page_alloc.c v6.16: `batch + pcp->high_min / 2`.
            let in_a_row = if self.free_high_half_min {
                batch + limits.high_min / 2
            } else {
                batch
            };
            free_high = pcp.free_count >= in_a_row
                && pcp.prev_free_high_order
                && (!self.free_high_batch || pcp.count >= batch);
            pcp.prev_free_high_order = true;
        } else {
            pcp.prev_free_high_order = false;
        }
        if pcp.free_count < batch << BATCH_SCALE_MAX {
            pcp.free_count += order.nr_pages();
        }
        let high = pcp.nr_high(limits, self.reclaim_active, self.below_high, free_high);
        if pcp.count < high {
            return 0;
        }
        let nr = pcp.nr_free(batch, high, free_high);
        let blocks = self.free_pcppages_bulk(map, cpu, nr, pindex);
        if self.below_high {
            let mark = self.wmark_pages(Wmark::High);
            let ok = self.watermark_ok(Order::ZERO, mark, ZoneKind::Movable, AllocFlags(0));
            self.below_high = !ok;
        }
        blocks
    }

    /// Gives at least `count` frames back, list by list from the one just freed to, oldest first:
    /// `free_pcppages_bulk()`.
    pub(crate) fn free_pcppages_bulk(
        &mut self,
        map: &mut MemMap,
        cpu: usize,
        count: u32,
        pindex: usize,
    ) -> u32 {
        let mut left = i64::from(count.min(self.pcps[cpu].count));
        if pindex_to_order(pindex) == Order::ZERO {
            let ahead = self.pcps[cpu].lists[pindex].iter().rev();
            map.look_at(ahead.take(LOOK_AHEAD.min(count as usize)));
        }
        let mut pindex = pindex;
        let mut blocks = 0;
        while left > 0 {
            let order = pindex_to_order(pindex);
            while left > 0 {
                if order == Order::ZERO {
                    let most = u32::try_from(left).expect("at most what is listed");
                    let nr = self.drain_neighbours(map, cpu, pindex, most);
                    if nr > 0 {
                        left -= i64::from(nr);
                        blocks += nr;
                        continue;
                    }
                }
                let Some(pfn) = self.pcps[cpu].lists[pindex].pop_back() else {
                    break;
                };
                let pfn = Pfn(pfn);
                left -= i64::from(order.nr_pages());
                self.pcps[cpu].count -= order.nr_pages();
                map.clear_head(pfn, order);
                let migratetype = map.pageblock_migratetype(pfn);
                self.free_one_page(map, pfn, order, migratetype, None);
                let fields = [pfn.0, order.get().into(), migratetype as u32];
                map.events.note(Tracepoint::PagePcpuDrain, fields);
                blocks += 1;
            }
            pindex = (pindex + 1) % NR_PCP_LISTS;
        }
        blocks
    }

    /// Gives all frames of a CPU's lists back: `drain_pages_zone()`.
    pub(crate) fn drain_pcp(&mut self, map: &mut MemMap, cpu: usize) -> u32 {
        let mut blocks = 0;
        while self.pcps[cpu].count > 0 {
            let most = self.pcp_limits.batch << BATCH_SCALE_MAX;
            blocks += self.free_pcppages_bulk(map, cpu, most.max(1), 0);
        }
        blocks
    }

    /// What the periodic vmstat update does to a CPU's lists: `decay_pcp_high()`.
    pub(crate) fn decay_pcp_high(&mut self, map: &mut MemMap, cpu: usize) -> u32 {
        let PcpLimits {
            batch, high_min, ..
        } = self.pcp_limits;
        let pcp = &mut self.pcps[cpu];
        if pcp.high > high_min {
            let by_count = pcp.count.saturating_sub(batch << BATCH_SCALE_MAX);
            pcp.high = by_count.max(pcp.high - (pcp.high >> 3)).max(high_min);
        }
        let mut left = pcp.count.saturating_sub(pcp.high);
        let mut blocks = 0;
        while left > 0 {
            let now = left.min(batch);
            blocks += self.free_pcppages_bulk(map, cpu, now, 0);
            left -= now;
        }
        blocks
    }
}
