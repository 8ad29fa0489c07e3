//! Bugs of an allocator, put in on purpose one at a time: the invariant checker must see each.

use crate::boot::BootSpec;
use crate::free_area::Side;
use crate::gfp::Gfp;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::units::{Cpu, MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn};

const MOVABLE: MigrateType = MigrateType::Movable;
/// A frame that waits on the CPU's list, one that is in use.
type Frames = (Pfn, Pfn);

fn machine() -> (Memory, Frames) {
    let json = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 8192}]}"#;
    let spec = BootSpec::from_json(json).expect("valid");
    let mut memory = Memory::boot(&spec).expect("bootable");
    let mut get = || memory.alloc_pages(Cpu(0), Gfp::KERNEL, Order::ZERO, None);
    let (waits, used) = (get().expect("plenty"), get().expect("plenty"));
    memory.free_pages(Cpu(0), waits, Order::ZERO);
    assert_eq!(memory.check(), Ok(()));
    (memory, (waits, used))
}

/// First of several blocks of a list.
fn listed(memory: &Memory) -> (Pfn, Order) {
    let lists = &memory.zones[0].free_area;
    let order = Order::all()
        .find(|&order| order > Order::ZERO && lists.nr_of(order, MOVABLE) > 1)
        .expect("a list of several");
    (lists.first(order, MOVABLE).expect("not empty"), order)
}

/// Takes a listed block apart and puts back as many of its halves.
fn halve(memory: &mut Memory, keep: u32) {
    let (pfn, order) = listed(memory);
    let half = order.smaller().expect("not of order 0");
    let lists = &mut memory.zones[0].free_area;
    lists.del(&mut memory.map, pfn, order, MOVABLE);
    for at in 0..keep {
        let part = Pfn(pfn.0 + at * half.nr_pages());
        lists.add(&mut memory.map, part, half, MOVABLE, Side::Head);
    }
}

fn relink(memory: &mut Memory, which: usize) {
    let (pfn, order) = listed(memory);
    let next = memory.map.link(pfn.0, order)[1] - 1;
    let at = if which == 1 { pfn.0 } else { next };
    memory.map.link_mut(at, order)[which] = 0;
}

#[test]
fn every_seeded_bug_is_caught() {
    type Bug = (&'static str, fn(&mut Memory, Frames));
    let bugs: [Bug; 13] = [
        ("a lost list link", |memory, _| relink(memory, 1)),
        ("a lost link back", |memory, _| relink(memory, 0)),
        ("a half not freed", |memory, _| halve(memory, 1)),
        ("halves not merged", |memory, _| halve(memory, 2)),
        ("a wrong count of free frames", |memory, _| {
            memory.zones[0].nr_free_pages -= 1;
        }),
        ("a wrong count of a type", |memory, _| {
            memory.zones[0].nr_free_cma += 1;
        }),
        ("a wrong count of a reserve", |memory, _| {
            memory.zones[0].nr_reserved_highatomic += u64::from(PAGEBLOCK_NR_PAGES);
        }),
        ("a block on another type's list", |memory, _| {
            let (pfn, _) = listed(memory);
            let other = MigrateType::Reclaimable;
            memory.map.set_pageblock_migratetype(pfn, other);
        }),
        ("a wrong count of a per-CPU list", |memory, _| {
            memory.zones[0].pcps[0].count += 1;
        }),
        ("a frame twice on a per-CPU list", |memory, (waits, _)| {
            let pcp = &mut memory.zones[0].pcps[0];
            pcp.list_mut(Order::ZERO, MigrateType::Unmovable)
                .push_back(waits.0, Order::ZERO);
            pcp.count += 1;
        }),
        ("a block within another", |memory, _| {
            let (pfn, _) = listed(memory);
            let within = Pfn(pfn.0 + 1);
            memory.map.set_head(within, Order::ZERO, PageClass::Kernel);
        }),
        ("a frame of no block", |memory, (_, used)| {
            memory.map.clear_head(used, Order::ZERO);
        }),
        ("a freed frame with an owner", |memory, (waits, _)| {
            memory.map.set_owner(waits, 1, 1);
        }),
    ];
    for (name, seed) in bugs {
        let (mut memory, frames) = machine();
        seed(&mut memory, frames);
        assert!(memory.check().is_err(), "{name} is not caught");
    }
}
