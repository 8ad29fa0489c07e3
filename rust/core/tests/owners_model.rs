//! Random steps of several address spaces against a model that keeps a copy of every page.

use std::collections::BTreeMap;

use contigmm_core::address_space::{Cause, MmId, VmArea, vm_flags};
use contigmm_core::fault::Touch;
use contigmm_core::fork::ForkRange;
use contigmm_core::page_cache::{FileId, FileKind, FileSpec};
use contigmm_core::page_table::Pte;
use contigmm_core::zap::Markers;
use contigmm_core::zone::Zone;
use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order};
use proptest::prelude::*;

const CPU: Cpu = Cpu(1);
const PAGES: u64 = 24;
const RW: u64 = vm_flags::WRITE | 1;

/// Bytes that differ from zero.
type Page = BTreeMap<u16, u8>;

/// Where the four VMAs of every address space begin; the first two take each other's pages.
const BASES: [u64; 4] = [0x11f0, 0x5000, 0x91ff, 0x7_ffff_0000];
const ANON: [usize; 2] = [0, 1];
const PRIVATE: usize = 2;
const SHARED: usize = 3;

/// What one address space should see.
#[derive(Clone, Default)]
struct Space {
    /// Private pages by (VMA, page).
    own: BTreeMap<(usize, u64), Page>,
    guards: Vec<u64>,
}

