//! Huge pages of shared memory: who gets them, how they are mapped, and what splits them.

use contigmm_core::address_space::{MmId, VmArea, vm_flags};
use contigmm_core::fault::Touch;
use contigmm_core::huge_memory::ThpSettings;
use contigmm_core::khugepaged::CollapseError;
use contigmm_core::page_cache::{FileId, FileKind, FileSpec};
use contigmm_core::shmem_huge::ThpShmem;
use contigmm_core::zap::Markers;
use contigmm_core::{BootSpec, Cpu, Memory, VmEvent};

const CPU: Cpu = Cpu(0);
const HUGE: u64 = 512;
const FIRST: u64 = 0x1000;

fn boot(shmem: ThpShmem) -> Memory {
    let spec = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 16384,
        "reserved": [[0, 16]]}]}"#;
    let mut memory = Memory::boot(&BootSpec::from_json(spec).unwrap()).unwrap();
    memory.set_thp(ThpSettings {
        shmem,
        ..ThpSettings::default()
    });
    memory
}

fn object(memory: &mut Memory, pages: u64) -> FileId {
    memory.file_create(FileSpec {
        kind: FileKind::Shmem,
        size: pages * 4096,
        fill: None,
    })
}

fn area(file: FileId, flags: u64) -> VmArea {
    VmArea {
        start_vpn: FIRST,
        end_vpn: FIRST + 2 * HUGE,
        flags: vm_flags::WRITE | vm_flags::SHARED | flags | 1,
        file: Some(file),
        pgoff: 0,
        prealloc: None,
    }
}

fn touch(memory: &mut Memory, mm: MmId, vma: &VmArea, vpn: u64, store: Option<u8>) -> u8 {
    let touch = Touch {
        addr: (vpn << 12) + 5,
        nr: 1,
        stride: 1,
        store,
    };
    let touched = memory.access(mm, CPU, &touch, vma);
    assert_eq!(touched.progress.blocked, None);
    memory.check().unwrap();
    touched.value
}

/// Resident pages of shared memory, and those of them that huge mappings show.
fn resident(memory: &Memory, mm: MmId) -> (u64, u64) {
    memory.check().unwrap();
    let usage = memory.usage(mm, FIRST, 8 * HUGE);
    (memory.rss(mm).shmem, usage.shmem_thp / 4096)
}

#[test]
fn who_gets_huge_pages_of_shared_memory_is_a_setting() {
    // Pages resident after a write to the first and to the last, incomplete huge page.
    for (mode, plain, advised) in [
        (ThpShmem::Always, 2 * HUGE, 2 * HUGE),
        (ThpShmem::Force, 2 * HUGE, 2 * HUGE),
        (ThpShmem::WithinSize, HUGE + 1, 2 * HUGE),
        (ThpShmem::Advise, 2, 2 * HUGE),
        (ThpShmem::Never, 2, 2),
        (ThpShmem::Deny, 2, 2),
    ] {
        for (flags, pages) in [
            (0, plain),
            (vm_flags::HUGEPAGE, advised),
            (vm_flags::NOHUGEPAGE, 2),
        ] {
            let mut memory = boot(mode);
            let file = object(&mut memory, HUGE + 3);
            let (mm, vma) = (memory.mm_create(), area(file, flags));
            touch(&mut memory, mm, &vma, FIRST, Some(1));
            touch(&mut memory, mm, &vma, FIRST + HUGE, Some(1));
            assert_eq!(resident(&memory, mm).0, pages, "{mode:?}, flags {flags:#x}");
        }
    }
}

#[test]
fn a_huge_mapping_of_a_file_has_no_table_and_goes_whole_when_it_is_cut() {
    let mut memory = boot(ThpShmem::Always);
    let file = object(&mut memory, 2 * HUGE);
    let (mm, vma) = (memory.mm_create(), area(file, 0));
    touch(&mut memory, mm, &vma, FIRST + 7, Some(9));
    assert_eq!(resident(&memory, mm), (HUGE, HUGE));
    assert_eq!(memory.rss(mm).pgtable_bytes, 2 * 4096, "PUD and PMD tables");
    memory.zap(mm, CPU, FIRST + 1, 1, Markers::Drop);
    assert_eq!(resident(&memory, mm), (0, 0));
    assert_eq!(memory.file_nr_pages(file), HUGE);
    assert_eq!(touch(&mut memory, mm, &vma, FIRST + 7, None), 9);
    assert_eq!(resident(&memory, mm), (HUGE, HUGE));
    memory.protect(mm, FIRST, 1, 1);
    assert_eq!(resident(&memory, mm), (0, 0));
    assert_eq!(memory.vmstat().get(VmEvent::ThpSplitPmd), 2);
    assert_eq!(memory.vmstat().get(VmEvent::ThpFileMapped), 2);
}

