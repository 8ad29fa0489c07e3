//! The free lists of one zone: `struct free_area`, include/linux/mmzone.h v6.12, threaded through
//! the page-frame array. Head and tail matter: they decide which frame is handed out next.
#![allow(clippy::inline_always)] // see page_alloc

use crate::mem_map::{MemMap, Store};
use crate::units::{MigrateType, Order, Pfn};

const PREV: usize = 0;
const NEXT: usize = 1;

/// A place in a list: a frame, or none. Links are stored as these numbers, so that a frame with no
/// neighbours has links of 0, as one in use that nobody owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link(u32);

impl Link {
    const NONE: Self = Self(0);

    /// No pfn is `u32::MAX`.
    #[inline(always)]
    const fn to(pfn: u32) -> Self {
        Self(pfn + 1)
    }

    #[inline(always)]
    fn pfn(self) -> Option<Pfn> {
        (self != Self::NONE).then(|| Pfn(self.0 - 1))
    }
}

/// A doubly linked list of blocks, threaded through their first frames. The links of a block that is
/// alone on its list are 0 and need not be looked at.
#[derive(Clone, Copy, Debug)]
struct List {
    head: Link,
    tail: Link,
    nr: u32,
}

const EMPTY: List = List {
    head: Link::NONE,
    tail: Link::NONE,
    nr: 0,
};

impl List {
    /// A list of one block.
    #[inline(always)]
    const fn of(pfn: u32) -> Self {
        Self {
            head: Link::to(pfn),
            tail: Link::to(pfn),
            nr: 1,
        }
    }

    #[inline(always)]
    fn insert<const SHIFT: u32>(&mut self, store: &mut Store<SHIFT>, pfn: u32, side: Side) {
        debug_assert_eq!(
            store.link(pfn),
            [0; 2],
            "frame {pfn} has an owner or a list"
        );
        let (Some(head), Some(tail)) = (self.head.pfn(), self.tail.pfn()) else {
            *self = Self::of(pfn);
            return;
        };
        let new = Link::to(pfn);
        self.nr += 1;
        match side {
            Side::Head => {
                store.link_mut(pfn)[NEXT] = self.head.0;
                store.link_mut(head.0)[PREV] = new.0;
                self.head = new;
            }
            Side::Tail => {
                store.link_mut(pfn)[PREV] = self.tail.0;
                store.link_mut(tail.0)[NEXT] = new.0;
                self.tail = new;
            }
        }
    }

    #[inline(always)]
    fn remove_head<const SHIFT: u32>(&mut self, store: &mut Store<SHIFT>, head: u32) {
        if self.head == self.tail {
            *self = EMPTY;
            return;
        }
        let link = store.link_mut(head);
        let next = Link(link[NEXT]);
        link[NEXT] = 0;
        self.head = next;
        self.nr -= 1;
        if let Some(next) = next.pfn() {
            store.link_mut(next.0)[PREV] = 0;
        }
    }

