//! Random operations on a machine of two nodes, four CPUs and zones that meet within a pageblock:
//! what one step could have broken is checked after every step, everything after every 1,000.
//!
//! A million operations; `CONTIGMM_SOAK_OPERATIONS` and `CONTIGMM_SOAK_SEED` say otherwise, as
//! `scripts/soak core` does, with overflow checks on.

use std::collections::BTreeMap;

use contigmm_core::address_space::{MmId, VmArea, vm_flags};
use contigmm_core::fault::Touch;
use contigmm_core::zap::Markers;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, NodeId, Order, PageClass, Pfn};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

const OPERATIONS: u64 = 1_000_000;
const SEED: u64 = 1;
/// Operations from one check of everything to the next.
const WHOLE: u64 = 1_000;
/// Operations from one line on standard error to the next.
const TELL: u64 = 1_000_000;
/// Operations in which the machine fills up, and in which it empties again.
const TIDE: u64 = 20_000;
const MACHINE: &str = r#"{"nr_cpus": 4, "min_free_kbytes": 256, "direct_reclaim": false, "zones": [
    {"node": 0, "kind": "DMA32", "start_pfn": 5, "spanned": 3000, "holes": [[1100, 300]]},
    {"node": 0, "kind": "Normal", "start_pfn": 3005, "spanned": 5300},
    {"node": 1, "kind": "Normal", "start_pfn": 8305, "spanned": 9000}]}"#;
const GFPS: [Gfp; 8] = [
    Gfp::HIGHUSER_MOVABLE,
    Gfp::HIGHUSER,
    Gfp::KERNEL,
    Gfp::ATOMIC,
    Gfp(Gfp::KERNEL.0 | Gfp::RECLAIMABLE.0),
    Gfp(Gfp::KERNEL.0 | Gfp::DMA32.0),
    Gfp(Gfp::HIGHUSER_MOVABLE.0 | Gfp::THISNODE.0),
    Gfp(Gfp::KERNEL.0 | Gfp::COMP.0 | Gfp::ZERO.0),
];
/// First virtual page and pages of the process's memory.
const VPN: u64 = 0x5000;
const PAGES: u64 = 4000;

