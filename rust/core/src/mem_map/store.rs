//! Heads and links of blocks: what the allocator's hot paths touch of a frame.
#![allow(clippy::inline_always)] // see page_alloc

use super::{BlockHead, PageClass};
use crate::units::{Order, Pfn};

/// State of a free block: with its order.
pub(super) const FREE: u8 = 0x80;
/// State of an allocated block of one frame: with its class.
pub(super) const SINGLE: u8 = 0x20;
/// State of a larger allocated block: with its class.
pub(super) const LARGE: u8 = 0x40;
/// Beside `LARGE`: one folio.
pub(super) const COMPOUND: u8 = 0x20;
pub(super) const KIND_MASK: u8 = 0xe0;
const ORDER_MASK: u8 = 0xf;
pub(super) const CLASS_MASK: u8 = 0x1f;
/// Bit `class` is set for the classes that can be freed.
const ALLOCATED: u32 = {
    let kept = [
        PageClass::Free,
        PageClass::Nopage,
        PageClass::Reserved,
        PageClass::Pcp,
    ];
    let mut bits = (1 << PageClass::COUNT) - 1;
    let mut at = 0;
    while at < kept.len() {
        bits &= !(1 << kept[at] as u32);
        at += 1;
    }
    bits
};

/// Those of them whose frames stand on no list that is counted: all but files'.
const UNLISTED: u32 = ALLOCATED & !(1 << PageClass::File as u32 | 1 << PageClass::FileLarge as u32);

/// The state of a block's first frame.
pub(super) const fn state_of(class: PageClass, order: Order) -> u8 {
    if matches!(class, PageClass::Free) {
        free_state(order)
    } else if order.get() == 0 {
        SINGLE | class as u8
    } else {
        LARGE | class as u8
    }
}

const fn free_state(order: Order) -> u8 {
    FREE | order.get()
}

const _: () = assert!(PageClass::COUNT <= CLASS_MASK as usize + 1);

pub(super) fn decode(pfn: Pfn, state: u8, order: u8) -> BlockHead {
    let (raw, class) = match state & KIND_MASK {
        FREE => (state & ORDER_MASK, PageClass::Free),
        kind => {
            let class = PageClass::ALL[usize::from(state & CLASS_MASK)];
            (if kind == SINGLE { 0 } else { order }, class)
        }
    };
    BlockHead {
        pfn,
        order: Order::new(raw).expect("only orders are stored"),
        class,
        compound: state & KIND_MASK == LARGE | COMPOUND,
    }
}

/// Heads and links of blocks, with an entry for every 2^`SHIFT` frames.
#[derive(Clone, Debug)]
pub(crate) struct Store<const SHIFT: u32> {
    pub(super) state: Vec<u8>,
    order: Vec<u8>,
    pub(super) links: Vec<[u32; 2]>,
}

impl<const SHIFT: u32> Store<SHIFT> {
    pub(super) fn new(entries: usize) -> Self {
        Self {
            state: vec![0; entries],
            order: vec![0; entries],
            links: vec![[0; 2]; entries],
        }
    }

    /// Links of the block that starts at this frame.
    #[inline(always)]
    pub(crate) fn link(&self, pfn: u32) -> [u32; 2] {
        self.links[(pfn >> SHIFT) as usize]
    }

    /// Links of the block that starts at this frame.
    #[inline(always)]
    pub(crate) fn link_mut(&mut self, pfn: u32) -> &mut [u32; 2] {
        &mut self.links[(pfn >> SHIFT) as usize]
    }

    /// Something made from all that a put of this frame looks at first.
    #[inline(always)]
    pub(super) fn peek(&self, pfn: u32) -> Option<u32> {
        let at = (pfn >> SHIFT) as usize;
        Some(u32::from(*self.state.get(at)?) ^ self.links.get(at)?[0])
    }

    /// The byte that says whether a block starts at this frame.
    #[inline(always)]
    pub(super) fn state(&self, pfn: u32) -> u8 {
        self.state[(pfn >> SHIFT) as usize]
    }

    #[inline(always)]
    pub(super) fn set_state(&mut self, pfn: u32, state: u8) {
        self.state[(pfn >> SHIFT) as usize] = state;
    }

    /// Marks the first frame of a block.
    #[inline(always)]
    pub(super) fn set_head(&mut self, pfn: u32, order: Order, state: u8) {
        self.set_state(pfn, state);
        if order > Order::ZERO {
            self.order[(pfn >> SHIFT) as usize] = order.get();
        }
    }

    /// The block that starts at this frame, if one does and the frame exists.
    #[inline]
    pub(super) fn head_at(&self, pfn: u32) -> Option<BlockHead> {
        let at = (pfn >> SHIFT) as usize;
        let state = *self.state.get(at)?;
        (state != 0).then(|| decode(Pfn(pfn), state, self.order[at]))
    }

    /// Marks the first frame of a free block.
    #[inline(always)]
    pub(crate) fn set_free(&mut self, pfn: u32, order: Order) {
        self.set_state(pfn, free_state(order));
    }

    /// Marks a frame as no block's first.
    #[inline(always)]
    pub(crate) fn clear(&mut self, pfn: u32) {
        self.set_state(pfn, 0);
    }

    #[inline(always)]
    pub(super) fn is_free(&self, pfn: u32, order: Order) -> bool {
        self.state
            .get((pfn >> SHIFT) as usize)
            .is_some_and(|&state| state == free_state(order))
    }

    /// Whether an allocated block of this order starts here, of a class that can be freed.
    #[inline(always)]
    pub(super) fn is_allocated(&self, pfn: u32, order: Order) -> bool {
        self.is_in_use(pfn, order, ALLOCATED)
    }

    /// The same of a class of which no list is kept.
    #[inline(always)]
    pub(super) fn is_unlisted(&self, pfn: u32, order: Order) -> bool {
        self.is_in_use(pfn, order, UNLISTED)
    }

    #[inline(always)]
    fn is_in_use(&self, pfn: u32, order: Order, classes: u32) -> bool {
        let at = (pfn >> SHIFT) as usize;
        let state = self.state[at];
        let class = u32::from(state & CLASS_MASK);
        let of_order = if order == Order::ZERO {
            state & KIND_MASK == SINGLE
        } else {
            state & (KIND_MASK & !COMPOUND) == LARGE && self.order[at] == order.get()
        };
        of_order && classes >> class & 1 == 1
    }
}
