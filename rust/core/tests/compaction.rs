//! Compaction beside a model that knows bytes and places only: what moves keeps its bytes, its
//! mappings and its counts; what must stay stays; and free memory grows together.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::cases;
use contigmm_core::address_space::{MmId, VmArea, vm_flags};
use contigmm_core::contig_run::RunId;
use contigmm_core::events::{Event, Tracepoint};
use contigmm_core::fault::Touch;
use contigmm_core::fork::ForkRange;
use contigmm_core::import::Import;
use contigmm_core::mem_map::PageClass;
use contigmm_core::page_cache::{FileId, FileKind, FileSpec};
use contigmm_core::zap::Markers;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order, Pfn, VmEvent};
use proptest::prelude::*;

const CPU: Cpu = Cpu(0);
const BASE: u64 = 0x1000;
const PAGES: u64 = 3000;
const FILE_PAGES: u32 = 600;

fn vma() -> VmArea {
    VmArea {
        start_vpn: BASE,
        end_vpn: BASE + PAGES,
        flags: vm_flags::WRITE | 1,
        file: None,
        pgoff: 0,
        prealloc: None,
    }
}

/// A machine with processes, a file, kernel blocks and a pinned run, and what the model knows.
struct World {
    memory: Memory,
    bytes: BTreeMap<(MmId, u64), u8>,
    file: FileId,
    file_bytes: BTreeMap<u32, u8>,
    kernel: BTreeSet<(Pfn, Order)>,
    run: Option<(RunId, Pfn, u32)>,
}

fn touch(memory: &mut Memory, mm: MmId, vpn: u64, byte: Option<u8>) -> u8 {
    let touch = Touch {
        addr: vpn << 12,
        nr: 1,
        stride: 4096,
        store: byte,
    };
    let touched = memory.access(mm, CPU, &touch, &vma());
    assert_eq!(touched.progress.blocked, None);
    touched.value
}

impl World {
    /// Fills most of memory in an order that `seed` draws, then frees some of it again.
    fn new(seed: u64, pcp: bool, freed_percent: u64) -> Self {
        let text = format!(
            r#"{{"nr_cpus": 2, "min_free_kbytes": 128, "pcp": {{"enabled": {pcp}}},
                "zones": [{{"kind": "DMA32", "start_pfn": 100, "spanned": 2000}},
                          {{"kind": "Normal", "start_pfn": 2100, "spanned": 8400}}]}}"#
        );
        let mut memory = Memory::boot(&BootSpec::from_json(&text).expect("valid")).expect("boots");
        let file = memory.file_create(FileSpec {
            kind: FileKind::Regular,
            size: u64::from(FILE_PAGES) << 12,
            fill: Some(3),
        });
        let mut world = Self {
            bytes: BTreeMap::new(),
            file,
            file_bytes: BTreeMap::new(),
            kernel: BTreeSet::new(),
            run: None,
            memory,
        };
        world.fill(&mut Draw(seed));
        world.thin_out(&mut Draw(!seed), freed_percent);
        world
    }

    fn fill(&mut self, draw: &mut Draw) {
        let mms = [self.memory.mm_create(), self.memory.mm_create()];
        for i in 0..PAGES {
            for mm in mms {
                let byte = draw.below(256).to_le_bytes()[0];
                touch(&mut self.memory, mm, BASE + i, Some(byte));
                self.bytes.insert((mm, BASE + i), byte);
            }
            if draw.below(5) == 0 {
                let index = u32::try_from(draw.below(u64::from(FILE_PAGES))).expect("small");
                let byte = draw.below(256).to_le_bytes()[0];
                let at = u64::from(index) << 12;
                self.memory
                    .file_write(self.file, CPU, at, byte)
                    .expect("room");
                self.file_bytes.insert(index, byte);
            }
            if draw.below(97) == 0 {
                let order = Order::new(draw.below(4).to_le_bytes()[0]).expect("an order");
                let pfn = self.memory.alloc_pages(CPU, Gfp::KERNEL, order, None);
                self.kernel.extend(pfn.ok().map(|pfn| (pfn, order)));
            }
            if i == PAGES / 2 {
                let (run, base) = self
                    .memory
                    .run_alloc(75, CPU, None, Gfp::HIGHUSER)
                    .expect("room");
                self.run = Some((run, base, 75));
            }
        }
        let child = self.memory.mm_create();
        let ranges = [ForkRange {
            vpns: BASE..BASE + 300,
            flags: vma().flags,
        }];
        assert_eq!(self.memory.fork(mms[0], child, CPU, &ranges).blocked, None);
        for vpn in BASE..BASE + 300 {
            self.bytes.insert((child, vpn), self.bytes[&(mms[0], vpn)]);
        }
    }

    fn thin_out(&mut self, draw: &mut Draw, percent: u64) {
        let places: Vec<_> = self.bytes.keys().copied().collect();
        for (mm, vpn) in places {
            if draw.below(100) < percent {
                self.memory.zap(mm, CPU, vpn, 1, Markers::Keep);
                self.bytes.remove(&(mm, vpn));
            }
        }
        self.memory.drain_all_pages(None);
    }

    fn places(&self) -> BTreeMap<(MmId, u64), u64> {
        let entry = |&(mm, vpn): &(MmId, u64)| ((mm, vpn), self.memory.pagemap(mm, vpn, 1)[0]);
        self.bytes.keys().map(entry).collect()
    }

    /// Everything that the model knows still holds.
    fn verify(&mut self) {
        self.memory.check().expect("sound");
        for (&(mm, vpn), &byte) in &self.bytes {
            assert_eq!(
                touch(&mut self.memory, mm, vpn, None),
                byte,
                "page {vpn:#x}"
            );
        }
        for (&index, &byte) in &self.file_bytes {
            let read = self
                .memory
                .file_read(self.file, CPU, u64::from(index) << 12);
            assert_eq!(read, Ok(Some(byte)), "page {index} of the file");
        }
        for &(pfn, order) in &self.kernel {
            let head = self.memory.map().head_at(pfn).expect("it stays");
            assert_eq!((head.class, head.order), (PageClass::Kernel, order));
        }
        if let Some((run, base, nr)) = self.run {
            assert_eq!(
                self.memory.run(run).map(|run| (run.base, run.held)),
                Some((base, nr))
            );
        }
    }
}

