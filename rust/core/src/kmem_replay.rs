//! Forced replay of a recorded run: the refills, drains, direct allocations and frees that reached a
//! real kernel's buddy lists are asked of the simulated ones, which choose the blocks themselves.
//!
//! A *handle* names a frame of the recording and is opaque: what counts is which events name the
//! same one. Only a frame that was in use when the recording began is known by its number, since
//! the simulated machine began with the same frames in use. Neither which block the real kernel
//! chose, nor the type of its pageblock, nor whether it had to claim or steal is looked at.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use crate::fallback::RmqueueMode;
use crate::mem_map::{BlockHead, PageClass};
use crate::memory::Memory;
use crate::pcp::{Pcp, pcp_allowed_order};
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn, ZoneId};
use crate::watermark::AllocFlags;
use crate::zone::PAGEBLOCK;

/// No frame stands in for this handle: it is on a free list.
const NONE: u32 = u32::MAX;

/// What one event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// A block left the buddy lists for a per-CPU list: `mm_page_alloc_zone_locked`.
    Refill = 0,
    /// A block left them for a caller: the same tracepoint.
    Take = 1,
    /// A block of a per-CPU list went back to them: `mm_page_pcpu_drain`.
    Drain = 2,
    /// A caller gave a block back to them: `mm_page_free`.
    Give = 3,
    /// Somebody got a block: `mm_page_alloc`. Was it not taken before, it came from the buddy lists
    /// in silence, as `__rmqueue_steal()` takes blocks.
    Alloc = 4,
    /// Somebody gave a block to a per-CPU list: `mm_page_free`.
    Free = 5,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Refill,
        Self::Take,
        Self::Drain,
        Self::Give,
        Self::Alloc,
        Self::Free,
    ];
}

/// Recorded events, in columns of one length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recorded<'a> {
    /// [`Step`], by number.
    pub step: &'a [u8],
    /// The CPU that it happened on.
    pub cpu: &'a [u8],
    /// The zone that was asked, or to which the block belongs: position among the machine's.
    pub zone: &'a [u8],
    /// log2 of the frames.
    pub order: &'a [u8],
    /// The migratetype that was asked for; ignored where nothing was.
    pub migratetype: &'a [u8],
    /// Handle of the first frame; those of a block follow each other.
    pub handle: &'a [u32],
}

/// What a replay came upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Blocks that the simulated buddy lists were asked for.
    pub taken: u64,
    /// Blocks that somebody used though no event had taken them.
    pub silent: u64,
    /// Blocks that were asked for and could not be had.
    pub missing: u64,
    /// Blocks given back of which the events never said that they were in use.
    pub unknown_frees: u64,
    /// Pageblocks claimed for another migratetype.
    pub claims: u64,
    /// Blocks stolen from pageblocks of another migratetype.
    pub steals: u64,
}

/// An event that no kernel can have recorded on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ReplayError(pub String);

macro_rules! refuse {
    ($($message:tt)+) => {
        return Err(ReplayError(format!($($message)+)))
    };
}

/// One event, checked.
#[derive(Clone, Copy)]
struct Event {
    step: Step,
    cpu: usize,
    zone: usize,
    order: Order,
    migratetype: MigrateType,
    handle: u32,
}

impl Event {
    fn handles(self) -> std::ops::Range<usize> {
        let first = self.handle as usize;
        first..first + self.order.nr_pages() as usize
    }

    fn list(self) -> List {
        List {
            zone: self.zone,
            cpu: self.cpu,
            order: self.order,
            migratetype: self.migratetype,
        }
    }
}

/// Names one per-CPU list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct List {
    zone: usize,
    cpu: usize,
    order: Order,
    migratetype: MigrateType,
}

/// A refill under way: `rmqueue_bulk()`. No other event comes between those of one refill.
#[derive(Clone, Copy, Debug)]
struct Refill {
    list: List,
    /// Blocks that the kernel wanted: `nr_pcp_alloc()`.
    wanted: u32,
    taken: u32,
    mode: RmqueueMode,
    flags: AllocFlags,
    /// The kernel took its first block without fragmenting, and so all others of this batch.
    keeps_whole: bool,
}