#[test]
fn collapsing_shared_memory_keeps_what_was_written_and_maps_it_huge() {
    let mut memory = boot(ThpShmem::Never);
    let file = object(&mut memory, 2 * HUGE);
    let (mm, other) = (memory.mm_create(), memory.mm_create());
    let vma = area(file, 0);
    assert_eq!(
        memory.collapse_file(mm, CPU, FIRST, &vma),
        Err(CollapseError::Unfit),
        "nothing is there"
    );
    touch(&mut memory, mm, &vma, FIRST + 3, Some(7));
    touch(&mut memory, other, &vma, FIRST + 4, Some(8));
    assert_eq!(memory.collapse_file(mm, CPU, FIRST, &vma), Ok(()));
    assert_eq!(resident(&memory, mm), (HUGE, HUGE));
    assert_eq!(
        resident(&memory, other),
        (0, 0),
        "whoever else maps it faults"
    );
    assert_eq!(touch(&mut memory, other, &vma, FIRST + 3, None), 7);
    assert_eq!(touch(&mut memory, mm, &vma, FIRST + 4, None), 8);
    assert_eq!(touch(&mut memory, mm, &vma, FIRST + 5, None), 0);
    assert_eq!(resident(&memory, other), (HUGE, HUGE));
    assert_eq!(
        memory.nr_shmem_pmdmapped(),
        HUGE,
        "one page of two processes"
    );
    assert_eq!(memory.collapse_file(mm, CPU, FIRST, &vma), Ok(()), "again");
}

#[test]
fn a_private_copy_keeps_its_table_but_the_object_is_huge_afterwards() {
    let mut memory = boot(ThpShmem::Never);
    let file = object(&mut memory, 2 * HUGE);
    memory.cache_insert(file, CPU, 0, 2);
    let mm = memory.mm_create();
    let vma = VmArea {
        flags: vm_flags::WRITE | 1,
        ..area(file, 0)
    };
    touch(&mut memory, mm, &vma, FIRST, Some(1));
    let collapsed = memory.collapse_file(mm, CPU, FIRST, &vma);
    assert_eq!(collapsed, Err(CollapseError::Unfit));
    assert_eq!(memory.file_nr_pages(file), HUGE);
    touch(&mut memory, mm, &vma, FIRST + 100, None);
    assert_eq!(
        resident(&memory, mm),
        (HUGE - 1, 0),
        "all but the copy, page by page"
    );
}

#[test]
fn cutting_the_object_splits_the_folio_and_unmaps_it_everywhere() {
    for hole in [false, true] {
        let mut memory = boot(ThpShmem::Always);
        let file = object(&mut memory, 2 * HUGE);
        let (mm, vma) = (memory.mm_create(), area(file, 0));
        touch(&mut memory, mm, &vma, FIRST + 3, Some(7));
        if hole {
            memory.file_punch(file, CPU, 4..5);
            assert_eq!(memory.file_nr_pages(file), HUGE - 1);
        } else {
            memory.file_truncate(file, CPU, 4 * 4096);
            assert_eq!(memory.file_nr_pages(file), 4);
        }
        assert_eq!(resident(&memory, mm), (0, 0));
        assert_eq!(touch(&mut memory, mm, &vma, FIRST + 3, None), 7);
        assert_eq!(resident(&memory, mm).1, 0);
    }
}

#[test]
fn a_huge_mapping_of_a_file_is_in_a_snapshot() {
    let mut memory = boot(ThpShmem::Always);
    let file = object(&mut memory, HUGE);
    let (mm, vma) = (memory.mm_create(), area(file, 0));
    touch(&mut memory, mm, &vma, FIRST, Some(3));
    let mut again = Memory::restore(&memory.snapshot(), 1 << 30).unwrap();
    assert_eq!(resident(&again, mm), (HUGE, HUGE));
    assert_eq!(touch(&mut again, mm, &vma, FIRST, None), 3);
    assert_eq!(again.mm_exit(mm, CPU), 0, "the object keeps its page");
    assert_eq!(again.file_drop(file, CPU), HUGE);
    again.check().unwrap();
}
