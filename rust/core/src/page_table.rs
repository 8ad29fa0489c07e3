//! Page tables: four levels as on x86-64, each table backed by a frame taken from the buddy
//! allocator, `pgtable_t` and friends, include/linux/pgtable.h v6.12.
//!
//! The tables of all address spaces live in one arena, so that a table given back is used again
//! without being zeroed. A leaf may be *one* huge mapping: then `huge` is set, and its 512 entries
//! say what that one says, each of its own frame, so that to look up a page, to walk a range and to
//! split are the same for both. The table's frame is Linux's deposited table
//! (`pgtable_trans_huge_deposit()`, mm/pgtable-generic.c).

use crate::units::Pfn;

/// Entries of a table: `PTRS_PER_PTE` and the other levels alike.
pub const PTRS_PER_TABLE: u64 = 512;
/// log2 of [`PTRS_PER_TABLE`].
const TABLE_SHIFT: u32 = 9;
/// Levels above the leaves: PGD, PUD, PMD.
const UPPER_LEVELS: u32 = 3;
/// Virtual pages of user space: 47 bits of address.
pub const USER_PAGES: u64 = 1 << 35;

/// A page-table entry. Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pte(pub u64);

impl Pte {
    /// `pte_none()`.
    pub const NONE: Self = Self(0);
    /// `_PAGE_PRESENT`.
    pub const PRESENT: u64 = 1 << 32;
    /// `_PAGE_RW`.
    pub const WRITE: u64 = 1 << 33;
    /// `_PAGE_DIRTY`.
    pub const DIRTY: u64 = 1 << 34;
    /// `_PAGE_ACCESSED`.
    pub const YOUNG: u64 = 1 << 35;
    /// `PageAnonExclusive`: the only mapping of an anonymous frame; kept here, as only that mapping
    /// can have it.
    pub const EXCLUSIVE: u64 = 1 << 36;
    /// Mapped by a `VM_LOCKED` VMA and counted in the frame's `PG_mlocked`.
    pub const LOCKED: u64 = 1 << 37;
    /// The frame is anonymous: (anchor, index) is a reverse map.
    pub const ANON: u64 = 1 << 38;
    /// `PTE_MARKER_GUARD`: not present, every access is refused.
    pub const GUARD: u64 = 1 << 39;
    /// The shared zero page, or, huge, the huge zero page: `pte_special()`, not counted anywhere.
    pub const ZERO: u64 = 1 << 40;
    /// A frame that this mapping has no right to: see `contig_run::Wild`.
    pub const WILD: u64 = 1 << 41;

    /// A present entry.
    #[inline]
    pub const fn present(pfn: Pfn, bits: u64) -> Self {
        Self(pfn.0 as u64 | Self::PRESENT | bits)
    }

    /// The frame of a present entry: `pte_pfn()`.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is the frame number"
    )]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 as u32)
    }

    /// `pte_none()`.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// `pte_present()`.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.has(Self::PRESENT)
    }

    /// Whether any of the bits is set.
    #[inline]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// With these bits set.
    #[inline]
    #[must_use]
    pub const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    /// With these bits cleared.
    #[inline]
    #[must_use]
    pub const fn without(self, bits: u64) -> Self {
        Self(self.0 & !bits)
    }

    /// The same bits for another frame.
    #[inline]
    #[must_use]
    pub const fn moved_to(self, pfn: Pfn) -> Self {
        Self(self.0 & !0xffff_ffff | pfn.0 as u64)
    }
}

/// A table of entries.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub ptes: Box<[Pte; 512]>,
    /// The entries are one mapping: `pmd_trans_huge()`. All are present, of consecutive frames from
    /// an aligned one on, with equal bits; young and dirty is the whole if one entry is.
    pub huge: bool,
    /// Frame of this table; none if the entries are a huge mapping of a file.
    pub pfn: Pfn,
}

impl Leaf {
    /// Young and dirty, as far as one of the entries is: bits of a huge mapping.
    pub fn used_bits(&self) -> u64 {
        let all = self.ptes.iter().fold(0, |bits, pte| bits | pte.0);
        all & (Pte::YOUNG | Pte::DIRTY)
    }

