//! The free lists of one zone: `struct free_area`, include/linux/mmzone.h v6.12, threaded through
//! the page-frame array. Head and tail matter: they decide which frame is handed out next.

use crate::mem_map::{MemMap, NONE, PageClass};
use crate::units::{MigrateType, Order, Pfn};

const PREV: usize = 0;
const NEXT: usize = 1;

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
    lists: [[List; MigrateType::COUNT]; Order::COUNT],
    /// Bit `order` is set when the list of that order and migratetype is not empty.
    nonempty: [u16; MigrateType::COUNT],
}

impl Default for FreeArea {
    fn default() -> Self {
        Self {
            lists: [[EMPTY; MigrateType::COUNT]; Order::COUNT],
            nonempty: [0; MigrateType::COUNT],
        }
    }
}

impl FreeArea {
    /// Number of free blocks of one order and migratetype.
    pub const fn nr_of(&self, order: Order, migratetype: MigrateType) -> u32 {
        self.lists[order.index()][migratetype.index()].nr
    }

    /// Number of free blocks of one order, all migratetypes: `free_area::nr_free`.
    pub fn nr_free(&self, order: Order) -> u64 {
        self.lists[order.index()]
            .iter()
            .map(|list| u64::from(list.nr))
            .sum()
    }

    /// First block of a list: `get_page_from_free_area()`, mm/page_alloc.c v6.12.
    #[inline]
    pub(crate) fn first(&self, order: Order, migratetype: MigrateType) -> Option<Pfn> {
        let head = self.lists[order.index()][migratetype.index()].head;
        (head != NONE).then_some(Pfn(head))
    }

    /// Lowest order, not below `order`, with a block of this migratetype.
    #[inline]
    pub(crate) fn smallest(&self, order: Order, migratetype: MigrateType) -> Option<Order> {
        let raw = (self.nonempty[migratetype.index()] >> order.get()).trailing_zeros();
        (raw < 16).then(|| {
            let raw = u8::try_from(raw).expect("below 16") + order.get();
            Order::new(raw).expect("only orders have bits")
        })
    }

    /// Tells whether any of the lists of one migratetype at `order` or above has a block.
    #[inline]
    pub(crate) fn has_at_least(&self, order: Order, migratetype: MigrateType) -> bool {
        self.nonempty[migratetype.index()] >> order.get() != 0
    }

    /// Puts a free block on a list and marks its head: `__add_to_free_list()`.
    #[inline]
    pub(crate) fn add(
        &mut self,
        map: &mut MemMap,
        pfn: Pfn,
        order: Order,
        migratetype: MigrateType,
        side: Side,
    ) {
        map.set_head(pfn, order, PageClass::Free);
        self.link(map, pfn, order, migratetype, side);
    }

    #[inline]
    fn link(&mut self, map: &mut MemMap, pfn: Pfn, order: Order, mt: MigrateType, side: Side) {
        let list = &mut self.lists[order.index()][mt.index()];
        self.nonempty[mt.index()] |= 1 << order.get();
        list.nr += 1;
        match side {
            Side::Head => {
                *map.link_mut(pfn.0, order) = [NONE, list.head];
                if list.head == NONE {
                    list.tail = pfn.0;
                } else {
                    map.link_mut(list.head, order)[PREV] = pfn.0;
                }
                list.head = pfn.0;
            }
            Side::Tail => {
                *map.link_mut(pfn.0, order) = [list.tail, NONE];
                if list.tail == NONE {
                    list.head = pfn.0;
                } else {
                    map.link_mut(list.tail, order)[NEXT] = pfn.0;
                }
                list.tail = pfn.0;
            }
        }
    }

    #[inline]
    fn unlink(&mut self, map: &mut MemMap, pfn: Pfn, order: Order, mt: MigrateType) {
        let [prev, next] = map.link(pfn.0, order);
        let list = &mut self.lists[order.index()][mt.index()];
        if prev == NONE {
            list.head = next;
        } else {
            map.link_mut(prev, order)[NEXT] = next;
        }
        if next == NONE {
            list.tail = prev;
        } else {
            map.link_mut(next, order)[PREV] = prev;
        }
        list.nr -= 1;
        if list.nr == 0 {
            self.nonempty[mt.index()] &= !(1 << order.get());
        }
    }

    /// Takes a free block off its list; its head is unmarked, its links are zero:
    /// `__del_page_from_free_list()`.
    #[inline]
    pub(crate) fn del(&mut self, map: &mut MemMap, pfn: Pfn, order: Order, mt: MigrateType) {
        self.unlink(map, pfn, order, mt);
        *map.link_mut(pfn.0, order) = [0; 2];
        map.clear_head(pfn, order);
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
        self.unlink(map, pfn, order, from);
        self.link(map, pfn, order, to, Side::Tail);
    }

    /// The blocks of a list, head first.
    pub(crate) fn iter<'a>(
        &'a self,
        map: &'a MemMap,
        order: Order,
        migratetype: MigrateType,
    ) -> impl Iterator<Item = Pfn> + 'a {
        let mut next = self.lists[order.index()][migratetype.index()].head;
        std::iter::from_fn(move || {
            (next != NONE).then(|| {
                let pfn = Pfn(next);
                next = map.link(next, order)[NEXT];
                pfn
            })
        })
    }

    /// Last block of a list.
    pub(crate) fn last(&self, order: Order, migratetype: MigrateType) -> Option<Pfn> {
        let tail = self.lists[order.index()][migratetype.index()].tail;
        (tail != NONE).then_some(Pfn(tail))
    }

    /// Previous link of a block on a list, for the invariant checker.
    pub(crate) fn prev(map: &MemMap, pfn: Pfn, order: Order) -> Option<Pfn> {
        let prev = map.link(pfn.0, order)[PREV];
        (prev != NONE).then_some(Pfn(prev))
    }
}
