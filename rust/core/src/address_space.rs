//! Address spaces, `struct mm_struct`, include/linux/mm_types.h v6.12: page tables, resident sets,
//! and what the bulk calls of the other modules share.
//!
//! The core knows no VMAs. What it must know of one comes with each call, as a [`VmArea`]; Python
//! decides what may be done, the core does it for many pages at once. It never calls back: a call
//! that cannot go on says how far it came and why ([`Progress`]), and may be called again.

use crate::contents::Contents;
use crate::contig_run::{ContigRuns, Wild};
use crate::error::AllocError;
use crate::folio::DeferredSplit;
use crate::gfp::Gfp;
use crate::huge_memory::ThpSettings;
use crate::mem_map::{MemMap, PageClass, page_flags};
use crate::memory::Memory;
use crate::page_cache::{FileId, FileKind, PageCache};
use crate::page_table::{DirId, LeafId, Level, Pte, Span, Tables, slot_of};
use crate::placement::Placement;
use crate::rmap::Rmap;
use crate::units::{Cpu, Order, Pfn};

/// `VM_*`, include/linux/mm.h v6.12: the bits that the core reads.
pub mod vm_flags {
    /// `VM_WRITE`.
    pub const WRITE: u64 = 1 << 1;
    /// `VM_SHARED`.
    pub const SHARED: u64 = 1 << 3;
    /// `VM_LOCKED`.
    pub const LOCKED: u64 = 1 << 13;
    /// `VM_WIPEONFORK`.
    pub const WIPEONFORK: u64 = 1 << 25;
    /// `VM_HUGEPAGE`.
    pub const HUGEPAGE: u64 = 1 << 29;
    /// `VM_NOHUGEPAGE`.
    pub const NOHUGEPAGE: u64 = 1 << 30;
    /// A contiguous run of the profile `contig`; no bit of Linux.
    pub const CONTIG: u64 = 1 << 50;
}

/// `GFP_PGTABLE_USER`, include/linux/pgalloc.h v6.12.
const GFP_PGTABLE_USER: Gfp = Gfp::KERNEL.with(Gfp::ZERO).with(Gfp::ACCOUNT);
/// Flags of a new anonymous frame: `folio_add_new_anon_rmap()` and `folio_add_lru_vma()`.
pub(crate) const ANON_FLAGS: u16 =
    page_flags::ANON | page_flags::SWAPBACKED | page_flags::LRU | page_flags::UPTODATE;

/// An address space. The number of one that is gone may be given to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MmId(pub u32);

/// Why a bulk call stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No frame could be had.
    Memory(AllocError),
    /// The page lies at or behind the end of the file: SIGBUS.
    BeyondEof,
    /// A guard marker: SIGSEGV.
    Guard,
    /// The page of a contiguous run is not mapped: the caller must map the run again.
    RunPageAbsent,
}

impl Cause {
    /// Stable name, for those who cannot match on it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory(error) => error.cause(),
            Self::BeyondEof => "beyond_eof",
            Self::Guard => "guard",
            Self::RunPageAbsent => "run_page_absent",
        }
    }
}

impl From<AllocError> for Cause {
    fn from(error: AllocError) -> Self {
        Self::Memory(error)
    }
}

/// How far a bulk call came, and why not further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Pages (or accesses) done.
    pub done: u64,
    /// Why it stopped, if it did not finish.
    pub blocked: Option<Cause>,
}

impl Progress {
    pub(crate) const fn finished(done: u64) -> Self {
        Self {
            done,
            blocked: None,
        }
    }

    pub(crate) const fn blocked(done: u64, cause: Cause) -> Self {
        Self {
            done,
            blocked: Some(cause),
        }
    }
}

/// What the core is told of a VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmArea {
    /// First virtual page.
    pub start_vpn: u64,
    /// One past the last.
    pub end_vpn: u64,
    /// `vm_flags`.
    pub flags: u64,
    /// The file that it maps.
    pub file: Option<FileId>,
    /// Page of the file at `start_vpn`.
    pub pgoff: u64,
    /// First frame of a run that the RFC's fault path maps from: `vm_private_data`.
    pub prealloc: Option<Pfn>,
}

