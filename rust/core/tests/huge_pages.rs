//! Large folios: what a fault maps, what splits, and random steps against a map of bytes.

use std::collections::BTreeMap;

use contigmm_core::address_space::{MmId, VmArea, vm_flags};
use contigmm_core::fault::Touch;
use contigmm_core::fork::ForkRange;
use contigmm_core::huge_memory::{ThpEnabled, ThpSettings};
use contigmm_core::khugepaged::CollapseError;
use contigmm_core::page_table::Pte;
use contigmm_core::zap::Markers;
use contigmm_core::zone::Zone;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order, PageClass, Pfn, VmEvent};
use proptest::prelude::*;

const CPU: Cpu = Cpu(0);
const HUGE: u64 = 512;
/// Six huge pages, and half of one on each side.
const AREA: VmArea = VmArea {
    start_vpn: 0x1100,
    end_vpn: 0x1f00,
    flags: vm_flags::WRITE | vm_flags::HUGEPAGE | 1,
    file: None,
    pgoff: 0,
    prealloc: None,
};
const FIRST: u64 = 0x1200;

fn boot(nr_frames: u32) -> Memory {
    let spec = format!(
        r#"{{"zones": [{{"kind": "Normal", "start_pfn": 0, "spanned": {nr_frames},
        "reserved": [[0, 16]]}}]}}"#
    );
    Memory::boot(&BootSpec::from_json(&spec).unwrap()).unwrap()
}

fn free_frames(memory: &Memory) -> u64 {
    let waiting = |zone: &Zone| {
        zone.pcps
            .iter()
            .map(|pcp| u64::from(pcp.count))
            .sum::<u64>()
    };
    let free = |zone: &Zone| zone.nr_free_pages + waiting(zone);
    memory.zones().iter().map(free).sum()
}

fn touch(memory: &mut Memory, mm: MmId, vma: &VmArea, vpn: u64, store: Option<u8>) -> u8 {
    let touch = Touch {
        addr: (vpn << 12) + 77,
        nr: 1,
        stride: 1,
        store,
    };
    let touched = memory.access(mm, CPU, &touch, vma);
    assert_eq!(touched.progress.blocked, None);
    touched.value
}

fn fork(memory: &mut Memory, parent: MmId, vma: &VmArea) -> MmId {
    let child = memory.mm_create();
    let range = ForkRange {
        vpns: vma.start_vpn..vma.end_vpn,
        flags: vma.flags,
    };
    let forked = memory.fork(parent, child, CPU, &[range]);
    assert_eq!(forked.blocked, None);
    child
}

/// Bytes that smaps calls `AnonHugePages`, in huge pages.
fn huge_pages(memory: &Memory, mm: MmId) -> u64 {
    let usage = memory.usage(mm, AREA.start_vpn, AREA.end_vpn - AREA.start_vpn);
    usage.anonymous_thp / 4096 / HUGE
}

fn sound(memory: &Memory) {
    assert_eq!(memory.check(), Ok(()));
    let restored = Memory::restore(&memory.snapshot(), 1 << 30).unwrap();
    assert_eq!(restored.digest(), memory.digest());
}

#[test]
fn a_write_maps_a_huge_page_where_the_vma_holds_one_whole() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST + 5, Some(3));
    touch(&mut memory, mm, &AREA, 0x1100, Some(4)); // half a huge page only
    assert_eq!(memory.rss(mm).anon, HUGE + 1);
    assert_eq!(huge_pages(&memory, mm), 1);
    let head = memory.pfn_at(mm, FIRST).unwrap();
    assert_eq!(head.0 % 512, 0);
    assert_eq!(
        memory.map().block_of(Pfn(head.0 + 9)).class,
        PageClass::AnonThp
    );
    assert_eq!(memory.vmstat().get(VmEvent::ThpFaultAlloc), 1);
    assert_eq!(touch(&mut memory, mm, &AREA, FIRST + 5, None), 3);
    sound(&memory);
}