    /// Whether the entries are one mapping of a page of a file: no table was deposited for it.
    pub fn is_huge_file(&self) -> bool {
        self.huge && self.pfn == Pfn::NONE
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.ptes.iter().all(|pte| pte.is_none())
    }
}

/// A table of tables; a slot is the index of the lower table plus one, or 0.
#[derive(Clone, Debug)]
pub(crate) struct Dir {
    slots: Box<[u32; 512]>,
    pfn: Pfn,
}

/// The kinds of tables that Linux counts: `mm_pgtables_bytes()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Entries are `Pte`.
    Pte,
    /// Entries are leaves.
    Pmd,
    /// Entries are PMD tables.
    Pud,
    /// Entries are PUD tables. Not in `VmPTE`.
    Pgd,
}

/// All tables of all address spaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    leaves: Vec<Leaf>,
    free_leaves: Vec<u32>,
    dirs: Vec<Dir>,
    free_dirs: Vec<u32>,
}

/// Index of a leaf in [`Tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeafId(pub u32);

/// Index of a directory in [`Tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirId(u32);

/// A table and where it hangs, for snapshots and checks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    /// Levels above the leaves; 0 is a leaf.
    pub level: u32,
    /// First virtual page that it covers.
    pub vpn: u64,
    /// Its frame, if it has one.
    pub pfn: Pfn,
    /// The leaf, if it is one.
    pub leaf: Option<LeafId>,
}

/// A part of a leaf that lies in a range of virtual pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub leaf: LeafId,
    /// First virtual page.
    pub vpn: u64,
    /// Virtual pages.
    pub nr: u64,
}

impl Span {
    /// The entries' indexes within the leaf.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a leaf has 512 entries")]
    pub const fn slots(&self) -> std::ops::Range<usize> {
        let first = slot_of(self.vpn, 0);
        first..first + self.nr as usize
    }

    /// Whether the whole leaf is covered.
    pub const fn is_whole(&self) -> bool {
        self.nr == PTRS_PER_TABLE
    }
}

/// Index of a virtual page in its table `level` levels above the leaf.
#[inline]
pub(crate) const fn slot_of(vpn: u64, level: u32) -> usize {
    ((vpn >> (level * TABLE_SHIFT)) % PTRS_PER_TABLE) as usize
}

impl Tables {
    #[inline]
    pub fn leaf(&self, id: LeafId) -> &Leaf {
        &self.leaves[id.0 as usize]
    }

    #[inline]
    pub fn leaf_mut(&mut self, id: LeafId) -> &mut Leaf {
        &mut self.leaves[id.0 as usize]
    }

    /// Frame of a directory.
    pub fn dir_pfn(&self, id: DirId) -> Pfn {
        self.dirs[id.0 as usize].pfn
    }

    fn slot(&self, dir: DirId, slot: usize) -> Option<u32> {
        self.dirs[dir.0 as usize].slots[slot].checked_sub(1)
    }

    /// A table of entries, all none, in this frame.
    pub fn new_leaf(&mut self, pfn: Pfn) -> LeafId {
        if let Some(id) = self.free_leaves.pop() {
            self.leaves[id as usize].pfn = pfn;
            return LeafId(id);
        }
        self.leaves.push(Leaf {
            ptes: Box::new([Pte::NONE; 512]),
            huge: false,
            pfn,
        });
        LeafId(index_of(self.leaves.len() - 1))
    }

    /// An empty directory in this frame.
    pub fn new_dir(&mut self, pfn: Pfn) -> DirId {
        if let Some(id) = self.free_dirs.pop() {
            self.dirs[id as usize].pfn = pfn;
            return DirId(id);
        }
        self.dirs.push(Dir {
            slots: Box::new([0; 512]),
            pfn,
        });
        DirId(index_of(self.dirs.len() - 1))
    }

    /// Gives back a leaf, whose entries are all none, and tells its frame.
    pub fn drop_leaf(&mut self, id: LeafId) -> Pfn {
        let leaf = self.leaf(id);
        debug_assert!(!leaf.huge && leaf.is_empty());
        let pfn = leaf.pfn;
        self.free_leaves.push(id.0);
        pfn
    }

    /// Gives back an empty directory and tells its frame.
    pub fn drop_dir(&mut self, id: DirId) -> Pfn {
        debug_assert!(self.dirs[id.0 as usize].slots.iter().all(|&slot| slot == 0));
        self.free_dirs.push(id.0);
        self.dir_pfn(id)
    }