impl VmArea {
    /// Whether any of the flags is set.
    #[inline]
    pub const fn has(&self, flags: u64) -> bool {
        self.flags & flags != 0
    }

    /// Page of the file that `vpn` maps: `linear_page_index()`.
    #[inline]
    pub const fn index_of(&self, vpn: u64) -> u64 {
        self.pgoff + (vpn - self.start_vpn)
    }
}

/// Counters of `struct mm_struct` by kind: `enum rss` of include/linux/mm_types_task.h v6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RssKind {
    /// `MM_FILEPAGES`.
    File = 0,
    /// `MM_ANONPAGES`.
    Anon = 1,
    /// `MM_SHMEMPAGES`.
    Shmem = 2,
}

/// Pages of an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rss {
    /// `MM_ANONPAGES`.
    pub anon: u64,
    /// `MM_FILEPAGES`.
    pub file: u64,
    /// `MM_SHMEMPAGES`.
    pub shmem: u64,
    /// Bytes of page tables: `VmPTE`.
    pub pgtable_bytes: u64,
    /// Most pages it ever had: `get_mm_hiwater_rss()`, `VmHWM`.
    pub hiwater: u64,
}

impl AddressSpace {
    /// `update_hiwater_rss()`: called before pages go.
    #[inline]
    pub(crate) fn note_hiwater(&mut self) {
        self.hiwater_rss = self.hiwater_rss.max(self.rss.iter().sum());
    }
}

/// One address space.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressSpace {
    pub pgd: Option<DirId>,
    /// By [`RssKind`].
    pub rss: [u64; 3],
    /// Most pages it had before it last lost some: `hiwater_rss`.
    pub hiwater_rss: u64,
    /// Tables by [`Level`], the PGD not counted.
    pub tables: [u32; 3],
    /// Frames of page tables that were captured: used before the allocator is asked, last first.
    pub table_stock: Vec<Pfn>,
}

/// User memory in counters of /proc/vmstat, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UserStat {
    /// `nr_anon_pages`: mapped anonymous frames.
    pub nr_anon_mapped: u64,
    /// `nr_mapped`: mapped frames of the page cache.
    pub nr_file_mapped: u64,
    /// `nr_file_pages`.
    pub nr_file_pages: u64,
    /// `nr_shmem`.
    pub nr_shmem: u64,
    /// `nr_mlock`.
    pub nr_mlock: u64,
    /// `nr_page_table_pages`.
    pub nr_page_table_pages: u64,
    /// Frames of contiguous runs.
    pub nr_contig: u64,
}

/// Who uses the machine's frames.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    pub spaces: Vec<Option<AddressSpace>>,
    pub free_spaces: Vec<u32>,
    pub tables: Tables,
    pub rmap: Rmap,
    pub cache: PageCache,
    pub contents: Contents,
    pub runs: ContigRuns,
    pub wild: Wild,
    pub stat: UserStat,
    /// `my_zero_pfn()`, or [`Pfn::NONE`] until it is needed.
    pub zero_pfn: Pfn,
    /// `huge_zero_pfn`, or [`Pfn::NONE`] until it is needed.
    pub huge_zero_pfn: Pfn,
    /// What /sys/kernel/mm/transparent_hugepage holds.
    pub thp: ThpSettings,
    /// Where the user memory of the call in hand comes from.
    pub placement: Placement,
    /// Large folios of which a part is mapped no more.
    pub deferred: DeferredSplit,
    /// Frames in hand during a bulk call; empty between calls.
    pub scratch: Vec<Pfn>,
    /// Frames that may have lost their last locked mapping; empty between calls.
    pub munlocked: Vec<Pfn>,
    /// Heads of anonymous folios that lost the last mapping of a frame; empty between calls.
    pub partial: Vec<Pfn>,
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            spaces: Vec::new(),
            free_spaces: Vec::new(),
            tables: Tables::default(),
            rmap: Rmap::default(),
            cache: PageCache::default(),
            contents: Contents::default(),
            runs: ContigRuns::default(),
            wild: Wild::default(),
            stat: UserStat::default(),
            zero_pfn: Pfn::NONE,
            huge_zero_pfn: Pfn::NONE,
            thp: ThpSettings::default(),
            placement: Placement::default(),
            deferred: DeferredSplit::default(),
            scratch: Vec::new(),
            munlocked: Vec::new(),
            partial: Vec::new(),
        }
    }
}