#[test]
fn who_gets_huge_pages_is_a_setting() {
    let plain = VmArea {
        flags: vm_flags::WRITE | 1,
        ..AREA
    };
    let refused = VmArea {
        flags: plain.flags | vm_flags::NOHUGEPAGE,
        ..AREA
    };
    for (enabled, of_plain, of_advised) in [
        (ThpEnabled::Always, 1, 1),
        (ThpEnabled::Madvise, 0, 1),
        (ThpEnabled::Never, 0, 0),
    ] {
        for (vma, expected) in [(&plain, of_plain), (&AREA, of_advised), (&refused, 0)] {
            let mut memory = boot(8192);
            memory.set_thp(ThpSettings {
                enabled,
                ..ThpSettings::default()
            });
            let mm = memory.mm_create();
            touch(&mut memory, mm, vma, FIRST, Some(1));
            assert_eq!(huge_pages(&memory, mm), expected, "{enabled:?} {vma:?}");
        }
    }
}

#[test]
fn without_a_free_block_the_fault_takes_a_small_page() {
    let mut memory = boot(4096);
    let order = Order::new(9).unwrap();
    let mut blocks = Vec::new();
    while let Ok(pfn) = memory.alloc_pages(CPU, Gfp::HIGHUSER_MOVABLE, order, None) {
        blocks.push(pfn);
    }
    for pfn in blocks {
        memory.split_page(pfn, order);
        for frame in (pfn.0..pfn.0 + 512).step_by(2) {
            memory.free_pages(CPU, Pfn(frame), Order::ZERO);
        }
    }
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST, Some(1));
    assert_eq!(memory.rss(mm).anon, 1);
    assert_eq!(memory.vmstat().get(VmEvent::ThpFaultFallback), 1);
    assert_eq!(memory.vmstat().get(VmEvent::ThpFaultAlloc), 0);
}

#[test]
fn half_a_huge_page_frees_nothing_until_it_is_split() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    for vpn in FIRST..FIRST + HUGE {
        touch(&mut memory, mm, &AREA, vpn, Some(1));
    }
    let free = free_frames(&memory);
    assert_eq!(memory.zap(mm, CPU, FIRST, 256, Markers::Drop), 0);
    assert_eq!(free_frames(&memory), free);
    assert_eq!((memory.rss(mm).anon, huge_pages(&memory, mm)), (256, 0));
    assert_eq!(memory.nr_deferred(), 1);
    sound(&memory);
    assert_eq!(memory.split_deferred(CPU, 1), 256);
    assert_eq!(free_frames(&memory), free + 256);
    assert_eq!(memory.nr_deferred(), 0);
    sound(&memory);
    assert_eq!(memory.zap(mm, CPU, FIRST + 256, 256, Markers::Drop), 256);
}

#[test]
fn the_last_page_of_a_split_mapping_frees_the_whole_folio() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST, Some(1));
    for vpn in FIRST..FIRST + HUGE - 1 {
        assert_eq!(memory.zap(mm, CPU, vpn, 1, Markers::Drop), 0);
    }
    assert_eq!(memory.zap(mm, CPU, FIRST + 511, 1, Markers::Drop), HUGE);
    assert_eq!(memory.nr_deferred(), 0);
    sound(&memory);
}

#[test]
fn a_whole_unmapped_huge_page_gives_its_page_table_back() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST, Some(1));
    let tables = memory.rss(mm).pgtable_bytes;
    assert_eq!(memory.zap(mm, CPU, FIRST, HUGE, Markers::Keep), HUGE);
    assert_eq!(memory.rss(mm).pgtable_bytes, tables - 4096);
    touch(&mut memory, mm, &AREA, FIRST, Some(1));
    assert_eq!(
        huge_pages(&memory, mm),
        1,
        "huge again, as no table is there"
    );
}

#[test]
fn a_read_maps_the_huge_zero_page_and_a_write_replaces_it() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    assert_eq!(touch(&mut memory, mm, &AREA, FIRST + 3, None), 0);
    assert_eq!(memory.rss(mm).anon, 0);
    let present = memory.pagemap(mm, FIRST, HUGE);
    assert!(
        present.iter().all(|word| word >> 61 == 0b101),
        "present, of no anonymous page"
    );
    sound(&memory);
    touch(&mut memory, mm, &AREA, FIRST + 7, Some(9));
    assert_eq!((memory.rss(mm).anon, huge_pages(&memory, mm)), (HUGE, 1));
    touch(&mut memory, mm, &AREA, FIRST + HUGE, None);
    memory.protect(mm, FIRST + HUGE, 1, 1);
    let split = memory.pagemap(mm, FIRST + HUGE, HUGE);
    assert!(
        split.iter().all(|word| word >> 61 == 0b100),
        "the small zero page now"
    );
    sound(&memory);
}

