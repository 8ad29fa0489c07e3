//! The page cache: which frames hold which pages of a file, `struct address_space`,
//! include/linux/fs.h v6.12. Shared memory (shmem, memfd, shared anonymous) is a file here too.
//!
//! A cached frame's owner words are (file id, page index). Who maps it is known per *mapping* and
//! not per frame, as in `i_mmap`: an address space that maps page `i` of a file at virtual page
//! `i + delta` is the pair (address space, delta), counted by its present entries.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::address_space::MmId;
use crate::contents::{Fill, PAGE_SIZE};
use crate::units::Pfn;

const CHUNK_PAGES: u32 = 64;
/// Pages that a read from the start of a disk's file brings in: `get_init_ra_size()`, one page asked.
const INITIAL_READ_AHEAD: u32 = 4;
/// `ra_pages` of 128 KiB: nothing reads further ahead.
pub(crate) const MAX_READ_AHEAD: u32 = 32;

/// A file, named by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// How a file's pages are backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A file on a disk.
    Regular,
    /// Memory: shmem, memfd, shared anonymous mappings.
    Shmem,
}

/// What a new file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// How it is backed.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Byte `fill + i` (mod 256) fills page `i`; none: zeros.
    pub fill: Option<u8>,
}

/// Frames of `CHUNK_PAGES` consecutive pages.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pfns: [Pfn; CHUNK_PAGES as usize],
    used: u32,
}

/// One file and its cached pages.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub kind: FileKind,
    pub size: u64,
    pub fill: Option<u8>,
    /// Bytes from here on were never filled, or were cut off and are zero.
    pub fill_end: u64,
    /// Pages that were punched out and are zero: disjoint, ascending, not adjacent.
    pub holes: BTreeMap<u32, u32>,
    pub chunks: BTreeMap<u32, Box<Chunk>>,
    pub nr_pages: u64,
    /// Present entries by (address space, virtual page less page index).
    pub mappings: BTreeMap<(MmId, i64), u32>,
}

impl File {
    pub fn new(spec: FileSpec) -> Self {
        Self {
            kind: spec.kind,
            size: spec.size,
            fill: spec.fill,
            fill_end: spec.size,
            holes: BTreeMap::new(),
            chunks: BTreeMap::new(),
            nr_pages: 0,
            mappings: BTreeMap::new(),
        }
    }

    /// Pages of the file, the last one maybe partial: an access at or behind it is SIGBUS.
    pub const fn end_index(&self) -> u64 {
        self.size.div_ceil(PAGE_SIZE as u64)
    }

    /// The cached frame of a page: `filemap_get_folio()`.
    #[inline]
    pub fn lookup(&self, index: u32) -> Option<Pfn> {
        let chunk = self.chunks.get(&(index / CHUNK_PAGES))?;
        Some(chunk.pfns[(index % CHUNK_PAGES) as usize]).filter(|&pfn| pfn != Pfn::NONE)
    }

    /// Pages to read from an absent one on, itself included, when one byte of it is read:
    /// `page_cache_sync_ra()`, mm/readahead.c. A file read from its start will be read further, and so
    /// will one whose pages before this are cached, twice as far if that is all of them.
    pub fn read_ahead(&self, index: u32) -> u32 {
        let before = (index.saturating_sub(MAX_READ_AHEAD)..index).rev();
        let cached = before.take_while(|&at| self.lookup(at).is_some()).count();
        let cached = u32::try_from(cached).expect("at most as many as are read ahead");
        let wanted = match cached {
            _ if index == 0 => INITIAL_READ_AHEAD,
            0 | 1 => 1,
            _ if cached == index => 2 * cached + 1,
            _ => cached + 1,
        };
        let left = self.end_index().saturating_sub(u64::from(index));
        u32::try_from(left).map_or(MAX_READ_AHEAD, |left| wanted.min(MAX_READ_AHEAD).min(left))
    }

    /// Puts a frame in for a page that has none: `filemap_add_folio()`.
    pub fn insert(&mut self, index: u32, pfn: Pfn) {
        let chunk = self.chunks.entry(index / CHUNK_PAGES).or_insert_with(|| {
            Box::new(Chunk {
                pfns: [Pfn::NONE; CHUNK_PAGES as usize],
                used: 0,
            })
        });
        let slot = &mut chunk.pfns[(index % CHUNK_PAGES) as usize];
        assert_eq!(*slot, Pfn::NONE, "page {index} is cached already");
        *slot = pfn;
        chunk.used += 1;
        self.nr_pages += 1;
    }

