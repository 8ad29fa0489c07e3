//! A machine with another machine's frames.

use contigmm_core::{
    BootSpec, Cpu, Gfp, Import, Memory, MigrateType, Order, PageClass, Pfn, ZoneId,
};

fn machine() -> Memory {
    let json = r#"{"nr_cpus": 2, "min_free_kbytes": 0, "zones": [
        {"kind": "Normal", "start_pfn": 512, "spanned": 4096, "holes": [[1024, 512]]}]}"#;
    Memory::boot(&BootSpec::from_json(json).expect("valid")).expect("bootable")
}

const SOUND: Import<'static> = Import {
    run_start: &[512, 516, 1024, 1536, 2048, 3584],
    run_nr: &[3, 508, 512, 512, 1536, 1016],
    run_class: &[7, 17, 1, 9, 8, 12],
    run_order: &[0, 0, 0, 9, 0, 0],
    free_pfn: &[4604, 515],
    free_order: &[2, 0],
    pageblock_mt: &[1, 0, 1, 1, 1, 1, 1, 1, 1],
    pcp_pfn: &[4600, 4602],
    pcp_order: &[1, 1],
    pcp_cpu: &[1, 0],
    pcp_high: &[(0, 1, 300)],
};

#[test]
fn the_state_is_as_given() {
    let mut memory = machine();
    memory.import(&SOUND).expect("sound");
    memory.check().expect("sound");
    assert_eq!(memory.buddyinfo()[0][..3], [1, 0, 1]);
    let blocks: Vec<_> = memory
        .free_blocks(ZoneId(0))
        .map(|b| (b.pfn, b.migratetype))
        .collect();
    assert_eq!(
        blocks,
        [
            (Pfn(515), MigrateType::Unmovable),
            (Pfn(4604), MigrateType::Movable)
        ]
    );
    assert_eq!(memory.map().class(Pfn(514)), PageClass::Pgtable);
    assert_eq!(memory.map().class(Pfn(0)), PageClass::Nopage);
    assert_eq!(memory.map().folio_head(Pfn(2047)), Pfn(1536));
    assert_eq!(memory.map().class(Pfn(2047)), PageClass::AnonThp);
    assert_eq!(memory.map().class(Pfn(4601)), PageClass::Pcp);
}

#[test]
fn what_is_free_is_handed_out_and_what_is_used_can_be_freed() {
    let mut memory = machine();
    memory.import(&SOUND).expect("sound");
    let pfn = memory.alloc_pages(Cpu(1), Gfp::HIGHUSER_MOVABLE, Order::ZERO, None);
    assert_eq!(pfn, Ok(Pfn(4604)));
    memory.free_pages(Cpu(0), Pfn(1536), Order::new(9).expect("an order"));
    memory.check().expect("sound");
}

#[test]
fn a_state_that_cannot_be_is_refused_and_changes_nothing() {
    let wrong = [
        (
            Import {
                run_nr: &[4, 508, 512, 512, 1536, 1016],
                ..SOUND
            },
            "frame 515 is named twice",
        ),
        (
            Import {
                run_nr: &[2, 508, 512, 512, 1536, 1016],
                ..SOUND
            },
            "frame 514 is not named",
        ),
        (
            Import {
                run_class: &[7, 0, 1, 9, 8, 12],
                ..SOUND
            },
            "the run at frame 516 has the class 0",
        ),
        (
            Import {
                run_order: &[0, 2, 0, 9, 0, 10],
                ..SOUND
            },
            "cannot be cut into blocks of 1024",
        ),
        (
            Import {
                free_order: &[2, 11],
                ..SOUND
            },
            "frame 516 is named twice",
        ),
        (
            Import {
                pcp_cpu: &[1, 2],
                ..SOUND
            },
            "list of CPU 2",
        ),
        (
            Import {
                pageblock_mt: &[1],
                ..SOUND
            },
            "1 pageblock types for 9 pageblocks",
        ),
        (
            Import {
                free_order: &[2],
                ..SOUND
            },
            "differ in length",
        ),
        (
            Import {
                free_pfn: &[4604, 4606, 515],
                free_order: &[1, 1, 0],
                ..SOUND
            },
            "frames 4604 and 4606 are one",
        ),
    ];
    for (state, message) in wrong {
        let mut memory = machine();
        let fresh = memory.buddyinfo();
        let error = memory
            .import(&state)
            .map(|()| String::new())
            .map_err(|e| e.to_string());
        let error = error.expect_err(message);
        assert!(
            error.contains(message),
            "{error:?} is not about {message:?}"
        );
        assert_eq!(memory.buddyinfo(), fresh);
        memory.check().expect("as it was");
    }
}