#[test]
fn a_child_shares_a_huge_page_until_one_of_both_writes() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST, Some(1));
    let head = memory.pfn_at(mm, FIRST);
    let child = fork(&mut memory, mm, &AREA);
    assert_eq!(
        (huge_pages(&memory, mm), huge_pages(&memory, child)),
        (1, 1)
    );
    touch(&mut memory, child, &AREA, FIRST + 1, Some(2));
    assert_eq!(
        (huge_pages(&memory, mm), huge_pages(&memory, child)),
        (1, 0)
    );
    assert_ne!(
        memory.pfn_at(child, FIRST + 1),
        memory.pfn_at(mm, FIRST + 1)
    );
    assert_eq!(memory.pfn_at(child, FIRST), head);
    sound(&memory);
    memory.mm_exit(child, CPU);
    touch(&mut memory, mm, &AREA, FIRST, Some(3));
    assert_eq!(
        (memory.pfn_at(mm, FIRST), huge_pages(&memory, mm)),
        (head, 1)
    );
    assert!(
        memory.pte(mm, FIRST + 99).has(Pte::WRITE),
        "taken back as one"
    );
    sound(&memory);
}

#[test]
fn a_split_huge_page_is_reused_once_no_other_process_maps_any_of_it() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST, Some(1));
    memory.split_huge_at(mm, FIRST + 100);
    let child = fork(&mut memory, mm, &AREA);
    let frame = memory.pfn_at(mm, FIRST);
    memory.zap(child, CPU, FIRST, 300, Markers::Drop);
    touch(&mut memory, mm, &AREA, FIRST, Some(2));
    assert_ne!(
        memory.pfn_at(mm, FIRST),
        frame,
        "the child has other pages of it"
    );
    let next = memory.pfn_at(mm, FIRST + 1);
    memory.mm_exit(child, CPU);
    touch(&mut memory, mm, &AREA, FIRST + 1, Some(2));
    assert_eq!(memory.pfn_at(mm, FIRST + 1), next);
    sound(&memory);
}

#[test]
fn a_huge_mapping_moves_whole_to_an_aligned_place_and_else_in_pieces() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST + 1, Some(5));
    assert_eq!(
        memory.move_pages(mm, CPU, FIRST, 0x4000, HUGE).blocked,
        None
    );
    assert_eq!(memory.usage(mm, 0x4000, HUGE).anonymous_thp, 2 << 20);
    sound(&memory);
    assert_eq!(
        memory
            .move_pages(mm, CPU, 0x4000, FIRST + 256, HUGE)
            .blocked,
        None
    );
    assert_eq!((memory.rss(mm).anon, huge_pages(&memory, mm)), (HUGE, 0));
    assert_eq!(touch(&mut memory, mm, &AREA, FIRST + 257, None), 5);
    sound(&memory);
}

#[test]
fn smaller_folios_come_by_their_own_settings() {
    let mut memory = boot(8192);
    memory.set_thp(ThpSettings {
        enabled: ThpEnabled::Never,
        orders_madvise: 1 << 4 | 1 << 2 | 1,
        ..ThpSettings::default()
    });
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, 0x1100 + 17, Some(1));
    assert_eq!(memory.rss(mm).anon, 16);
    let block = memory
        .map()
        .block_of(memory.pfn_at(mm, 0x1100 + 16).unwrap());
    assert_eq!((block.order.get(), block.compound), (4, true));
    // One page of the next sixteen is taken: four of them still fit.
    memory.zap(mm, CPU, 0x1110, 16, Markers::Drop);
    memory.set_thp(ThpSettings::default());
    touch(&mut memory, mm, &AREA, 0x1110, Some(1));
    memory.set_thp(ThpSettings {
        orders_always: 1 << 4 | 1 << 2,
        ..ThpSettings::default()
    });
    touch(&mut memory, mm, &AREA, 0x1110 + 9, Some(1));
    assert_eq!(memory.rss(mm).anon, 5);
    let populated = memory.populate(mm, CPU, 0x1100, 64, &AREA, true);
    assert_eq!((populated.done, populated.blocked), (64, None));
    assert_eq!(memory.rss(mm).anon, 64);
    sound(&memory);
}