    /// Takes a page's frame out: `__filemap_remove_folio()`.
    pub fn remove(&mut self, index: u32) -> Option<Pfn> {
        let chunk = self.chunks.get_mut(&(index / CHUNK_PAGES))?;
        let slot = &mut chunk.pfns[(index % CHUNK_PAGES) as usize];
        let pfn = std::mem::replace(slot, Pfn::NONE);
        if pfn == Pfn::NONE {
            return None;
        }
        chunk.used -= 1;
        self.nr_pages -= 1;
        if chunk.used == 0 {
            self.chunks.remove(&(index / CHUNK_PAGES));
        }
        Some(pfn)
    }

    /// Puts another frame in for a cached page: it was migrated.
    pub fn replace(&mut self, index: u32, pfn: Pfn) {
        let chunk = self
            .chunks
            .get_mut(&(index / CHUNK_PAGES))
            .expect("the page is cached");
        chunk.pfns[(index % CHUNK_PAGES) as usize] = pfn;
    }

    /// Cached pages of a range, ascending.
    pub fn cached(&self, range: Range<u32>) -> impl Iterator<Item = (u32, Pfn)> + '_ {
        let chunks = range.start / CHUNK_PAGES..=range.end.saturating_sub(1) / CHUNK_PAGES;
        let pages = self.chunks.range(chunks).flat_map(|(&at, chunk)| {
            (at * CHUNK_PAGES..)
                .zip(chunk.pfns)
                .filter(|&(_, pfn)| pfn != Pfn::NONE)
        });
        pages.filter(move |(index, _)| range.contains(index))
    }

    /// What a page holds on disk, or when it was never written.
    pub fn fill_of(&self, index: u32) -> Fill {
        let start = u64::from(index) * u64::from(PAGE_SIZE);
        let hole = self
            .holes
            .range(..=index)
            .next_back()
            .is_some_and(|(_, &end)| index < end);
        match self.fill {
            Some(first) if !hole && start < self.fill_end => {
                let len = (self.fill_end - start).min(u64::from(PAGE_SIZE));
                let byte = first.wrapping_add(index.to_le_bytes()[0]);
                Fill {
                    byte,
                    len: u16::try_from(len).expect("at most a page"),
                }
            }
            _ => Fill::ZERO,
        }
    }

    /// Records that pages are zero from now on.
    pub fn punch(&mut self, range: Range<u32>) {
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&at, &to)) = self
            .holes
            .range(..=end)
            .next_back()
            .filter(|(_, to)| **to >= start)
        {
            self.holes.remove(&at);
            (start, end) = (start.min(at), end.max(to));
        }
        self.holes.insert(start, end);
    }

    /// Counts present entries that came or went.
    #[inline]
    pub fn count_mappings(&mut self, mm: MmId, delta: i64, change: i32) {
        let count = self.mappings.entry((mm, delta)).or_insert(0);
        *count = count
            .checked_add_signed(change)
            .expect("entries are counted once");
        if *count == 0 {
            self.mappings.remove(&(mm, delta));
        }
    }
}

/// All files.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageCache {
    pub files: BTreeMap<FileId, File>,
    pub next_id: u32,
    /// Entries of the range in hand that are not in `mappings` yet.
    pending: Option<(FileId, MmId, i64, i32)>,
}

impl PageCache {
    /// A new file.
    pub fn create(&mut self, spec: FileSpec) -> FileId {
        let id = FileId(self.next_id);
        self.next_id = self.next_id.checked_add(1).expect("fewer than 2^32 files");
        self.files.insert(id, File::new(spec));
        id
    }

    /// The file of an id that a cached frame or a live mapping names.
    #[inline]
    pub fn file(&self, id: FileId) -> &File {
        self.files.get(&id).expect("the file exists")
    }

    /// As [`Self::file`].
    #[inline]
    pub fn file_mut(&mut self, id: FileId) -> &mut File {
        self.files.get_mut(&id).expect("the file exists")
    }

    /// Counts an entry for page `index` of a file at `vpn`; runs of the same mapping are counted
    /// together by [`Self::settle`].
    #[inline]
    pub fn count_mapping(&mut self, file: FileId, mm: MmId, (vpn, index): (u64, u32), change: i32) {
        let delta = vpn.cast_signed() - i64::from(index);
        match &mut self.pending {
            Some((f, m, d, sum)) if (*f, *m, *d) == (file, mm, delta) => *sum += change,
            _ => {
                self.settle();
                self.pending = Some((file, mm, delta, change));
            }
        }
    }

    /// Writes down what [`Self::count_mapping`] has gathered; every bulk call ends with it.
    #[inline]
    pub fn settle(&mut self) {
        if let Some((file, mm, delta, sum)) = self.pending.take()
            && sum != 0
        {
            self.file_mut(file).count_mappings(mm, delta, sum);
        }
    }
}
