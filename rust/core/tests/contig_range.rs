//! Ranges beyond the largest block, beside a model that knows bytes and places only: what stood in a
//! range keeps its bytes, its mappings and its counts; what must stay stays; a range is exact.

mod common;

use std::collections::BTreeMap;

use common::cases;
use contigmm_core::address_space::{MmId, VmArea, vm_flags};
use contigmm_core::contig_range::ContigGfp;
use contigmm_core::contig_run::RunId;
use contigmm_core::error::AllocError;
use contigmm_core::fault::Touch;
use contigmm_core::import::Import;
use contigmm_core::mem_map::PageClass;
use contigmm_core::page_cache::{FileId, FileKind, FileSpec};
use contigmm_core::page_isolation::{Blocked, Obstacle};
use contigmm_core::zap::Markers;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, MigrateType, NodeId, Order, Pfn, VmEvent};
use proptest::prelude::*;

const CPU: Cpu = Cpu(0);
const BASE: u64 = 0x1000;
const PAGES: u64 = 40_000;
const FILE_PAGES: u32 = 4000;
const RUN_GFP: Gfp = Gfp::HIGHUSER;

/// 248 MiB in two zones: the first begins within a pageblock and has a hole.
fn boot(nr_cpus: u16) -> Memory {
    let text = format!(
        r#"{{"nr_cpus": {nr_cpus}, "min_free_kbytes": 512, "zones": [
            {{"kind": "DMA32", "start_pfn": 100, "spanned": 12188, "holes": [[700, 50]]}},
            {{"kind": "Normal", "start_pfn": 12288, "spanned": 51200}}]}}"#
    );
    Memory::boot(&BootSpec::from_json(&text).expect("valid")).expect("boots")
}

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

fn touch(memory: &mut Memory, mm: MmId, vpn: u64, nr: u64, byte: Option<u8>) -> u8 {
    let touch = Touch {
        addr: vpn << 12,
        nr,
        stride: 4096,
        store: byte,
    };
    let touched = memory.access(mm, CPU, &touch, &vma());
    assert_eq!(touched.progress.blocked, None);
    touched.value
}

/// The byte that a page of the file begins with.
fn filled(index: u32) -> u8 {
    3_u8.wrapping_add(index.to_le_bytes()[0])
}

#[derive(Clone, Debug)]
enum Step {
    Touch { at: u64, nr: u64, byte: u8 },
    Zap { at: u64, nr: u64 },
    Read { index: u32 },
    Write { index: u32, byte: u8 },
    Kernel { order: u8 },
    KernelFree { which: usize },
    Run { nr: u32 },
    Release { which: usize, from: u32, nr: u32 },
    Compact,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..PAGES, 1..3000_u64, any::<u8>()).prop_map(|(at, nr, byte)| Step::Touch { at, nr, byte }),
        4 => (0..PAGES, 1..2000_u64).prop_map(|(at, nr)| Step::Zap { at, nr }),
        3 => (0..FILE_PAGES).prop_map(|index| Step::Read { index }),
        1 => (0..FILE_PAGES, any::<u8>()).prop_map(|(index, byte)| Step::Write { index, byte }),
        1 => (0..4_u8).prop_map(|order| Step::Kernel { order }),
        1 => any::<usize>().prop_map(|which| Step::KernelFree { which }),
        // 4 MiB and a page to 64 MiB
        4 => (1025..=16384_u32).prop_map(|nr| Step::Run { nr }),
        2 => (11..=14_u32).prop_map(|order| Step::Run { nr: 1 << order }),
        3 => (any::<usize>(), 0..16384_u32, 1..16384_u32)
            .prop_map(|(which, from, nr)| Step::Release { which, from, nr }),
        1 => Just(Step::Compact),
        1 => Just(Step::Restore),
    ]
}

/// A run, and which of its frames are still held.
struct Held {
    run: RunId,
    base: Pfn,
    frames: Vec<bool>,
}

