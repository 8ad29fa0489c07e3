//! The page-frame array: what Linux keeps in `struct page` (include/linux/mm_types.h v6.12).
//!
//! # Layout
//! Structure of arrays, 16 bytes a frame, zero where nothing was ever written, so that a frame that
//! no one touched costs no resident memory:
//!
//! | array | bytes a frame | while allocated | while free |
//! |---|---|---|---|
//! | `state` | 1 | head of a block: its class, whether it is larger than a frame; else 0 | head: its order; else 0 |
//! | `order` | 1 | head of a block larger than a frame: its order; else stale | stale |
//! | `meta`  | 6 | flags, references - 1, map count (`u16` each) | 0 |
//! | `links` | 8 | anchor, index: reverse map or cache index | head with neighbours on its list: these; else 0 |
//!
//! *Heads*: a non-zero `state` byte marks the first frame of a block, free or allocated, and only
//! that; blocks tile the whole array. A frame's class is found by looking for the head that covers it.
//! What single frames and small free blocks need is in the one byte, so that neither a get nor a put
//! looks at more of a frame until lists have neighbours to link.
//!
//! *Hi store*: state, order and free-list links of blocks of order >= 9 are in dense arrays with an entry a
//! pageblock, so that whole pageblocks change hands without a touch on the frames' own arrays.
//! `meta` and (anchor, index) of a frame are always in the frame's arrays.
//!
//! Reference and map counts saturate at `u16::MAX`; what is above is in an overflow table.
#![allow(clippy::inline_always)] // see page_alloc

use std::collections::BTreeMap;

mod file_lists;
mod fingerprint;
mod record;
mod store;

pub use file_lists::FileList;
use file_lists::FileLists;
pub(crate) use record::FrameRecord;
pub use record::GUP_PIN_COUNTING_BIAS;
pub(crate) use store::Store;
use store::{COMPOUND, FREE, KIND_MASK, LARGE, SINGLE, decode, state_of};

use crate::events::Events;
pub use crate::page_class::{PageClass, page_flags};
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER, Pfn, ZoneId};

const FLAGS: usize = 0;
const REFS: usize = 1;
const MAPS: usize = 2;
/// A pageblock that belongs to more than one zone, or to none.
const MIXED: u8 = u8::MAX;
const SATURATED: u16 = u16::MAX;

/// What is known of a pageblock.
#[derive(Clone, Copy, Debug)]
struct Pageblock {
    migratetype: MigrateType,
    /// The number of its zone, or [`MIXED`].
    zone: u8,
}

/// First frame of a block: what it is and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// First frame.
    pub pfn: Pfn,
    /// log2 of its frames.
    pub order: Order,
    /// What all its frames are.
    pub class: PageClass,
    /// `__GFP_COMP`: one folio.
    pub compound: bool,
}

impl BlockHead {
    /// The block's frames, ascending.
    pub fn frames(&self) -> impl Iterator<Item = Pfn> + use<> {
        (self.pfn.0..self.pfn.0 + self.order.nr_pages()).map(Pfn)
    }
}

/// The page-frame array and the pageblocks.
#[derive(Clone, Debug)]
pub struct MemMap {
    pub(crate) lo: Store<0>,
    pub(crate) hi: Store<{ PAGEBLOCK_ORDER as u32 }>,
    meta: Vec<[u16; 3]>,
    pageblocks: Vec<Pageblock>,
    /// Whether blocks of order >= 9 are in the hi store.
    hi_store: bool,
    /// Present ranges by zone, for pageblocks that zones share.
    ranges: Vec<(u32, u32, ZoneId)>,
    refs_above: BTreeMap<u32, u32>,
    maps_above: BTreeMap<u32, u32>,
    file_lists: FileLists,
    /// Whoever listens to what happens to the frames.
    pub(crate) events: Events,
}

impl MemMap {
    /// An array of `nr_frames`, none of them in any block yet.
    pub(crate) fn new(nr_frames: u32, hi_store: bool) -> Self {
        let frames = nr_frames as usize;
        let pageblocks = nr_frames.div_ceil(PAGEBLOCK_NR_PAGES) as usize;
        Self {
            lo: Store::new(frames),
            hi: Store::new(pageblocks),
            meta: vec![[0; 3]; frames],
            pageblocks: vec![
                Pageblock {
                    migratetype: MigrateType::Movable,
                    zone: MIXED,
                };
                pageblocks
            ],
            hi_store,
            ranges: Vec::new(),
            refs_above: BTreeMap::new(),
            maps_above: BTreeMap::new(),
            file_lists: FileLists::default(),
            events: Events::default(),
        }
    }

    /// An array of as many frames and the same zones, with no blocks, all pageblocks movable.
    pub(crate) fn emptied(&self) -> Self {
        let mut empty = Self::new(self.nr_frames(), self.hi_store);
        for (block, own) in empty.pageblocks.iter_mut().zip(&self.pageblocks) {
            block.zone = own.zone;
        }
        empty.ranges.clone_from(&self.ranges);
        empty
    }