#[test]
fn collapsing_copies_what_is_there_into_a_huge_page() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    let small = VmArea {
        flags: vm_flags::WRITE | 1,
        ..AREA
    };
    let collapse = |memory: &mut Memory| memory.collapse(mm, CPU, FIRST, small.flags);
    assert_eq!(collapse(&mut memory), Err(CollapseError::Unfit));
    touch(&mut memory, mm, &small, FIRST + 1, None);
    touch(&mut memory, mm, &small, FIRST + 2, Some(8));
    let child = fork(&mut memory, mm, &small);
    assert_eq!(collapse(&mut memory), Ok(()));
    assert_eq!((memory.rss(mm).anon, memory.rss(child).anon), (HUGE, 1));
    assert_eq!(touch(&mut memory, mm, &small, FIRST + 2, None), 8);
    assert_eq!(touch(&mut memory, child, &small, FIRST + 2, None), 8);
    assert_eq!(collapse(&mut memory), Ok(()), "it is one already");
    sound(&memory);
    let _ = memory.guard_install(mm, CPU, FIRST + HUGE, 1);
    touch(&mut memory, mm, &small, FIRST + HUGE + 1, Some(1));
    let guarded = memory.collapse(mm, CPU, FIRST + HUGE, small.flags);
    assert_eq!(guarded, Err(CollapseError::Unfit));
}

#[test]
fn advice_about_a_part_splits_the_folio_unless_others_map_it() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST, Some(1));
    let child = fork(&mut memory, mm, &AREA);
    memory.cold(mm, CPU, FIRST, 10);
    assert_eq!(huge_pages(&memory, mm), 1);
    memory.mm_exit(child, CPU);
    memory.lazy_free(mm, CPU, FIRST, 10);
    assert_eq!(huge_pages(&memory, mm), 0);
    let frame = memory.pfn_at(mm, FIRST).unwrap();
    assert_eq!(memory.map().block_of(frame).class, PageClass::Anon);
    assert_eq!(memory.rss(mm).anon, 1, "but one page, all are zero");
    assert_eq!(memory.page_out(mm, CPU, FIRST, HUGE), 1);
    touch(&mut memory, mm, &AREA, FIRST + HUGE, Some(1));
    assert_eq!(memory.page_out(mm, CPU, FIRST + HUGE, HUGE), 511);
    assert_eq!((memory.rss(mm).anon, huge_pages(&memory, mm)), (1, 0));
    sound(&memory);
}

#[test]
fn a_huge_page_migrates_whole_and_a_tail_not_at_all() {
    let mut memory = boot(8192);
    let mm = memory.mm_create();
    touch(&mut memory, mm, &AREA, FIRST + 4, Some(6));
    let child = fork(&mut memory, mm, &AREA);
    let head = memory.pfn_at(mm, FIRST).unwrap();
    assert!(memory.can_migrate(Pfn(head.0 + 1)).is_err());
    let to = memory
        .alloc_pages(CPU, Gfp::TRANSHUGE_LIGHT, Order::new(9).unwrap(), None)
        .unwrap();
    memory.migrate_frame(CPU, head, to).unwrap();
    for mm in [mm, child] {
        assert_eq!(
            (memory.pfn_at(mm, FIRST), huge_pages(&memory, mm)),
            (Some(to), 1)
        );
        assert_eq!(touch(&mut memory, mm, &AREA, FIRST + 4, None), 6);
    }
    sound(&memory);
}

// ---- against a map of bytes --------------------------------------------------------------------

