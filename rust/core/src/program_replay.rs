//! Free replay of a recorded run: only what programs asked of a real kernel's page allocator and gave
//! back is asked again. Per-CPU lists, fallback, kswapd and kcompactd are simulated.
//!
//! A *handle* names a frame of the recording and is opaque: what counts is which events name the same
//! one. Only a frame that was in use when the recording began is known by its number, since the
//! simulated machine began with the same frames in use. Frames move and are reclaimed meanwhile, here
//! as there, so that each handle stands for a frame that may change:
//!
//! * A handle that is allocated while it is out came back without its program: the real kernel moved
//!   or reclaimed what it named. What stood for it here stays as it is, and belongs to nobody.
//! * A handle that is given back and was taken for one on a per-CPU list at the start was drawn
//!   wrongly: another kernel page without a type stands for it, and is taken for listed instead.
//! * A handle that is given back and was never out was taken in silence (`alloc_pages_bulk()` has no
//!   tracepoint), here as there: nothing is done.
//! * What a handle stands for may have been reclaimed here: then its return changes nothing.

use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::events::Tracepoint;
use crate::gfp::Gfp;
use crate::kmem_replay::ReplayError;
use crate::mem_map::{BlockHead, PageClass, page_flags};
use crate::memory::Memory;
use crate::units::{Cpu, MigrateType, Order, Pfn, ZoneKind};
use crate::vmstat::VmEvent;

/// No frame stands for this handle, or no handle for this frame.
const NONE: u32 = u32::MAX;
/// How long a thread of the kernel takes to wake, in ns.
const TICK_NS: u64 = 100_000;
/// How often a CPU's lists shrink: `sysctl_stat_interval`, mm/vmstat.c v6.12 (one second). The work
/// comes at whole seconds: `round_jiffies_relative()` in `vmstat_update()`.
const STAT_INTERVAL_NS: u64 = 1_000_000_000;
/// How late the work comes at most: jiffies are not in step with the clock, and it is deferrable.
const STAT_LATE_NS: u64 = 120_000_000;
/// How often kcompactd looks at fragmentation: `HPAGE_FRAG_CHECK_INTERVAL_MSEC`, mm/compaction.c
/// v6.12.
const FRAG_CHECK_NS: u64 = 500_000_000;
/// Tracepoints that may wait to be counted.
const RING: usize = 1 << 22;
/// How many of them are counted at a time.
const COUNT_EVERY: usize = 4096;

/// What programs asked, in columns of one length, ordered by time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests<'a> {
    /// 1: a block was asked for (`mm_page_alloc`); 0: one was given back (`mm_page_free`).
    pub alloc: &'a [u8],
    /// The CPU that it happened on.
    pub cpu: &'a [u8],
    /// log2 of the frames.
    pub order: &'a [u8],
    /// `gfp_t` of a request; ignored for what was given back.
    pub gfp: &'a [u32],
    /// Handle of the first frame; those of a block follow each other.
    pub handle: &'a [u32],
    /// When, in ns since the first event.
    pub at_ns: &'a [u64],
}

/// How the recorded kernel stood when the recording began.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// `watermark_boost` of each zone, in frames; missing ones are 0.
    pub boosts: Vec<u64>,
    /// Whether kswapd had given up (`node_unreclaimable` of /proc/zoneinfo), by node.
    pub hopeless: Vec<bool>,
    /// First frames of mapped large folios of files on the inactive list.
    pub inactive: Vec<u32>,
    /// Of each of these, whether its entries were used lately.
    pub young: Vec<bool>,
    /// When, in ns of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// What decides everything that is drawn.
    pub seed: u64,
}

/// What a replay came upon. Frames, but where it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Requests that got a block.
    pub allocs: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Blocks given back.
    pub frees: u64,
    /// Given back, but never seen in use.
    pub unknown_frees: u64,
    /// Given back for which another frame stood, as the draw of per-CPU lists was wrong.
    pub redrawn: u64,
    /// Given back after the simulated kernel had reclaimed them.
    pub reclaimed_before: u64,
    /// Left behind by a handle that was allocated again.
    pub left_behind: u64,
    /// That left the buddy lists with a `mm_page_alloc_zone_locked` event.
    pub refilled: u64,
    /// That per-CPU lists gave back: `mm_page_pcpu_drain`.
    pub drained: u64,
    /// Pageblocks claimed for another migratetype.
    pub claims: u64,
    /// Blocks stolen from pageblocks of another migratetype.
    pub steals: u64,
    /// That compaction moved.
    pub migrated: u64,
    /// That kswapd and direct reclaim freed.
    pub reclaimed: u64,
}