    #[inline(always)]
    fn remove<const SHIFT: u32>(&mut self, store: &mut Store<SHIFT>, pfn: u32) {
        if self.head == self.tail {
            *self = EMPTY;
            return;
        }
        let link = store.link_mut(pfn);
        let [prev, next] = *link;
        *link = [0; 2];
        match Link(prev).pfn() {
            Some(prev) => store.link_mut(prev.0)[NEXT] = next,
            None => self.head = Link(next),
        }
        match Link(next).pfn() {
            Some(next) => store.link_mut(next.0)[PREV] = prev,
            None => self.tail = Link(prev),
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
    lists: [[List; SLOTS]; MigrateType::COUNT],
    /// Bit `order` is set when the list of that order and migratetype is not empty.
    nonempty: [u16; MigrateType::COUNT],
}

impl Default for FreeArea {
    fn default() -> Self {
        Self {
            lists: [[EMPTY; SLOTS]; MigrateType::COUNT],
            nonempty: [0; MigrateType::COUNT],
        }
    }
}

impl FreeArea {
    /// Number of free blocks of one order and migratetype.
    pub const fn nr_of(&self, order: Order, migratetype: MigrateType) -> u32 {
        self.lists[migratetype.index()][slot(order)].nr
    }

    /// How many blocks of an order the free blocks of one migratetype make.
    pub(crate) fn holds(&self, order: Order, migratetype: MigrateType) -> u64 {
        let larger = Order::all().filter(|&larger| larger >= order);
        larger
            .map(|larger| {
                u64::from(self.nr_of(larger, migratetype)) << (larger.get() - order.get())
            })
            .sum()
    }

    /// Number of free blocks of one order, all migratetypes: `free_area::nr_free`.
    pub fn nr_free(&self, order: Order) -> u64 {
        self.lists
            .iter()
            .map(|lists| u64::from(lists[slot(order)].nr))
            .sum()
    }

    /// First block of a list: `get_page_from_free_area()`, mm/page_alloc.c v6.12.
    #[inline]
    pub(crate) fn first(&self, order: Order, migratetype: MigrateType) -> Option<Pfn> {
        self.lists[migratetype.index()][slot(order)].head.pfn()
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
        let list = &mut self.lists[migratetype.index()][slot(order)];
        if list.head == Link::NONE {
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
        let list = &mut self.lists[mt.index()][slot(order)];
        let pfn = list.head.pfn()?;
        if map.is_hi(order) {
            map.hi.clear(pfn.0);
            list.remove_head(&mut map.hi, pfn.0);
        } else {
            list.remove_head(&mut map.lo, pfn.0);
        }
        if list.head == Link::NONE {
            self.nonempty[mt.index()] &= !(1 << order.get());
        }
        Some(pfn)
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
        let list = &mut self.lists[mt.index()][slot(order)];
        debug_assert_eq!(list.nr, 0, "nothing smaller was found");
        debug_assert_eq!(
            store.link(pfn),
            [0; 2],
            "frame {pfn} has an owner or a list"
        );
        *list = List::of(pfn);
        store.set_free(pfn, order);
    }

    /// Takes a free block off its list; its head is unmarked, its links are zero:
    /// `__del_page_from_free_list()`.
    #[inline(always)]
    pub(crate) fn del(&mut self, map: &mut MemMap, pfn: Pfn, order: Order, mt: MigrateType) {
        let list = &mut self.lists[mt.index()][slot(order)];
        if map.is_hi(order) {
            map.hi.clear(pfn.0);
            list.remove(&mut map.hi, pfn.0);
        } else {
            map.lo.clear(pfn.0);
            list.remove(&mut map.lo, pfn.0);
        }
        if list.head == Link::NONE {
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
        let mut next = self.lists[migratetype.index()][slot(order)].head;
        std::iter::from_fn(move || {
            let pfn = next.pfn()?;
            next = Link(map.link(pfn.0, order)[NEXT]);
            Some(pfn)
        })
    }

    /// The blocks of a list, tail first.
    pub(crate) fn iter_reverse<'a>(
        &'a self,
        map: &'a MemMap,
        order: Order,
        migratetype: MigrateType,
    ) -> impl Iterator<Item = Pfn> + 'a {
        let mut next = self.lists[migratetype.index()][slot(order)].tail;
        std::iter::from_fn(move || {
            let pfn = next.pfn()?;
            next = Link(map.link(pfn.0, order)[PREV]);
            Some(pfn)
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
        let list = &mut self.lists[migratetype.index()][slot(order)];
        let last = Link(map.link(first.0, order)[PREV]);
        let (Some(before), Some(head), Some(tail)) = (last.pfn(), list.head.pfn(), list.tail.pfn())
        else {
            return;
        };
        map.link_mut(tail.0, order)[NEXT] = list.head.0;
        map.link_mut(head.0, order)[PREV] = list.tail.0;
        map.link_mut(before.0, order)[NEXT] = 0;
        map.link_mut(first.0, order)[PREV] = 0;
        (list.head, list.tail) = (Link::to(first.0), last);
    }

    /// Turns a list so that a block of it comes last: `move_freelist_tail()`, mm/compaction.c v6.12.
    pub(crate) fn rotate_behind(
        &mut self,
        map: &mut MemMap,
        order: Order,
        migratetype: MigrateType,
        last: Pfn,
    ) {
        if let Some(next) = Link(map.link(last.0, order)[NEXT]).pfn() {
            self.rotate_to_head(map, order, migratetype, next);
        }
    }

    /// Last block of a list.
    pub(crate) fn last(&self, order: Order, migratetype: MigrateType) -> Option<Pfn> {
        self.lists[migratetype.index()][slot(order)].tail.pfn()
    }

    /// Who stands after the block before this one on its list, and before the block after it: the
    /// block itself, twice, unless the list is torn. For the invariant checker.
    pub(crate) fn neighbours(
        &self,
        map: &MemMap,
        pfn: Pfn,
        order: Order,
        migratetype: MigrateType,
    ) -> (Option<Pfn>, Option<Pfn>) {
        let list = &self.lists[migratetype.index()][slot(order)];
        let [prev, next] = map.link(pfn.0, order);
        let on_list = |near: Pfn| map.is_free_head(near, order);
        let before = match Link(prev).pfn() {
            Some(prev) if on_list(prev) => Link(map.link(prev.0, order)[NEXT]),
            Some(_) => Link::NONE,
            None => list.head,
        };
        let after = match Link(next).pfn() {
            Some(next) if on_list(next) => Link(map.link(next.0, order)[PREV]),
            Some(_) => Link::NONE,
            None => list.tail,
        };
        (before.pfn(), after.pfn())
    }

    /// Tells whether the masks say of every list whether it has blocks, and so do its ends.
    pub(crate) fn masks_agree(&self) -> bool {
        self.lists.iter().zip(self.nonempty).all(|(lists, mask)| {
            Order::all().all(|order| {
                let list = &lists[slot(order)];
                let some = list.nr > 0;
                some == (mask >> order.get() & 1 == 1)
                    && some == (list.head != Link::NONE)
                    && some == (list.tail != Link::NONE)
            })
        })
    }

    /// Previous link of a block on a list, for the invariant checker.
    pub(crate) fn prev(map: &MemMap, pfn: Pfn, order: Order) -> Option<Pfn> {
        Link(map.link(pfn.0, order)[PREV]).pfn()
    }
}