#[derive(Clone, Debug)]
enum What {
    Store { vpn: u64, byte: u8 },
    Load { vpn: u64 },
    Populate { vpn: u64, nr: u64 },
    Zap { vpn: u64, nr: u64 },
    Move { from: u64, to: u64, nr: u64 },
    Split { vpn: u64 },
    Collapse { vpn: u64 },
    Advise { vpn: u64, nr: u64 },
    Lock { vpn: u64, nr: u64, on: bool },
    Protect { vpn: u64, nr: u64 },
    MigrateFolio { vpn: u64 },
    SplitFolio { vpn: u64 },
    Orders { mask: u16 },
    Shrink,
    Fork,
    Exit,
}

/// One process does something; one that is not there does nothing.
#[derive(Clone, Debug)]
struct Step {
    who: usize,
    what: What,
}

const MAX_PROCESSES: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    // Ends of huge pages are what matters.
    let vpn = prop_oneof![
        AREA.start_vpn..AREA.end_vpn,
        (9..15_u64, -2..3_i64).prop_map(|(at, by)| (at * HUGE).checked_add_signed(by).unwrap()),
    ];
    let nr = prop_oneof![Just(HUGE), Just(2 * HUGE), 1..1300_u64];
    // No range goes beyond the area.
    let range = (vpn.clone(), nr).prop_map(|(vpn, nr)| (vpn, nr.min(AREA.end_vpn - vpn)));
    let what = prop_oneof![
        6 => (vpn.clone(), any::<u8>()).prop_map(|(vpn, byte)| What::Store { vpn, byte }),
        4 => vpn.clone().prop_map(|vpn| What::Load { vpn }),
        2 => range.clone().prop_map(|(vpn, nr)| What::Populate { vpn, nr }),
        3 => range.clone().prop_map(|(vpn, nr)| What::Zap { vpn, nr }),
        3 => (range.clone(), vpn.clone(), any::<bool>()).prop_map(|((from, nr), to, aligned)| {
            // Half of all moves keep the place within a huge page.
            let to = if aligned { to - to % HUGE + from % HUGE } else { to };
            let to = to.clamp(AREA.start_vpn, AREA.end_vpn - 1);
            What::Move { from, to, nr: nr.min(AREA.end_vpn - to).min(from.abs_diff(to)) }
        }),
        1 => vpn.clone().prop_map(|vpn| What::Split { vpn }),
        2 => (9..15_u64).prop_map(|at| What::Collapse { vpn: at * HUGE }),
        1 => range.clone().prop_map(|(vpn, nr)| What::Advise { vpn, nr }),
        1 => (range.clone(), any::<bool>()).prop_map(|((vpn, nr), on)| What::Lock { vpn, nr, on }),
        1 => range.prop_map(|(vpn, nr)| What::Protect { vpn, nr }),
        2 => vpn.clone().prop_map(|vpn| What::MigrateFolio { vpn }),
        1 => vpn.prop_map(|vpn| What::SplitFolio { vpn }),
        1 => any::<u16>().prop_map(|mask| What::Orders { mask: mask & !(1 << 9) }),
        1 => Just(What::Shrink),
        2 => Just(What::Fork),
        1 => Just(What::Exit),
    ];
    (0..MAX_PROCESSES, what).prop_map(|(who, what)| Step { who, what })
}

struct World {
    memory: Memory,
    processes: Vec<(MmId, BTreeMap<u64, u8>)>,
    free: u64,
}

impl World {
    fn new() -> Self {
        let mut memory = boot(32768);
        let free = free_frames(&memory);
        let mm = memory.mm_create();
        Self {
            memory,
            processes: vec![(mm, BTreeMap::new())],
            free,
        }
    }

    fn apply(&mut self, step: &Step) {
        let count = self.processes.len();
        let Some((mm, bytes)) = self.processes.get_mut(step.who) else {
            return;
        };
        match step.what {
            What::Fork if count < MAX_PROCESSES => {
                let bytes = bytes.clone();
                let child = fork(&mut self.memory, *mm, &AREA);
                self.processes.push((child, bytes));
            }
            What::Exit if count > 1 => {
                let (mm, _) = self.processes.swap_remove(step.who);
                self.memory.mm_exit(mm, CPU);
            }
            _ => apply_to(&mut self.memory, *mm, bytes, &step.what),
        }
    }
}