impl Owners {
    #[inline]
    pub fn space(&self, mm: MmId) -> &AddressSpace {
        self.spaces[mm.0 as usize]
            .as_ref()
            .expect("a live address space")
    }

    #[inline]
    pub fn space_mut(&mut self, mm: MmId) -> &mut AddressSpace {
        self.spaces[mm.0 as usize]
            .as_mut()
            .expect("a live address space")
    }

    /// The first leaf of an address space that has a part in the range.
    #[inline]
    pub fn next_span(&self, mm: MmId, vpn: u64, end: u64) -> Option<Span> {
        self.tables.next_span(self.space(mm).pgd, vpn, end)
    }

    /// The leaf that covers a virtual page.
    #[inline]
    pub fn leaf_of(&self, mm: MmId, vpn: u64) -> Option<LeafId> {
        self.tables.leaf_of(self.space(mm).pgd?, vpn)
    }

    /// The entry of a virtual page, none where there is no table.
    pub fn pte(&self, mm: MmId, vpn: u64) -> Pte {
        self.leaf_of(mm, vpn).map_or(Pte::NONE, |leaf| {
            self.tables.leaf(leaf).ptes[slot_of(vpn, 0)]
        })
    }

    /// The present entry of a virtual page that the reverse map names.
    pub fn pte_mut(&mut self, mm: MmId, vpn: u64) -> &mut Pte {
        let leaf = self
            .leaf_of(mm, vpn)
            .expect("the reverse map names present entries");
        &mut self.tables.leaf_mut(leaf).ptes[slot_of(vpn, 0)]
    }

    #[inline]
    pub fn count_rss(&mut self, mm: MmId, kind: RssKind, change: i64) {
        let space = self.space_mut(mm);
        if change < 0 {
            space.note_hiwater();
        }
        let rss = &mut space.rss[kind as usize];
        *rss = rss
            .checked_add_signed(change)
            .expect("entries are counted once");
    }
}

/// The counter that a mapped frame belongs to: `mm_counter()`, include/linux/mm.h v6.12.
#[inline]
pub(crate) fn rss_kind(map: &MemMap, pfn: Pfn) -> RssKind {
    match map.flags(pfn) & (page_flags::ANON | page_flags::SWAPBACKED) {
        page_flags::SWAPBACKED => RssKind::Shmem,
        0 => RssKind::File,
        _ => RssKind::Anon,
    }
}

impl Memory {
    /// A new, empty address space: `mm_alloc()`.
    ///
    /// # Panics
    /// At 2^28 address spaces.
    pub fn mm_create(&mut self) -> MmId {
        if let Some(id) = self.owners.free_spaces.pop() {
            self.owners.spaces[id as usize] = Some(AddressSpace::default());
            return MmId(id);
        }
        self.owners.spaces.push(Some(AddressSpace::default()));
        let id = u32::try_from(self.owners.spaces.len() - 1).expect("fewer than 2^28 spaces");
        assert!(id < 1 << 28, "2^28 address spaces");
        MmId(id)
    }

    /// Whether this is a live address space.
    pub fn has_mm(&self, mm: MmId) -> bool {
        self.owners
            .spaces
            .get(mm.0 as usize)
            .is_some_and(Option::is_some)
    }

