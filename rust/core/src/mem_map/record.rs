//! Flags, counts and owner of a frame in use.

use std::collections::BTreeMap;

use super::{FLAGS, MAPS, MemMap, REFS, SATURATED, page_flags};
use crate::units::Pfn;

/// `GUP_PIN_COUNTING_BIAS`, include/linux/mm.h v6.12: a pin is this many references.
pub const GUP_PIN_COUNTING_BIAS: u32 = 1024;

/// One pin, beside the reference that a frame begins with.
const ONE_PIN: u16 = 1024;
const _: () = assert!(ONE_PIN as u32 == GUP_PIN_COUNTING_BIAS);
/// What makes the end of a mapping, or of a frame, more than its counts.
const MORE: u16 =
    page_flags::MLOCKED | page_flags::LARGE | page_flags::CHAINED | page_flags::HAS_CONTENT;

/// Counts, flags and owner of a frame, as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameRecord {
    pub flags: u16,
    pub refs: u16,
    pub maps: u16,
    pub anchor: u32,
    pub index: u32,
}

impl MemMap {
    /// First word of an allocated frame's owner (reverse map or cache index).
    #[inline]
    pub fn anchor(&self, pfn: Pfn) -> u32 {
        self.lo.links[pfn.0 as usize][0]
    }

    /// Second word of an allocated frame's owner.
    #[inline]
    pub fn index(&self, pfn: Pfn) -> u32 {
        self.lo.links[pfn.0 as usize][1]
    }

    /// Sets both words of an allocated frame's owner.
    #[inline]
    pub fn set_owner(&mut self, pfn: Pfn, anchor: u32, index: u32) {
        self.lo.links[pfn.0 as usize] = [anchor, index];
    }

    /// Flags of an allocated frame, see [`page_flags`].
    #[inline]
    pub fn flags(&self, pfn: Pfn) -> u16 {
        self.meta[pfn.0 as usize][FLAGS]
    }

    /// Replaces all flags.
    #[inline]
    pub fn set_flags(&mut self, pfn: Pfn, flags: u16) {
        self.meta[pfn.0 as usize][FLAGS] = flags;
    }

    /// Sets the given bits.
    #[inline]
    pub fn add_flags(&mut self, pfn: Pfn, bits: u16) {
        self.meta[pfn.0 as usize][FLAGS] |= bits;
    }

    /// Clears the given bits.
    #[inline]
    pub fn clear_flags(&mut self, pfn: Pfn, bits: u16) {
        self.meta[pfn.0 as usize][FLAGS] &= !bits;
    }

    /// Zeroes flags, counts and owner, as a frame must be when it is freed: `free_pages_prepare()`.
    #[inline]
    pub fn reset_meta(&mut self, pfn: Pfn) {
        let meta = &mut self.meta[pfn.0 as usize];
        if meta[REFS] == SATURATED {
            self.refs_above.remove(&pfn.0);
        }
        if meta[MAPS] == SATURATED {
            self.maps_above.remove(&pfn.0);
        }
        *meta = [0; 3];
        self.lo.links[pfn.0 as usize] = [0; 2];
    }

    /// Tells whether flags, counts and owner are those of a freshly allocated frame.
    #[inline]
    pub(crate) fn meta_is_clear(&self, pfn: Pfn) -> bool {
        self.meta[pfn.0 as usize] == [0; 3] && self.lo.links[pfn.0 as usize] == [0; 2]
    }

    /// Everything about a frame but its block.
    pub(crate) fn record(&self, pfn: Pfn) -> FrameRecord {
        let [flags, refs, maps] = self.meta[pfn.0 as usize];
        let [anchor, index] = self.lo.links[pfn.0 as usize];
        FrameRecord {
            flags,
            refs,
            maps,
            anchor,
            index,
        }
    }

    /// Sets what [`Self::record`] returns.
    pub(crate) fn set_record(&mut self, pfn: Pfn, record: FrameRecord) {
        let FrameRecord {
            flags,
            refs,
            maps,
            anchor,
            index,
        } = record;
        self.meta[pfn.0 as usize] = [flags, refs, maps];
        self.lo.links[pfn.0 as usize] = [anchor, index];
    }