/// A machine, and what the model knows of it.
struct World {
    memory: Memory,
    mm: MmId,
    bytes: BTreeMap<u64, u8>,
    file: FileId,
    file_bytes: BTreeMap<u32, u8>,
    kernel: Vec<(Pfn, Order)>,
    runs: Vec<Held>,
}

impl World {
    fn new() -> Self {
        let mut memory = boot(2);
        let file = memory.file_create(FileSpec {
            kind: FileKind::Regular,
            size: u64::from(FILE_PAGES) << 12,
            fill: Some(3),
        });
        let mm = memory.mm_create();
        Self {
            memory,
            mm,
            bytes: BTreeMap::new(),
            file,
            file_bytes: BTreeMap::new(),
            kernel: Vec::new(),
            runs: Vec::new(),
        }
    }

    fn has_room(&self, nr: u64) -> bool {
        let free = self.memory.zones().iter().map(|zone| zone.nr_free_pages);
        free.sum::<u64>() > nr + 4000
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Touch { at, nr, byte } if self.has_room(nr) => {
                let nr = nr.min(PAGES - at);
                touch(&mut self.memory, self.mm, BASE + at, nr, Some(byte));
                let stored = |i: u64| byte.wrapping_add(i.to_le_bytes()[0]);
                self.bytes.extend((0..nr).map(|i| (at + i, stored(i))));
            }
            Step::Zap { at, nr } => {
                let nr = nr.min(PAGES - at);
                self.memory.zap(self.mm, CPU, BASE + at, nr, Markers::Keep);
                self.bytes.retain(|place, _| !(at..at + nr).contains(place));
            }
            Step::Read { index } if self.has_room(1) => self.verify_file(index),
            Step::Write { index, byte } if self.has_room(1) => {
                let at = u64::from(index) << 12;
                self.memory
                    .file_write(self.file, CPU, at, byte)
                    .expect("room");
                self.file_bytes.insert(index, byte);
            }
            Step::Kernel { order } if self.has_room(8) => {
                let order = Order::new(order).expect("an order");
                let pfn = self.memory.alloc_pages(CPU, Gfp::KERNEL, order, None);
                self.kernel.extend(pfn.ok().map(|pfn| (pfn, order)));
            }
            Step::KernelFree { which } if !self.kernel.is_empty() => {
                let (pfn, order) = self.kernel.swap_remove(which % self.kernel.len());
                self.memory.free_pages(CPU, pfn, order);
            }
            Step::Run { nr } => self.run(nr),
            Step::Release { which, from, nr } if !self.runs.is_empty() => {
                self.release(which, from, nr);
            }
            Step::Compact => self.memory.compact_memory(CPU),
            Step::Restore => self.restore(),
            _ => {}
        }
    }

    fn run(&mut self, nr: u32) {
        let Ok((run, base)) = self.memory.run_alloc(nr, CPU, None, RUN_GFP) else {
            return;
        };
        assert!(!nr.is_power_of_two() || base.0.is_multiple_of(nr));
        self.verify_bytes();
        let frames = vec![true; nr as usize];
        self.runs.push(Held { run, base, frames });
    }

    fn release(&mut self, which: usize, from: u32, nr: u32) {
        let at = which % self.runs.len();
        let Held {
            run, frames: held, ..
        } = &mut self.runs[at];
        let len = u32::try_from(held.len()).expect("small");
        let from = from % len;
        for offset in from..(from + nr).min(len) {
            if std::mem::take(&mut held[offset as usize]) {
                assert_eq!(self.memory.run_release(*run, offset, 1, CPU), 1);
            }
        }
        if !held.contains(&true) {
            assert_eq!(self.memory.run(*run), None);
            self.runs.swap_remove(at);
        }
    }

    fn restore(&mut self) {
        let bytes = self.memory.snapshot();
        let restored = Memory::restore(&bytes, 1 << 24).expect("a snapshot");
        assert_eq!(restored.digest(), self.memory.digest());
        self.memory = restored;
    }

    fn verify_bytes(&mut self) {
        for (&at, &byte) in &self.bytes {
            let read = touch(&mut self.memory, self.mm, BASE + at, 1, None);
            assert_eq!(read, byte, "page {at}");
        }
    }

    fn verify_file(&mut self, index: u32) {
        let at = u64::from(index) << 12;
        let read = self.memory.file_read(self.file, CPU, at).expect("room");
        let written = self.file_bytes.get(&index).copied();
        assert_eq!(
            read,
            Some(written.unwrap_or(filled(index))),
            "page {index} of the file"
        );
    }

    /// Frames of runs are theirs, in their order, pinned, and hold zeros.
    fn verify_runs(&self) {
        for Held {
            base, frames: held, ..
        } in &self.runs
        {
            for (offset, &held) in (0..).zip(held) {
                let pfn = Pfn(base.0 + offset);
                let pinned = self.memory.map().pins(pfn) == 1;
                let anon = self.memory.map().class(pfn) == PageClass::Anon;
                assert!(!held || pinned && anon, "frame {} of a run", pfn.0);
            }
        }
        for &(pfn, order) in &self.kernel {
            assert_eq!(
                self.memory.map().folio_order(pfn),
                order,
                "kernel pages stay"
            );
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn ranges_come_and_go_and_nothing_else_changes(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            prop_assert_eq!(world.memory.check(), Ok(()), "after {:?}", step);
            world.verify_runs();
        }
        world.verify_bytes();
        let written: Vec<u32> = world.file_bytes.keys().copied().collect();
        for index in written {
            world.verify_file(index);
        }
        for Held { run, frames: held, .. } in std::mem::take(&mut world.runs) {
            for (offset, _) in (0..).zip(&held).filter(|(_, held)| **held) {
                world.memory.run_release(run, offset, 1, CPU);
            }
        }
        prop_assert_eq!(world.memory.check(), Ok(()));
        prop_assert_eq!(world.memory.runs().count(), 0);
    }
}