    /// Every live address space, ascending.
    pub fn mms(&self) -> impl Iterator<Item = MmId> + '_ {
        (0..)
            .zip(&self.owners.spaces)
            .filter(|(_, space)| space.is_some())
            .map(|(id, _)| MmId(id))
    }

    /// What an address space holds: `VmRSS` by kind and `VmPTE`.
    pub fn rss(&self, mm: MmId) -> Rss {
        let space = self.owners.space(mm);
        let tables: u32 = space.tables.iter().sum();
        Rss {
            anon: space.rss[RssKind::Anon as usize],
            file: space.rss[RssKind::File as usize],
            shmem: space.rss[RssKind::Shmem as usize],
            pgtable_bytes: u64::from(tables) * 4096,
            hiwater: space.hiwater_rss.max(space.rss.iter().sum()),
        }
    }

    /// Counters of user memory.
    pub const fn user_stat(&self) -> &UserStat {
        &self.owners.stat
    }

    /// The frame that reads of untouched anonymous memory see; none until one was read.
    pub fn zero_pfn(&self) -> Option<Pfn> {
        Some(self.owners.zero_pfn).filter(|&pfn| pfn != Pfn::NONE)
    }

    /// `my_zero_pfn()`: the captured zero page, else a frame of the kernel's image, else, where there
    /// is neither, a frame of its own.
    pub(crate) fn zero_frame(&mut self, cpu: Cpu) -> Result<Pfn, AllocError> {
        if let Some(pfn) = self.zero_pfn() {
            return Ok(pfn);
        }
        let first = |class| {
            self.map
                .blocks()
                .find(|head| head.class == class)
                .map(|head| head.pfn)
        };
        let found = first(PageClass::ZeroPage).or_else(|| first(PageClass::Reserved));
        self.owners.zero_pfn = match found {
            Some(pfn) => pfn,
            None => self.alloc_class(cpu, Gfp::KERNEL, Order::ZERO, None, PageClass::ZeroPage)?,
        };
        Ok(self.owners.zero_pfn)
    }

    /// Gives an address space frames that its page tables are in already: they were captured.
    pub fn adopt_pgtables(&mut self, mm: MmId, pfns: &[Pfn]) {
        self.owners.stat.nr_page_table_pages += pfns.len() as u64;
        let stock = &mut self.owners.space_mut(mm).table_stock;
        stock.extend(pfns.iter().rev());
    }

    /// The leaf that covers `vpn`, made if it is not there: `pte_alloc()` and the levels above.
    #[inline]
    pub(crate) fn ensure_leaf(
        &mut self,
        cpu: Cpu,
        mm: MmId,
        vpn: u64,
    ) -> Result<LeafId, AllocError> {
        match self.owners.leaf_of(mm, vpn) {
            Some(leaf) => Ok(leaf),
            None => self.make_leaf(cpu, mm, vpn),
        }
    }

    #[cold]
    fn make_leaf(&mut self, cpu: Cpu, mm: MmId, vpn: u64) -> Result<LeafId, AllocError> {
        let pmd = self.ensure_pmd(cpu, mm, vpn)?;
        let pfn = self.alloc_table(cpu, mm, Level::Pte)?;
        let leaf = self.owners.tables.new_leaf(pfn);
        self.owners.tables.link_leaf(pmd, vpn, leaf);
        Ok(leaf)
    }

    /// The PMD table that covers `vpn`, made if it is not there: `pmd_alloc()` and the levels above.
    pub(crate) fn ensure_pmd(&mut self, cpu: Cpu, mm: MmId, vpn: u64) -> Result<DirId, AllocError> {
        let pgd = if let Some(pgd) = self.owners.space(mm).pgd {
            pgd
        } else {
            let pfn = self.alloc_table(cpu, mm, Level::Pgd)?;
            let pgd = self.owners.tables.new_dir(pfn);
            self.owners.space_mut(mm).pgd = Some(pgd);
            pgd
        };
        let mut upper = pgd;
        for (level, kind) in [(2, Level::Pud), (1, Level::Pmd)] {
            upper = if let Some(dir) = self.owners.tables.dir_of(pgd, vpn, level) {
                dir
            } else {
                let pfn = self.alloc_table(cpu, mm, kind)?;
                let dir = self.owners.tables.new_dir(pfn);
                self.owners.tables.link_dir(upper, vpn, level + 1, dir);
                dir
            };
        }
        Ok(upper)
    }

    /// A frame for a page table: `pagetable_alloc()`.
    fn alloc_table(&mut self, cpu: Cpu, mm: MmId, level: Level) -> Result<Pfn, AllocError> {
        let captured = self.owners.space_mut(mm).table_stock.pop();
        let pfn = if let Some(pfn) = captured {
            pfn
        } else {
            let gfp = GFP_PGTABLE_USER;
            let pfn = self.alloc_class(cpu, gfp, Order::ZERO, None, PageClass::Pgtable)?;
            self.owners.stat.nr_page_table_pages += 1;
            pfn
        };
        if level != Level::Pgd {
            self.owners.space_mut(mm).tables[level as usize] += 1;
        }
        Ok(pfn)
    }

    /// Frees the frame of a table that is no more: `pagetable_free()`.
    pub(crate) fn free_table(&mut self, cpu: Cpu, mm: MmId, level: Level, pfn: Pfn) {
        if level != Level::Pgd {
            self.owners.space_mut(mm).tables[level as usize] -= 1;
        }
        self.owners.stat.nr_page_table_pages -= 1;
        self.free_pages(cpu, pfn, Order::ZERO);
    }

    /// Does what may need memory while a frame must neither go nor move: `folio_get()` before, and
    /// `folio_put()` behind.
    pub(crate) fn holding<T>(
        &mut self,
        cpu: Cpu,
        pfn: Pfn,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.map.get_page(pfn);
        let done = work(self);
        self.put_frame(cpu, pfn);
        done
    }

    /// Drops a reference to a frame and frees it, or the folio that it is part of, with the last:
    /// `put_page()`. Tells how many frames were freed.
    pub(crate) fn put_frame(&mut self, cpu: Cpu, pfn: Pfn) -> u64 {
        if self.map.put_page_testzero(pfn) {
            self.free_frame(cpu, pfn)
        } else {
            0
        }
    }

    /// Frees a frame whose last reference is gone, or the folio that it is part of, and tells how many
    /// frames that are: `free_unref_page()`.
    #[inline]
    pub(crate) fn free_frame(&mut self, cpu: Cpu, pfn: Pfn) -> u64 {
        let flags = self.map.flags(pfn);
        if flags & (page_flags::HAS_CONTENT | page_flags::LARGE | page_flags::ACTIVE) != 0 {
            if flags & page_flags::LARGE != 0 {
                let head = self.map.large_head(pfn);
                return self.free_folio(cpu, head);
            }
            self.map.relist_file(pfn, 0, page_flags::ACTIVE);
            self.owners.contents.clear(&mut self.map, pfn);
        }
        self.map.reset_meta(pfn);
        self.free_pages(cpu, pfn, Order::ZERO);
        1
    }

    /// Frees every frame of the scratch list and returns how many: `free_pages_and_swap_cache()`.
    pub(crate) fn free_scratch(&mut self, cpu: Cpu) -> u64 {
        let mut frames = std::mem::take(&mut self.owners.scratch);
        let freed = self.free_frames(cpu, &frames);
        frames.clear();
        self.owners.scratch = frames;
        freed
    }

    /// Marks a mapping as locked, and its frame: `mlock_vma_folio()`, mm/internal.h v6.12.
    #[inline]
    pub(crate) fn lock_frame(&mut self, pte: Pte) -> Pte {
        if pte.has(Pte::ZERO | Pte::WILD) {
            return pte;
        }
        let pfn = pte.pfn();
        if self.map.flags(pfn) & page_flags::MLOCKED == 0 {
            let locked = page_flags::MLOCKED | page_flags::UNEVICTABLE;
            self.map.relist_file(pfn, locked, 0);
            self.owners.stat.nr_mlock += 1;
        }
        pte.with(Pte::LOCKED)
    }

    /// `Shmem` or `Regular`, as the class of its cached frames.
    pub(crate) const fn cache_class(kind: FileKind) -> PageClass {
        match kind {
            FileKind::Shmem => PageClass::Shmem,
            FileKind::Regular => PageClass::File,
        }
    }
}
