//! A page allocator too plain to be wrong: mm/page_alloc.c v6.12.117 written down line by line, one
//! page at a time, with a queue for every list and an array for every frame. No store of large
//! blocks, no runs, no masks, no counters that could drift.

use std::collections::VecDeque;

use contigmm_core::events::{MAX_FIELDS, NO_PFN, Tracepoint};
use contigmm_core::{Gfp, Memory, MigrateType};

const UNMOVABLE: usize = 0;
const MOVABLE: usize = 1;
const RECLAIMABLE: usize = 2;
const HIGHATOMIC: usize = 3;
const MIGRATE_PCPTYPES: usize = 3;
const PAGEBLOCK: u32 = 512;
const FALLBACKS: [[usize; 2]; 3] = [
    [RECLAIMABLE, MOVABLE],
    [RECLAIMABLE, UNMOVABLE],
    [UNMOVABLE, MOVABLE],
];

const WMARK_MIN: u32 = 0;
const WMARK_LOW: u32 = 1;
const NON_BLOCK: u32 = 0x10;
const MIN_RESERVE: u32 = 0x20;
const NOFRAGMENT: u32 = 0x100;
const ALLOC_HIGHATOMIC: u32 = 0x200;

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a migratetype")
}

#[derive(Clone, Default)]
struct Pcp {
    lists: [VecDeque<u32>; 14],
    count: i64,
    high: i64,
    alloc_factor: u32,
    free_count: i64,
    prev_high_order: bool,
}

#[derive(Clone)]
struct Zone {
    start: u32,
    end: u32,
    kind: usize,
    managed: i64,
    marks: [i64; 3],
    reserve: [i64; 4],
    limits: (i64, i64, i64),
    boost: i64,
    reserved_highatomic: i64,
    below_high: bool,
    free_high_half_min: bool,
    below_high_by_frames: bool,
    lists: [[VecDeque<u32>; 6]; 11],
    pcps: Vec<Pcp>,
}

#[derive(Clone)]
pub struct Reference {
    /// Zones from the lowest up.
    zones: Vec<Zone>,
    /// Zone of each frame that exists.
    zone_of: Vec<Option<usize>>,
    block_type: Vec<usize>,
    /// Order of the free block that starts here.
    free_order: Vec<Option<u32>>,
    movable: Vec<bool>,
    /// What was told since the last look: tracepoints with their fields.
    events: Vec<Told>,
}

/// A tracepoint and its fields, zeros behind them.
pub type Told = (Tracepoint, [u32; MAX_FIELDS]);

#[derive(PartialEq, PartialOrd, Clone, Copy)]
enum Mode {
    Normal,
    Claim,
    Steal,
}

impl Reference {
    /// The state of a machine that was just booted, on one node.
    pub fn of(memory: &Memory) -> Self {
        let frames = memory.map().nr_frames();
        let mut model = Self {
            zones: Vec::new(),
            zone_of: (0..frames)
                .map(|pfn| {
                    memory
                        .map()
                        .zone_of(contigmm_core::Pfn(pfn))
                        .map(contigmm_core::ZoneId::index)
                })
                .collect(),
            block_type: vec![MOVABLE; frames.div_ceil(PAGEBLOCK) as usize],
            free_order: vec![None; frames as usize],
            movable: vec![false; frames as usize],
            events: Vec::new(),
        };
        for zone in memory.zones() {
            let wmark = zone.watermark;
            let limits = zone.pcp_limits;
            let mut own = Zone {
                start: zone.start_pfn.0,
                end: zone.end_pfn(),
                kind: zone.kind.index(),
                managed: signed(zone.managed),
                marks: [wmark.min, wmark.low, wmark.high].map(signed),
                reserve: zone.lowmem_reserve.map(signed),
                limits: (
                    limits.batch.into(),
                    limits.high_min.into(),
                    limits.high_max.into(),
                ),
                boost: 0,
                reserved_highatomic: 0,
                below_high: false,
                free_high_half_min: zone.free_high_half_min,
                below_high_by_frames: zone.below_high_by_frames,
                lists: Default::default(),
                pcps: vec![Pcp::default(); zone.pcps.len()],
            };
            for block in memory.free_blocks(zone.id) {
                let order = u32::from(block.order.get());
                own.lists[order as usize][MOVABLE].push_back(block.pfn.0);
                model.free_order[block.pfn.0 as usize] = Some(order);
            }
            model.zones.push(own);
        }
        model
    }