/// Every page of `Normal` used by one process, then every second one given back.
fn fragmented() -> (Memory, MmId) {
    let mut memory = boot(1);
    let mm = memory.mm_create();
    touch(&mut memory, mm, BASE, PAGES, Some(1));
    for vpn in (BASE..BASE + PAGES).step_by(2) {
        memory.zap(mm, CPU, vpn, 1, Markers::Keep);
    }
    memory.drain_all_pages(None);
    (memory, mm)
}

fn contig_gfp() -> ContigGfp {
    ContigGfp::new(RUN_GFP).expect("known flags")
}

fn take(memory: &mut Memory, range: (u32, u32)) -> Result<(), Blocked> {
    let types: Vec<MigrateType> = types(memory);
    let taken = memory.alloc_contig_range(
        range,
        MigrateType::Movable,
        CPU,
        contig_gfp(),
        PageClass::Kernel,
    );
    assert_eq!(memory.check(), Ok(()));
    assert_eq!(self::types(memory), types, "pageblocks keep their types");
    taken
}

fn types(memory: &Memory) -> Vec<MigrateType> {
    let frames = (0..memory.map().nr_frames()).step_by(512);
    frames
        .map(|pfn| memory.map().pageblock_migratetype(Pfn(pfn)))
        .collect()
}

/// Frames of `Normal` in use in `[start, end)`, other than by the test's ranges.
fn used_in(memory: &Memory, (start, end): (u32, u32), class: PageClass) -> usize {
    (start..end)
        .filter(|&pfn| memory.map().class(Pfn(pfn)) == class)
        .count()
}