    /// The overflow tables of reference and map counts.
    pub(crate) const fn overflow(&self) -> (&BTreeMap<u32, u32>, &BTreeMap<u32, u32>) {
        (&self.refs_above, &self.maps_above)
    }

    /// Sets the overflow tables.
    pub(crate) fn set_overflow(&mut self, refs: BTreeMap<u32, u32>, maps: BTreeMap<u32, u32>) {
        self.refs_above = refs;
        self.maps_above = maps;
    }

    /// References to an allocated frame, or to the large folio that it is part of: `page_count()`.
    /// A fresh frame has one.
    #[inline]
    pub fn refcount(&self, pfn: Pfn) -> u32 {
        let pfn = self.counted(pfn);
        let refs = self.meta[pfn.0 as usize][REFS];
        1 + u32::from(refs) + above(refs, &self.refs_above, pfn)
    }

    /// Takes a reference: `get_page()`.
    #[inline]
    pub fn get_page(&mut self, pfn: Pfn) {
        let pfn = self.counted(pfn);
        self.add_refs(pfn, 1);
    }

    /// The frame where references to this one are counted: itself, or the head of its large folio.
    #[inline]
    pub(crate) fn counted(&self, pfn: Pfn) -> Pfn {
        if self.flags(pfn) & page_flags::LARGE == 0 {
            return pfn;
        }
        self.large_head(pfn)
    }

    /// Takes `nr` references: `page_ref_add()`.
    #[inline]
    pub fn add_refs(&mut self, pfn: Pfn, nr: u32) {
        add(
            &mut self.meta[pfn.0 as usize][REFS],
            &mut self.refs_above,
            pfn,
            nr,
        );
    }

    /// Drops `nr` references of which none is the last.
    ///
    /// # Panics
    /// When there are not that many.
    #[inline]
    pub fn sub_refs(&mut self, pfn: Pfn, nr: u32) {
        sub(
            &mut self.meta[pfn.0 as usize][REFS],
            &mut self.refs_above,
            pfn,
            nr,
        );
    }

    /// Drops a reference and tells whether it was the last: `put_page_testzero()`. After the last
    /// one, the caller must free the frame, or the large folio that it is part of.
    #[inline]
    pub fn put_page_testzero(&mut self, pfn: Pfn) -> bool {
        let pfn = self.counted(pfn);
        if self.meta[pfn.0 as usize][REFS] == 0 {
            return true;
        }
        self.sub_refs(pfn, 1);
        false
    }

    /// Mappings of an allocated frame: `_mapcount + 1`.
    #[inline]
    pub fn mapcount(&self, pfn: Pfn) -> u32 {
        let maps = self.meta[pfn.0 as usize][MAPS];
        u32::from(maps) + above(maps, &self.maps_above, pfn)
    }

    /// Counts `nr` more mappings.
    #[inline]
    pub fn add_mapcount(&mut self, pfn: Pfn, nr: u32) {
        add(
            &mut self.meta[pfn.0 as usize][MAPS],
            &mut self.maps_above,
            pfn,
            nr,
        );
    }

    /// Counts a mapping less and returns how many are left.
    ///
    /// # Panics
    /// When there was none.
    #[inline]
    pub fn dec_mapcount(&mut self, pfn: Pfn) -> u32 {
        sub(
            &mut self.meta[pfn.0 as usize][MAPS],
            &mut self.maps_above,
            pfn,
            1,
        );
        self.mapcount(pfn)
    }

    /// Takes away the mapping of an anonymous frame that is mapped once and has nothing more to it:
    /// no lock, content, chain or large folio. Tells whether its last reference went, its books
    /// being clear then; nothing, and nothing is changed, for any other frame.
    #[inline]
    pub(crate) fn unmap_lone(&mut self, pfn: Pfn) -> Option<bool> {
        let meta = &mut self.meta[pfn.0 as usize];
        let [flags, refs, maps] = *meta;
        if maps != 1 || flags & MORE != 0 || refs == SATURATED {
            return None;
        }
        if refs > 0 {
            *meta = [flags, refs - 1, 0];
            return Some(false);
        }
        *meta = [0; 3];
        self.lo.links[pfn.0 as usize] = [0; 2];
        Some(true)
    }