macro_rules! refuse {
    ($($message:tt)+) => {
        return Err(ReplayError(format!($($message)+)))
    };
}

/// One event, checked.
#[derive(Clone, Copy)]
struct Request {
    alloc: bool,
    cpu: Cpu,
    order: Order,
    gfp: Gfp,
    handle: u32,
    at_ns: u64,
}

impl Request {
    fn handles(self) -> std::ops::Range<u32> {
        self.handle..self.handle + self.order.nr_pages()
    }
}

/// A replay under way.
#[derive(Clone, Debug)]
pub struct ProgramReplay {
    /// The frame that stands for each handle.
    stand_in: Vec<u32>,
    /// The handle that each frame stands for.
    holder: Vec<u32>,
    /// Handles taken for frames on per-CPU lists, that no event has named yet.
    listed: Vec<bool>,
    /// Kernel pages that could as well be on per-CPU lists, in the order in which they are drawn.
    blank: Vec<u32>,
    now_ns: u64,
    next_tick_ns: u64,
    next_stat_ns: Vec<u64>,
    /// The boosts of all zones, as last seen.
    boosted: u64,
    at_start: Counters,
    played: Played,
}

/// Counters that go on from before.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    claims: u64,
    steals: u64,
    migrated: u64,
    reclaimed: u64,
}

impl Counters {
    fn of(memory: &Memory) -> Self {
        let get = |event| memory.vmstat().get(event);
        Self {
            claims: get(VmEvent::PageblockClaim),
            steals: get(VmEvent::PageSteal),
            migrated: get(VmEvent::PgMigrateSuccess),
            reclaimed: get(VmEvent::PgStealKswapd) + get(VmEvent::PgStealDirect),
        }
    }
}

impl ProgramReplay {
    /// Begins a replay on a machine whose frames in use have no owners: each stands for itself.
    ///
    /// # Errors
    /// [`ReplayError`] when the machine has processes, files or runs, or somebody listens to its
    /// tracepoints.
    pub fn begin(memory: &mut Memory, start: &Start) -> Result<Self, ReplayError> {
        if !memory.is_ownerless() {
            refuse!("the machine has processes or files, which would not learn of their loss");
        }
        if !memory.trace_start(RING) {
            refuse!("the tracepoints of the machine are listened to already");
        }
        memory.moves = Some(Vec::new());
        for (zone, &boost) in memory.zones.iter_mut().zip(&start.boosts) {
            zone.watermark_boost = boost;
        }
        for (node, _) in start.hopeless.iter().enumerate().filter(|(_, on)| **on) {
            memory.background.give_up(node);
        }
        if start.inactive.len() != start.young.len() {
            refuse!("it is not told of each inactive folio whether it is young");
        }
        for (&pfn, &young) in start.inactive.iter().zip(&start.young) {
            let head = memory.map.head_at(Pfn(pfn));
            if head.is_some_and(|head| head.class.is_file() && memory.is_stock(head)) {
                let used = page_flags::ACTIVE | page_flags::REFERENCED;
                let set = if young { page_flags::REFERENCED } else { 0 };
                memory.map.relist_file(Pfn(pfn), set, used);
            }
        }
        let nr = memory.map.nr_frames() as usize;
        share_lists(memory);
        let mut replay = Self {
            stand_in: vec![NONE; nr],
            holder: vec![NONE; nr],
            listed: vec![false; nr],
            blank: Vec::new(),
            now_ns: 0,
            next_tick_ns: TICK_NS,
            next_stat_ns: Vec::new(),
            boosted: start.boosts.iter().sum(),
            at_start: Counters::of(memory),
            played: Played::default(),
        };
        replay.name_frames(memory);
        replay.draw(memory, start);
        Ok(replay)
    }

    /// Lets each frame in use stand for itself.
    fn name_frames(&mut self, memory: &Memory) {
        for head in memory.map.blocks() {
            let frames = head.pfn.0..head.pfn.0 + head.order.nr_pages();
            match head.class {
                PageClass::Free => {}
                PageClass::Pcp => self.listed[range(&frames)].fill(true),
                class if is_in_use(memory, head) && memory.map.zone_of(head.pfn).is_some() => {
                    for pfn in frames {
                        self.stand_in[pfn as usize] = pfn;
                        self.holder[pfn as usize] = pfn;
                    }
                    let movable = memory.map.pageblock_migratetype(head.pfn);
                    if class == PageClass::Kernel
                        && head.order == Order::ZERO
                        && movable == MigrateType::Movable
                    {
                        self.blank.push(head.pfn.0);
                    }
                }
                _ => {}
            }
        }
    }