#[test]
fn a_range_is_emptied_taken_and_given_back() {
    let (mut memory, mm) = fragmented();
    let range = (20_480, 20_480 + 4096);
    let used = used_in(&memory, range, PageClass::Anon);
    assert!(used > 1000, "{used} pages are in the way");
    let moved = memory.vmstat().get(VmEvent::PgMigrateSuccess);
    assert_eq!(take(&mut memory, range), Ok(()));
    assert_eq!(used_in(&memory, range, PageClass::Kernel), 4096);
    assert_eq!(
        memory.vmstat().get(VmEvent::PgMigrateSuccess) - moved,
        used as u64
    );
    for vpn in (BASE + 1..BASE + PAGES).step_by(2) {
        let byte = (1 + vpn - BASE).to_le_bytes()[0];
        assert_eq!(touch(&mut memory, mm, vpn, 1, None), byte);
    }
    memory.free_each(CPU, Pfn(range.0), 4096);
    memory.drain_all_pages(None);
    assert_eq!(memory.check(), Ok(()));
    let free = |pfn: u32| memory.map().head_at(Pfn(pfn)).map(|head| head.order);
    assert_eq!(
        free(20_480),
        Some(Order::MAX),
        "what was taken merges again"
    );
}

#[test]
fn head_and_tail_of_a_range_within_pageblocks_stay_free() {
    let (mut memory, _) = fragmented();
    let range = (20_480 + 100, 20_480 + 5000);
    let free = |memory: &mut Memory| -> u64 {
        memory.drain_all_pages(None);
        memory.zones().iter().map(|zone| zone.nr_free_pages).sum()
    };
    let before = free(&mut memory);
    assert_eq!(take(&mut memory, range), Ok(()));
    let after = free(&mut memory);
    assert_eq!(
        before - after,
        4900,
        "pages that moved took as many frames as they left"
    );
    assert_eq!(used_in(&memory, range, PageClass::Kernel), 4900);
}

#[test]
fn an_empty_range_costs_no_move_and_splits_the_blocks_around_it() {
    let mut memory = boot(1);
    let range = (20_480 + 512, 20_480 + 512 + 2048);
    assert_eq!(take(&mut memory, range), Ok(()));
    assert_eq!(memory.vmstat().get(VmEvent::PgMigrateSuccess), 0);
    memory.free_each(CPU, Pfn(range.0), 2048);
    assert_eq!(memory.check(), Ok(()));
}

#[test]
fn the_first_obstacle_is_named_with_its_frame() {
    let (mut memory, _) = fragmented();
    let kernel = memory
        .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
        .expect("room");
    let start = kernel.0 & !511;
    let taken = take(&mut memory, (start, start + 2048)).expect_err("a kernel page");
    assert_eq!(taken.by, Obstacle::Unmovable);
    assert!(
        (start..=kernel.0).contains(&taken.pfn.0),
        "{taken:?}, the first of its kind"
    );
    let blocked = |pfn, by| Err(Blocked { pfn, by });
    let (_, pinned) = memory
        .run_alloc(1, CPU, None, Gfp::HIGHUSER_MOVABLE)
        .expect("room");
    let taken = take(&mut memory, (pinned.0 & !511, (pinned.0 & !511) + 512));
    assert_eq!(taken, blocked(pinned, Obstacle::Pinned));
    assert_eq!(
        take(&mut memory, (512, 1024)),
        blocked(Pfn(700), Obstacle::Reserved)
    );
    assert_eq!(
        take(&mut memory, (100, 600)),
        blocked(Pfn(0), Obstacle::ZoneBoundary)
    );
}

#[test]
fn a_kernel_page_beside_the_range_but_in_its_pageblock_is_in_the_way() {
    let mut memory = boot(1);
    let kernel = memory
        .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
        .expect("room");
    let block = kernel.0 & !511;
    let other = if kernel.0 == block {
        block + 511
    } else {
        block
    };
    let taken = take(&mut memory, (other, other + 1));
    assert_eq!(
        taken,
        Err(Blocked {
            pfn: kernel,
            by: Obstacle::Unmovable
        })
    );
}

