//! Address spaces: what each bulk call does to frames, entries and bytes.

use contigmm_core::address_space::{Cause, MmId, VmArea, vm_flags};
use contigmm_core::fault::Touch;
use contigmm_core::fork::ForkRange;
use contigmm_core::page_cache::{FileKind, FileSpec};
use contigmm_core::zap::Markers;
use contigmm_core::zone::Zone;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Pfn};

const CPU: Cpu = Cpu(0);

fn machine() -> Memory {
    let text = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 16384}], "nr_cpus": 2}"#;
    Memory::boot(&BootSpec::from_json(text).unwrap()).unwrap()
}

fn free_frames(memory: &Memory) -> u64 {
    let waiting = |zone: &Zone| {
        zone.pcps
            .iter()
            .map(|pcp| u64::from(pcp.count))
            .sum::<u64>()
    };
    memory
        .zones()
        .iter()
        .map(|zone| zone.nr_free_pages + waiting(zone))
        .sum()
}

fn anon(start_vpn: u64, nr: u64) -> VmArea {
    VmArea {
        start_vpn,
        end_vpn: start_vpn + nr,
        flags: vm_flags::WRITE | 1,
        file: None,
        pgoff: 0,
        prealloc: None,
    }
}

fn store(memory: &mut Memory, mm: MmId, vma: &VmArea, vpn: u64, byte: u8) {
    let touch = Touch {
        addr: vpn << 12,
        nr: 1,
        stride: 4096,
        store: Some(byte),
    };
    assert_eq!(memory.access(mm, CPU, &touch, vma).progress.blocked, None);
}

fn load(memory: &mut Memory, mm: MmId, vma: &VmArea, vpn: u64) -> u8 {
    let touch = Touch {
        addr: vpn << 12,
        nr: 1,
        stride: 4096,
        store: None,
    };
    let touched = memory.access(mm, CPU, &touch, vma);
    assert_eq!(touched.progress.blocked, None);
    touched.value
}

fn fork(memory: &mut Memory, parent: MmId, vma: &VmArea) -> MmId {
    let child = memory.mm_create();
    let ranges = [ForkRange {
        vpns: vma.start_vpn..vma.end_vpn,
        flags: vma.flags,
    }];
    assert_eq!(memory.fork(parent, child, CPU, &ranges).blocked, None);
    child
}

#[test]
fn populate_and_exit_give_every_frame_back() {
    let mut memory = machine();
    let before = free_frames(&memory);
    let mm = memory.mm_create();
    let vma = anon(0x7_0000, 1500);
    let progress = memory.populate(mm, CPU, vma.start_vpn, 1500, &vma, true);
    assert_eq!((progress.done, progress.blocked), (1500, None));
    memory.check().unwrap();
    let rss = memory.rss(mm);
    assert_eq!(
        (rss.anon, rss.file, rss.shmem, rss.pgtable_bytes),
        (1500, 0, 0, 5 * 4096)
    );
    assert_eq!(free_frames(&memory), before - 1500 - 6);
    assert_eq!(memory.mm_exit(mm, CPU), 1500);
    assert_eq!(free_frames(&memory), before);
    memory.check().unwrap();
}

#[test]
fn an_untouched_page_reads_as_the_zero_page_and_is_not_resident() {
    let mut memory = machine();
    let mm = memory.mm_create();
    let vma = anon(0x1000, 4);
    assert_eq!(load(&mut memory, mm, &vma, 0x1000), 0);
    assert_eq!(memory.rss(mm).anon, 0);
    assert_eq!(
        memory.pagemap(mm, 0x1000, 2),
        [
            1 << 63 | u64::from(memory.zero_pfn().expect("it was read").0),
            0
        ]
    );
    store(&mut memory, mm, &vma, 0x1000, 7);
    assert_eq!(memory.rss(mm).anon, 1);
    assert_eq!(load(&mut memory, mm, &vma, 0x1000), 7);
    assert_eq!(memory.pagemap(mm, 0x1000, 1)[0] >> 48, 0x8100);
    memory.check().unwrap();
}

#[test]
fn a_write_after_fork_copies_and_the_last_sharer_reuses() {
    let mut memory = machine();
    let mm = memory.mm_create();
    let vma = anon(0x1000, 2);
    store(&mut memory, mm, &vma, 0x1000, 1);
    let frame = memory.pfn_at(mm, 0x1000);
    let child = fork(&mut memory, mm, &vma);
    memory.check().unwrap();
    assert_eq!(memory.pfn_at(child, 0x1000), frame);
    store(&mut memory, mm, &vma, 0x1000, 2);
    assert_ne!(memory.pfn_at(mm, 0x1000), frame);
    assert_eq!(load(&mut memory, child, &vma, 0x1000), 1);
    store(&mut memory, child, &vma, 0x1000, 3);
    assert_eq!(
        memory.pfn_at(child, 0x1000),
        frame,
        "the last sharer writes in place"
    );
    assert_eq!(load(&mut memory, mm, &vma, 0x1000), 2);
    memory.check().unwrap();
}

