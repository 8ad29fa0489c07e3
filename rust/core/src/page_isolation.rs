//! Taking pageblocks off the allocator while a range is being emptied: mm/page_isolation.c v6.12.
//!
//! A pageblock that is isolated gets its own migratetype back afterwards. In v6.12 it got the type
//! that the caller names; keeping the old one is the rule since v6.17, and the only one that keeps
//! the highatomic reserve's count right.

use crate::mem_map::{BlockHead, MemMap, PageClass, page_flags};
use crate::memory::Memory;
use crate::units::{Cpu, MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn, ZoneId, ZoneKind};
use crate::zone::{PAGEBLOCK, Zone};

/// What stands in the way of a contiguous range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// A hole, or memory that was never given to the allocator.
    Reserved,
    /// The range, or a pageblock that it touches, does not lie in one zone.
    ZoneBoundary,
    /// A pageblock that somebody else is emptying.
    Isolated,
    /// A pageblock of a CMA area, which serves its owner only.
    Cma,
    /// A page of a hugetlb pool.
    Hugetlb,
    /// A page that cannot move: the kernel's own.
    Unmovable,
    /// A page that somebody pinned.
    Pinned,
    /// A page that could move, but that somebody holds a reference to.
    Busy,
    /// There is no frame elsewhere to move a page to.
    NoTarget,
}

impl Obstacle {
    /// Every obstacle.
    pub const ALL: [Self; 9] = [
        Self::Reserved,
        Self::ZoneBoundary,
        Self::Isolated,
        Self::Cma,
        Self::Hugetlb,
        Self::Unmovable,
        Self::Pinned,
        Self::Busy,
        Self::NoTarget,
    ];

    /// Stable word for callers that speak no Rust.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Reserved => "range_reserved",
            Self::ZoneBoundary => "range_crosses_zones",
            Self::Isolated => "range_isolated",
            Self::Cma => "range_in_cma",
            Self::Hugetlb => "range_has_hugetlb",
            Self::Unmovable => "range_unmovable",
            Self::Pinned => "range_pinned",
            Self::Busy => "range_busy",
            Self::NoTarget => "range_no_target",
        }
    }

    /// What it is, for a sentence.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Reserved => "reserved memory or a hole",
            Self::ZoneBoundary => "the boundary of a zone",
            Self::Isolated => "a pageblock that somebody else empties",
            Self::Cma => "a CMA area",
            Self::Hugetlb => "a page of a hugetlb pool",
            Self::Unmovable => "a page of the kernel that cannot move",
            Self::Pinned => "a pinned page",
            Self::Busy => "a page that somebody holds",
            Self::NoTarget => "a page that has no frame to move to",
        }
    }
}

/// Why a range cannot be had, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// First frame of what stands in the way.
    pub pfn: Pfn,
    /// What it is.
    pub by: Obstacle,
}

/// Pageblocks that are isolated, with the types that they had.
pub(crate) struct Isolation {
    zone: ZoneId,
    cpu: Cpu,
    /// First frame of the first pageblock.
    start: u32,
    old: Vec<Option<MigrateType>>,
}

impl Memory {
    /// Isolates every pageblock that `[start, end)` touches, the two at its ends first:
    /// `start_isolate_page_range()`. Those two are tested whole, so that a page that stays outside
    /// the range, but in its last pageblock, is in the way too.
    pub(crate) fn start_isolate_page_range(
        &mut self,
        zone: ZoneId,
        cpu: Cpu,
        (start, end): (u32, u32),
        migratetype: MigrateType,
    ) -> Result<Isolation, Blocked> {
        let first = start & !(PAGEBLOCK_NR_PAGES - 1);
        let nr = (end - first).div_ceil(PAGEBLOCK_NR_PAGES);
        let mut isolation = Isolation {
            zone,
            cpu,
            start: first,
            old: vec![None; nr as usize],
        };
        let last = first + (nr - 1) * PAGEBLOCK_NR_PAGES;
        let result = self.isolate_all(&mut isolation, (first, last), migratetype);
        match result {
            Ok(()) => Ok(isolation),
            Err(blocked) => {
                self.undo_isolate_page_range(isolation);
                Err(blocked)
            }
        }
    }