/// What the last refill of a list took in silence, as far as nobody has used it yet.
#[derive(Clone, Debug, Default)]
struct Unseen {
    /// Blocks that the simulated machine was asked for already: first frames.
    blocks: VecDeque<u32>,
    /// Further blocks that the kernel wanted.
    owed: u32,
}

/// A replay under way: which simulated frame stands in for which handle.
#[derive(Clone, Debug)]
pub struct Replay {
    stand_in: Vec<u32>,
    /// Counts of the recorded per-CPU lists, by zone and CPU; their frames are in `stand_in`.
    pcps: Vec<Vec<Pcp>>,
    refills: Vec<Option<Refill>>,
    unseen: BTreeMap<List, Unseen>,
    /// What the events were found to be.
    pub replayed: Replayed,
}

impl Replay {
    /// Begins a replay on a machine whose frames in use have no owners: each stands for itself.
    /// Blocks in use are cut into single frames, since they may come back in other pieces; the
    /// frames on per-CPU lists are in use too, since the recording says what becomes of them.
    ///
    /// # Errors
    /// [`ReplayError`] when the machine has processes, files or runs.
    pub fn begin(memory: &mut Memory) -> Result<Self, ReplayError> {
        if !memory.is_ownerless() {
            refuse!("the machine has processes or files, which would not learn of their loss");
        }
        let pcps = memory.zones.iter_mut().map(|zone| {
            let counts = zone.pcps.iter_mut().map(std::mem::take);
            counts.map(Pcp::without_blocks).collect()
        });
        let pcps: Vec<Vec<Pcp>> = pcps.collect();
        let mut stand_in = vec![NONE; memory.map.nr_frames() as usize];
        let used: Vec<BlockHead> = memory
            .map
            .blocks()
            .filter(|head| head.class != PageClass::Free)
            .collect();
        for BlockHead {
            pfn, order, class, ..
        } in used
        {
            if order > Order::ZERO || class == PageClass::Pcp {
                let class = match class {
                    PageClass::Pcp => PageClass::Kernel,
                    class => class,
                };
                memory.map.clear_head(pfn, order);
                let nr = order.nr_pages();
                for frame in pfn.0..pfn.0 + nr {
                    memory.map.reset_meta(Pfn(frame));
                }
                memory.map.set_heads(pfn, Order::ZERO, nr, class);
            }
            for frame in pfn.0..pfn.0 + order.nr_pages() {
                stand_in[frame as usize] = frame;
            }
        }
        Ok(Self {
            stand_in,
            refills: vec![None; usize::from(memory.clock.nr_cpus())],
            pcps,
            unseen: BTreeMap::new(),
            replayed: Replayed::default(),
        })
    }

    /// Applies events in order.
    ///
    /// # Errors
    /// [`ReplayError`] at the first event that cannot be; those before it have been applied.
    pub fn run(&mut self, memory: &mut Memory, events: &Recorded<'_>) -> Result<(), ReplayError> {
        let nr = events.step.len();
        let lengths = [
            events.cpu.len(),
            events.zone.len(),
            events.order.len(),
            events.migratetype.len(),
            events.handle.len(),
        ];
        if lengths != [nr; 5] {
            refuse!("the columns of the events differ in length");
        }
        for at in 0..nr {
            let event = self.check(memory, events, at)?;
            self.apply(memory, event);
        }
        for cpu in 0..self.refills.len() {
            self.end_refill(memory, cpu);
        }
        memory.map.settle_files(); // frames changed hands without the books of reclaim
        Ok(())
    }

    #[inline]
    fn check(
        &self,
        memory: &Memory,
        events: &Recorded<'_>,
        at: usize,
    ) -> Result<Event, ReplayError> {
        let Some(&step) = Step::ALL.get(usize::from(events.step[at])) else {
            refuse!("event {at} is of the kind {}", events.step[at])
        };
        let Ok(order) = Order::new(events.order[at]) else {
            refuse!("event {at} has the order {}", events.order[at])
        };
        let Ok(migratetype) = MigrateType::new(events.migratetype[at]) else {
            refuse!("event {at} has the migratetype {}", events.migratetype[at])
        };
        let (zone, cpu) = (usize::from(events.zone[at]), usize::from(events.cpu[at]));
        if zone >= memory.zones.len() || cpu >= self.refills.len() {
            refuse!("event {at} is of zone {zone} and CPU {cpu}, which are not there");
        }
        let event = Event {
            step,
            cpu,
            zone,
            order,
            migratetype,
            handle: events.handle[at],
        };
        if event.handles().end > self.stand_in.len() {
            refuse!("event {at} names frame {}, beyond the last", event.handle);
        }
        Ok(event)
    }