#[test]
fn the_tail_of_a_run_goes_back_in_the_largest_blocks() {
    let mut memory = machine();
    let before = memory.buddyinfo();
    memory.run_alloc(175, CPU, None, Gfp::HIGHUSER).unwrap();
    let mut gained = [0_i64; 11];
    for (after, before) in memory.buddyinfo().iter().zip(&before) {
        for (order, gain) in gained.iter_mut().enumerate() {
            *gain += i64::try_from(after[order]).unwrap() - i64::try_from(before[order]).unwrap();
        }
    }
    // Of a block of order 10 the halves 9 and 8 are left; of the 256 frames taken 81 = 1 + 16 + 64 go
    // back, the single one to its CPU's list.
    assert_eq!(gained, [0, 0, 0, 0, 1, 0, 1, 0, 1, 1, -1]);
    memory.check().unwrap();
}

#[test]
fn a_run_is_exact_pinned_and_copied_at_fork() {
    let mut memory = machine();
    let before = free_frames(&memory);
    let mm = memory.mm_create();
    let (run, base) = memory.run_alloc(21, CPU, None, Gfp::HIGHUSER).unwrap();
    assert_eq!(free_frames(&memory), before - 21);
    let vma = VmArea {
        flags: vm_flags::CONTIG | vm_flags::WRITE | 1,
        ..anon(0x2000, 21)
    };
    assert_eq!(
        memory.run_map(mm, CPU, 0x2000, run, (0, 21), vma.flags),
        Ok(21)
    );
    for i in 0..21 {
        assert_eq!(
            memory.pfn_at(mm, 0x2000 + i),
            Some(Pfn(base.0 + u32::try_from(i).unwrap()))
        );
    }
    store(&mut memory, mm, &vma, 0x2003, 9);
    memory.check().unwrap();
    let child = fork(&mut memory, mm, &vma);
    assert_ne!(memory.pfn_at(child, 0x2003), memory.pfn_at(mm, 0x2003));
    assert_eq!(load(&mut memory, child, &anon(0x2000, 21), 0x2003), 9);
    store(&mut memory, mm, &vma, 0x2003, 8);
    assert_eq!(
        memory.pfn_at(mm, 0x2003),
        Some(Pfn(base.0 + 3)),
        "the parent keeps its frames"
    );
    memory.check().unwrap();
    memory.zap(mm, CPU, 0x2000, 5, Markers::Drop);
    assert_eq!(memory.run_release(run, 0, 5, CPU), 5);
    memory.check().unwrap();
    memory.mm_exit(mm, CPU);
    assert_eq!(memory.run_release(run, 5, 16, CPU), 16);
    assert!(memory.run(run).is_none());
    memory.mm_exit(child, CPU);
    assert_eq!(free_frames(&memory), before);
    memory.check().unwrap();
}

#[test]
fn the_rfc_leaks_and_maps_frames_that_are_not_its_own() {
    let mut memory = machine();
    let before = free_frames(&memory);
    let mm = memory.mm_create();
    let base = memory.rfc_alloc(5, CPU, None).unwrap();
    assert_eq!(free_frames(&memory), before - 5);
    let vma = VmArea {
        prealloc: Some(base),
        ..anon(0x3000, 5)
    };
    memory.populate(mm, CPU, 0x3000, 4, &vma, true);
    memory.check().unwrap();
    // D6: the upper half is indexed from its own start.
    let upper = VmArea {
        start_vpn: 0x3004,
        ..vma
    };
    store(&mut memory, mm, &upper, 0x3004, 6);
    assert_eq!(memory.pfn_at(mm, 0x3004), Some(base));
    assert_eq!(memory.wild().mapped_twice, 1);
    assert_eq!(
        load(&mut memory, mm, &vma, 0x3000),
        6,
        "one frame, seen at two addresses"
    );
    // D3: unmapping frees the frame, a second fault maps it all the same.
    assert_eq!(memory.zap(mm, CPU, 0x3001, 1, Markers::Keep), 1);
    store(&mut memory, mm, &vma, 0x3001, 5);
    assert_eq!(memory.wild().mapped_free, 1);
    assert_eq!(memory.wild().stores_to_free, 1);
    memory.check().unwrap();
    // D4: the fifth page was never faulted in, and stays allocated for good.
    memory.mm_exit(mm, CPU);
    assert_eq!(memory.wild().stray_puts, 2);
    assert_eq!(free_frames(&memory), before - 1);
    memory.check().unwrap();
}

