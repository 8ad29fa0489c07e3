//! The free lists of one zone: `struct free_area`, include/linux/mmzone.h v6.12, threaded through
//! the page-frame array. Head and tail matter: they decide which frame is handed out next.
#![allow(clippy::inline_always)] // see page_alloc

use crate::mem_map::{MemMap, NONE, Store};
use crate::units::{MigrateType, Order, Pfn};

const PREV: usize = 0;
const NEXT: usize = 1;

/// A doubly linked list of blocks, threaded through their first frames.
#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
    nr: u32,
}

const EMPTY: List = List {
    head: NONE,
    tail: NONE,
    nr: 0,
};

impl List {
    #[inline(always)]
    fn insert<const SHIFT: u32>(&mut self, store: &mut Store<SHIFT>, pfn: u32, side: Side) {
        self.nr += 1;
        match side {
            Side::Head => {
                *store.link_mut(pfn) = [NONE, self.head];
                if self.head == NONE {
                    self.tail = pfn;
                } else {
                    store.link_mut(self.head)[PREV] = pfn;
                }
                self.head = pfn;
            }
            Side::Tail => {
                *store.link_mut(pfn) = [self.tail, NONE];
                if self.tail == NONE {
                    self.head = pfn;
                } else {
                    store.link_mut(self.tail)[NEXT] = pfn;
                }
                self.tail = pfn;
            }
        }
    }

    #[inline(always)]
    fn remove_head<const SHIFT: u32>(&mut self, store: &mut Store<SHIFT>) {
        let link = store.link_mut(self.head);
        let next = link[NEXT];
        *link = [0; 2];
        self.head = next;
        self.nr -= 1;
        if next == NONE {
            self.tail = NONE;
        } else {
            store.link_mut(next)[PREV] = NONE;
        }
    }

    #[inline(always)]
    fn remove<const SHIFT: u32>(&mut self, store: &mut Store<SHIFT>, pfn: u32) {
        let link = store.link_mut(pfn);
        let [prev, next] = *link;
        *link = [0; 2];
        if prev == NONE {
            self.head = next;
        } else {
            store.link_mut(prev)[NEXT] = next;
        }
        if next == NONE {
            self.tail = prev;
        } else {
            store.link_mut(next)[PREV] = prev;
        }
        self.nr -= 1;
    }
}

/// Room for every value of an order's four bits, so that no index can be out of bounds.
const SLOTS: usize = 16;

#[inline(always)]
const fn slot(order: Order) -> usize {
    order.index() % SLOTS
}

/// Where a freed block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// `list_add()`.
    Head,
    /// `list_add_tail()`.
    Tail,
}

/// Lists of free blocks by order and migratetype.
#[derive(Clone, Debug)]
pub struct FreeArea {
    lists: [[List; MigrateType::COUNT]; SLOTS],
    /// Bit `order` is set when the list of that order and migratetype is not empty.
    nonempty: [u16; MigrateType::COUNT],
}

impl Default for FreeArea {
    fn default() -> Self {
        Self {
            lists: [[EMPTY; MigrateType::COUNT]; SLOTS],
            nonempty: [0; MigrateType::COUNT],
        }
    }
}

impl FreeArea {
    /// Number of free blocks of one order and migratetype.
    pub const fn nr_of(&self, order: Order, migratetype: MigrateType) -> u32 {
        self.lists[slot(order)][migratetype.index()].nr
    }

    /// Number of free blocks of one order, all migratetypes: `free_area::nr_free`.
    pub fn nr_free(&self, order: Order) -> u64 {
        self.lists[slot(order)]
            .iter()
            .map(|list| u64::from(list.nr))
            .sum()
    }

    /// First block of a list: `get_page_from_free_area()`, mm/page_alloc.c v6.12.
    #[inline]
    pub(crate) fn first(&self, order: Order, migratetype: MigrateType) -> Option<Pfn> {
        let head = self.lists[slot(order)][migratetype.index()].head;
        (head != NONE).then_some(Pfn(head))
    }

    /// Lowest order, not below `order`, with a block of this migratetype.
    #[inline]
    pub(crate) fn smallest(&self, order: Order, migratetype: MigrateType) -> Option<Order> {
        let larger = self.nonempty[migratetype.index()] >> order.get();
        (larger != 0).then(|| order.plus(larger.trailing_zeros()))
    }

    /// Tells whether any of the lists of one migratetype at `order` or above has a block.
    #[inline]
    pub(crate) fn has_at_least(&self, order: Order, migratetype: MigrateType) -> bool {
        self.nonempty[migratetype.index()] >> order.get() != 0
    }

    /// Puts a free block on a list and marks its head: `__add_to_free_list()`.
    #[inline(always)]
    pub(crate) fn add(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        order: Order,
        migratetype: MigrateType,
        side: Side,
    ) {
        let list = &mut self.lists[slot(order)][migratetype.index()];
        if list.head == NONE {
            self.nonempty[migratetype.index()] |= 1 << order.get();
        }
        if map.is_hi(order) {
            map.hi.set_free(pfn.0, order);
            list.insert(&mut map.hi, pfn.0, side);
        } else {
            map.lo.set_free(pfn.0, order);
            list.insert(&mut map.lo, pfn.0, side);
        }
    }