    #[inline]
    fn apply(&mut self, memory: &mut Memory, event: Event) {
        if let Some(refill) = &self.refills[event.cpu]
            && (event.step != Step::Refill || refill.list != event.list())
        {
            self.end_refill(memory, event.cpu);
        }
        match event.step {
            Step::Refill => self.refill(memory, event),
            Step::Take => {
                self.come_back(memory, event);
                let pfn = self.ask(memory, &mut Refill::direct(event.list()));
                self.stand(memory, event, pfn, PageClass::Kernel);
            }
            Step::Drain | Step::Give => {
                if event.step == Step::Drain {
                    self.count(event.list(), u32::saturating_sub);
                }
                self.give(memory, event);
            }
            Step::Alloc => self.alloc(memory, event),
            Step::Free => {
                self.count_free(memory, event);
                self.mark(memory, event, PageClass::Kernel);
            }
        }
    }

    fn count(&mut self, list: List, change: impl FnOnce(u32, u32) -> u32) {
        if let Some(pcp) = self.pcps[list.zone].get_mut(list.cpu) {
            pcp.count = change(pcp.count, list.order.nr_pages());
        }
    }

    /// A caller freed a block to a per-CPU list: `free_unref_page_commit()`, its counts.
    fn count_free(&mut self, memory: &Memory, event: Event) {
        let zone = &memory.zones[event.zone];
        let Some(pcp) = self.pcps[event.zone].get_mut(event.cpu) else {
            return;
        };
        pcp.count_free(event.order, zone.pcp_limits);
        pcp.nr_high(zone.pcp_limits, zone.reclaim_active, zone.below_high, false);
    }

    /// One block of a refill. The first one begins it: what the last refill took in silence and
    /// nobody used cannot have been, since the list was empty.
    fn refill(&mut self, memory: &mut Memory, event: Event) {
        self.come_back(memory, event);
        let mut refill = match self.refills[event.cpu] {
            Some(refill) => refill,
            None => self.begin_refill(memory, event.list()),
        };
        refill.taken += 1;
        let mut pfn = self.ask(memory, &mut refill);
        if pfn.is_none() && refill.flags.has(AllocFlags::NOFRAGMENT) {
            refill.flags = refill.flags.without(AllocFlags::NOFRAGMENT);
            refill.keeps_whole &= refill.taken > 1;
            pfn = self.ask(memory, &mut refill);
        }
        self.refills[event.cpu] = Some(refill);
        self.stand(memory, event, pfn, PageClass::Kernel);
        self.count(event.list(), |count, nr| count + nr);
    }

    fn begin_refill(&mut self, memory: &mut Memory, list: List) -> Refill {
        if let Some(unseen) = self.unseen.remove(&list) {
            for pfn in unseen.blocks {
                free_block(memory, Pfn(pfn), list.order);
            }
        }
        let zone = &memory.zones[list.zone];
        let mut refill = Refill::direct(list);
        if zone.avoid_fragment {
            refill.flags = AllocFlags::NOFRAGMENT;
            refill.keeps_whole = true;
        }
        if let Some(pcp) = self.pcps[list.zone].get_mut(list.cpu) {
            refill.wanted = pcp.nr_alloc(zone.pcp_limits, zone.below_high, list.order);
        }
        refill
    }

