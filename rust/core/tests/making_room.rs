//! The rules of compaction and reclaim, one small machine each.

use contigmm_core::import::Import;
use contigmm_core::mem_map::PageClass;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, MigrateType, Order, Pfn, VmEvent};

const CPU: Cpu = Cpu(0);

fn boot(nr_frames: u32) -> Memory {
    let spec = format!(
        r#"{{"zones": [{{"kind": "Normal", "start_pfn": 0, "spanned": {nr_frames}}}],
            "pcp": {{"enabled": false}}, "min_free_kbytes": 128}}"#
    );
    Memory::boot(&BootSpec::from_json(&spec).expect("valid")).expect("it boots")
}

/// The orders of the blocks of a class, in order of address.
fn orders_of(memory: &Memory, class: PageClass) -> Vec<u8> {
    let heads = (0..memory.map().nr_frames()).filter_map(|pfn| memory.map().head_at(Pfn(pfn)));
    heads
        .filter(|head| head.class == class)
        .map(|head| head.order.get())
        .collect()
}

#[test]
fn a_write_takes_folios_as_large_as_its_rest_and_their_place_allow() {
    let mut memory = boot(8192);
    memory.write_pages(CPU, 0, 32_768).expect("room");
    // What a kernel 6.18 with ext4 did for a file of 465,788 bytes: 8 8 16 32 32 16 1 1.
    let folios = memory.write_pages(CPU, 8, 433_020).expect("room");
    assert_eq!(folios, 7);
    let mut large = orders_of(&memory, PageClass::FileLarge);
    large.sort_unstable();
    assert_eq!(large, [3, 3, 4, 4, 5, 5]);
    assert_eq!(orders_of(&memory, PageClass::File), [0, 0]);
    memory.check().expect("sound");
}

#[test]
fn a_write_is_content_with_smaller_folios_where_memory_is_broken_up() {
    let mut memory = boot(8192);
    let mut pages = Vec::new();
    let all = Gfp::ATOMIC.with(Gfp::MEMALLOC);
    while let Ok(pfn) = memory.alloc_pages(CPU, all, Order::ZERO, None) {
        pages.push(pfn);
    }
    for &pfn in pages.iter().filter(|pfn| pfn.0 % 4 < 2) {
        memory.free_pages(CPU, pfn, Order::ZERO);
    }
    memory.set_direct_reclaim(false);
    memory.write_pages(CPU, 0, 64 << 12).expect("room");
    assert_eq!(orders_of(&memory, PageClass::FileLarge), [1; 32]);
    memory.check().expect("sound");
}

/// Pageblock 0 in use but for 64 frames by `class`; a written folio of order 4 in pageblock 1; single
/// free frames between kernel ones above.
fn written_in_the_way(dirty: bool) -> Memory {
    let mut memory = boot(4096);
    let odd: Vec<u32> = (1025..4096).step_by(2).collect();
    let mut starts = vec![64, 512, 528];
    let mut nr = vec![448, 16, 496];
    let mut class = vec![PageClass::Anon, PageClass::FileLarge, PageClass::Anon];
    starts.extend(&odd);
    nr.extend(odd.iter().map(|_| 1));
    class.extend(odd.iter().map(|_| PageClass::Kernel));
    let mut order = vec![0; starts.len()];
    order[1] = 4;
    let free: Vec<u32> = std::iter::once(0).chain((1024..4096).step_by(2)).collect();
    let mut free_order = vec![0; free.len()];
    free_order[0] = 6;
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
    memory
}

#[test]
fn what_is_not_on_disk_yet_decides_how_far_compaction_comes() {
    let moved = |dirty| {
        let mut memory = written_in_the_way(dirty);
        memory.compact_memory(CPU);
        memory.check().expect("sound");
        memory.vmstat().get(VmEvent::PgMigrateSuccess)
    };
    assert_eq!((moved(true), moved(false)), (464, 960));
}

#[test]
fn only_the_folio_without_a_target_counts_as_failed() {
    let mut memory = written_in_the_way(true);
    memory.compact_memory(CPU);
    assert_eq!(memory.vmstat().get(VmEvent::PgMigrateFail), 16);
}

/// Pageblocks of single clean pages of files, the first `active` and the next `mapped` of them used.
fn cache(active: u32, mapped: u32) -> Memory {
    let mut memory = boot(8192);
    let nr = 8192 - 256;
    let state = Import {
        run_start: &[256],
        run_nr: &[nr],
        run_class: &[PageClass::File as u8],
        run_order: &[0],
        free_pfn: &[0],
        free_order: &[8],
        ..Import::default()
    };
    memory.import(&state).expect("it fits");
    let heads: Vec<Pfn> = (256..256 + nr).map(Pfn).collect();
    let (first, rest) = heads.split_at(active as usize);
    memory.mark_used(first, true);
    memory.mark_used(&rest[..mapped as usize], false);
    memory
}

