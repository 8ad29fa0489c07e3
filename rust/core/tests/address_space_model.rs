//! Address spaces against a model too simple to be wrong: a map of page to byte for each process and
//! one for a shared file. It predicts every byte read, never which frame holds it.

use std::collections::BTreeMap;

use contigmm_core::address_space::{MmId, VmArea, vm_flags};
use contigmm_core::fault::Touch;
use contigmm_core::fork::ForkRange;
use contigmm_core::page_cache::{FileId, FileKind, FileSpec};
use contigmm_core::zap::Markers;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order};
use proptest::prelude::*;

const CPU: Cpu = Cpu(0);
/// Private anonymous pages of each process; two leaves of a page table, so that calls cross one.
const ANON: u64 = 0x11f0;
const NR_ANON: u64 = 32;
/// Pages of the file, mapped shared by every process.
const SHARED: u64 = 0x9000;
const NR_SHARED: u64 = 8;
const MAX_PROCESSES: usize = 5;

#[derive(Clone, Debug)]
enum Step {
    Store {
        who: usize,
        page: u64,
        byte: u8,
    },
    Load {
        who: usize,
        page: u64,
    },
    Populate {
        who: usize,
        page: u64,
        nr: u64,
    },
    Zap {
        who: usize,
        page: u64,
        nr: u64,
    },
    Move {
        who: usize,
        from: u64,
        to: u64,
        nr: u64,
    },
    Fork {
        who: usize,
    },
    Exit {
        who: usize,
    },
    Migrate {
        who: usize,
        page: u64,
    },
    StoreShared {
        who: usize,
        page: u64,
        byte: u8,
    },
    LoadShared {
        who: usize,
        page: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..MAX_PROCESSES;
    let page = 0..NR_ANON;
    let nr = 1..12_u64;
    prop_oneof![
        6 => (who.clone(), page.clone(), any::<u8>())
            .prop_map(|(who, page, byte)| Step::Store { who, page, byte }),
        4 => (who.clone(), page.clone()).prop_map(|(who, page)| Step::Load { who, page }),
        2 => (who.clone(), page.clone(), nr.clone())
            .prop_map(|(who, page, nr)| Step::Populate { who, page, nr }),
        2 => (who.clone(), page.clone(), nr.clone())
            .prop_map(|(who, page, nr)| Step::Zap { who, page, nr }),
        2 => (who.clone(), page.clone(), page.clone(), nr)
            .prop_map(|(who, from, to, nr)| Step::Move { who, from, to, nr }),
        2 => who.clone().prop_map(|who| Step::Fork { who }),
        1 => who.clone().prop_map(|who| Step::Exit { who }),
        3 => (who.clone(), page).prop_map(|(who, page)| Step::Migrate { who, page }),
        2 => (who.clone(), 0..NR_SHARED, any::<u8>())
            .prop_map(|(who, page, byte)| Step::StoreShared { who, page, byte }),
        2 => (who, 0..NR_SHARED).prop_map(|(who, page)| Step::LoadShared { who, page }),
    ]
}

/// The machine and what is expected of it.
struct World {
    memory: Memory,
    file: FileId,
    processes: Vec<(MmId, BTreeMap<u64, u8>)>,
    shared: BTreeMap<u64, u8>,
}

impl World {
    fn new() -> Self {
        let spec = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 8192}]}"#;
        let mut memory = Memory::boot(&BootSpec::from_json(spec).unwrap()).unwrap();
        let file = memory.file_create(FileSpec {
            kind: FileKind::Shmem,
            size: NR_SHARED * 4096,
            fill: None,
        });
        let mm = memory.mm_create();
        let processes = vec![(mm, BTreeMap::new())];
        Self {
            memory,
            file,
            processes,
            shared: BTreeMap::new(),
        }
    }

    fn anon() -> VmArea {
        VmArea {
            start_vpn: ANON,
            end_vpn: ANON + NR_ANON,
            flags: vm_flags::WRITE | 1,
            file: None,
            pgoff: 0,
            prealloc: None,
        }
    }

    fn file_area(&self) -> VmArea {
        VmArea {
            start_vpn: SHARED,
            end_vpn: SHARED + NR_SHARED,
            flags: vm_flags::SHARED | vm_flags::WRITE | 1,
            file: Some(self.file),
            ..Self::anon()
        }
    }

    fn touch(&mut self, mm: MmId, vma: &VmArea, vpn: u64, store: Option<u8>) -> u8 {
        let touch = Touch {
            addr: (vpn << 12) + 77,
            nr: 1,
            stride: 1,
            store,
        };
        let touched = self.memory.access(mm, CPU, &touch, vma);
        assert_eq!(
            touched.progress.blocked, None,
            "the machine is large enough"
        );
        touched.value
    }

    /// Carries out one step on both sides; a process that is not there does nothing.
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Store { who, page, byte } => {
                if let Some(mm) = self.mm(who) {
                    self.touch(mm, &Self::anon(), ANON + page, Some(byte));
                    self.processes[who].1.insert(page, byte);
                }
            }
            Step::Load { who, page } => {
                if let Some(mm) = self.mm(who) {
                    let byte = self.touch(mm, &Self::anon(), ANON + page, None);
                    let expected = self.processes[who].1.get(&page).copied().unwrap_or(0);
                    assert_eq!(byte, expected, "page {page} of process {who}");
                }
            }
            Step::Populate { who, page, nr } => {
                if let Some(mm) = self.mm(who) {
                    let nr = nr.min(NR_ANON - page);
                    let populated =
                        self.memory
                            .populate(mm, CPU, ANON + page, nr, &Self::anon(), true);
                    assert_eq!((populated.done, populated.blocked), (nr, None));
                }
            }
            Step::Zap { who, page, nr } => {
                if self.mm(who).is_some() {
                    self.zap(who, page, nr.min(NR_ANON - page));
                }
            }
            Step::Move { who, from, to, nr } => self.move_pages(who, from, to, nr),
            Step::Fork { who } => self.fork(who),
            Step::Exit { who } => {
                if self.processes.len() > 1 && who < self.processes.len() {
                    let (mm, _) = self.processes.swap_remove(who);
                    self.memory.mm_exit(mm, CPU);
                }
            }
            Step::Migrate { who, page } => self.migrate(who, page),
            Step::StoreShared { who, page, byte } => {
                if let Some(mm) = self.mm(who) {
                    let area = self.file_area();
                    self.touch(mm, &area, SHARED + page, Some(byte));
                    self.shared.insert(page, byte);
                }
            }
            Step::LoadShared { who, page } => {
                if let Some(mm) = self.mm(who) {
                    let area = self.file_area();
                    let byte = self.touch(mm, &area, SHARED + page, None);
                    assert_eq!(byte, self.shared.get(&page).copied().unwrap_or(0));
                }
            }
        }
    }

    fn mm(&self, who: usize) -> Option<MmId> {
        self.processes.get(who).map(|&(mm, _)| mm)
    }

    fn zap(&mut self, who: usize, page: u64, nr: u64) {
        let (mm, bytes) = &mut self.processes[who];
        self.memory.zap(*mm, CPU, ANON + page, nr, Markers::Drop);
        bytes.retain(|at, _| !(page..page + nr).contains(at));
    }

    fn move_pages(&mut self, who: usize, from: u64, to: u64, nr: u64) {
        let nr = nr.min(NR_ANON - from.max(to)).min(from.abs_diff(to));
        let Some(mm) = self.mm(who).filter(|_| nr > 0) else {
            return;
        };
        self.zap(who, to, nr);
        let moved = self.memory.move_pages(mm, CPU, ANON + from, ANON + to, nr);
        assert_eq!(moved.blocked, None);
        let bytes = &mut self.processes[who].1;
        for offset in 0..nr {
            if let Some(byte) = bytes.remove(&(from + offset)) {
                bytes.insert(to + offset, byte);
            }
        }
    }

    fn fork(&mut self, who: usize) {
        let Some(parent) = self.mm(who) else { return };
        if self.processes.len() == MAX_PROCESSES {
            return;
        }
        let child = self.memory.mm_create();
        let ranges = [Self::anon(), self.file_area()].map(|vma| ForkRange {
            vpns: vma.start_vpn..vma.end_vpn,
            flags: vma.flags,
        });
        assert_eq!(self.memory.fork(parent, child, CPU, &ranges).blocked, None);
        let bytes = self.processes[who].1.clone();
        self.processes.push((child, bytes));
    }

    fn migrate(&mut self, who: usize, page: u64) {
        let Some(from) = self
            .mm(who)
            .and_then(|mm| self.memory.pfn_at(mm, ANON + page))
        else {
            return;
        };
        if self.memory.can_migrate(from).is_err() {
            return;
        }
        let to = self
            .memory
            .alloc_pages(CPU, Gfp::HIGHUSER_MOVABLE, Order::ZERO, None)
            .unwrap();
        self.memory.migrate_frame(CPU, from, to).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_read_is_the_one_last_written(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            prop_assert_eq!(world.memory.check(), Ok(()), "after {:?}", step);
        }
        for who in 0..world.processes.len() {
            for page in 0..NR_ANON {
                world.apply(&Step::Load { who, page });
            }
        }
    }
}