    /// The events of a refill have ended. If the kernel wanted more, the rest came in silence:
    /// blocks that were stolen, or the first of a pageblock that was claimed. As few as claims explain
    /// are asked for now, more one by one when they are used. But a refill that must not fragment
    /// (`alloc_flags_nofragment()`) steals nothing: it stops short with what it has.
    fn end_refill(&mut self, memory: &mut Memory, cpu: usize) {
        if let Some(mut refill) = self.refills[cpu].take() {
            let base = memory.zones[refill.list.zone].pcp_limits.batch;
            if let Some(pcp) = self.pcps[refill.list.zone].get_mut(cpu) {
                pcp.was_refilled(refill.list.order, refill.taken, base);
            }
            let short = refill.wanted.saturating_sub(refill.taken);
            let by_claims = 1 + (refill.wanted << refill.list.order.get()) / PAGEBLOCK_NR_PAGES;
            if short <= by_claims {
                self.ask_unseen(memory, &mut refill);
            } else if !refill.keeps_whole {
                let blocks = VecDeque::new();
                let unseen = Unseen {
                    blocks,
                    owed: short,
                };
                self.unseen.insert(refill.list, unseen);
            }
        }
    }

    /// Asks for what a refill still wants, as far as there is anything.
    fn ask_unseen(&mut self, memory: &mut Memory, refill: &mut Refill) {
        let list = refill.list;
        let mut unseen = Unseen::default();
        while refill.taken < refill.wanted {
            let Some(pfn) = self.ask(memory, refill) else {
                break;
            };
            let nr = list.order.nr_pages();
            memory
                .map
                .set_heads(pfn, Order::ZERO, nr, PageClass::Kernel);
            unseen.blocks.push_back(pfn.0);
            refill.taken += 1;
            self.count(list, |count, nr| count + nr);
        }
        unseen.owed = refill.wanted.saturating_sub(refill.taken);
        if unseen.owed > 0 || !unseen.blocks.is_empty() {
            self.unseen.insert(list, unseen);
        }
    }

    /// Asks the simulated zone for a block: `__rmqueue()`.
    fn ask(&mut self, memory: &mut Memory, refill: &mut Refill) -> Option<Pfn> {
        let Refill { list, flags, .. } = *refill;
        self.replayed.taken += 1;
        let before = memory.fallbacks();
        let (zone, mut with) = memory.parts(ZoneId(u8::try_from(list.zone).expect("checked")));
        let mut pfn = None;
        let mut migratetype = list.migratetype;
        if !migratetype.is_mergeable() {
            pfn = zone.rmqueue_smallest(with.map, list.order, migratetype);
            migratetype = MigrateType::Unmovable;
        }
        let mode = &mut refill.mode;
        let pfn = pfn.or_else(|| zone.rmqueue(&mut with, list.order, migratetype, flags, mode));
        let after = memory.fallbacks();
        self.replayed.claims += after.0 - before.0;
        self.replayed.steals += after.1 - before.1;
        pfn
    }

    /// Lets a block stand in for the handles of an event.
    fn stand(&mut self, memory: &mut Memory, event: Event, pfn: Option<Pfn>, class: PageClass) {
        let Some(pfn) = pfn else {
            self.replayed.missing += 1;
            return;
        };
        let nr = event.order.nr_pages();
        memory.map.set_heads(pfn, Order::ZERO, nr, class);
        for (frame, slot) in (pfn.0..).zip(&mut self.stand_in[event.handles()]) {
            *slot = frame;
        }
    }

    /// A handle that is taken though it was out has come back unseen: page reporting and compaction
    /// give blocks back in silence.
    fn come_back(&mut self, memory: &mut Memory, event: Event) {
        if self.stand_in[event.handles()]
            .iter()
            .any(|&pfn| pfn != NONE)
        {
            self.give_frames(memory, event);
        }
    }

    fn give(&mut self, memory: &mut Memory, event: Event) {
        if self.stand_in[event.handles()]
            .iter()
            .all(|&pfn| pfn == NONE)
        {
            self.replayed.unknown_frees += 1;
            return;
        }
        self.give_frames(memory, event);
    }

    /// Frees what stands in for the handles, whole if it is a block of that order.
    fn give_frames(&mut self, memory: &mut Memory, event: Event) {
        let first = self.stand_in[event.handle as usize];
        let order = event.order;
        let aligned = first != NONE && first & (order.nr_pages() - 1) == 0;
        let slots = &mut self.stand_in[event.handles()];
        let whole = aligned
            && (first..)
                .zip(slots.iter())
                .all(|(frame, &slot)| slot == frame)
            && slots.iter().all(|&pfn| is_held(memory, pfn));
        if whole {
            slots.fill(NONE);
            free_block(memory, Pfn(first), order);
            return;
        }
        for slot in slots {
            let pfn = std::mem::replace(slot, NONE);
            if pfn != NONE && is_held(memory, pfn) {
                free_block(memory, Pfn(pfn), Order::ZERO);
            }
        }
    }

