//! Files: what `read(2)`, `write(2)` and `ftruncate(2)` do to the page cache. mm/filemap.c, mm/shmem.c, mm/truncate.c v6.12.

use std::ops::Range;

use crate::address_space::{Cause, MmId, Progress, rss_kind};
use crate::contents::PAGE_SIZE;
use crate::error::AllocError;
use crate::mem_map::page_flags;
use crate::memory::Memory;
use crate::page_cache::{FileId, FileKind, FileSpec};
use crate::units::{Cpu, Pfn};

/// Who uses a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Address space and virtual page of every present entry.
    pub mappings: Vec<(MmId, u64)>,
    /// The page of a file that it caches.
    pub page: Option<(FileId, u32)>,
}

impl Memory {
    /// A new file; nothing of it is cached.
    pub fn file_create(&mut self, spec: FileSpec) -> FileId {
        self.owners.cache.create(spec)
    }

    /// Whether this file exists.
    pub fn has_file(&self, file: FileId) -> bool {
        self.owners.cache.files.contains_key(&file)
    }

    /// Bytes of a file.
    pub fn file_size(&self, file: FileId) -> u64 {
        self.owners.cache.file(file).size
    }

    /// Cached pages of a file.
    pub fn file_nr_pages(&self, file: FileId) -> u64 {
        self.owners.cache.file(file).nr_pages
    }

    /// The frame of a cached page.
    pub fn file_lookup(&self, file: FileId, index: u32) -> Option<Pfn> {
        self.owners.cache.file(file).lookup(index)
    }