/// What one process does to its own pages.
fn apply_to(memory: &mut Memory, mm: MmId, bytes: &mut BTreeMap<u64, u8>, what: &What) {
    match *what {
        What::Store { vpn, byte } => {
            touch(memory, mm, &AREA, vpn, Some(byte));
            bytes.insert(vpn, byte);
        }
        What::Load { vpn } => {
            let expected = bytes.get(&vpn).copied().unwrap_or(0);
            assert_eq!(touch(memory, mm, &AREA, vpn, None), expected, "at {vpn:#x}");
        }
        What::Populate { vpn, nr } => {
            assert_eq!(memory.populate(mm, CPU, vpn, nr, &AREA, true).done, nr);
        }
        What::Zap { vpn, nr } => {
            memory.zap(mm, CPU, vpn, nr, Markers::Drop);
            bytes.retain(|at, _| !(vpn..vpn + nr).contains(at));
        }
        What::Move { from, to, nr } => {
            let (start, end) = (to << 12, (to + nr) << 12);
            memory.zap(mm, CPU, to, nr, Markers::Drop);
            memory.free_pgtables(mm, CPU, start..end, start, end);
            bytes.retain(|at, _| !(to..to + nr).contains(at));
            assert_eq!(memory.move_pages(mm, CPU, from, to, nr).blocked, None);
            let moved: Vec<_> = bytes
                .range(from..from + nr)
                .map(|(&at, &byte)| (at, byte))
                .collect();
            for (at, byte) in moved {
                bytes.remove(&at);
                bytes.insert(at - from + to, byte);
            }
        }
        What::Split { vpn } => memory.split_huge_at(mm, vpn),
        What::Collapse { vpn } => {
            let _ = memory.collapse(mm, CPU, vpn, AREA.flags);
        }
        What::Advise { vpn, nr } => memory.cold(mm, CPU, vpn, nr),
        What::Lock { vpn, nr, on } => {
            let flags = if on { vm_flags::LOCKED } else { 0 };
            memory.split_huge_at(mm, vpn);
            memory.split_huge_at(mm, vpn + nr);
            memory.mlock_range(mm, vpn, nr, flags);
        }
        What::Protect { vpn, nr } => memory.protect(mm, vpn, nr, 1),
        What::MigrateFolio { vpn } => migrate_or_split(memory, mm, vpn, false),
        What::SplitFolio { vpn } => migrate_or_split(memory, mm, vpn, true),
        What::Orders { mask } => memory.set_thp(ThpSettings {
            orders_madvise: mask,
            ..ThpSettings::default()
        }),
        What::Shrink => {
            memory.split_deferred(CPU, 100);
        }
        What::Fork | What::Exit => {}
    }
}

fn migrate_or_split(memory: &mut Memory, mm: MmId, vpn: u64, to_split: bool) {
    let Some(pfn) = memory.pfn_at(mm, vpn) else {
        return;
    };
    let head = memory.map().block_of(pfn);
    if memory.can_migrate(head.pfn).is_err() {
        return;
    }
    if to_split {
        if head.compound {
            memory.split_folio(CPU, head.pfn).unwrap();
        }
        return;
    }
    let to = memory.alloc_pages(CPU, Gfp::TRANSHUGE_LIGHT, head.order, None);
    memory.migrate_frame(CPU, head.pfn, to.unwrap()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_read_is_the_one_last_written(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            prop_assert_eq!(world.memory.check(), Ok(()), "after {:?}", step);
        }
        sound(&world.memory);
        for who in 0..world.processes.len() {
            for vpn in AREA.start_vpn..AREA.end_vpn {
                world.apply(&Step { who, what: What::Load { vpn } });
            }
        }
        for (mm, _) in std::mem::take(&mut world.processes) {
            world.memory.mm_exit(mm, CPU);
        }
        let kept = if world.memory.vmstat().get(VmEvent::ThpZeroPageAlloc) > 0 { HUGE } else { 0 };
        prop_assert_eq!(free_frames(&world.memory) + kept, world.free);
        prop_assert_eq!(world.memory.check(), Ok(()));
    }
}