    /// Counts the first mapping of a frame that is held already, with its reference, and sets its
    /// owner; tells whether the frame had none, else nothing is changed.
    #[inline]
    pub(crate) fn map_lone(&mut self, pfn: Pfn, owner: [u32; 2]) -> bool {
        let meta = &mut self.meta[pfn.0 as usize];
        let [flags, refs, maps] = *meta;
        if maps != 0 || flags & MORE != 0 || refs >= SATURATED - 1 {
            return false;
        }
        *meta = [flags, refs + 1, 1];
        self.lo.links[pfn.0 as usize] = owner;
        true
    }

    /// Sets the flags of frames that were just allocated, and pins each.
    pub(crate) fn pin_fresh(&mut self, base: Pfn, nr: u32, flags: u16) {
        let first = base.0 as usize;
        let fresh = &mut self.meta[first..first + nr as usize];
        debug_assert!(fresh.iter().all(|meta| *meta == [0; 3]), "frames in use");
        fresh.fill([flags, ONE_PIN, 0]);
    }

    /// Drops pin and reference of a frame that has no other, nor anything more to it, so that it may
    /// be freed; tells whether it was such a frame, else nothing is changed.
    #[inline]
    pub(crate) fn unpin_lone(&mut self, pfn: Pfn) -> bool {
        let meta = &mut self.meta[pfn.0 as usize];
        let [flags, refs, maps] = *meta;
        if maps != 0 || flags & MORE != 0 || refs != ONE_PIN {
            return false;
        }
        *meta = [0; 3];
        self.lo.links[pfn.0 as usize] = [0; 2];
        true
    }

    /// Pins of an allocated frame: `folio_maybe_dma_pinned()` counts them so for order 0.
    #[inline]
    pub fn pins(&self, pfn: Pfn) -> u32 {
        self.refcount(pfn) / GUP_PIN_COUNTING_BIAS
    }

    /// Pins a frame: `try_grab_folio()`, mm/gup.c v6.12.
    #[inline]
    pub fn pin(&mut self, pfn: Pfn) {
        self.add_refs(pfn, GUP_PIN_COUNTING_BIAS);
    }

    /// Drops a pin.
    ///
    /// # Panics
    /// When the frame is not pinned.
    #[inline]
    pub fn unpin(&mut self, pfn: Pfn) {
        self.sub_refs(pfn, GUP_PIN_COUNTING_BIAS);
    }
}

#[inline]
fn above(count: u16, table: &BTreeMap<u32, u32>, pfn: Pfn) -> u32 {
    if count == SATURATED {
        table.get(&pfn.0).copied().unwrap_or(0)
    } else {
        0
    }
}

#[inline]
fn add(count: &mut u16, table: &mut BTreeMap<u32, u32>, pfn: Pfn, nr: u32) {
    match u16::try_from(u32::from(*count) + nr) {
        Ok(sum) if *count != SATURATED => *count = sum,
        _ => add_above(count, table, pfn, nr),
    }
}

#[cold]
fn add_above(count: &mut u16, table: &mut BTreeMap<u32, u32>, pfn: Pfn, nr: u32) {
    let room = u32::from(SATURATED - *count);
    *count = SATURATED;
    *table.entry(pfn.0).or_insert(0) += nr - room;
}

#[inline]
fn sub(count: &mut u16, table: &mut BTreeMap<u32, u32>, pfn: Pfn, nr: u32) {
    let mut nr = nr;
    if *count == SATURATED {
        nr = sub_above(table, pfn, nr);
    }
    let left = u32::from(*count)
        .checked_sub(nr)
        .expect("a count never goes below zero");
    *count = u16::try_from(left).expect("smaller than before");
}

#[cold]
fn sub_above(table: &mut BTreeMap<u32, u32>, pfn: Pfn, nr: u32) -> u32 {
    let extra = table.get(&pfn.0).copied().unwrap_or(0);
    let taken = extra.min(nr);
    if extra > taken {
        table.insert(pfn.0, extra - taken);
    } else {
        table.remove(&pfn.0);
    }
    nr - taken
}