    /// Draws what no recording tells: how late each CPU's lists shrink, when kcompactd last looked,
    /// and which kernel pages look like listed ones.
    fn draw(&mut self, memory: &mut Memory, start: &Start) {
        let mut rng = Pcg64Mcg::seed_from_u64(start.seed);
        let mut below =
            |bound: u64| ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64;
        let late = below(STAT_LATE_NS);
        let next = (late + STAT_INTERVAL_NS - start.at_ns % STAT_INTERVAL_NS) % STAT_INTERVAL_NS;
        self.next_stat_ns = vec![next; usize::from(memory.clock.nr_cpus())];
        memory.clock.advance(below(FRAG_CHECK_NS));
        for at in (1..self.blank.len()).rev() {
            let other = usize::try_from(below(at as u64 + 1)).expect("at most `at`");
            self.blank.swap(at, other);
        }
    }

    /// Applies events in order, and returns what was come upon since the beginning.
    ///
    /// # Errors
    /// [`ReplayError`] at the first event that cannot be; those before it have been applied.
    pub fn run(
        &mut self,
        memory: &mut Memory,
        requests: &Requests<'_>,
    ) -> Result<Played, ReplayError> {
        let nr = requests.alloc.len();
        let lengths = [
            requests.cpu.len(),
            requests.order.len(),
            requests.gfp.len(),
            requests.handle.len(),
            requests.at_ns.len(),
        ];
        if lengths != [nr; 5] {
            refuse!("the columns of the events differ in length");
        }
        for at in 0..nr {
            let request = self.check(memory, requests, at)?;
            self.pass_time(memory, request.at_ns);
            if request.alloc {
                self.alloc(memory, request);
            } else {
                self.free(memory, request);
            }
            if at % COUNT_EVERY == 0 {
                self.count_events(memory);
            }
        }
        self.count_events(memory);
        Ok(self.sum_up(memory))
    }

    fn check(
        &self,
        memory: &Memory,
        requests: &Requests<'_>,
        at: usize,
    ) -> Result<Request, ReplayError> {
        let Ok(order) = Order::new(requests.order[at]) else {
            refuse!("event {at} has the order {}", requests.order[at])
        };
        let request = Request {
            alloc: requests.alloc[at] != 0,
            cpu: Cpu(u16::from(requests.cpu[at])),
            order,
            gfp: Gfp(requests.gfp[at]),
            handle: requests.handle[at],
            at_ns: requests.at_ns[at],
        };
        if request.cpu.0 >= memory.clock.nr_cpus() {
            refuse!("event {at} is of CPU {}, which is not there", request.cpu.0);
        }
        let end = u64::from(request.handle) + u64::from(order.nr_pages());
        if end > self.stand_in.len() as u64 {
            refuse!("event {at} names frame {}, beyond the last", request.handle);
        }
        Ok(request)
    }

    /// Lets time pass: the kernel's threads work, and each second a CPU's lists shrink.
    fn pass_time(&mut self, memory: &mut Memory, at_ns: u64) {
        while self.next_tick_ns <= at_ns {
            memory.advance_clock(self.next_tick_ns - self.now_ns);
            self.now_ns = self.next_tick_ns;
            self.next_tick_ns += TICK_NS;
            for (cpu, next) in (0..).map(Cpu).zip(&mut self.next_stat_ns) {
                if *next <= self.now_ns {
                    memory.decay_pcp(cpu);
                    *next += STAT_INTERVAL_NS;
                }
            }
            self.follow_moves(memory);
        }
        self.boosted = self
            .boosted
            .min(memory.zones.iter().map(|zone| zone.watermark_boost).sum());
    }

    fn alloc(&mut self, memory: &mut Memory, request: Request) {
        let Request {
            cpu, order, gfp, ..
        } = request;
        for handle in request.handles() {
            let pfn = std::mem::replace(&mut self.stand_in[handle as usize], NONE);
            self.listed[handle as usize] = false;
            if pfn != NONE && self.holder[pfn as usize] == handle {
                self.holder[pfn as usize] = NONE;
                self.played.left_behind += 1;
            }
        }
        let class = class_of(gfp, order);
        let got = memory.alloc_class(cpu, gfp, order, None, class);
        self.wake_for_boost(memory);
        self.follow_moves(memory);
        let Ok(pfn) = got else {
            self.played.refused += 1;
            return;
        };
        if class.is_file() {
            if gfp.has(Gfp::WRITE) {
                memory.map.add_flags(pfn, page_flags::DIRTY);
            }
            memory.map.list_file(pfn);
        }
        for (handle, pfn) in request.handles().zip(pfn.0..) {
            self.stand_in[handle as usize] = pfn;
            self.holder[pfn as usize] = handle;
        }
        self.played.allocs += 1;
    }