#[test]
fn pages_without_a_place_to_go_to_are_in_the_way() {
    let mut memory = boot(1);
    let mm = memory.mm_create();
    touch(&mut memory, mm, BASE, PAGES, Some(7));
    let other = memory.mm_create();
    let mut at = 0;
    while memory
        .zones()
        .iter()
        .any(|zone| zone.nr_free_pages > zone.watermark.min + 64)
        && at < 30_000
    {
        let touch = Touch {
            addr: (BASE + at) << 12,
            nr: 1,
            stride: 4096,
            store: Some(1),
        };
        if memory
            .access(other, CPU, &touch, &vma())
            .progress
            .blocked
            .is_some()
        {
            break;
        }
        at += 1;
    }
    let full = |&start: &u32| used_in(&memory, (start, start + 2048), PageClass::Anon) == 2048;
    let mut starts = (0..memory.map().nr_frames() - 2048).step_by(2048);
    let start = starts.find(full).expect("8 MiB of pages side by side");
    let taken = take(&mut memory, (start, start + 2048)).expect_err("there is no room");
    assert_eq!(taken.by, Obstacle::NoTarget);
}

#[test]
fn clean_pages_of_files_are_dropped_and_dirty_ones_move() {
    let mut memory = boot(1);
    let size = u64::from(FILE_PAGES) << 12;
    let file = memory.file_create(FileSpec {
        kind: FileKind::Regular,
        size,
        fill: Some(3),
    });
    for index in 0..u64::from(FILE_PAGES) {
        memory.file_read(file, CPU, index << 12).expect("room");
    }
    for index in (0..u64::from(FILE_PAGES)).step_by(10) {
        memory.file_write(file, CPU, index << 12, 9).expect("room");
    }
    let files = |memory: &Memory, range| used_in(memory, range, PageClass::File);
    let all = (0, memory.map().nr_frames());
    let start =
        (0..all.1).find(|&pfn| pfn % 2048 == 0 && files(&memory, (pfn, pfn + 2048)) == 2048);
    let start = start.expect("8 MiB of the file side by side");
    assert_eq!(take(&mut memory, (start, start + 2048)), Ok(()));
    let left = files(&memory, all);
    assert!(left < 4000 - 1800, "{left} pages of the file are left");
    for index in 0..FILE_PAGES {
        let byte = memory
            .file_read(file, CPU, u64::from(index) << 12)
            .expect("room");
        assert_eq!(byte, Some(if index % 10 == 0 { 9 } else { filled(index) }));
    }
}

#[test]
fn the_search_goes_by_zonelist_alignment_and_stride() {
    let mut memory = boot(1);
    let kernel = memory
        .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
        .expect("room");
    assert!(kernel.0 >= 12_288, "a page of Normal");
    let asked = |memory: &mut Memory, nr| {
        memory.alloc_contig_pages(nr, CPU, None, RUN_GFP, PageClass::Kernel)
    };
    let first = asked(&mut memory, 8192).expect("room");
    assert!(
        first.0 >= 12_288 && first.0.is_multiple_of(8192),
        "Normal comes first, aligned"
    );
    let second = asked(&mut memory, 8192).expect("room");
    assert!(second.0 == first.0 + 8192 || second.0 == first.0 + 16_384);
    assert_eq!(
        asked(&mut memory, 1 << 16),
        Err(AllocError::NoRange { nr: 1 << 16 })
    );
    let odd = asked(&mut memory, 3000).expect("room");
    assert!(odd.0.is_multiple_of(512), "others begin with a pageblock");
    assert_eq!(memory.check(), Ok(()));
}