    /// Somebody uses a block: what is movable is on an LRU list from now on, as far as fallback
    /// looks (`prep_move_freepages_block()`).
    fn alloc(&mut self, memory: &mut Memory, event: Event) {
        let class = if event.migratetype == MigrateType::Movable {
            PageClass::Anon
        } else {
            PageClass::Kernel
        };
        if !self.stand_in[event.handles()].contains(&NONE) {
            if pcp_allowed_order(event.order) {
                self.count(event.list(), u32::saturating_sub);
            }
            self.mark(memory, event, class);
            return;
        }
        self.replayed.silent += 1;
        self.come_back(memory, event);
        let pfn = self.ask_silent(memory, event.list());
        self.stand(memory, event, pfn, class);
    }

    /// The block of a request that no event took: of the last refill, or the first of one that was
    /// silent altogether. A whole batch in silence was stolen: a block off the type's own lists has its
    /// event, and so have those of a claimed pageblock but the first. The lists of the type were empty
    /// then, so that where they hold less than the batch here, they are passed over too.
    fn ask_silent(&mut self, memory: &mut Memory, list: List) -> Option<Pfn> {
        if !pcp_allowed_order(list.order) {
            return self.ask(memory, &mut Refill::direct(list));
        }
        if let Some(unseen) = self.unseen.get_mut(&list) {
            if let Some(pfn) = unseen.blocks.pop_front() {
                self.count(list, u32::saturating_sub);
                return Some(Pfn(pfn));
            }
            if unseen.owed > 0 {
                let mut refill = Refill::silent(memory, list, unseen.owed);
                unseen.owed -= 1;
                return self.ask(memory, &mut refill);
            }
        }
        let mut refill = self.begin_refill(memory, list);
        refill.flags = AllocFlags(0);
        refill.taken = 1;
        refill.mode = Refill::silent(memory, list, refill.wanted).mode;
        let pfn = self.ask(memory, &mut refill);
        self.ask_unseen(memory, &mut refill);
        pfn
    }

    fn mark(&self, memory: &mut Memory, event: Event, class: PageClass) {
        for &pfn in &self.stand_in[event.handles()] {
            if pfn != NONE && is_held(memory, pfn) {
                memory.map.set_head(Pfn(pfn), Order::ZERO, class);
            }
        }
    }
}

impl Refill {
    /// One block, for a caller.
    const fn direct(list: List) -> Self {
        Self {
            list,
            wanted: 1,
            taken: 0,
            mode: RmqueueMode::Normal,
            flags: AllocFlags(0),
            keeps_whole: false,
        }
    }

    /// One block of so many that came in silence: stolen where the lists of the type are short.
    fn silent(memory: &Memory, list: List, wanted: u32) -> Self {
        let mode = if memory.zones[list.zone]
            .free_area
            .holds(list.order, list.migratetype)
            < u64::from(wanted)
        {
            RmqueueMode::Steal
        } else {
            RmqueueMode::Normal
        };
        Self {
            mode,
            ..Self::direct(list)
        }
    }
}

/// Whether this frame is one that may be freed.
fn is_held(memory: &Memory, pfn: u32) -> bool {
    memory.map.is_allocated_head(Pfn(pfn), Order::ZERO)
}

/// Frees single frames that make up a block: `free_one_page()`.
fn free_block(memory: &mut Memory, pfn: Pfn, order: Order) {
    for frame in pfn.0..pfn.0 + order.nr_pages() {
        memory.map.clear_head(Pfn(frame), Order::ZERO);
    }
    let (id, migratetype) = memory.map.pageblock(pfn);
    let id = id.expect("an allocated frame belongs to a zone");
    let zone = &mut memory.zones[id.index()];
    if order < PAGEBLOCK {
        zone.free_one_page(&mut memory.map, pfn, order, migratetype, None);
    } else {
        zone.split_large_buddy(&mut memory.map, pfn, order);
    }
}