struct Soak {
    memory: Memory,
    rng: Pcg64Mcg,
    /// Blocks in use, but for the process's.
    used: Vec<(Pfn, Order)>,
    /// Whether a frame is in one of them.
    held: Vec<bool>,
    nr_held: u64,
    managed: u64,
    /// Frames that the process and its page tables have.
    owned: u64,
    mm: MmId,
    done: BTreeMap<&'static str, u64>,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let spec = BootSpec::from_json(MACHINE).expect("valid");
        let mut memory = Memory::boot(&spec).expect("bootable");
        let managed = memory.zones().iter().map(|zone| zone.managed).sum();
        let mm = memory.mm_create();
        let mut soak = Self {
            held: vec![false; memory.map().nr_frames() as usize],
            rng: Pcg64Mcg::seed_from_u64(seed),
            used: Vec::new(),
            nr_held: 0,
            managed,
            owned: 0,
            mm,
            done: BTreeMap::new(),
            memory,
        };
        soak.owned = soak.missing();
        soak
    }

    fn below(&mut self, end: u64) -> u64 {
        self.rng.next_u64() % end
    }

    fn cpu(&mut self) -> Cpu {
        Cpu(u16::try_from(self.below(4)).expect("small"))
    }

    /// Frames that are neither free, nor on per-CPU lists, nor held.
    fn missing(&self) -> u64 {
        let waiting = |pcp: &contigmm_core::pcp::Pcp| u64::from(pcp.count);
        let zones = self.memory.zones().iter();
        let free: u64 = zones
            .map(|zone| zone.nr_free_pages + zone.pcps.iter().map(waiting).sum::<u64>())
            .sum();
        self.managed - free - self.nr_held
    }

    /// Checks what a step at this block could have broken.
    fn near(&self, pfn: Pfn, order: Order) {
        let buddy = pfn.buddy(order);
        let last = self.memory.map().nr_frames() - 1;
        for pfn in [pfn, Pfn(buddy.0.min(last))] {
            self.memory.check_near(pfn).expect("an invariant");
        }
    }

    fn hold(&mut self, pfn: Pfn, order: Order) {
        for held in &mut self.held[pfn.0 as usize..][..order.nr_pages() as usize] {
            assert!(!std::mem::replace(held, true), "frame {} came twice", pfn.0);
        }
        self.nr_held += u64::from(order.nr_pages());
        self.used.push((pfn, order));
    }

    /// A block that is held no more, to be given back.
    fn pick(&mut self) -> Option<(Pfn, Order)> {
        let nr = u64::try_from(self.used.len()).expect("small");
        let which = (nr > 0).then(|| self.below(nr))?;
        let (pfn, order) = self
            .used
            .swap_remove(usize::try_from(which).expect("small"));
        self.held[pfn.0 as usize..][..order.nr_pages() as usize].fill(false);
        self.nr_held -= u64::from(order.nr_pages());
        Some((pfn, order))
    }

    fn order(&mut self) -> Order {
        let raw = match self.below(64) {
            0..40 => 0,
            40..58 => 1 + self.below(3),
            58..62 => 4 + self.below(5),
            _ => 9 + self.below(2),
        };
        Order::new(u8::try_from(raw).expect("small")).expect("an order")
    }

    fn get(&mut self) {
        let (cpu, order) = (self.cpu(), self.order());
        let gfp = GFPS[usize::try_from(self.below(8)).expect("small")];
        let node = [None, Some(NodeId(0)), Some(NodeId(1))]
            [usize::try_from(self.below(3)).expect("small")];
        if let Ok(pfn) = self.memory.alloc_pages(cpu, gfp, order, node) {
            self.hold(pfn, order);
            self.near(pfn, order);
        }
    }

    fn get_bulk(&mut self) {
        let cpu = self.cpu();
        let nr = u32::try_from(self.below(200)).expect("small");
        let mut got = Vec::new();
        let gfp = Gfp::HIGHUSER_MOVABLE;
        // A refusal part of the way is an answer.
        let _ = self
            .memory
            .alloc_bulk(cpu, gfp, None, PageClass::Kernel, nr, |_, pfn| {
                got.push(pfn);
            });
        for pfn in got {
            self.hold(pfn, Order::ZERO);
            self.near(pfn, Order::ZERO);
        }
    }

    fn put(&mut self) {
        let cpu = self.cpu();
        if let Some((pfn, order)) = self.pick() {
            self.memory.free_pages(cpu, pfn, order);
            self.near(pfn, order);
        }
    }

    fn put_batch(&mut self) {
        let cpu = self.cpu();
        let picked: Vec<_> = (0..self.below(100)).filter_map(|_| self.pick()).collect();
        let (single, larger): (Vec<_>, Vec<_>) = picked
            .into_iter()
            .partition(|&(_, order)| order == Order::ZERO);
        for (pfn, order) in larger {
            self.hold(pfn, order);
        }
        let pfns: Vec<u32> = single.iter().map(|&(pfn, _)| pfn.0).collect();
        self.memory.free_batch(cpu, &pfns);
        for (pfn, order) in single {
            self.near(pfn, order);
        }
    }

    /// Splits a block, keeps a part of it and gives the rest back as a run.
    fn split(&mut self) {
        let cpu = self.cpu();
        if let Some((pfn, order)) = self.pick() {
            self.memory.split_page(pfn, order);
            let nr = order.nr_pages();
            let keep = u32::try_from(self.below(u64::from(nr) + 1)).expect("small");
            for frame in pfn.0..pfn.0 + keep {
                self.hold(Pfn(frame), Order::ZERO);
            }
            self.memory.free_run(cpu, Pfn(pfn.0 + keep), nr - keep);
            self.near(pfn, order);
        }
    }

    /// A range of frames, emptied and taken, and given back one by one.
    fn contig(&mut self) {
        let cpu = self.cpu();
        let nr = [64, 512, 700][usize::try_from(self.below(3)).expect("small")];
        let taken =
            self.memory
                .alloc_contig_pages(nr, cpu, None, Gfp::HIGHUSER_MOVABLE, PageClass::Kernel);
        if let Ok(start) = taken {
            assert!(
                self.held[start.0 as usize..][..nr as usize]
                    .iter()
                    .all(|held| !held)
            );
            self.memory.free_each(cpu, start, nr);
        }
        self.memory.check().expect("an invariant");
    }

    /// Pages of the process come or go.
    fn process(&mut self) {
        let cpu = self.cpu();
        let page = self.below(PAGES);
        let nr = 1 + self.below((PAGES - page).min(64));
        if self.below(2) == 0 {
            let touch = Touch {
                addr: (VPN + page) << 12,
                nr,
                stride: 4096,
                store: Some(1),
            };
            let vma = VmArea {
                start_vpn: VPN,
                end_vpn: VPN + PAGES,
                flags: vm_flags::WRITE | 1,
                file: None,
                pgoff: 0,
                prealloc: None,
            };
            // Where memory is short, it stops part of the way.
            let _ = self.memory.access(self.mm, cpu, &touch, &vma);
        } else {
            self.memory.zap(self.mm, cpu, VPN + page, nr, Markers::Drop);
        }
    }

    /// One operation; `rising` while the machine fills up.
    fn step(&mut self, rising: bool) {
        let kind = match self.below(100_000) {
            0..3 => "compact_memory",
            3..10 => "alloc_contig_pages",
            10..1_000 => "process",
            1_000..2_000 => "alloc_bulk",
            2_000..4_000 => "free_batch",
            4_000..6_000 => "split_page and free_run",
            6_000..7_000 => "decay_pcp",
            7_000..7_500 => "drain_all_pages",
            roll => {
                if (roll % 100 < 56) == rising {
                    "alloc_pages"
                } else {
                    "free_pages"
                }
            }
        };
        *self.done.entry(kind).or_default() += 1;
        match kind {
            "compact_memory" => {
                let cpu = self.cpu();
                self.memory.compact_memory(cpu);
                self.memory.check().expect("an invariant");
            }
            "alloc_contig_pages" => self.contig(),
            "process" => {
                self.process();
                self.owned = self.missing();
            }
            "alloc_bulk" => self.get_bulk(),
            "free_batch" => self.put_batch(),
            "split_page and free_run" => self.split(),
            "decay_pcp" => {
                let cpu = self.cpu();
                self.memory.decay_pcp(cpu);
            }
            "drain_all_pages" => self.memory.drain_all_pages(None),
            "alloc_pages" => self.get(),
            _ => self.put(),
        }
        assert_eq!(self.missing(), self.owned, "after {kind}");
    }

    /// Gives everything back: the machine is as at boot.
    fn end(mut self) {
        let before = Self::new(SEED).owned;
        while let Some((pfn, order)) = self.pick() {
            self.memory.free_pages(Cpu(0), pfn, order);
        }
        self.memory.mm_exit(self.mm, Cpu(0));
        self.memory.drain_all_pages(None);
        self.memory.check().expect("an invariant");
        assert!(self.missing() <= before, "frames were lost");
    }
}

fn asked(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

#[test]
fn every_step_of_a_soak_keeps_every_invariant() {
    let operations = asked("CONTIGMM_SOAK_OPERATIONS", OPERATIONS);
    let seed = asked("CONTIGMM_SOAK_SEED", SEED);
    let mut soak = Soak::new(seed);
    for at in 1..=operations {
        soak.step((at / TIDE).is_multiple_of(2));
        if at % WHOLE == 0 {
            soak.memory.check().expect("an invariant");
        }
        if at % TELL == 0 {
            eprintln!("seed {seed}: {at} operations, {:?}", soak.done);
        }
    }
    soak.end();
}