    fn isolate_all(
        &mut self,
        isolation: &mut Isolation,
        (first, last): (u32, u32),
        migratetype: MigrateType,
    ) -> Result<(), Blocked> {
        self.set_migratetype_isolate(isolation, first, migratetype)?;
        self.none_straddles(first)?;
        if last != first {
            self.set_migratetype_isolate(isolation, last, migratetype)?;
        }
        self.none_straddles(last + PAGEBLOCK_NR_PAGES)?;
        for block in (first..last).step_by(PAGEBLOCK_NR_PAGES as usize).skip(1) {
            self.set_migratetype_isolate(isolation, block, migratetype)?;
        }
        Ok(())
    }

    /// `set_migratetype_isolate()`.
    fn set_migratetype_isolate(
        &mut self,
        isolation: &mut Isolation,
        block: u32,
        migratetype: MigrateType,
    ) -> Result<(), Blocked> {
        let zone = &mut self.zones[isolation.zone.index()];
        let own = self.map.pageblock_migratetype(Pfn(block));
        let spanned = zone.spans(Pfn(block)) && zone.spans(Pfn(block + PAGEBLOCK_NR_PAGES - 1));
        let by = match own {
            MigrateType::Isolate => Some(Obstacle::Isolated),
            _ => (!spanned).then_some(Obstacle::ZoneBoundary),
        };
        if let Some(by) = by {
            let pfn = Pfn(block);
            return Err(Blocked { pfn, by });
        }
        if let Some(blocked) = has_unmovable_pages(&self.map, zone.kind, block, migratetype) {
            return Err(blocked);
        }
        zone.move_freepages_block_isolate(&mut self.map, Pfn(block), MigrateType::Isolate);
        zone.work_locked(&mut self.clock, isolation.cpu, 0, 1);
        let at = (block - isolation.start) / PAGEBLOCK_NR_PAGES;
        isolation.old[at as usize] = Some(own);
        Ok(())
    }

    /// No folio lies on both sides of a pageblock's end: the end of `isolate_single_pageblock()`.
    /// Free blocks were split there.
    fn none_straddles(&self, boundary: u32) -> Result<(), Blocked> {
        if boundary == 0 || boundary >= self.map.nr_frames() {
            return Ok(());
        }
        let block = self.map.block_of(Pfn(boundary - 1));
        let beyond = block.pfn.0 + block.order.nr_pages() > boundary;
        if beyond && block.compound && block.class != PageClass::Hugetlb {
            return Err(self.blocked_by(block));
        }
        Ok(())
    }

    /// Gives every pageblock back to the type that it had: `undo_isolate_page_range()`.
    pub(crate) fn undo_isolate_page_range(&mut self, isolation: Isolation) {
        let starts = (isolation.start..).step_by(PAGEBLOCK_NR_PAGES as usize);
        for (start, old) in starts.zip(isolation.old) {
            let Some(old) = old else { continue };
            let zone = &mut self.zones[isolation.zone.index()];
            zone.unset_migratetype_isolate(&mut self.map, Pfn(start), old);
            zone.work_locked(&mut self.clock, isolation.cpu, 0, 1);
        }
    }

    /// The first block of `[start, end)` that is not free, if there is one: `test_pages_isolated()`.
    pub(crate) fn test_pages_isolated(&self, start: u32, end: u32) -> Result<(), Blocked> {
        let mut next = start;
        while next < end {
            let block = self.map.block_of(Pfn(next));
            if block.class != PageClass::Free {
                return Err(self.blocked_by(block));
            }
            next = block.pfn.0 + block.order.nr_pages();
        }
        Ok(())
    }