#[test]
fn file_pages_are_shared_copied_and_cut() {
    let mut memory = machine();
    let before = free_frames(&memory);
    let (mm, other) = (memory.mm_create(), memory.mm_create());
    let file = memory.file_create(FileSpec {
        kind: FileKind::Shmem,
        size: 3 * 4096 - 10,
        fill: Some(40),
    });
    let shared = VmArea {
        flags: vm_flags::SHARED | vm_flags::WRITE | 1,
        file: Some(file),
        ..anon(0x4000, 8)
    };
    let private = VmArea {
        flags: vm_flags::WRITE | 1,
        ..shared
    };
    assert_eq!(load(&mut memory, mm, &shared, 0x4001), 41);
    store(&mut memory, other, &shared, 0x4001, 3);
    assert_eq!(load(&mut memory, mm, &shared, 0x4001), 3);
    assert_eq!((memory.rss(mm).shmem, memory.rss(other).shmem), (1, 1));
    memory.check().unwrap();
    let third = memory.mm_create();
    store(&mut memory, third, &private, 0x4001, 9);
    assert_eq!(load(&mut memory, mm, &shared, 0x4001), 3);
    let touch = Touch {
        addr: 0x4003 << 12,
        nr: 1,
        stride: 1,
        store: None,
    };
    let progress = memory.access(mm, CPU, &touch, &shared).progress;
    assert_eq!(
        (progress.done, progress.blocked),
        (0, Some(Cause::BeyondEof))
    );
    memory.file_truncate(file, CPU, 4096);
    assert_eq!((memory.rss(mm).shmem, memory.rss(third).anon), (0, 1));
    memory.check().unwrap();
    for space in [mm, other, third] {
        memory.mm_exit(space, CPU);
    }
    memory.file_drop(file, CPU);
    assert_eq!(free_frames(&memory), before);
    memory.check().unwrap();
}

#[test]
fn a_page_given_up_goes_when_asked_for_unless_it_was_written_again() {
    let mut memory = machine();
    let mm = memory.mm_create();
    let vma = anon(0x1000, 3);
    for vpn in 0x1000..0x1003 {
        store(&mut memory, mm, &vma, vpn, 5);
    }
    memory.lazy_free(mm, CPU, 0x1000, 2);
    assert_eq!(load(&mut memory, mm, &vma, 0x1000), 5, "still readable");
    assert_eq!(memory.usage(mm, 0x1000, 3).lazyfree, 2 * 4096);
    store(&mut memory, mm, &vma, 0x1001, 6);
    assert_eq!(memory.page_out(mm, CPU, 0x1000, 3), 1);
    memory.check().unwrap();
    let bytes = [0x1000, 0x1001, 0x1002].map(|vpn| load(&mut memory, mm, &vma, vpn));
    assert_eq!(bytes, [0, 6, 5]);
}

#[test]
fn a_read_does_not_map_reserved_pages_around_it() {
    let mut memory = machine();
    let mm = memory.mm_create();
    let file = memory.file_create(FileSpec {
        kind: FileKind::Shmem,
        size: 8 * 4096,
        fill: None,
    });
    let vma = VmArea {
        flags: vm_flags::SHARED | vm_flags::WRITE | 1,
        file: Some(file),
        ..anon(0x4000, 8)
    };
    assert_eq!(memory.cache_reserve(file, CPU, 0, 4).blocked, None);
    assert_eq!(memory.cache_insert(file, CPU, 4, 4).blocked, None);
    assert_eq!(load(&mut memory, mm, &vma, 0x4000), 0);
    assert_eq!(memory.rss(mm).shmem, 5);
    memory.check().unwrap();
}

#[test]
fn a_broken_core_hands_out_what_is_held_and_never_what_is_free() {
    let mut memory = machine();
    memory.break_for_test(1);
    let first = memory.run_alloc(4, CPU, None, Gfp::HIGHUSER).unwrap();
    let second = memory.run_alloc(4, CPU, None, Gfp::HIGHUSER).unwrap();
    assert_eq!(first.1, second.1, "handed out twice");
    assert!(memory.check().is_err());
    memory.run_release(first.0, 0, 4, CPU);
    memory.run_release(second.0, 0, 4, CPU);
    let before = free_frames(&memory);
    memory.run_alloc(4, CPU, None, Gfp::HIGHUSER).unwrap();
    assert_eq!(free_frames(&memory), before - 4, "nobody held those frames");
}