    /// The first of `nr` frames that exists, if one does.
    pub(crate) fn first_present(&self, start: Pfn, nr: u32) -> Option<Pfn> {
        let end = start.0 + nr;
        let within = self
            .ranges
            .iter()
            .filter(|&&(from, to, _)| from < end && to > start.0);
        within.map(|&(from, _, _)| Pfn(from.max(start.0))).min()
    }

    /// One past the last frame.
    pub fn nr_frames(&self) -> u32 {
        u32::try_from(self.lo.state.len()).expect("made from a u32")
    }

    /// Number of pageblocks, the last one maybe partial.
    pub fn nr_pageblocks(&self) -> usize {
        self.pageblocks.len()
    }

    // ---- heads -------------------------------------------------------------------------------

    /// Whether blocks of this order are in the hi store.
    #[inline(always)]
    pub(crate) const fn is_hi(&self, order: Order) -> bool {
        order.get() >= PAGEBLOCK_ORDER && self.hi_store
    }

    /// Marks the first frame of a block. The block that was there must have been removed.
    #[inline]
    pub(crate) fn set_head(&mut self, pfn: Pfn, order: Order, class: PageClass) {
        self.mark(pfn, order, state_of(class, order));
    }

    /// Marks the first frame of an allocated block: of a folio if it is `compound` and larger than a
    /// frame.
    #[inline(always)]
    pub(crate) fn set_allocated(
        &mut self,
        pfn: Pfn,
        order: Order,
        class: PageClass,
        compound: bool,
    ) {
        debug_assert_ne!(class, PageClass::Free, "free blocks are on lists");
        if order == Order::ZERO {
            self.lo.set_state(pfn.0, SINGLE | class as u8);
        } else {
            let folio = if compound { COMPOUND } else { 0 };
            self.mark(pfn, order, LARGE | folio | class as u8);
        }
    }

    #[inline(always)]
    fn mark(&mut self, pfn: Pfn, order: Order, state: u8) {
        if self.is_hi(order) {
            self.hi.set_head(pfn.0, order, state);
        } else {
            self.lo.set_head(pfn.0, order, state);
        }
    }

    /// Marks the first frames of `nr` adjacent blocks.
    pub(crate) fn set_heads(&mut self, start: Pfn, order: Order, nr: u32, class: PageClass) {
        if order == Order::ZERO {
            let first = start.0 as usize;
            self.lo.state[first..first + nr as usize].fill(state_of(class, order));
            return;
        }
        for i in 0..nr {
            self.set_head(Pfn(start.0 + (i << order.get())), order, class);
        }
    }

    /// Marks the first frame of a compound block: a folio.
    #[inline]
    pub(crate) fn set_compound(&mut self, pfn: Pfn, order: Order, class: PageClass) {
        debug_assert!(order > Order::ZERO, "a folio has more frames than one");
        self.mark(pfn, order, LARGE | COMPOUND | class as u8);
    }

    /// Forgets the block of `order` that starts at `pfn`.
    #[inline]
    pub(crate) fn clear_head(&mut self, pfn: Pfn, order: Order) {
        if self.is_hi(order) {
            self.hi.clear(pfn.0);
        } else {
            self.lo.clear(pfn.0);
        }
    }

    /// Tells whether an allocated block of exactly this order starts here, one that may be freed.
    #[inline]
    pub(crate) fn is_allocated_head(&self, pfn: Pfn, order: Order) -> bool {
        if self.is_hi(order) {
            self.hi.is_allocated(pfn.0, order)
        } else {
            self.lo.is_allocated(pfn.0, order)
        }
    }

    /// As [`Self::is_allocated_head`], for classes of which no list is kept.
    #[inline]
    pub(crate) fn is_unlisted_head(&self, pfn: Pfn, order: Order) -> bool {
        if self.is_hi(order) {
            self.hi.is_unlisted(pfn.0, order)
        } else {
            self.lo.is_unlisted(pfn.0, order)
        }
    }

    /// Tells whether a free block of exactly this order starts here: `PageBuddy` and `buddy_order`.
    #[inline]
    pub(crate) fn is_free_head(&self, pfn: Pfn, order: Order) -> bool {
        if self.is_hi(order) {
            self.hi.is_free(pfn.0, order)
        } else {
            self.lo.is_free(pfn.0, order)
        }
    }

    /// The block that starts at this frame, if one does.
    #[inline]
    pub fn head_at(&self, pfn: Pfn) -> Option<BlockHead> {
        if self.lo.state.get(pfn.0 as usize)? != &0 {
            return self.lo.head_at(pfn.0);
        }
        if pfn.0 & (PAGEBLOCK_NR_PAGES - 1) == 0 {
            self.hi.head_at(pfn.0)
        } else {
            None
        }
    }