    fn free(&mut self, memory: &mut Memory, request: Request) {
        let first = self.stand_in[request.handle as usize];
        let whole = first != NONE
            && request
                .handles()
                .zip(first..)
                .all(|(handle, pfn)| self.names(handle, pfn));
        self.played.frees += 1;
        if whole {
            let head = memory.map.head_at(Pfn(first));
            if head.is_some_and(|head| head.order == request.order && is_in_use(memory, head)) {
                self.forget(request.handles(), first);
                free_block(memory, request.cpu, Pfn(first), request.order);
                return;
            }
            if first & (request.order.nr_pages() - 1) == 0 {
                self.free_pieces(memory, request, first);
                return;
            }
        }
        for handle in request.handles() {
            self.free_frame(memory, request.cpu, handle);
        }
    }

    fn names(&self, handle: u32, pfn: u32) -> bool {
        self.stand_in[handle as usize] == pfn && self.holder[pfn as usize] == handle
    }

    fn forget(&mut self, handles: std::ops::Range<u32>, first: u32) {
        for (handle, pfn) in handles.zip(first..) {
            self.stand_in[handle as usize] = NONE;
            self.holder[pfn as usize] = NONE;
        }
    }

    /// Gives back a block that is in use in other pieces, as one if all of it is in use.
    fn free_pieces(&mut self, memory: &mut Memory, request: Request, first: u32) {
        let nr = request.order.nr_pages();
        let in_use = (first..first + nr).all(|pfn| single_out(memory, pfn));
        if !in_use {
            for handle in request.handles() {
                self.free_frame(memory, request.cpu, handle);
            }
            return;
        }
        for pfn in first..first + nr {
            forget_use(memory, Pfn(pfn));
            memory.map.set_class(Pfn(pfn), PageClass::Kernel);
        }
        self.forget(request.handles(), first);
        memory.free_run(request.cpu, Pfn(first), nr);
    }

    /// Gives back one frame: what stands for the handle, if it is in use.
    fn free_frame(&mut self, memory: &mut Memory, cpu: Cpu, handle: u32) {
        let mut handle = handle;
        if std::mem::replace(&mut self.listed[handle as usize], false) {
            let Some(other) = self.take_blank(memory) else {
                self.played.unknown_frees += 1;
                return;
            };
            self.played.redrawn += 1;
            self.listed[other as usize] = true;
            handle = other;
        }
        let pfn = std::mem::replace(&mut self.stand_in[handle as usize], NONE);
        if pfn == NONE {
            self.played.unknown_frees += 1;
            return;
        }
        if self.holder[pfn as usize] != handle || !single_out(memory, pfn) {
            self.played.reclaimed_before += 1;
            return;
        }
        self.holder[pfn as usize] = NONE;
        free_block(memory, cpu, Pfn(pfn), Order::ZERO);
    }

    /// A kernel page that still is what it was at the start.
    fn take_blank(&mut self, memory: &Memory) -> Option<u32> {
        while let Some(pfn) = self.blank.pop() {
            let head = memory.map.head_at(Pfn(pfn));
            let unchanged = head
                .is_some_and(|head| head.class == PageClass::Kernel && head.order == Order::ZERO);
            if unchanged && self.names(pfn, pfn) {
                return Some(pfn);
            }
        }
        None
    }

    /// Whoever claims a pageblock boosts the marks and wakes kswapd: the end of `rmqueue()`,
    /// mm/page_alloc.c v6.12.
    fn wake_for_boost(&mut self, memory: &mut Memory) {
        let boosted = memory.zones.iter().map(|zone| zone.watermark_boost).sum();
        if std::mem::replace(&mut self.boosted, boosted) < boosted {
            let nodes = memory.zones.iter().filter(|zone| zone.watermark_boost > 0);
            let nodes: Vec<_> = nodes.map(|zone| zone.node).collect();
            memory.wake_kswapds(&nodes, (Order::ZERO, ZoneKind::Normal, false));
        }
    }