    /// The directory `level` levels above the leaves that covers `vpn` (0 is the leaf, 1 the PMD).
    pub fn dir_of(&self, pgd: DirId, vpn: u64, level: u32) -> Option<DirId> {
        let mut dir = pgd;
        let mut at = UPPER_LEVELS;
        while at > level {
            dir = DirId(self.slot(dir, slot_of(vpn, at))?);
            at -= 1;
        }
        Some(dir)
    }

    /// The leaf that covers `vpn`.
    #[inline]
    pub fn leaf_of(&self, pgd: DirId, vpn: u64) -> Option<LeafId> {
        let pud = self.slot(pgd, slot_of(vpn, 3))?;
        let pmd = self.slot(DirId(pud), slot_of(vpn, 2))?;
        self.slot(DirId(pmd), slot_of(vpn, 1)).map(LeafId)
    }

    /// Hangs a lower directory into one that is `level` levels above the leaves.
    pub fn link_dir(&mut self, dir: DirId, vpn: u64, level: u32, lower: DirId) {
        self.dirs[dir.0 as usize].slots[slot_of(vpn, level)] = lower.0 + 1;
    }

    /// Hangs a leaf into a PMD table.
    pub fn link_leaf(&mut self, pmd: DirId, vpn: u64, leaf: LeafId) {
        self.dirs[pmd.0 as usize].slots[slot_of(vpn, 1)] = leaf.0 + 1;
    }

    /// Takes the table below `dir` out of its slot.
    fn unlink(&mut self, dir: DirId, vpn: u64, level: u32) -> Option<u32> {
        let slot = &mut self.dirs[dir.0 as usize].slots[slot_of(vpn, level)];
        std::mem::take(slot).checked_sub(1)
    }

    /// Takes the leaf that covers `vpn` out of its PMD table.
    pub fn unlink_leaf(&mut self, pgd: DirId, vpn: u64) -> Option<LeafId> {
        let pmd = self.dir_of(pgd, vpn, 1)?;
        self.unlink(pmd, vpn, 1).map(LeafId)
    }