    /// Every file, ascending.
    pub fn files(&self) -> impl Iterator<Item = FileId> + '_ {
        self.owners.cache.files.keys().copied()
    }

    /// Brings absent pages of a range into the cache, as a read does. `done` counts pages.
    pub fn cache_insert(&mut self, file: FileId, cpu: Cpu, index: u32, nr: u32) -> Progress {
        for (done, at) in (0..).zip(index..index + nr) {
            if self.owners.cache.file(file).lookup(at).is_none()
                && let Err(error) = self.cache_page(cpu, file, at, None)
            {
                return Progress::blocked(done, Cause::Memory(error));
            }
        }
        Progress::finished(u64::from(nr))
    }

    /// Brings absent pages of shared memory into the cache that nobody has filled yet, so that faults
    /// elsewhere do not map them: `shmem_fallocate()`. `done` counts pages.
    pub fn cache_reserve(&mut self, file: FileId, cpu: Cpu, index: u32, nr: u32) -> Progress {
        for (done, at) in (0..).zip(index..index + nr) {
            if self.owners.cache.file(file).lookup(at).is_some() {
                continue;
            }
            let end = u64::from(index) + u64::from(nr);
            let page = match self.cache_huge(cpu, file, at, (None, end)) {
                Some(pfn) => Ok(pfn),
                None => self.cache_page(cpu, file, at, None),
            };
            match page {
                Ok(pfn) => self.mark_reserved(pfn),
                Err(error) => return Progress::blocked(done, Cause::Memory(error)),
            }
        }
        Progress::finished(u64::from(nr))
    }

    /// A page, and the folio that it is part of, has not been filled.
    fn mark_reserved(&mut self, pfn: Pfn) {
        let head = self.map.counted(pfn);
        for pfn in self.frames_of(head) {
            self.map.clear_flags(pfn, page_flags::UPTODATE);
        }
    }

    /// One byte of a file, through the cache: `read(2)`. None at or behind its end.
    ///
    /// # Errors
    /// No frame for the page.
    pub fn file_read(
        &mut self,
        file: FileId,
        cpu: Cpu,
        offset: u64,
    ) -> Result<Option<u8>, AllocError> {
        if offset >= self.file_size(file) {
            return Ok(None);
        }
        let (index, at) = page_and_offset(offset);
        let object = self.owners.cache.file(file);
        let fill = object.fill_of(index);
        if object.kind == FileKind::Shmem {
            // shmem_file_read_iter() makes no page of a hole, and fills none that was reserved
            return Ok(Some(match object.lookup(index) {
                Some(pfn) => self.owners.contents.read(&self.map, pfn, fill, at),
                None => fill.at(at),
            }));
        }
        if object.lookup(index).is_none() {
            let nr = object.read_ahead(index);
            self.cache_insert(file, cpu, index, nr);
        }
        let pfn = self.file_page(file, cpu, index)?;
        Ok(Some(self.owners.contents.read(&self.map, pfn, fill, at)))
    }

    /// Stores one byte of a file, growing it if need be: `write(2)`.
    ///
    /// # Errors
    /// No frame for the page.
    pub fn file_write(
        &mut self,
        file: FileId,
        cpu: Cpu,
        offset: u64,
        byte: u8,
    ) -> Result<(), AllocError> {
        let (index, at) = page_and_offset(offset);
        let pfn = self.file_page(file, cpu, index)?;
        let entry = self.owners.cache.file_mut(file);
        entry.size = entry.size.max(offset + 1);
        let fill = entry.fill_of(index);
        self.map.add_flags(self.map.counted(pfn), page_flags::DIRTY);
        self.owners
            .contents
            .write(&mut self.map, pfn, fill, (at, byte));
        Ok(())
    }

    fn file_page(&mut self, file: FileId, cpu: Cpu, index: u32) -> Result<Pfn, AllocError> {
        match self.owners.cache.file(file).lookup(index) {
            Some(pfn) => {
                self.mark_uptodate(pfn);
                Ok(pfn)
            }
            None => self.cache_page(cpu, file, index, None),
        }
    }

    /// Sets a file's size; pages behind the end are unmapped wherever they are mapped, and dropped:
    /// `truncate_setsize()`. Private copies behind the end are the caller's to zap. Returns how many
    /// frames were freed. On a disk the page that is cut comes into the cache to be zeroed behind the
    /// cut, also if it is a hole: `__ext4_block_zero_page_range()`, fs/ext4/inode.c.
    pub fn file_truncate(&mut self, file: FileId, cpu: Cpu, size: u64) -> u64 {
        let entry = self.owners.cache.file_mut(file);
        let old_size = std::mem::replace(&mut entry.size, size);
        let on_disk = entry.kind == FileKind::Regular && size < old_size;
        entry.fill_end = entry.fill_end.min(size);
        let first = u32::try_from(size.div_ceil(u64::from(PAGE_SIZE))).unwrap_or(u32::MAX);
        let freed = if size < old_size {
            self.cache_drop(file, cpu, first..u32::MAX)
        } else {
            0 // a huge page may go on behind the end: `shmem_setattr()`
        };
        let (index, at) = page_and_offset(size);
        let cut = self.owners.cache.file(file).lookup(index);
        if cut.is_none()
            && at > 0
            && on_disk
            && let Ok(pfn) = self.cache_page(cpu, file, index, None)
        {
            self.map.clear_flags(pfn, page_flags::UPTODATE);
        }
        if at > 0
            && let Some(pfn) = self.owners.cache.file(file).lookup(index)
        {
            let fill = self.owners.cache.file(file).fill_of(index);
            self.owners.contents.zero_tail(&mut self.map, pfn, fill, at);
        }
        freed
    }

    /// Makes pages of a file zero and drops them: `fallocate(FALLOC_FL_PUNCH_HOLE)`. Returns how many
    /// frames were freed.
    pub fn file_punch(&mut self, file: FileId, cpu: Cpu, pages: Range<u32>) -> u64 {
        self.owners.cache.file_mut(file).punch(pages.clone());
        self.cache_drop(file, cpu, pages)
    }

    /// Removes a file that no VMA maps and nothing has open, with its cache: `evict()`, fs/inode.c.
    pub fn file_drop(&mut self, file: FileId, cpu: Cpu) -> u64 {
        let freed = self.cache_drop(file, cpu, 0..u32::MAX);
        self.owners.cache.files.remove(&file);
        freed
    }

    /// Unmaps and drops the cached pages of a range: `truncate_inode_pages_range()`. Large folios that
    /// the range cuts are split: `truncate_inode_partial_folio()`. Returns how many frames were freed.
    pub fn cache_drop(&mut self, file: FileId, cpu: Cpu, pages: Range<u32>) -> u64 {
        for end in [pages.start, pages.end] {
            self.split_cached_at(file, cpu, end);
        }
        let cached: Vec<_> = self.owners.cache.file(file).cached(pages).collect();
        let mut freed = 0;
        for (index, pfn) in cached {
            self.unmap_cached(cpu, pfn);
            self.owners.cache.settle();
            self.owners.cache.file_mut(file).remove(index);
            self.owners.stat.nr_file_pages -= 1;
            if self.map.flags(pfn) & page_flags::SWAPBACKED != 0 {
                self.owners.stat.nr_shmem -= 1;
            }
            freed += self.put_frame(cpu, pfn);
        }
        freed
    }

    /// Splits the large folio that begins before page `index` of a file and ends behind it.
    fn split_cached_at(&mut self, file: FileId, cpu: Cpu, index: u32) {
        let Some(pfn) = self.owners.cache.file(file).lookup(index) else {
            return;
        };
        let large = self.map.flags(pfn) & page_flags::LARGE != 0;
        if large && self.map.large_head(pfn) != pfn {
            self.split_folio(cpu, self.map.large_head(pfn));
        }
    }

    /// Takes away every mapping of a cached frame: `try_to_unmap()`.
    pub fn unmap_cached(&mut self, cpu: Cpu, pfn: Pfn) {
        if self.map.mapcount(pfn) == 0 {
            return;
        }
        let kind = rss_kind(&self.map, pfn);
        for (mm, vpn) in self.rmap_walk(pfn) {
            let leaf = self.owners.leaf_of(mm, vpn).expect("it maps the frame");
            if self.owners.tables.leaf(leaf).huge {
                self.split_huge_pmd(mm, vpn, leaf);
                continue;
            }
            let pte = std::mem::take(self.owners.pte_mut(mm, vpn));
            self.owners.count_rss(mm, kind, -1);
            self.drop_mapping(mm, cpu, vpn, pte);
        }
    }

    /// Who owns a frame: its mappings, or its file and page.
    pub fn owner_of(&self, pfn: Pfn) -> Owner {
        let cached = self.map.class(pfn).is_cached();
        let file = FileId(self.map.anchor(pfn));
        let owned = self.map.flags(pfn) & page_flags::LRU != 0;
        let page = (cached && owned && self.has_file(file)).then(|| (file, self.map.index(pfn)));
        Owner {
            mappings: self.rmap_walk(pfn),
            page,
        }
    }
}

/// Page of a file and offset within it.
fn page_and_offset(offset: u64) -> (u32, u16) {
    let page = u64::from(PAGE_SIZE);
    let index = u32::try_from(offset / page).unwrap_or(u32::MAX);
    (index, u16::try_from(offset % page).expect("within a page"))
}