#[test]
fn a_refused_search_names_what_stood_in_most_ranges() {
    let text = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 32768, "reserved":
        [[9000, 1], [13000, 1], [17000, 1], [25000, 1], [29000, 1]]}]}"#;
    let mut memory = Memory::boot(&BootSpec::from_json(text).expect("valid")).expect("boots");
    for _ in 0..2 {
        // the two ranges without a reserved frame, then one that a kernel page and one that a pinned
        // page is in would be left
        let taken = memory.alloc_contig_pages(4096, CPU, None, RUN_GFP, PageClass::Kernel);
        assert!(taken.is_ok_and(|pfn| pfn.0 < 8192));
    }
    let third = memory
        .run_alloc(4096, CPU, None, RUN_GFP)
        .expect("one more is whole")
        .1;
    assert_eq!(third, Pfn(20_480));
    let refused = memory.alloc_contig_pages(4096, CPU, None, RUN_GFP, PageClass::Kernel);
    let blocked = Blocked {
        pfn: Pfn(9000),
        by: Obstacle::Reserved,
    };
    assert_eq!(
        refused,
        Err(AllocError::RangeBlocked {
            nr: 4096,
            ranges: 8,
            blocked
        })
    );
    let error = refused.expect_err("refused");
    assert_eq!((error.errno(), error.cause()), (12, "range_reserved"));
    assert!(
        error
            .to_string()
            .ends_with("reserved memory or a hole, as at frame 9000"),
        "{error}"
    );
}

#[test]
fn a_batch_of_runs_is_the_same_as_one_after_another() {
    for nr in [2048, 3000, 8192] {
        let (mut single, _) = fragmented();
        let (mut batch, _) = fragmented();
        let mut one_by_one = 0;
        while single.run_alloc(nr, CPU, None, RUN_GFP).is_ok() {
            one_by_one += 1;
        }
        assert_eq!(
            batch.run_alloc_batch(nr, u32::MAX, CPU, None, RUN_GFP),
            Ok(one_by_one)
        );
        assert!(one_by_one > 0);
        let bases =
            |memory: &Memory| -> Vec<Pfn> { memory.runs().map(|(_, run)| run.base).collect() };
        assert_eq!(bases(&batch), bases(&single));
        let refused = batch.run_alloc_batch(nr, 1, CPU, None, RUN_GFP);
        assert!(
            matches!(refused, Err(AllocError::RangeBlocked { .. })),
            "{refused:?}"
        );
        assert_eq!(batch.check(), Ok(()));
    }
}

#[test]
fn flags_and_nodes_that_are_none_are_refused() {
    let mut memory = boot(1);
    let asked = |memory: &mut Memory, gfp, node| {
        memory.alloc_contig_pages(2048, CPU, node, gfp, PageClass::Kernel)
    };
    let noretry = RUN_GFP.with(Gfp::NORETRY);
    let unsupported = AllocError::UnsupportedGfp(Gfp::NORETRY.0);
    assert_eq!(asked(&mut memory, noretry, None), Err(unsupported));
    assert_eq!(unsupported.errno(), 22);
    let nowhere = asked(&mut memory, RUN_GFP, Some(NodeId(3)));
    assert_eq!(nowhere, Err(AllocError::NoSuchNode(3)));
}

#[test]
fn captured_pages_that_were_used_give_way_to_a_range() {
    let spec = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 4096}],
                   "min_free_kbytes": 128}"#;
    let mut memory = Memory::boot(&BootSpec::from_json(spec).expect("valid")).expect("it boots");
    let state = Import {
        run_start: &[0],
        run_nr: &[3072],
        run_class: &[PageClass::File as u8],
        run_order: &[0],
        free_pfn: &[3072],
        free_order: &[10],
        ..Import::default()
    };
    memory.import(&state).expect("it fits");
    let heads: Vec<Pfn> = (0..3072).map(Pfn).collect();
    memory.mark_used(&heads[..700], true);
    memory.mark_used(&heads[700..], false);
    assert_eq!(take(&mut memory, (512, 1024)), Ok(()));
}