    /// Learns what compaction moved.
    fn follow_moves(&mut self, memory: &mut Memory) {
        let Some(moves) = memory.moves.as_mut().filter(|moves| !moves.is_empty()) else {
            return;
        };
        let moves = std::mem::take(moves);
        for (from, to, order) in &moves {
            for (from, to) in (from.0..from.0 + order.nr_pages()).zip(to.0..) {
                let handle = std::mem::replace(&mut self.holder[from as usize], NONE);
                self.holder[to as usize] = NONE;
                if handle != NONE && self.stand_in[handle as usize] == from {
                    self.stand_in[handle as usize] = to;
                    self.holder[to as usize] = handle;
                }
            }
        }
    }

    fn count_events(&mut self, memory: &mut Memory) {
        let (events, _) = memory.trace_take();
        for event in events {
            let sum = match event.tracepoint {
                Tracepoint::PageAllocZoneLocked => &mut self.played.refilled,
                Tracepoint::PagePcpuDrain => &mut self.played.drained,
                _ => continue,
            };
            *sum += 1 << event.fields[1];
        }
    }

    fn sum_up(&mut self, memory: &Memory) -> Played {
        let now = Counters::of(memory);
        self.played.claims = now.claims - self.at_start.claims;
        self.played.steals = now.steals - self.at_start.steals;
        self.played.migrated = now.migrated - self.at_start.migrated;
        self.played.reclaimed = now.reclaimed - self.at_start.reclaimed;
        self.played
    }
}

/// Lets at most a quarter of what a CPU's lists hold stand on that of unmovable pages: it is mostly
/// processes' pages that make lists long, and a pageblock with many of them in it may have been taken
/// for the kernel's. A page's list is that of its pageblock's type when it was freed; the type may have
/// changed since (`free_unref_page()`, mm/page_alloc.c v6.12).
fn share_lists(memory: &mut Memory) {
    for pcp in memory.zones.iter_mut().flat_map(|zone| &mut zone.pcps) {
        let most = pcp.count as usize / 4;
        let kernel = pcp.list_mut(Order::ZERO, MigrateType::Unmovable);
        let mut rest: Vec<u32> = (most..kernel.len())
            .filter_map(|_| kernel.pop_back())
            .collect();
        rest.reverse();
        for pfn in rest {
            pcp.list_mut(Order::ZERO, MigrateType::Movable)
                .push_back(pfn, Order::ZERO);
        }
    }
}

fn range(frames: &std::ops::Range<u32>) -> std::ops::Range<usize> {
    frames.start as usize..frames.end as usize
}

/// What a request's flags tell about the use of its block. `GFP_HIGHUSER_MOVABLE` is asked for by
/// faults and by the page cache; `__GFP_WRITE` only by the latter (`__filemap_get_folio()`), and
/// `__GFP_NORETRY` with `__GFP_NOWARN` by read-ahead (`readahead_gfp_mask()`), mm/filemap.c and
/// include/linux/pagemap.h v6.12.
fn class_of(gfp: Gfp, order: Order) -> PageClass {
    if gfp.migratetype() != MigrateType::Movable {
        return PageClass::Kernel;
    }
    let ahead = gfp.has(Gfp::NORETRY) && gfp.has(Gfp::NOWARN);
    let cached = gfp.has(Gfp::WRITE) || ahead || !gfp.has(Gfp::HIGHMEM);
    match (cached, order) {
        (true, Order::ZERO) => PageClass::File,
        (true, _) => PageClass::FileLarge,
        (false, Order::ZERO) => PageClass::Anon,
        (false, _) => PageClass::AnonThp,
    }
}

fn is_in_use(memory: &Memory, head: BlockHead) -> bool {
    memory.map.is_allocated_head(head.pfn, head.order)
}

/// Makes the block that holds a frame into single frames, if it is in use.
fn single_out(memory: &mut Memory, pfn: u32) -> bool {
    let head = memory.map.block_of(Pfn(pfn));
    if !is_in_use(memory, head) {
        return false;
    }
    if head.order > Order::ZERO {
        memory.map.split_block(head.pfn);
    }
    true
}

fn forget_use(memory: &mut Memory, pfn: Pfn) {
    if memory.map.flags(pfn) != 0 {
        memory.map.relist_file(pfn, 0, page_flags::STOCK);
    }
    if memory.map.class(pfn).is_file() {
        memory.map.unlist_file(pfn);
    }
}

fn free_block(memory: &mut Memory, cpu: Cpu, pfn: Pfn, order: Order) {
    if memory.map.flags(pfn) != 0 {
        memory.map.relist_file(pfn, 0, page_flags::STOCK);
    }
    memory.free_pages(cpu, pfn, order);
}