/// How many pages of files lie below a frame.
fn cached_below(memory: &Memory, end: u32) -> usize {
    let class = |pfn| memory.map().class(Pfn(pfn)) == PageClass::File;
    (256..end).filter(|&pfn| class(pfn)).count()
}

#[test]
fn pages_go_by_generations_those_that_were_used_last() {
    let mut memory = cache(1000, 1000);
    let take = |memory: &mut Memory, nr| {
        for _ in 0..nr {
            memory
                .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
                .expect("cache goes");
        }
    };
    take(&mut memory, 5000);
    assert_eq!(cached_below(&memory, 2256), 2000, "unused ones first");
    take(&mut memory, 1500);
    assert_eq!(cached_below(&memory, 1256), 1000, "then those mapped");
    assert!(cached_below(&memory, 2256) < 1900);
    take(&mut memory, 900);
    assert!(cached_below(&memory, 1256) < 1000, "active ones at last");
    memory.check().expect("sound");
}

#[test]
fn a_round_of_reclaim_looks_at_a_share_and_goes_on_where_it_stopped() {
    let mut memory = cache(7936, 0);
    memory
        .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
        .expect("within the marks");
    while memory.vmstat().get(VmEvent::AllocStall) == 0 {
        memory
            .alloc_pages(CPU, Gfp::KERNEL, Order::ZERO, None)
            .expect("cache goes");
    }
    let (scanned, stolen) = (
        memory.vmstat().get(VmEvent::PgScanDirect),
        memory.vmstat().get(VmEvent::PgStealDirect),
    );
    // All are used: each was passed by about twice before the first went, and no turn is lost.
    let passed_by = scanned - stolen;
    assert!(
        (15_000..16_000).contains(&passed_by),
        "{passed_by}, {stolen}"
    );
}

/// Pageblocks 0 and 1 in use but for every second frame, by pages that can move; in each further one
/// what `free` says: free blocks of that order.
fn with_targets(free: &[u8], types: &[MigrateType]) -> Memory {
    let nr_blocks = u32::try_from(free.len()).expect("few");
    let mut memory = boot((2 + nr_blocks) * 512);
    let mut starts: Vec<u32> = (1..1024).step_by(2).collect();
    let mut class = vec![PageClass::Anon as u8; starts.len()];
    let mut free_pfn: Vec<u32> = (0..1024).step_by(2).collect();
    let mut free_order = vec![0; free_pfn.len()];
    for (&order, start) in free.iter().zip((1024..).step_by(512)) {
        for at in (start..start + 512).step_by(1 << order) {
            let is_free = order == 9 || (at >> order) % 2 == 0;
            if is_free {
                free_pfn.push(at);
                free_order.push(order);
            } else {
                starts.extend(at..at + (1 << order));
                class.extend(vec![PageClass::Kernel as u8; 1 << order]);
            }
        }
    }
    let nr = vec![1; starts.len()];
    let types: Vec<u8> = types.iter().map(|&mt| mt as u8).collect();
    let state = Import {
        run_start: &starts,
        run_nr: &nr,
        run_class: &class,
        run_order: &vec![0; starts.len()],
        free_pfn: &free_pfn,
        free_order: &free_order,
        pageblock_mt: &types,
        ..Import::default()
    };
    memory.import(&state).expect("it fits");
    memory
}

/// How many pages that can move lie in a pageblock.
fn moved_to(memory: &Memory, block: u32) -> usize {
    let class = |pfn| memory.map().class(Pfn(pfn)) == PageClass::Anon;
    (block * 512..(block + 1) * 512)
        .filter(|&pfn| class(pfn))
        .count()
}

#[test]
fn compaction_fills_no_pageblock_of_another_type() {
    use MigrateType::{Movable, Reclaimable, Unmovable};
    let types = [Movable, Movable, Movable, Reclaimable, Unmovable];
    let mut memory = with_targets(&[0, 0, 0], &types);
    memory.compact_memory(CPU);
    memory.check().expect("sound");
    let moved = [2, 3, 4].map(|block| moved_to(&memory, block));
    assert_eq!(moved, [256, 0, 0]);
}

#[test]
fn compaction_breaks_up_no_free_pageblock() {
    let mut memory = with_targets(&[0, 9, 9], &[MigrateType::Movable; 5]);
    memory.compact_memory(CPU);
    memory.check().expect("sound");
    let moved = [2, 3, 4].map(|block| moved_to(&memory, block));
    assert_eq!(moved, [256, 0, 0]);
}