/// A small generator: splitmix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn free_pageblocks(memory: &Memory) -> u64 {
    let rows = memory.buddyinfo();
    rows.iter().map(|row| row[9] + 2 * row[10]).sum()
}

fn free_frames(memory: &Memory) -> u32 {
    let counts = memory.class_counts();
    let free = |row: &[u16; PageClass::COUNT]| {
        u32::from(row[PageClass::Free.index()]) + u32::from(row[PageClass::Pcp.index()])
    };
    counts.iter().map(free).sum()
}

#[test]
fn compaction_makes_pageblocks_of_scattered_frames_and_nothing_is_lost() {
    let mut world = World::new(1, true, 50);
    let (blocks, frames) = (free_pageblocks(&world.memory), free_frames(&world.memory));
    let before = world.places();
    world.memory.compact_memory(CPU);
    let moved = {
        let after = world.places();
        before
            .iter()
            .filter(|&(place, entry)| after[place] != *entry)
            .count() as u64
    };
    let count = |event| world.memory.vmstat().get(event);
    assert!(moved > 500, "{moved} entries moved");
    assert!(count(VmEvent::PgMigrateSuccess) > 500);
    assert!(count(VmEvent::CompactIsolated) >= 2 * count(VmEvent::PgMigrateSuccess));
    assert!(count(VmEvent::CompactMigrateScanned) > 0 && count(VmEvent::CompactFreeScanned) > 0);
    assert_eq!(free_frames(&world.memory), frames);
    let now = free_pageblocks(&world.memory);
    assert!(
        now >= blocks + 3,
        "{blocks} pageblocks free before, {now} after"
    );
    world.verify();
}

#[test]
fn a_second_compaction_finds_nothing_more_to_gain() {
    let mut world = World::new(2, false, 60);
    world.memory.compact_memory(CPU);
    let first = (
        free_pageblocks(&world.memory),
        world.memory.vmstat().get(VmEvent::PgMigrateSuccess),
    );
    world.memory.compact_memory(CPU);
    assert!(free_pageblocks(&world.memory) >= first.0);
    let again = world.memory.vmstat().get(VmEvent::PgMigrateSuccess) - first.1;
    assert!(again < first.1 / 2, "{again} after {}", first.1);
    world.verify();
}