    /// Says what a block in use is that stands in the way.
    pub(crate) fn blocked_by(&self, block: BlockHead) -> Blocked {
        let pinned = || {
            let flags = self.map.flags(block.pfn);
            flags & page_flags::PINNED != 0 || self.map.pins(block.pfn) > 0
        };
        let by = match block.class {
            PageClass::Reserved | PageClass::Nopage => Obstacle::Reserved,
            PageClass::Hugetlb => Obstacle::Hugetlb,
            class if class.is_lru() && pinned() => Obstacle::Pinned,
            class if class.is_lru() || class == PageClass::Pcp => Obstacle::Busy,
            _ => Obstacle::Unmovable,
        };
        Blocked { pfn: block.pfn, by }
    }
}

/// The first page of a pageblock that can be seen to stay: `has_unmovable_pages()`. A pinned page
/// cannot be: it is on an LRU list as others are, and fails to migrate later.
fn has_unmovable_pages(
    map: &MemMap,
    kind: ZoneKind,
    block: u32,
    migratetype: MigrateType,
) -> Option<Blocked> {
    if map.pageblock_migratetype(Pfn(block)) == MigrateType::Cma {
        let foreign = migratetype != MigrateType::Cma;
        return foreign.then_some(Blocked {
            pfn: Pfn(block),
            by: Obstacle::Cma,
        });
    }
    let end = block + PAGEBLOCK_NR_PAGES;
    let mut next = block;
    while next < end {
        let head = map.block_of(Pfn(next));
        // Only the first page of a block that is no folio has a reference.
        let counted = head.compound || head.pfn.0 >= block;
        if let Some(by) = stays(head.class, kind).filter(|_| counted) {
            return Some(Blocked { pfn: head.pfn, by });
        }
        next = head.pfn.0 + head.order.nr_pages();
    }
    None
}

/// What a page is that isolation sees to be in the way.
fn stays(class: PageClass, kind: ZoneKind) -> Option<Obstacle> {
    match class {
        PageClass::Reserved | PageClass::Nopage => Some(Obstacle::Reserved),
        PageClass::Free | PageClass::Pcp | PageClass::Hugetlb => None,
        class if class.is_lru() || kind == ZoneKind::Movable => None,
        _ => Some(Obstacle::Unmovable),
    }
}

impl Zone {
    /// Gives a pageblock another type, and its free frames to that type's lists; a free block that
    /// reaches beyond the pageblock is split: `move_freepages_block_isolate()`, mm/page_alloc.c v6.12.
    fn move_freepages_block_isolate(&mut self, map: &mut MemMap, start: Pfn, to: MigrateType) {
        let block = map.block_of(start);
        if block.class == PageClass::Free && block.order > PAGEBLOCK {
            self.take_free(map, block.pfn, block.order);
            map.set_pageblock_migratetype(start, to);
            self.split_large_buddy(map, block.pfn, block.order);
        } else {
            let from = map.pageblock_migratetype(start);
            self.move_block(map, start, from, to);
        }
    }

    /// `unset_migratetype_isolate()`: a free pageblock whose buddy waits for it is freed again, so
    /// that they merge.
    fn unset_migratetype_isolate(&mut self, map: &mut MemMap, start: Pfn, old: MigrateType) {
        let buddy = start.buddy(PAGEBLOCK);
        let apart = map.is_free_head(start, PAGEBLOCK)
            && map.is_free_head(buddy, PAGEBLOCK)
            && map.zone_of(buddy) == Some(self.id)
            && map.pageblock_migratetype(buddy) != MigrateType::Isolate;
        if !apart {
            self.move_freepages_block_isolate(map, start, old);
            return;
        }
        self.take_free(map, start, PAGEBLOCK);
        map.set_pageblock_migratetype(start, old);
        let tail = Some(crate::free_area::Side::Tail);
        self.free_one_page(map, start, PAGEBLOCK, old, tail);
    }

    /// Takes a free block off its list and out of the counts; its head is unmarked.
    pub(crate) fn take_free(&mut self, map: &mut MemMap, pfn: Pfn, order: Order) {
        let own = map.pageblock_migratetype(pfn);
        self.free_area.del(map, pfn, order, own);
        self.account_removed(u64::from(order.nr_pages()), own);
    }
}
