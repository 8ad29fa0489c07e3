//! Captured frames get owners, keep their classes, and are freed with their owners.

use contigmm_core::import::Import;
use contigmm_core::mem_map::PageClass;
use contigmm_core::page_cache::{FileKind, FileSpec};
use contigmm_core::{Cpu, Memory, Pfn};

/// Frames 0-255 anonymous, 256-383 of a large anonymous folio, 384-447 cache, 448-455 page tables,
/// 456-463 locked, the rest free.
fn captured() -> Memory {
    let spec = r#"{"zones": [{"kind": "DMA", "start_pfn": 0, "spanned": 2048}], "pcp": {"enabled": false}}"#;
    let spec = serde_json::from_str(spec).expect("a spec");
    let mut memory = Memory::boot(&spec).expect("it boots");
    let classes = [
        PageClass::Anon,
        PageClass::AnonThp,
        PageClass::FileLarge,
        PageClass::Pgtable,
        PageClass::Mlocked,
        PageClass::Kernel,
    ];
    memory
        .import(&Import {
            run_start: &[0, 256, 384, 448, 456, 464],
            run_nr: &[256, 128, 64, 8, 8, 48],
            run_class: &classes.map(|class| class as u8),
            free_pfn: &[512, 1024],
            free_order: &[9, 10],
            ..Import::default()
        })
        .expect("it fits");
    memory
}

/// Large folios: of order 9 anonymous at 512, of order 4 anonymous at 1024 and cached at 1040, page
/// tables at 0, the rest of the kernel.
fn captured_folios() -> Memory {
    let spec = r#"{"zones": [{"kind": "DMA", "start_pfn": 0, "spanned": 2048}], "pcp": {"enabled": false}}"#;
    let mut memory = Memory::boot(&serde_json::from_str(spec).expect("a spec")).expect("it boots");
    let classes = [
        PageClass::Pgtable,
        PageClass::Kernel,
        PageClass::AnonThp,
        PageClass::AnonThp,
        PageClass::FileLarge,
        PageClass::Kernel,
    ];
    memory
        .import(&Import {
            run_start: &[0, 8, 512, 1024, 1040, 1056],
            run_nr: &[8, 504, 512, 16, 16, 992],
            run_class: &classes.map(|class| class as u8),
            run_order: &[0, 0, 9, 4, 4, 0],
            ..Import::default()
        })
        .expect("it fits");
    memory
}

#[test]
fn captured_folios_stay_whole_where_their_owner_has_them_aligned() {
    let mut memory = captured_folios();
    let mm = memory.mm_create();
    memory.adopt_pgtables(mm, &pfns(0..8));
    let frames = pfns(512..1040);
    let adopted = memory.anon_adopt(mm, Cpu(0), 1 << 20, &frames);
    assert_eq!(adopted.expect("they have no owner").done, 528);
    let file = memory.file_create(FileSpec {
        kind: FileKind::Regular,
        size: 0,
        fill: None,
    });
    memory
        .cache_adopt(file, 16, &pfns(1040..1056))
        .expect("likewise");
    memory.check().expect("the books agree");
    assert_eq!(memory.usage(mm, 1 << 20, 528).anonymous_thp, 2 << 20);
    for (head, order) in [(512, 9), (1024, 4), (1040, 4)] {
        let block = memory.map().block_of(Pfn(head + 3));
        assert_eq!((block.pfn, block.order.get()), (Pfn(head), order));
    }
    let restored = Memory::restore(&memory.snapshot(), 1 << 30).expect("a sound machine");
    assert_eq!(restored.digest(), memory.digest());
    assert_eq!(memory.file_punch(file, Cpu(0), 20..24), 4);
    memory.check().expect("the cut folio is split");
    assert_eq!(memory.file_drop(file, Cpu(0)), 12);
    assert_eq!(memory.mm_exit(mm, Cpu(0)), 528);
    memory.check().expect("the books agree");
    assert_eq!(total(&memory, PageClass::Free), 528 + 16 + 8);
}

#[test]
fn captured_folios_are_split_where_they_would_not_be_aligned() {
    let mut memory = captured_folios();
    let mm = memory.mm_create();
    memory.adopt_pgtables(mm, &pfns(0..8));
    memory
        .anon_adopt(mm, Cpu(0), (1 << 20) + 1, &pfns(512..1024))
        .expect("they have no owner");
    memory
        .anon_adopt(mm, Cpu(0), 1 << 22, &pfns(1024..1030))
        .expect("likewise");
    memory.check().expect("the books agree");
    assert_eq!(memory.rss(mm).anon, 518);
    assert_eq!(memory.map().block_of(Pfn(515)).order.get(), 0);
    assert_eq!(memory.mm_exit(mm, Cpu(0)), 518);
    memory.check().expect("the books agree");
}

fn pfns(range: std::ops::Range<u32>) -> Vec<Pfn> {
    range.map(Pfn).collect()
}

fn total(memory: &Memory, class: PageClass) -> u32 {
    let counts = memory.class_counts();
    counts.iter().map(|row| u32::from(row[class.index()])).sum()
}

#[test]
fn the_end_of_a_process_frees_exactly_its_frames() {
    let mut memory = captured();
    let mm = memory.mm_create();
    memory.adopt_pgtables(mm, &pfns(448..456));
    let frames = pfns(0..384);
    memory
        .anon_adopt(mm, Cpu(0), 1 << 20, &frames)
        .expect("they have no owner");
    memory.check().expect("the books agree");
    assert_eq!(memory.rss(mm).anon, 384);
    assert_eq!(
        (
            total(&memory, PageClass::Anon),
            total(&memory, PageClass::AnonThp)
        ),
        (256, 128)
    );
    assert_eq!(
        memory.free_blocks(memory.zones()[0].id).count(),
        2,
        "no table was allocated"
    );
    memory.mm_exit(mm, Cpu(0));
    memory.check().expect("the books agree");
    assert_eq!(total(&memory, PageClass::Free), 1536 + 384 + 8);
    assert_eq!(total(&memory, PageClass::Pgtable), 0);
}

#[test]
fn locked_frames_count_as_locked_until_they_are_not() {
    let mut memory = captured();
    let mm = memory.mm_create();
    memory.adopt_pgtables(mm, &pfns(448..456));
    memory
        .anon_adopt(mm, Cpu(0), 0, &pfns(456..464))
        .expect("they have no owner");
    memory.mlock_range(mm, 0, 8, contigmm_core::address_space::vm_flags::LOCKED);
    memory.check().expect("the books agree");
    assert_eq!(total(&memory, PageClass::Mlocked), 8);
}

#[test]
fn a_file_takes_frames_of_its_kind_only() {
    let mut memory = captured();
    let spec = FileSpec {
        kind: FileKind::Regular,
        size: 0,
        fill: None,
    };
    let file = memory.file_create(spec);
    memory
        .cache_adopt(file, 0, &pfns(384..448))
        .expect("they have no owner");
    memory.check().expect("the books agree");
    assert_eq!(total(&memory, PageClass::FileLarge), 64);
    assert!(
        memory.cache_adopt(file, 64, &pfns(0..1)).is_err(),
        "an anonymous frame"
    );
    assert!(
        memory.cache_adopt(file, 64, &pfns(384..385)).is_err(),
        "it has an owner"
    );
    let shared = memory.file_create(FileSpec {
        kind: FileKind::Shmem,
        size: 0,
        fill: None,
    });
    assert!(
        memory.cache_adopt(shared, 0, &pfns(300..301)).is_err(),
        "not shared memory"
    );
}
