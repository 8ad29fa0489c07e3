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