    /// Reads what freeing these frames will need, all at once, so that they are waited for together.
    /// Frames outside the array are passed over.
    pub(crate) fn look_at(&self, pfns: impl Iterator<Item = u32>) {
        let seen = pfns.filter_map(|pfn| self.lo.peek(pfn));
        std::hint::black_box(seen.fold(0, |all, word| all ^ word));
    }

    /// Every block, ascending.
    ///
    /// # Panics
    /// When a frame is in no block: an invariant is broken.
    pub fn blocks(&self) -> impl Iterator<Item = BlockHead> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            (next < self.nr_frames()).then(|| {
                let head = self.head_at(Pfn(next)).expect("blocks tile the array");
                next += head.order.nr_pages();
                head
            })
        })
    }

    /// The block that holds this frame.
    ///
    /// # Panics
    /// When the frame is outside the array, or in no block: an invariant is broken.
    #[inline]
    pub fn block_of(&self, pfn: Pfn) -> BlockHead {
        for order in Order::all() {
            let start = Pfn(pfn.0 & !(order.nr_pages() - 1));
            if let Some(head) = self.head_at(start) {
                assert!(head.order >= order, "frame {} is in no block", pfn.0);
                return head;
            }
        }
        panic!("frame {} is in no block", pfn.0)
    }

    /// What the frame is used for.
    #[inline]
    pub fn class(&self, pfn: Pfn) -> PageClass {
        match self.lo.state(pfn.0) {
            0 => self.block_of(pfn).class,
            state => decode(pfn, state, 0).class,
        }
    }

    /// Changes the class of the allocated block whose head is `pfn`.
    ///
    /// # Panics
    /// When no block starts at `pfn`.
    #[inline]
    pub fn set_class(&mut self, pfn: Pfn, class: PageClass) {
        let state = &mut self.lo.state[pfn.0 as usize];
        let state = if *state == 0 {
            &mut self.hi.state[pfn.pageblock()]
        } else {
            state
        };
        let allocated = *state != 0 && *state & FREE == 0;
        assert!(allocated, "no allocated block starts at frame {}", pfn.0);
        *state = (*state & KIND_MASK) | class as u8;
    }

    /// Order of the folio or block whose head is `pfn`: `folio_order()`.
    ///
    /// # Panics
    /// When no block starts at `pfn`.
    #[inline]
    pub fn folio_order(&self, pfn: Pfn) -> Order {
        self.head_at(pfn).expect("a head").order
    }

    /// Head of the folio or block that holds `pfn`: `page_folio()`.
    #[inline]
    pub fn folio_head(&self, pfn: Pfn) -> Pfn {
        if self.lo.state[pfn.0 as usize] != 0 {
            pfn
        } else {
            self.block_of(pfn).pfn
        }
    }

    /// As [`Self::folio_head`], for a frame that is flagged as part of a large folio: most of these
    /// are of order 9, and found at once.
    #[inline]
    pub(crate) fn large_head(&self, pfn: Pfn) -> Pfn {
        if self.hi.state(pfn.0) != 0 {
            return Pfn(pfn.0 & !(PAGEBLOCK_NR_PAGES - 1));
        }
        self.folio_head(pfn)
    }

    /// Makes an allocated block into blocks of order 0 of the same class: `split_page()`,
    /// mm/page_alloc.c v6.12, and the end of `__split_huge_page()`, mm/huge_memory.c v6.12.
    ///
    /// Counts, flags, anchors and indexes of the frames stay as they are, but that frames of a file are
    /// on the list that the whole was on: `__split_huge_page_tail()`.
    pub(crate) fn split_block(&mut self, head: Pfn) {
        let block = self.head_at(head).expect("a head");
        let is_file = block.class.is_file();
        if is_file {
            self.unlist_file(head);
        }
        self.clear_head(head, block.order);
        let start = head.0 as usize;
        let nr = block.order.nr_pages() as usize;
        self.lo.state[start..start + nr].fill(state_of(block.class, Order::ZERO));
        if is_file {
            let used = self.flags(head) & (page_flags::ACTIVE | page_flags::REFERENCED);
            for pfn in block.frames() {
                self.add_flags(pfn, used);
                self.list_file(pfn);
            }
        }
    }

    /// Marks `nr` frames from `start` as blocks of `class`, as large as alignment allows.
    pub(crate) fn set_run(&mut self, start: Pfn, nr: u32, class: PageClass) {
        for (pfn, order) in aligned_blocks(start, nr) {
            self.set_head(pfn, order, class);
        }
    }

    /// Tells whether no other block starts within this one.
    pub(crate) fn is_bare_within(&self, pfn: Pfn, order: Order) -> bool {
        let start = pfn.0 as usize;
        let first = if self.is_hi(order) { start } else { start + 1 };
        let lo = &self.lo.state[first..start + order.nr_pages() as usize];
        let second_hi = order == Order::MAX && self.is_hi(order);
        let aligned_lo = !self.is_hi(order) && pfn.0 & (PAGEBLOCK_NR_PAGES - 1) == 0;
        lo.iter().all(|&state| state == 0)
            && !(second_hi && self.hi.state[pfn.pageblock() + 1] != 0)
            && !(aligned_lo && self.hi.state[pfn.pageblock()] != 0)
    }

    /// Tells whether the frames of a block that no one uses have neither flags, counts nor owner. The
    /// links of a free block's first frame are its list's.
    pub(crate) fn is_unowned(&self, pfn: Pfn, order: Order, listed: bool) -> bool {
        let start = pfn.0 as usize;
        let end = start + order.nr_pages() as usize;
        let first = if listed && !self.is_hi(order) {
            start + 1
        } else {
            start
        };
        self.meta[start..end].iter().all(|meta| *meta == [0; 3])
            && self.lo.links[first..end]
                .iter()
                .all(|links| *links == [0; 2])
    }

    // ---- links: free list, or reverse map and cache index ------------------------------------

    /// Links of a free block.
    pub(crate) fn link(&self, pfn: u32, order: Order) -> [u32; 2] {
        if self.is_hi(order) {
            self.hi.link(pfn)
        } else {
            self.lo.link(pfn)
        }
    }

    /// Links of a free block.
    pub(crate) fn link_mut(&mut self, pfn: u32, order: Order) -> &mut [u32; 2] {
        if self.is_hi(order) {
            self.hi.link_mut(pfn)
        } else {
            self.lo.link_mut(pfn)
        }
    }

    // ---- pageblocks --------------------------------------------------------------------------

    /// Migratetype of the pageblock of a frame: `get_pageblock_migratetype()`.
    #[inline]
    pub fn pageblock_migratetype(&self, pfn: Pfn) -> MigrateType {
        self.pageblocks[pfn.pageblock()].migratetype
    }

    /// Zone and migratetype of a frame's pageblock.
    #[inline]
    pub(crate) fn pageblock(&self, pfn: Pfn) -> (Option<ZoneId>, MigrateType) {
        let Pageblock { migratetype, zone } = self.pageblocks[pfn.pageblock()];
        let zone = if zone == MIXED {
            self.zone_of_mixed(pfn)
        } else {
            Some(ZoneId(zone))
        };
        (zone, migratetype)
    }

    /// `set_pageblock_migratetype()`.
    #[inline]
    pub(crate) fn set_pageblock_migratetype(&mut self, pfn: Pfn, migratetype: MigrateType) {
        self.pageblocks[pfn.pageblock()].migratetype = migratetype;
    }

    /// Says that `nr` frames from `start` belong to `zone`.
    pub(crate) fn assign_zone(&mut self, start: Pfn, nr: u32, zone: ZoneId) {
        let end = start.0 + nr;
        self.ranges.push((start.0, end, zone));
        let first_whole = start.0.div_ceil(PAGEBLOCK_NR_PAGES);
        let past_whole = end / PAGEBLOCK_NR_PAGES;
        for block in first_whole..past_whole {
            self.pageblocks[block as usize].zone = zone.0;
        }
    }

    /// The zone of a frame, or none for a frame of no zone: `page_zone()`.
    #[inline]
    pub fn zone_of(&self, pfn: Pfn) -> Option<ZoneId> {
        match self.pageblocks.get(pfn.pageblock())?.zone {
            MIXED => self.zone_of_mixed(pfn),
            zone => Some(ZoneId(zone)),
        }
    }

    #[cold]
    fn zone_of_mixed(&self, pfn: Pfn) -> Option<ZoneId> {
        let range = self
            .ranges
            .iter()
            .find(|&&(start, end, _)| (start..end).contains(&pfn.0));
        range.map(|&(_, _, zone)| zone)
    }

    /// Whether the pageblock of a frame lies within one zone.
    #[inline]
    pub(crate) fn pageblock_is_whole(&self, pfn: Pfn) -> bool {
        self.pageblocks[pfn.pageblock()].zone != MIXED
    }
}

/// Cuts a run of frames into the largest aligned blocks, ascending: `__free_pages_memory()`,
/// mm/memblock.c v6.12.
pub(crate) fn aligned_blocks(start: Pfn, nr: u32) -> impl Iterator<Item = (Pfn, Order)> {
    let mut next = start.0;
    let mut left = nr;
    std::iter::from_fn(move || {
        (left > 0).then(|| {
            let order = Order::largest_at(Pfn(next), left);
            let pfn = Pfn(next);
            next += order.nr_pages();
            left -= order.nr_pages();
            (pfn, order)
        })
    })
}