    /// Free blocks of a zone, list by list.
    pub fn free_blocks(&self, zone: usize) -> Vec<(u32, u32, usize)> {
        let mut blocks = Vec::new();
        for order in 0..11 {
            for mt in 0..6 {
                let list = &self.zones[zone].lists[order as usize][mt];
                blocks.extend(list.iter().map(|&pfn| (pfn, order, mt)));
            }
        }
        blocks
    }

    /// The per-CPU lists of a zone.
    pub fn pcp_lists(&self, zone: usize) -> Vec<Vec<u32>> {
        let lists = |pcp: &Pcp| {
            pcp.lists
                .iter()
                .map(|l| l.iter().copied().collect())
                .collect()
        };
        self.zones[zone]
            .pcps
            .iter()
            .flat_map(|pcp: &Pcp| -> Vec<Vec<u32>> { lists(pcp) })
            .collect()
    }

    pub fn boost(&self, zone: usize) -> i64 {
        self.zones[zone].boost
    }

    /// What was told since the last look.
    pub fn take_events(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.events)
    }

    fn tell(&mut self, tracepoint: Tracepoint, told: &[u32]) {
        let mut fields = [0; MAX_FIELDS];
        fields[..told.len()].copy_from_slice(told);
        self.events.push((tracepoint, fields));
    }

    // ---- __alloc_pages() ---------------------------------------------------------------------

    pub fn alloc(&mut self, cpu: usize, gfp: Gfp, order: u32) -> Option<u32> {
        let preferred = *self.zonelist(gfp).first()?;
        let mut flags = WMARK_LOW;
        if self.zones[preferred].kind == 2 {
            flags |= NOFRAGMENT;
        }
        let mut pfn = self.get_page_from_freelist(cpu, gfp, order, flags);
        if pfn.is_none() {
            pfn = self.slowpath(cpu, gfp, order);
        }
        let told = [
            pfn.unwrap_or(NO_PFN),
            order,
            gfp.migratetype() as u32,
            gfp.0,
        ];
        self.tell(Tracepoint::PageAlloc, &told);
        let pfn = pfn?;
        for frame in pfn..pfn + (1 << order) {
            self.movable[frame as usize] = gfp.has(Gfp::MOVABLE);
        }
        Some(pfn)
    }

    fn zonelist(&self, gfp: Gfp) -> Vec<usize> {
        let highest = gfp.highest_zone().index();
        (0..self.zones.len())
            .rev()
            .filter(|&z| self.zones[z].kind <= highest)
            .collect()
    }

    fn slowpath(&mut self, cpu: usize, gfp: Gfp, order: u32) -> Option<u32> {
        let mut flags = WMARK_MIN;
        if gfp.has(Gfp::HIGH) {
            flags |= MIN_RESERVE;
        }
        if !gfp.has(Gfp::DIRECT_RECLAIM) {
            flags |= NON_BLOCK;
            if order > 0 && flags & MIN_RESERVE != 0 {
                flags |= ALLOC_HIGHATOMIC;
            }
        }
        if let Some(pfn) = self.get_page_from_freelist(cpu, gfp, order, flags) {
            return Some(pfn);
        }
        if !gfp.has(Gfp::DIRECT_RECLAIM) {
            return None;
        }
        self.unreserve(gfp, false);
        self.drain_all();
        if let Some(pfn) = self.get_page_from_freelist(cpu, gfp, order, flags) {
            return Some(pfn);
        }
        while self.unreserve(gfp, true) {
            if let Some(pfn) = self.get_page_from_freelist(cpu, gfp, order, flags) {
                return Some(pfn);
            }
        }
        None
    }

    fn get_page_from_freelist(
        &mut self,
        cpu: usize,
        gfp: Gfp,
        order: u32,
        mut flags: u32,
    ) -> Option<u32> {
        loop {
            for z in self.zonelist(gfp) {
                if !self.passes(z, gfp, order, flags) {
                    continue;
                }
                let mt = gfp.migratetype() as usize;
                let mut pfn = None;
                if order <= 3 || order == 9 {
                    pfn = self.rmqueue_pcplist(z, cpu, order, mt, flags);
                }
                if pfn.is_none() {
                    pfn = self.rmqueue_buddy(z, order, mt, flags);
                }
                if let Some(pfn) = pfn {
                    if flags & ALLOC_HIGHATOMIC != 0 {
                        self.reserve_highatomic(z, pfn, order);
                    }
                    return Some(pfn);
                }
            }
            if flags & NOFRAGMENT == 0 {
                return None;
            }
            flags &= !NOFRAGMENT;
        }
    }

    fn passes(&mut self, z: usize, gfp: Gfp, order: u32, flags: u32) -> bool {
        let highest = gfp.highest_zone().index();
        let boost = self.zones[z].boost;
        if !self.zones[z].below_high {
            let high = self.zones[z].marks[2] + boost;
            if self.watermark_ok(z, order, high, highest, flags) {
                return true;
            }
            self.zones[z].below_high = !self.zones[z].below_high_by_frames
                || gfp.has(Gfp::DIRECT_RECLAIM)
                || !self.watermark_ok(z, 0, high, highest, flags);
        }
        let mark = self.zones[z].marks[(flags & 3) as usize] + boost;
        if self.watermark_ok(z, order, mark, highest, flags) {
            return true;
        }
        let min = self.zones[z].marks[0];
        order == 0
            && flags & MIN_RESERVE != 0
            && boost > 0
            && flags & 3 == WMARK_MIN
            && self.watermark_ok(z, order, min, highest, flags)
    }

    fn watermark_ok(&self, z: usize, order: u32, mark: i64, highest: usize, flags: u32) -> bool {
        let zone = &self.zones[z];
        let nr = |mt: usize| -> i64 {
            (0..11)
                .map(|o| signed(zone.lists[o][mt].len() as u64) << o)
                .sum()
        };
        let mut free: i64 = (0..5).map(nr).sum();
        let reserves = NON_BLOCK | MIN_RESERVE | ALLOC_HIGHATOMIC;
        // The quick test of zone_watermark_fast() looks at the mark itself.
        let reserved = if flags & reserves == 0 {
            nr(HIGHATOMIC)
        } else {
            0
        };
        if order == 0 && free - free.min(reserved) > mark + zone.reserve[highest] {
            return true;
        }
        free -= (1 << order) - 1 + reserved;
        let mut min = mark;
        if flags & MIN_RESERVE != 0 {
            min -= min / 2;
            if flags & NON_BLOCK != 0 {
                min -= min / 4;
            }
        }
        if free <= min + zone.reserve[highest] {
            return false;
        }
        let types = if flags & ALLOC_HIGHATOMIC != 0 { 4 } else { 3 };
        order == 0
            || (order as usize..11).any(|o| (0..types).any(|mt| !zone.lists[o][mt].is_empty()))
    }

    // ---- rmqueue() ---------------------------------------------------------------------------

    fn rmqueue_buddy(&mut self, z: usize, order: u32, mt: usize, flags: u32) -> Option<u32> {
        if flags & ALLOC_HIGHATOMIC != 0
            && let Some(pfn) = self.rmqueue_smallest(z, order, HIGHATOMIC)
        {
            return Some(pfn);
        }
        let pfn = self.rmqueue(z, order, mt, flags, &mut Mode::Normal);
        if pfn.is_none() && flags & NON_BLOCK != 0 {
            return self.rmqueue_smallest(z, order, HIGHATOMIC);
        }
        pfn
    }

    fn rmqueue(
        &mut self,
        z: usize,
        order: u32,
        mt: usize,
        flags: u32,
        mode: &mut Mode,
    ) -> Option<u32> {
        if *mode == Mode::Normal
            && let Some(pfn) = self.rmqueue_smallest(z, order, mt)
        {
            return Some(pfn);
        }
        if *mode <= Mode::Claim
            && let Some(pfn) = self.claim(z, order, mt, flags)
        {
            *mode = Mode::Normal;
            return Some(pfn);
        }
        if flags & NOFRAGMENT == 0
            && let Some(pfn) = self.steal(z, order, mt)
        {
            *mode = Mode::Steal;
            return Some(pfn);
        }
        None
    }

    fn rmqueue_smallest(&mut self, z: usize, order: u32, mt: usize) -> Option<u32> {
        for current in order..11 {
            if let Some(&pfn) = self.zones[z].lists[current as usize][mt].front() {
                self.del(z, pfn, current, mt);
                self.expand(z, pfn, order, current, mt);
                let refill = (order <= 3 || order == 9) && mt < MIGRATE_PCPTYPES;
                let told = [pfn, order, small(mt), u32::from(refill)];
                self.tell(Tracepoint::PageAllocZoneLocked, &told);
                return Some(pfn);
            }
        }
        None
    }

    fn expand(&mut self, z: usize, pfn: u32, low: u32, high: u32, mt: usize) {
        let mut high = high;
        while high > low {
            high -= 1;
            self.add(z, pfn + (1 << high), high, mt, false);
        }
    }

    fn add(&mut self, z: usize, pfn: u32, order: u32, mt: usize, tail: bool) {
        let list = &mut self.zones[z].lists[order as usize][mt];
        if tail {
            list.push_back(pfn);
        } else {
            list.push_front(pfn);
        }
        self.free_order[pfn as usize] = Some(order);
    }

    fn del(&mut self, z: usize, pfn: u32, order: u32, mt: usize) {
        let list = &mut self.zones[z].lists[order as usize][mt];
        let at = list
            .iter()
            .position(|&other| other == pfn)
            .expect("it is on its list");
        list.remove(at);
        self.free_order[pfn as usize] = None;
    }

    fn suitable_fallback(&self, z: usize, order: u32, mt: usize) -> Option<usize> {
        FALLBACKS[mt]
            .into_iter()
            .find(|&f| !self.zones[z].lists[order as usize][f].is_empty())
    }

    fn claim(&mut self, z: usize, order: u32, start: usize, flags: u32) -> Option<u32> {
        let min_order = if order < 9 && flags & NOFRAGMENT != 0 {
            9
        } else {
            order
        };
        for current in (min_order..11).rev() {
            let Some(fallback) = self.suitable_fallback(z, current, start) else {
                continue;
            };
            if !(current >= 9 || current >= 4 || start == RECLAIMABLE || start == UNMOVABLE) {
                break;
            }
            let pfn = self.zones[z].lists[current as usize][fallback][0];
            if let Some(pfn) = self.try_to_steal_block(z, pfn, current, order, start) {
                self.tell_fallback(pfn, order, current, start, fallback);
                return Some(pfn);
            }
        }
        None
    }

    fn try_to_steal_block(
        &mut self,
        z: usize,
        pfn: u32,
        current: u32,
        order: u32,
        start: usize,
    ) -> Option<u32> {
        let block_type = self.type_of(pfn);
        if current >= 9 {
            self.del(z, pfn, current, block_type);
            self.change_types(pfn, current, start);
            self.expand(z, pfn, order, current, start);
            return Some(pfn);
        }
        let high = self.zones[z].marks[2];
        if 4 * 512 <= self.zones[z].managed && high * 15_000 / 10_000 > 0 {
            let max = (high * 15_000 / 10_000).max(512);
            self.zones[z].boost = (self.zones[z].boost + 512).min(max);
        }
        let block = pfn & !(PAGEBLOCK - 1);
        if !self.spans(z, block) {
            return None;
        }
        let (mut free, mut movable) = (0, 0);
        let mut next = block;
        while next < block + PAGEBLOCK {
            if let Some(order) = self.free_order[next as usize] {
                free += 1 << order;
                next += 1 << order;
                continue;
            }
            movable += u32::from(self.movable[next as usize]);
            next += 1;
        }
        let alike = if start == MOVABLE {
            movable
        } else if block_type == MOVABLE {
            PAGEBLOCK - (free + movable)
        } else {
            0
        };
        if free + alike < 256 {
            return None;
        }
        self.move_block(z, block, block_type, start);
        self.rmqueue_smallest(z, order, start)
    }

    fn steal(&mut self, z: usize, order: u32, start: usize) -> Option<u32> {
        for current in order..11 {
            if let Some(fallback) = self.suitable_fallback(z, current, start) {
                let pfn = self.zones[z].lists[current as usize][fallback][0];
                self.del(z, pfn, current, fallback);
                self.expand(z, pfn, order, current, fallback);
                self.tell_fallback(pfn, order, current, start, fallback);
                return Some(pfn);
            }
        }
        None
    }

    fn tell_fallback(&mut self, pfn: u32, order: u32, current: u32, start: usize, from: usize) {
        let changed = u32::from(self.type_of(pfn) == start);
        let told = [pfn, order, current, small(start), small(from), changed];
        self.tell(Tracepoint::PageAllocExtfrag, &told);
    }

    fn spans(&self, z: usize, block: u32) -> bool {
        self.zones[z].start <= block && block + PAGEBLOCK <= self.zones[z].end
    }

    fn move_block(&mut self, z: usize, block: u32, from: usize, to: usize) {
        for pfn in block..block + PAGEBLOCK {
            if let Some(order) = self.free_order[pfn as usize] {
                self.del(z, pfn, order, from);
                self.add(z, pfn, order, to, true);
            }
        }
        self.block_type[(block / PAGEBLOCK) as usize] = to;
    }

    fn type_of(&self, pfn: u32) -> usize {
        self.block_type[(pfn / PAGEBLOCK) as usize]
    }

    fn change_types(&mut self, pfn: u32, order: u32, mt: usize) {
        for block in (pfn..pfn + (1 << order)).step_by(PAGEBLOCK as usize) {
            self.block_type[(block / PAGEBLOCK) as usize] = mt;
        }
    }

    // ---- the highatomic reserve --------------------------------------------------------------

    fn reserve_highatomic(&mut self, z: usize, pfn: u32, order: u32) {
        let percent = self.zones[z].managed / 100;
        let mt = self.type_of(pfn);
        if percent < 512
            || self.zones[z].reserved_highatomic >= (percent + 511) / 512 * 512
            || mt >= MIGRATE_PCPTYPES
        {
            return;
        }
        if order < 9 {
            let block = pfn & !(PAGEBLOCK - 1);
            if self.spans(z, block) {
                self.move_block(z, block, mt, HIGHATOMIC);
                self.zones[z].reserved_highatomic += 512;
            }
        } else {
            self.change_types(pfn, order, HIGHATOMIC);
            self.zones[z].reserved_highatomic += 1 << order;
        }
    }

    fn unreserve(&mut self, gfp: Gfp, force: bool) -> bool {
        let to = gfp.migratetype() as usize;
        for z in self.zonelist(gfp) {
            if !force && self.zones[z].reserved_highatomic <= 512 {
                continue;
            }
            for order in 0..11_u32 {
                let Some(&pfn) = self.zones[z].lists[order as usize][HIGHATOMIC].front() else {
                    continue;
                };
                let reserved = self.zones[z].reserved_highatomic;
                self.zones[z].reserved_highatomic -= reserved.min(512.max(1 << order));
                if order < 9 {
                    self.move_block(z, pfn & !(PAGEBLOCK - 1), HIGHATOMIC, to);
                } else {
                    self.del(z, pfn, order, HIGHATOMIC);
                    self.add(z, pfn, order, to, true);
                    self.change_types(pfn, order, to);
                }
                return true;
            }
        }
        false
    }

    // ---- __free_pages() ----------------------------------------------------------------------

    pub fn free(&mut self, cpu: usize, pfn: u32, order: u32) {
        self.tell(Tracepoint::PageFree, &[pfn, order]);
        for frame in pfn..pfn + (1 << order) {
            self.movable[frame as usize] = false;
        }
        let z = self.zone_of[pfn as usize].expect("an allocated frame has a zone");
        if order > 3 && order != 9 {
            return self.split_large_buddy(z, pfn, order);
        }
        let mt = self.type_of(pfn);
        let mt = if mt >= MIGRATE_PCPTYPES { MOVABLE } else { mt };
        let pindex = pindex(mt, order);
        let below_high = self.zones[z].below_high;
        let half_min = self.zones[z].free_high_half_min;
        let (batch, high_min, high_max) = self.zones[z].limits;
        let pcp = &mut self.zones[z].pcps[cpu];
        pcp.alloc_factor >>= 1;
        pcp.lists[pindex].push_front(pfn);
        pcp.count += 1 << order;
        let mut free_high = false;
        if order > 0 && order <= 3 {
            let in_a_row = batch + if half_min { high_min / 2 } else { 0 };
            free_high = pcp.free_count >= in_a_row && pcp.prev_high_order && pcp.count >= batch;
            pcp.prev_high_order = true;
        } else {
            pcp.prev_high_order = false;
        }
        if pcp.free_count < batch << 5 {
            pcp.free_count += 1 << order;
        }
        // nr_pcp_high()
        let mut high = pcp.high.clamp(high_min, high_max);
        pcp.high = high;
        if free_high {
            pcp.high = (high - (batch << 5)).max(high_min);
            high = 0;
        } else if high_min == high_max {
        } else if below_high {
            pcp.high = (high - pcp.free_count.max(batch)).max(high_min);
            high = pcp.count.max(high_min);
        } else if pcp.count >= high && pcp.high < pcp.free_count + batch {
            pcp.high = (pcp.free_count + batch).clamp(high_min, high_max);
        }
        if pcp.count >= high {
            // nr_pcp_free()
            let nr = if free_high {
                pcp.count.min(batch << 5)
            } else if high < batch {
                1
            } else if pcp.free_count >= high - batch {
                high - batch
            } else {
                pcp.free_count.max(batch)
            };
            self.free_pcppages_bulk(z, cpu, nr, pindex);
            let mark = self.zones[z].marks[2] + self.zones[z].boost;
            if self.zones[z].below_high && self.plain_watermark_ok(z, mark) {
                self.zones[z].below_high = false;
            }
        }
    }

    fn plain_watermark_ok(&self, z: usize, mark: i64) -> bool {
        let zone = &self.zones[z];
        let free: i64 = (0..3)
            .map(|mt| {
                (0..11)
                    .map(|o| signed(zone.lists[o][mt].len() as u64) << o)
                    .sum::<i64>()
            })
            .sum();
        free > mark + zone.reserve[3]
    }

    fn free_pcppages_bulk(&mut self, z: usize, cpu: usize, count: i64, pindex: usize) {
        let mut count = count.min(self.zones[z].pcps[cpu].count);
        let mut pindex = pindex;
        while count > 0 {
            while self.zones[z].pcps[cpu].lists[pindex].is_empty() {
                pindex = (pindex + 1) % 14;
            }
            let order = if pindex >= 12 {
                9
            } else {
                u32::try_from(pindex / 3).expect("small")
            };
            loop {
                let pcp = &mut self.zones[z].pcps[cpu];
                let Some(pfn) = pcp.lists[pindex].pop_back() else {
                    break;
                };
                count -= 1 << order;
                pcp.count -= 1 << order;
                let mt = self.type_of(pfn);
                self.free_one_page(z, pfn, order, mt);
                self.tell(Tracepoint::PagePcpuDrain, &[pfn, order, small(mt)]);
                if count <= 0 {
                    break;
                }
            }
            pindex = (pindex + 1) % 14;
        }
    }

    fn split_large_buddy(&mut self, z: usize, pfn: u32, order: u32) {
        let piece = order.min(9);
        for start in (pfn..pfn + (1 << order)).step_by(1 << piece) {
            let mt = self.type_of(start);
            self.free_one_page(z, start, piece, mt);
        }
    }

    fn free_one_page(&mut self, z: usize, pfn: u32, order: u32, mt: usize) {
        let (mut pfn, mut order) = (pfn, order);
        while order < 10 {
            let buddy = pfn ^ (1 << order);
            if !self.is_free(z, buddy, order) {
                break;
            }
            let buddy_mt = self.type_of(buddy);
            if order >= 9 && buddy_mt != mt && (buddy_mt >= 3 || mt >= 3) {
                break;
            }
            self.del(z, buddy, order, buddy_mt);
            if buddy_mt != mt {
                self.change_types(buddy, order, mt);
            }
            pfn &= buddy;
            order += 1;
        }
        let tail = order < 9 && {
            let larger = order + 1;
            let higher = (pfn & !((1 << larger) - 1)) ^ (1 << larger);
            self.is_free(z, higher, larger)
        };
        self.add(z, pfn, order, mt, tail);
    }

    fn is_free(&self, z: usize, pfn: u32, order: u32) -> bool {
        let at = pfn as usize;
        self.free_order.get(at).copied().flatten() == Some(order) && self.zone_of[at] == Some(z)
    }

    // ---- per-CPU lists -----------------------------------------------------------------------

    fn rmqueue_pcplist(
        &mut self,
        z: usize,
        cpu: usize,
        order: u32,
        mt: usize,
        flags: u32,
    ) -> Option<u32> {
        self.zones[z].pcps[cpu].free_count >>= 1;
        let pindex = pindex(mt, order);
        if self.zones[z].pcps[cpu].lists[pindex].is_empty() {
            let batch = self.nr_pcp_alloc(z, cpu, order);
            let mut mode = Mode::Normal;
            for _ in 0..batch {
                let Some(pfn) = self.rmqueue(z, order, mt, flags, &mut mode) else {
                    break;
                };
                self.zones[z].pcps[cpu].lists[pindex].push_back(pfn);
                self.zones[z].pcps[cpu].count += 1 << order;
            }
        }
        let pcp = &mut self.zones[z].pcps[cpu];
        let pfn = pcp.lists[pindex].pop_front()?;
        pcp.count -= 1 << order;
        Some(pfn)
    }

    fn nr_pcp_alloc(&mut self, z: usize, cpu: usize, order: u32) -> i64 {
        let (base, high_min, high_max) = self.zones[z].limits;
        let below_high = self.zones[z].below_high;
        let pcp = &mut self.zones[z].pcps[cpu];
        pcp.high = pcp.high.clamp(high_min, high_max);
        if pcp.high < base {
            return 1;
        }
        let mut batch = if order > 0 {
            base
        } else {
            base << pcp.alloc_factor
        };
        if high_min != high_max && !below_high {
            pcp.high = (pcp.high + batch).min(high_max);
        }
        if order == 0 {
            let max = (pcp.high - pcp.count - base).max(base);
            if batch <= max && pcp.alloc_factor < 5 {
                pcp.alloc_factor += 1;
            }
            batch = batch.min(max);
        }
        if batch > 1 {
            (batch >> order).max(2)
        } else {
            batch
        }
    }

    pub fn drain_all(&mut self) {
        for z in 0..self.zones.len() {
            for cpu in 0..self.zones[z].pcps.len() {
                while self.zones[z].pcps[cpu].count > 0 {
                    let most = self.zones[z].limits.0 << 5;
                    self.free_pcppages_bulk(z, cpu, most, 0);
                }
            }
        }
    }

    pub fn decay(&mut self, cpu: usize) {
        for z in 0..self.zones.len() {
            let (batch, high_min, _) = self.zones[z].limits;
            let pcp = &mut self.zones[z].pcps[cpu];
            if pcp.high > high_min {
                let by_count = pcp.count - (batch << 5);
                pcp.high = by_count.max(pcp.high - (pcp.high >> 3)).max(high_min);
            }
            let mut left = pcp.count - pcp.high;
            while left > 0 {
                self.free_pcppages_bulk(z, cpu, left.min(batch), 0);
                left -= left.min(batch);
            }
        }
    }
}

fn pindex(mt: usize, order: u32) -> usize {
    if order > 3 {
        12 + usize::from(mt == MOVABLE)
    } else {
        3 * order as usize + mt
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).expect("a count of frames")
}

const _: () = assert!(
    MigrateType::HighAtomic as usize == HIGHATOMIC,
    "the same numbers"
);