    /// The first leaf that has a part in `vpn..end`; absent directories are skipped whole.
    pub fn next_span(&self, pgd: Option<DirId>, vpn: u64, end: u64) -> Option<Span> {
        let mut vpn = vpn;
        'down: while vpn < end {
            let mut dir = pgd?;
            let mut level = UPPER_LEVELS;
            loop {
                let Some(lower) = self.slot(dir, slot_of(vpn, level)) else {
                    vpn = next_boundary(vpn, level);
                    continue 'down;
                };
                if level == 1 {
                    let nr = next_boundary(vpn, 1).min(end) - vpn;
                    return Some(Span {
                        leaf: LeafId(lower),
                        vpn,
                        nr,
                    });
                }
                dir = DirId(lower);
                level -= 1;
            }
        }
        None
    }

    /// Every table below a PGD, each before what hangs in it, ascending.
    pub fn below(&self, pgd: DirId) -> Vec<Table> {
        let mut tables = Vec::new();
        self.add_below_of(pgd, UPPER_LEVELS, 0, &mut tables);
        tables
    }

    fn add_below_of(&self, dir: DirId, level: u32, vpn: u64, tables: &mut Vec<Table>) {
        for slot in 0..PTRS_PER_TABLE {
            let Some(id) = self.slot(dir, slot_of(slot, 0)) else {
                continue;
            };
            let vpn = vpn + (slot << (level * TABLE_SHIFT));
            let level = level - 1;
            if level == 0 {
                let leaf = Some(LeafId(id));
                let pfn = self.leaf(LeafId(id)).pfn;
                tables.push(Table {
                    level,
                    vpn,
                    pfn,
                    leaf,
                });
            } else {
                let pfn = self.dir_pfn(DirId(id));
                tables.push(Table {
                    level,
                    vpn,
                    pfn,
                    leaf: None,
                });
                self.add_below_of(DirId(id), level, vpn, tables);
            }
        }
    }

    /// Hangs a new, empty table below a PGD, and tells its number; nothing if its place is taken or
    /// the table above is not there.
    pub fn add_below(&mut self, pgd: DirId, table: &Table) -> Option<u32> {
        let upper = self.dir_of(pgd, table.vpn, table.level + 1)?;
        let slot = slot_of(table.vpn, table.level + 1);
        if self.slot(upper, slot).is_some() {
            return None;
        }
        let id = match table.level {
            0 => self.new_leaf(table.pfn).0,
            _ => self.new_dir(table.pfn).0,
        };
        self.dirs[upper.0 as usize].slots[slot] = id + 1;
        Some(id)
    }

    /// Takes apart what covers `addr..end` and nothing else, as far as `floor` and `ceiling` say that
    /// no VMA outside needs it: `free_pgd_range()`, mm/memory.c v6.12. All in bytes; a `ceiling` of 0
    /// is the top. `freed` gets each table's level and frame, the entries being none already.
    pub fn free_pgd_range(
        &mut self,
        pgd: DirId,
        range: std::ops::Range<u64>,
        (floor, ceiling): (u64, u64),
        freed: &mut Vec<(Level, Pfn)>,
    ) {
        let Some((addr, end)) = pmd_bounds(range, floor, ceiling) else {
            return;
        };
        self.free_level(pgd, UPPER_LEVELS, addr..end, (floor, ceiling), freed);
    }

    /// `free_pud_range()`, `free_pmd_range()`, `free_pte_range()`: the tables below one slot range.
    fn free_level(
        &mut self,
        dir: DirId,
        level: u32,
        range: std::ops::Range<u64>,
        (floor, ceiling): (u64, u64),
        freed: &mut Vec<(Level, Pfn)>,
    ) {
        let mut addr = range.start;
        while addr < range.end {
            let (vpn, size) = (addr >> 12, table_bytes(level));
            let next = ((addr & !(size - 1)) + size).min(range.end);
            if level == 1 {
                if let Some(leaf) = self.unlink(dir, vpn, 1) {
                    freed.push((Level::Pte, self.drop_leaf(LeafId(leaf))));
                }
            } else if let Some(lower) = self.slot(dir, slot_of(vpn, level)).map(DirId) {
                self.free_level(lower, level - 1, addr..next, (floor, ceiling), freed);
                if outside_unused(addr & !(size - 1), next, (floor, ceiling), size) {
                    self.unlink(dir, vpn, level);
                    let kind = if level == 2 { Level::Pmd } else { Level::Pud };
                    freed.push((kind, self.drop_dir(lower)));
                }
            }
            addr = next;
        }
    }
}

/// Bytes covered by one slot of a table `level` levels above the leaves.
const fn table_bytes(level: u32) -> u64 {
    1 << (12 + level * TABLE_SHIFT)
}

/// First virtual page behind the slot of `vpn`, `level` levels above the leaf.
const fn next_boundary(vpn: u64, level: u32) -> u64 {
    let shift = level * TABLE_SHIFT;
    ((vpn >> shift) + 1) << shift
}

/// The rounding at the top of `free_pgd_range()`: nothing when no leaf can go.
fn pmd_bounds(range: std::ops::Range<u64>, floor: u64, ceiling: u64) -> Option<(u64, u64)> {
    let pmd_size = table_bytes(1);
    let (mut addr, mut end) = (range.start & !(pmd_size - 1), range.end);
    if addr < floor {
        addr += pmd_size;
    }
    let ceiling = match ceiling {
        0 => 0,
        _ => Some(ceiling & !(pmd_size - 1)).filter(|&ceiling| ceiling != 0)?,
    };
    if end - 1 > ceiling.wrapping_sub(1) {
        end = end.checked_sub(pmd_size)?;
    }
    (end > 0 && addr < end).then_some((addr, end))
}

/// Whether a table whose slot begins at `start` serves no VMA beyond `floor` and `ceiling`: the end
/// of `free_pmd_range()`.
const fn outside_unused(start: u64, end: u64, (floor, ceiling): (u64, u64), size: u64) -> bool {
    if start < floor {
        return false;
    }
    let ceiling = match ceiling {
        0 => 0,
        _ => match ceiling & !(size - 1) {
            0 => return false,
            rounded => rounded,
        },
    };
    end - 1 <= ceiling.wrapping_sub(1)
}

fn index_of(at: usize) -> u32 {
    u32::try_from(at).expect("fewer tables than frames")
}