struct World {
    memory: Memory,
    spaces: BTreeMap<u32, Space>,
    /// Pages of the private file and of the shared one, and the size of the shared one.
    files: [FileId; 2],
    disk: BTreeMap<u64, Page>,
    shared: BTreeMap<u64, Page>,
    size: u64,
    frames: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        mm: usize,
        vma: usize,
        page: u64,
        offset: u16,
        byte: u8,
    },
    Read {
        mm: usize,
        vma: usize,
        page: u64,
        offset: u16,
    },
    Populate {
        mm: usize,
        vma: usize,
        page: u64,
        nr: u64,
        write: bool,
    },
    Zap {
        mm: usize,
        vma: usize,
        page: u64,
        nr: u64,
    },
    Move {
        mm: usize,
        from: usize,
        page: u64,
        nr: u64,
    },
    Fork {
        mm: usize,
    },
    Exit {
        mm: usize,
    },
    Lock {
        mm: usize,
        vma: usize,
        page: u64,
        nr: u64,
        on: bool,
    },
    Protect {
        mm: usize,
        vma: usize,
        page: u64,
        nr: u64,
    },
    Migrate {
        mm: usize,
        vma: usize,
        page: u64,
    },
    Cut {
        size: u64,
    },
    Store {
        file: usize,
        page: u64,
        offset: u16,
        byte: u8,
    },
    Guard {
        mm: usize,
        page: u64,
        nr: u64,
        on: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (mm, vma, page, nr) = (0..8_usize, 0..4_usize, 0..PAGES, 1..PAGES);
    let at = (mm.clone(), vma, page.clone(), nr.clone());
    let step = prop_oneof![
        6 => (at.clone(), 0..4096_u16, 1..9_u8)
            .prop_map(|((mm, vma, page, _), offset, byte)| Step::Write { mm, vma, page, offset, byte }),
        3 => (at.clone(), 0..4096_u16)
            .prop_map(|((mm, vma, page, _), offset)| Step::Read { mm, vma, page, offset }),
        3 => (at.clone(), any::<bool>())
            .prop_map(|((mm, vma, page, nr), write)| Step::Populate { mm, vma, page, nr, write }),
        2 => at.clone().prop_map(|(mm, vma, page, nr)| Step::Zap { mm, vma, page, nr }),
        2 => (mm.clone(), 0..2_usize, page.clone(), nr.clone())
            .prop_map(|(mm, from, page, nr)| Step::Move { mm, from, page, nr }),
        2 => mm.clone().prop_map(|mm| Step::Fork { mm }),
        1 => mm.clone().prop_map(|mm| Step::Exit { mm }),
        2 => (at.clone(), any::<bool>())
            .prop_map(|((mm, vma, page, nr), on)| Step::Lock { mm, vma, page, nr, on }),
        1 => at.clone().prop_map(|(mm, vma, page, nr)| Step::Protect { mm, vma, page, nr }),
        3 => at.prop_map(|(mm, vma, page, _)| Step::Migrate { mm, vma, page }),
        1 => (0..PAGES * 4096).prop_map(|size| Step::Cut { size }),
        2 => (0..2_usize, page.clone(), 0..4096_u16, 1..9_u8)
            .prop_map(|(file, page, offset, byte)| Step::Store { file, page, offset, byte }),
        1 => (mm, page, nr, any::<bool>())
            .prop_map(|(mm, page, nr, on)| Step::Guard { mm, page, nr, on }),
    ];
    prop::collection::vec(step, 1..120)
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

impl World {
    fn new() -> Self {
        let text = r#"{"zones": [{"kind": "Normal", "start_pfn": 0, "spanned": 16384,
            "reserved": [[0, 16]]}], "nr_cpus": 2}"#;
        let mut memory = Memory::boot(&BootSpec::from_json(text).unwrap()).unwrap();
        let frames = free_frames(&memory);
        let size = PAGES * 4096;
        let file = |kind, size| FileSpec {
            kind,
            size,
            fill: None,
        };
        let files = [
            memory.file_create(file(FileKind::Regular, size)),
            memory.file_create(file(FileKind::Shmem, size)),
        ];
        let first = memory.mm_create();
        Self {
            memory,
            spaces: BTreeMap::from([(first.0, Space::default())]),
            files,
            disk: BTreeMap::new(),
            shared: BTreeMap::new(),
            size,
            frames,
        }
    }

    fn mm(&self, pick: usize) -> MmId {
        MmId(*self.spaces.keys().nth(pick % self.spaces.len()).unwrap())
    }

    fn area(&self, vma: usize) -> VmArea {
        let file = match vma {
            PRIVATE => Some(self.files[0]),
            SHARED => Some(self.files[1]),
            _ => None,
        };
        let flags = if vma == SHARED {
            RW | vm_flags::SHARED
        } else {
            RW
        };
        let start_vpn = BASES[vma];
        VmArea {
            start_vpn,
            end_vpn: start_vpn + PAGES,
            flags,
            file,
            pgoff: 0,
            prealloc: None,
        }
    }

    fn clip(page: u64, nr: u64) -> u64 {
        nr.min(PAGES - page)
    }

    /// What stops an access to a page.
    fn obstacle(&self, mm: MmId, vma: usize, page: u64) -> Option<Cause> {
        let space = &self.spaces[&mm.0];
        if vma == 0 && space.guards.contains(&page) {
            return Some(Cause::Guard);
        }
        (vma == SHARED && page * 4096 >= self.size).then_some(Cause::BeyondEof)
    }

    fn expected(&self, mm: MmId, vma: usize, page: u64, offset: u16) -> u8 {
        let own = self.spaces[&mm.0].own.get(&(vma, page));
        let bytes = match vma {
            SHARED => self.shared.get(&page),
            PRIVATE => own.or_else(|| self.disk.get(&page)),
            _ => own,
        };
        bytes
            .and_then(|bytes| bytes.get(&offset))
            .copied()
            .unwrap_or(0)
    }

    /// The page of the model that a store by this address space changes.
    fn page_mut(&mut self, mm: MmId, vma: usize, page: u64) -> &mut Page {
        if vma == SHARED {
            return self.shared.entry(page).or_default();
        }
        let base = if vma == PRIVATE {
            self.disk.get(&page).cloned()
        } else {
            None
        };
        let own = &mut self.spaces.get_mut(&mm.0).unwrap().own;
        own.entry((vma, page))
            .or_insert_with(|| base.unwrap_or_default())
    }

    fn touch(&mut self, mm: MmId, vma: usize, page: u64, offset: u16, store: Option<u8>) {
        let area = self.area(vma);
        let addr = (area.start_vpn + page) * 4096 + u64::from(offset);
        let touch = Touch {
            addr,
            nr: 1,
            stride: 4096,
            store,
        };
        let touched = self.memory.access(mm, CPU, &touch, &area);
        assert_eq!(touched.progress.blocked, self.obstacle(mm, vma, page));
        if touched.progress.blocked.is_some() {
            return;
        }
        if let Some(byte) = store {
            self.page_mut(mm, vma, page).insert(offset, byte);
        }
        assert_eq!(touched.value, self.expected(mm, vma, page, offset));
    }

    fn forget(&mut self, mm: MmId, vma: usize, page: u64, nr: u64) {
        let own = &mut self.spaces.get_mut(&mm.0).unwrap().own;
        own.retain(|&(v, p), _| v != vma || p < page || p >= page + nr);
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write {
                mm,
                vma,
                page,
                offset,
                byte,
            } => {
                self.touch(self.mm(mm), vma, page, offset, Some(byte));
            }
            Step::Read {
                mm,
                vma,
                page,
                offset,
            } => {
                self.touch(self.mm(mm), vma, page, offset, None);
            }
            Step::Populate {
                mm,
                vma,
                page,
                nr,
                write,
            } => self.populate(mm, vma, page, nr, write),
            Step::Zap { mm, vma, page, nr } => {
                let (mm, nr) = (self.mm(mm), Self::clip(page, nr));
                self.memory
                    .zap(mm, CPU, BASES[vma] + page, nr, Markers::Keep);
                self.forget(mm, vma, page, nr);
            }
            Step::Move { mm, from, page, nr } => self.shift(mm, from, page, nr),
            Step::Fork { mm } => self.fork(mm),
            Step::Exit { mm } => {
                if self.spaces.len() > 1 {
                    let mm = self.mm(mm);
                    self.memory.mm_exit(mm, CPU);
                    self.spaces.remove(&mm.0);
                }
            }
            Step::Lock {
                mm,
                vma,
                page,
                nr,
                on,
            } => {
                let flags = if on { vm_flags::LOCKED } else { 0 };
                let nr = Self::clip(page, nr);
                self.memory
                    .mlock_range(self.mm(mm), BASES[vma] + page, nr, flags);
            }
            Step::Protect { mm, vma, page, nr } => {
                let (mm, nr, flags) = (self.mm(mm), Self::clip(page, nr), self.area(vma).flags);
                self.memory
                    .protect(mm, BASES[vma] + page, nr, flags & !vm_flags::WRITE);
                self.memory.protect(mm, BASES[vma] + page, nr, flags);
            }
            Step::Migrate { mm, vma, page } => self.migrate(mm, vma, page),
            Step::Cut { size } => self.cut(size),
            Step::Store {
                file,
                page,
                offset,
                byte,
            } => self.store(file, page, offset, byte),
            Step::Guard { mm, page, nr, on } => self.guard(mm, page, nr, on),
        }
    }

    fn populate(&mut self, mm: usize, vma: usize, page: u64, nr: u64, write: bool) {
        let (mm, nr) = (self.mm(mm), Self::clip(page, nr));
        let area = self.area(vma);
        let progress = self
            .memory
            .populate(mm, CPU, area.start_vpn + page, nr, &area, write);
        let stop = (page..page + nr).find(|&page| self.obstacle(mm, vma, page).is_some());
        assert_eq!(progress.done, stop.unwrap_or(page + nr) - page);
        if write && vma != SHARED {
            for page in page..page + progress.done {
                self.page_mut(mm, vma, page);
            }
        }
    }

    fn shift(&mut self, mm: usize, from: usize, page: u64, nr: u64) {
        let (mm, nr, to) = (self.mm(mm), Self::clip(page, nr), 1 - from);
        self.memory.guard_remove(mm, BASES[0], PAGES);
        self.spaces.get_mut(&mm.0).unwrap().guards.clear();
        self.memory
            .zap(mm, CPU, BASES[to] + page, nr, Markers::Drop);
        self.forget(mm, to, page, nr);
        let (src, dst) = (BASES[from] + page, BASES[to] + page);
        assert_eq!(self.memory.move_pages(mm, CPU, src, dst, nr).blocked, None);
        let own = &mut self.spaces.get_mut(&mm.0).unwrap().own;
        for page in page..page + nr {
            if let Some(bytes) = own.remove(&(from, page)) {
                own.insert((to, page), bytes);
            }
        }
    }

    fn fork(&mut self, mm: usize) {
        if self.spaces.len() >= 6 {
            return;
        }
        let (mm, child) = (self.mm(mm), self.memory.mm_create());
        let range = |vma: usize| {
            let area = self.area(vma);
            ForkRange {
                vpns: area.start_vpn..area.end_vpn,
                flags: area.flags,
            }
        };
        let ranges: Vec<_> = (0..4).map(range).collect();
        assert_eq!(self.memory.fork(mm, child, CPU, &ranges).blocked, None);
        self.spaces.insert(child.0, self.spaces[&mm.0].clone());
    }

    fn migrate(&mut self, mm: usize, vma: usize, page: u64) {
        let mm = self.mm(mm);
        let pte = self.memory.pte(mm, BASES[vma] + page);
        if !pte.is_present() || pte.has(Pte::ZERO) || self.memory.can_migrate(pte.pfn()).is_err() {
            return;
        }
        let walk = self.memory.rmap_walk(pte.pfn());
        let to = self
            .memory
            .alloc_pages(CPU, Gfp::HIGHUSER_MOVABLE, Order::ZERO, None)
            .unwrap();
        self.memory.migrate_frame(CPU, pte.pfn(), to).unwrap();
        assert_eq!(self.memory.rmap_walk(to), walk);
        assert_eq!(self.memory.pfn_at(mm, BASES[vma] + page), Some(to));
    }

    fn cut(&mut self, size: u64) {
        self.memory.file_truncate(self.files[1], CPU, size);
        self.size = size;
        for (&page, bytes) in &mut self.shared {
            bytes.retain(|&offset, _| page * 4096 + u64::from(offset) < size);
        }
    }

    fn store(&mut self, file: usize, page: u64, offset: u16, byte: u8) {
        let at = page * 4096 + u64::from(offset);
        self.memory
            .file_write(self.files[file], CPU, at, byte)
            .unwrap();
        if file == 1 {
            self.size = self.size.max(at + 1);
            self.shared.entry(page).or_default().insert(offset, byte);
        } else {
            self.disk.entry(page).or_default().insert(offset, byte);
        }
        assert_eq!(
            self.memory.file_read(self.files[file], CPU, at),
            Ok(Some(byte))
        );
    }

    fn guard(&mut self, mm: usize, page: u64, nr: u64, on: bool) {
        let (mm, nr) = (self.mm(mm), Self::clip(page, nr));
        if on {
            assert_eq!(
                self.memory
                    .guard_install(mm, CPU, BASES[0] + page, nr)
                    .blocked,
                None
            );
            self.forget(mm, 0, page, nr);
        } else {
            self.memory.guard_remove(mm, BASES[0] + page, nr);
        }
        let guards = &mut self.spaces.get_mut(&mm.0).unwrap().guards;
        guards.retain(|&at| at < page || at >= page + nr);
        if on {
            guards.extend(page..page + nr);
        }
    }

    /// Every byte that the model knows is what each address space reads.
    fn compare(&mut self) {
        for mm in self.spaces.keys().copied().map(MmId).collect::<Vec<_>>() {
            for vma in ANON.into_iter().chain([PRIVATE, SHARED]) {
                for page in 0..PAGES {
                    self.touch(mm, vma, page, 7, None);
                    let bytes: Vec<_> = self.known(mm, vma, page);
                    for offset in bytes {
                        self.touch(mm, vma, page, offset, None);
                    }
                }
            }
        }
    }

    fn known(&self, mm: MmId, vma: usize, page: u64) -> Vec<u16> {
        let own = self.spaces[&mm.0].own.get(&(vma, page));
        let files = [self.shared.get(&page), self.disk.get(&page)];
        let pages = own.into_iter().chain(files.into_iter().flatten());
        pages.flat_map(|bytes| bytes.keys().copied()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn every_space_sees_its_own_bytes(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            if let Err(error) = world.memory.check() {
                panic!("after {step:?}: {error}");
            }
        }
        let saved = world.memory.snapshot();
        let restored = Memory::restore(&saved, 1 << 30).expect("a sound state");
        prop_assert_eq!(restored.digest(), world.memory.digest());
        world.memory = restored;
        world.compare();
        for mm in world.spaces.keys().copied().collect::<Vec<_>>() {
            world.memory.mm_exit(MmId(mm), CPU);
        }
        for file in world.files {
            world.memory.file_drop(file, CPU);
        }
        world.memory.check().expect("the books agree at the end");
        prop_assert_eq!(free_frames(&world.memory), world.frames);
    }
}