#[test]
fn compaction_is_the_same_every_time_and_after_a_restore() {
    let mut one = World::new(3, true, 40).memory;
    let mut two = Memory::restore(&one.snapshot(), 1 << 30).expect("sound");
    one.compact_memory(CPU);
    two.compact_memory(CPU);
    assert_eq!(one.digest(), two.digest());
}

/// Frames 0-511 single captured pages but for 64 free ones in between; 512-1023 a large folio of
/// order 6 that is dirty and pages around it; the rest free in single frames between kernel ones.
fn captured(dirty: bool) -> Memory {
    let spec = r#"{"zones": [{"kind": "DMA", "start_pfn": 0, "spanned": 2048}],
                   "pcp": {"enabled": false}, "min_free_kbytes": 128}"#;
    let mut memory = Memory::boot(&BootSpec::from_json(spec).expect("valid")).expect("it boots");
    let odd: Vec<u32> = (1025..2048).step_by(2).collect();
    let even: Vec<u32> = (1024..2048).step_by(2).collect();
    let mut starts = vec![64, 512, 576];
    let mut nr = vec![448, 64, 448];
    let mut class = vec![PageClass::Anon, PageClass::FileLarge, PageClass::Anon];
    starts.extend(&odd);
    nr.extend(odd.iter().map(|_| 1));
    class.extend(odd.iter().map(|_| PageClass::Kernel));
    let mut order = vec![0; starts.len()];
    order[1] = 6;
    let mut free = vec![0];
    let mut free_order = vec![6];
    free.extend(&even);
    free_order.extend(even.iter().map(|_| 0));
    let class: Vec<u8> = class.iter().map(|&class| class as u8).collect();
    let state = Import {
        run_start: &starts,
        run_nr: &nr,
        run_class: &class,
        run_order: &order,
        free_pfn: &free,
        free_order: &free_order,
        ..Import::default()
    };
    memory.import(&state).expect("it fits");
    if dirty {
        memory.mark_dirty(&[Pfn(512)]);
    }
    memory.check().expect("sound");
    memory
}

#[test]
fn captured_pages_move_though_nobody_told_their_owner() {
    let mut memory = captured(false);
    memory.compact_memory(CPU);
    memory.check().expect("sound");
    assert_eq!(free_pageblocks(&memory), 1, "the lowest pageblock moved up");
    assert_eq!(
        memory.vmstat().get(VmEvent::PgMigrateSuccess),
        512 - 64 + 64
    );
    let split = memory.map().head_at(Pfn(512)).map(|head| head.class);
    assert_ne!(
        split,
        Some(PageClass::FileLarge),
        "the large folio was split and moved"
    );
}

#[test]
fn a_dirty_large_folio_without_a_target_ends_the_run() {
    let mut memory = captured(true);
    memory.compact_memory(CPU);
    memory.check().expect("sound");
    let head = memory.map().head_at(Pfn(512)).expect("it stays");
    assert_eq!((head.class, head.order.get()), (PageClass::FileLarge, 6));
    assert!(memory.vmstat().get(VmEvent::PgMigrateFail) >= 64);
    assert_eq!(
        memory.map().head_at(Pfn(576)).map(|head| head.class),
        Some(PageClass::Anon)
    );
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn what_moves_keeps_bytes_mappings_and_counts(
        seed in any::<u64>(),
        pcp in any::<bool>(),
        freed in 5..90_u64,
    ) {
        let mut world = World::new(seed, pcp, freed);
        let frames = free_frames(&world.memory);
        world.memory.compact_memory(CPU);
        prop_assert_eq!(free_frames(&world.memory), frames);
        world.verify();
    }
}