    /// Takes the first block off a list. In the lo store its first frame is still marked, at the old
    /// order, and is to be marked anew.
    #[inline(always)]
    pub(crate) fn pop(&mut self, map: &mut MemMap, order: Order, mt: MigrateType) -> Option<Pfn> {
        let list = &mut self.lists[slot(order)][mt.index()];
        let pfn = list.head;
        if pfn == NONE {
            return None;
        }
        if map.is_hi(order) {
            map.hi.clear(pfn);
            list.remove_head(&mut map.hi);
        } else {
            list.remove_head(&mut map.lo);
        }
        if list.head == NONE {
            self.nonempty[mt.index()] &= !(1 << order.get());
        }
        Some(Pfn(pfn))
    }

    /// Puts the upper halves of a block on their lists, which are empty, down to order `low`:
    /// `expand()` after `__rmqueue_smallest()`, which found nothing smaller.
    #[inline(always)]
    pub(crate) fn fill(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        (low, high): (Order, Order),
        mt: MigrateType,
    ) {
        self.nonempty[mt.index()] |= (1 << high.get()) - (1 << low.get());
        let mut high = high;
        if let Some(half) = high.smaller().filter(|&half| map.is_hi(half)) {
            // Only MAX has halves in the hi store.
            self.fill_one(&mut map.hi, pfn.0 + half.nr_pages(), half, mt);
            high = half;
        }
        for order in low.up_to(high).rev() {
            self.fill_one(&mut map.lo, pfn.0 + order.nr_pages(), order, mt);
        }
    }

    #[inline(always)]
    fn fill_one<const SHIFT: u32>(
        &mut self,
        store: &mut Store<SHIFT>,
        pfn: u32,
        order: Order,
        mt: MigrateType,
    ) {
        let list = &mut self.lists[slot(order)][mt.index()];
        debug_assert_eq!(list.nr, 0, "nothing smaller was found");
        *list = List {
            head: pfn,
            tail: pfn,
            nr: 1,
        };
        store.set_free(pfn, order);
        *store.link_mut(pfn) = [NONE, NONE];
    }

    /// Takes a free block off its list; its head is unmarked, its links are zero:
    /// `__del_page_from_free_list()`.
    #[inline(always)]
    pub(crate) fn del(&mut self, map: &mut MemMap, pfn: Pfn, order: Order, mt: MigrateType) {
        let list = &mut self.lists[slot(order)][mt.index()];
        if map.is_hi(order) {
            map.hi.clear(pfn.0);
            list.remove(&mut map.hi, pfn.0);
        } else {
            map.lo.clear(pfn.0);
            list.remove(&mut map.lo, pfn.0);
        }
        if list.head == NONE {
            self.nonempty[mt.index()] &= !(1 << order.get());
        }
    }

    /// Moves a free block to the tail of another list: `move_to_free_list()`.
    pub(crate) fn move_to_tail(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        order: Order,
        from: MigrateType,
        to: MigrateType,
    ) {
        self.del(map, pfn, order, from);
        self.add(map, pfn, order, to, Side::Tail);
    }

    /// The blocks of a list, head first.
    pub(crate) fn iter<'a>(
        &'a self,
        map: &'a MemMap,
        order: Order,
        migratetype: MigrateType,
    ) -> impl Iterator<Item = Pfn> + 'a {
        let mut next = self.lists[slot(order)][migratetype.index()].head;
        std::iter::from_fn(move || {
            (next != NONE).then(|| {
                let pfn = Pfn(next);
                next = map.link(next, order)[NEXT];
                pfn
            })
        })
    }

    /// The blocks of a list, tail first.
    pub(crate) fn iter_reverse<'a>(
        &'a self,
        map: &'a MemMap,
        order: Order,
        migratetype: MigrateType,
    ) -> impl Iterator<Item = Pfn> + 'a {
        let mut next = self.lists[slot(order)][migratetype.index()].tail;
        std::iter::from_fn(move || {
            (next != NONE).then(|| {
                let pfn = Pfn(next);
                next = map.link(next, order)[PREV];
                pfn
            })
        })
    }

    /// Turns a list so that a block of it comes first: `move_freelist_head()`, mm/compaction.c v6.12.
    pub(crate) fn rotate_to_head(
        &mut self,
        map: &mut MemMap,
        order: Order,
        migratetype: MigrateType,
        first: Pfn,
    ) {
        let list = &mut self.lists[slot(order)][migratetype.index()];
        let [last, _] = map.link(first.0, order);
        if last == NONE {
            return;
        }
        map.link_mut(list.tail, order)[NEXT] = list.head;
        map.link_mut(list.head, order)[PREV] = list.tail;
        map.link_mut(last, order)[NEXT] = NONE;
        map.link_mut(first.0, order)[PREV] = NONE;
        (list.head, list.tail) = (first.0, last);
    }

    /// Turns a list so that a block of it comes last: `move_freelist_tail()`, mm/compaction.c v6.12.
    pub(crate) fn rotate_behind(
        &mut self,
        map: &mut MemMap,
        order: Order,
        migratetype: MigrateType,
        last: Pfn,
    ) {
        let [_, next] = map.link(last.0, order);
        if next != NONE {
            self.rotate_to_head(map, order, migratetype, Pfn(next));
        }
    }

    /// Last block of a list.
    pub(crate) fn last(&self, order: Order, migratetype: MigrateType) -> Option<Pfn> {
        let tail = self.lists[slot(order)][migratetype.index()].tail;
        (tail != NONE).then_some(Pfn(tail))
    }

    /// Previous link of a block on a list, for the invariant checker.
    pub(crate) fn prev(map: &MemMap, pfn: Pfn, order: Order) -> Option<Pfn> {
        let prev = map.link(pfn.0, order)[PREV];
        (prev != NONE).then_some(Pfn(prev))
    }
}