/// As [`captured`], every second frame of two pageblocks in use by movable pages.
fn halved(class: PageClass) -> Memory {
    let spec = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 8192}],
                   "pcp": {"enabled": false}, "min_free_kbytes": 256}"#;
    let mut memory = Memory::boot(&BootSpec::from_json(spec).expect("valid")).expect("it boots");
    let used: Vec<u32> = (1..8192).step_by(2).collect();
    let free: Vec<u32> = (0..8192).step_by(2).collect();
    let state = Import {
        run_start: &used,
        run_nr: &vec![1; used.len()],
        run_class: &vec![class as u8; used.len()],
        free_pfn: &free,
        free_order: &vec![0; free.len()],
        ..Import::default()
    };
    memory.import(&state).expect("it fits");
    memory
}

fn order(raw: u8) -> Order {
    Order::new(raw).expect("an order")
}

#[test]
fn a_request_that_may_wait_compacts_until_its_block_is_there() {
    let mut memory = halved(PageClass::Anon);
    let pfn = memory
        .alloc_pages(CPU, Gfp::TRANSHUGE, order(9), None)
        .expect("room is made");
    memory.check().expect("sound");
    assert_eq!(memory.map().folio_order(pfn), order(9));
    let count = |event| memory.vmstat().get(event);
    assert_eq!(
        (count(VmEvent::CompactStall), count(VmEvent::CompactSuccess)),
        (1, 1)
    );
    let moved = count(VmEvent::PgMigrateSuccess);
    assert!(
        (256..=512).contains(&moved),
        "{moved} pages moved for one pageblock"
    );
    let light = memory.alloc_pages(CPU, Gfp::TRANSHUGE_LIGHT, order(9), None);
    assert!(light.is_err(), "a request that may not wait moves nothing");
}

#[test]
fn of_requests_in_vain_fewer_and_fewer_begin_to_compact() {
    let mut memory = halved(PageClass::Slab);
    assert!(memory.trace_start(1 << 16));
    for _ in 0..200 {
        memory
            .alloc_pages(CPU, Gfp::TRANSHUGE, order(9), None)
            .expect_err("nothing moves");
    }
    let (events, _) = memory.trace_take();
    let began = |event: &&Event| event.tracepoint == Tracepoint::CompactionBegin;
    let runs = events.iter().filter(began).count();
    // Each may try twice; after seven failures one attempt of 64 is made.
    assert!((7..=7 + 2 * 400 / 64).contains(&runs), "{runs} runs");
}

#[test]
fn what_cannot_move_is_a_refusal_after_compaction_and_is_deferred() {
    let mut memory = halved(PageClass::Slab);
    let first = memory.alloc_pages(CPU, Gfp::TRANSHUGE, order(9), None);
    assert_eq!(
        first.expect_err("nothing moves").cause(),
        "compaction_failed"
    );
    for _ in 0..8 {
        memory
            .alloc_pages(CPU, Gfp::TRANSHUGE, order(9), None)
            .expect_err("nothing moves");
    }
    let scanned = memory.vmstat().get(VmEvent::CompactMigrateScanned);
    memory
        .alloc_pages(CPU, Gfp::TRANSHUGE, order(9), None)
        .expect_err("nothing moves");
    let again = memory.vmstat().get(VmEvent::CompactMigrateScanned) - scanned;
    assert_eq!(again, 0, "deferred attempts scan nothing");
    memory.check().expect("sound");
}

#[test]
fn a_machine_that_makes_no_room_refuses_and_moves_nothing() {
    let mut memory = halved(PageClass::Anon);
    memory.set_direct_reclaim(false);
    let refused = memory.alloc_pages(CPU, Gfp::TRANSHUGE, order(9), None);
    assert_eq!(refused.expect_err("nothing moves").cause(), "no_block");
    assert_eq!(memory.vmstat().get(VmEvent::CompactMigrateScanned), 0);
}

#[test]
fn proactive_compaction_works_above_its_mark_only() {
    let mut memory = halved(PageClass::Anon);
    let node = contigmm_core::NodeId(0);
    assert_eq!(
        memory.compact_proactively(node, CPU, 0),
        None,
        "switched off"
    );
    let tick = memory
        .compact_proactively(node, CPU, 20)
        .expect("all free memory is in pieces");
    assert_eq!(tick.score_before, 99);
    assert!(tick.score_after <= 80, "{}", tick.score_after);
    assert_eq!(
        memory.compact_proactively(node, CPU, 20),
        None,
        "good enough"
    );
    memory.check().expect("sound");
}
