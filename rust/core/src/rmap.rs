//! Who maps an anonymous frame: the stand-in for `anon_vma` chains, mm/rmap.c v6.12.
//!
//! The owner words of a frame hold its virtual page (35 bits) and a *sharers id* (29 bits): one
//! address space, or an interned and counted set of those that map the frame at this same virtual
//! page. So a fork costs no memory per frame. Only a frame that is mapped at different virtual pages
//! (moved by `mremap` after a fork) has a side chain.
//!
//! Invariants, checked by `Memory::check`: the pairs that [`Rmap::walk`] lists are exactly the
//! present entries that name the frame; a set has at least two members and is counted once per frame.

use std::collections::BTreeMap;

use crate::address_space::MmId;
use crate::codec::{Reader, SnapshotError, Writer};
use crate::mem_map::{MemMap, page_flags};
use crate::units::Pfn;

const ID_BITS: u32 = 29;
const SET: u32 = 1 << (ID_BITS - 1);

/// One address space, or a set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharersId(u32);

impl SharersId {
    /// The id of one address space alone.
    #[inline]
    pub const fn single(mm: MmId) -> Self {
        Self(mm.0)
    }

    #[inline]
    const fn is_set(self) -> bool {
        self.0 & SET != 0
    }
}

#[derive(Clone, Debug)]
struct Set {
    /// Ascending; empty while the slot is free.
    members: Box<[u32]>,
    /// Frames that have this id.
    frames: u32,
}

/// The interned sets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sharers {
    sets: Vec<Set>,
    free: Vec<u32>,
    ids: BTreeMap<Box<[u32]>, u32>,
    /// The last transitions, so that a range whose frames all have the same sharers asks once.
    grown: Option<(SharersId, MmId, SharersId)>,
    shrunk: Option<(SharersId, MmId, SharersId)>,
}

impl Sharers {
    /// The members of an id.
    pub fn members(&self, id: SharersId) -> Vec<MmId> {
        if id.is_set() {
            // A damaged snapshot may name a set that is not there; the checker then finds it empty.
            let set = self.sets.get((id.0 & !SET) as usize);
            let members = set.map_or(&[][..], |set| &set.members);
            members.iter().map(|&mm| MmId(mm)).collect()
        } else {
            vec![MmId(id.0)]
        }
    }

    /// Whether `mm` is a member.
    pub fn contains(&self, id: SharersId, mm: MmId) -> bool {
        if id.is_set() {
            self.sets[(id.0 & !SET) as usize]
                .members
                .binary_search(&mm.0)
                .is_ok()
        } else {
            id.0 == mm.0
        }
    }

    /// The id of one more frame's sharers, `mm` added.
    #[inline]
    pub fn grow(&mut self, id: SharersId, mm: MmId) -> SharersId {
        match self.grown {
            Some((from, by, to)) if from == id && by == mm => {
                self.set_mut(to).frames += 1;
                self.forget(id);
                to
            }
            _ => self.grow_slow(id, mm),
        }
    }

    fn grow_slow(&mut self, id: SharersId, mm: MmId) -> SharersId {
        let mut members: Vec<u32> = self.members(id).iter().map(|mm| mm.0).collect();
        let at = members
            .binary_search(&mm.0)
            .expect_err("a sharer is added once");
        members.insert(at, mm.0);
        let to = self.intern(members);
        self.grown = Some((id, mm, to));
        self.forget(id);
        to
    }

    /// The id of a frame's sharers without `mm`, or nothing when it was the last.
    #[inline]
    pub fn shrink(&mut self, id: SharersId, mm: MmId) -> Option<SharersId> {
        if !id.is_set() {
            debug_assert_eq!(id.0, mm.0, "the sharer is a member");
            return None;
        }
        match self.shrunk {
            Some((from, by, to)) if from == id && by == mm => {
                if to.is_set() {
                    self.set_mut(to).frames += 1;
                }
                self.forget(id);
                Some(to)
            }
            _ => Some(self.shrink_slow(id, mm)),
        }
    }

    fn shrink_slow(&mut self, id: SharersId, mm: MmId) -> SharersId {
        let mut members = self.sets[(id.0 & !SET) as usize].members.to_vec();
        let at = members
            .binary_search(&mm.0)
            .expect("the sharer is a member");
        members.remove(at);
        let to = match members[..] {
            [last] => SharersId(last),
            _ => self.intern(members),
        };
        self.shrunk = Some((id, mm, to));
        self.forget(id);
        to
    }

    fn set_mut(&mut self, id: SharersId) -> &mut Set {
        &mut self.sets[(id.0 & !SET) as usize]
    }

    /// The id of a set, counted for one frame more.
    fn intern(&mut self, members: Vec<u32>) -> SharersId {
        if let Some(&slot) = self.ids.get(members.as_slice()) {
            self.sets[slot as usize].frames += 1;
            return SharersId(slot | SET);
        }
        let members = members.into_boxed_slice();
        let set = Set {
            members: members.clone(),
            frames: 1,
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.sets[slot as usize] = set;
            slot
        } else {
            self.sets.push(set);
            u32::try_from(self.sets.len() - 1).expect("fewer sets than frames")
        };
        assert!(slot < SET, "2^28 sets of address spaces");
        self.ids.insert(members, slot);
        SharersId(slot | SET)
    }

    /// Counts one frame less for a set, and drops the set with its last.
    #[inline]
    fn forget(&mut self, id: SharersId) {
        if !id.is_set() {
            return;
        }
        let set = self.set_mut(id);
        set.frames -= 1;
        if set.frames == 0 {
            let members = std::mem::take(&mut set.members);
            self.ids.remove(&members);
            self.free.push(id.0 & !SET);
            self.grown = None;
            self.shrunk = None;
        }
    }

    /// Members and frames of every set, by members: for checks and snapshots.
    pub fn iter(&self) -> impl Iterator<Item = (&[u32], u32)> {
        self.ids
            .iter()
            .map(|(members, &slot)| (&**members, self.sets[slot as usize].frames))
    }
}

/// Mappings of frames that are mapped at more than one virtual page, besides those at the first one.
pub(crate) type Chains = BTreeMap<u32, Vec<(MmId, u64)>>;

/// The reverse map of anonymous frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rmap {
    pub sharers: Sharers,
    pub chains: Chains,
}

/// The owner words of a frame that `sharers` map at `vpn`.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "cut into two words")]
const fn owner_words(vpn: u64, sharers: SharersId) -> [u32; 2] {
    let word = vpn << ID_BITS | sharers.0 as u64;
    [(word >> 32) as u32, word as u32]
}

#[inline]
fn set_anchor(map: &mut MemMap, pfn: Pfn, vpn: u64, sharers: SharersId) {
    let [anchor, index] = owner_words(vpn, sharers);
    map.set_owner(pfn, anchor, index);
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "masked to 29 bits")]
fn anchor(map: &MemMap, pfn: Pfn) -> (u64, SharersId) {
    let word = u64::from(map.anchor(pfn)) << 32 | u64::from(map.index(pfn));
    (
        word >> ID_BITS,
        SharersId(word as u32 & ((1 << ID_BITS) - 1)),
    )
}

impl Rmap {
    /// The first mapping of a frame: `folio_add_new_anon_rmap()`.
    #[inline]
    pub fn add_new(map: &mut MemMap, pfn: Pfn, mm: MmId, vpn: u64) {
        set_anchor(map, pfn, vpn, SharersId::single(mm));
        map.add_mapcount(pfn, 1);
    }

    /// A mapping by `child` at the virtual page where `parent` has one: `folio_try_dup_anon_rmap_pte()`.
    #[inline]
    pub fn dup(&mut self, map: &mut MemMap, pfn: Pfn, vpn: u64, parent: MmId, child: MmId) {
        map.add_mapcount(pfn, 1);
        let (at, sharers) = anchor(map, pfn);
        let chained = map.flags(pfn) & page_flags::CHAINED != 0;
        if !chained || at == vpn && self.sharers.contains(sharers, parent) {
            let grown = self.sharers.grow(sharers, child);
            set_anchor(map, pfn, at, grown);
        } else {
            self.chain(map, pfn, child, vpn);
        }
    }

    /// Another mapping, wherever the others are: of a frame of a run.
    pub fn add(&mut self, map: &mut MemMap, pfn: Pfn, mm: MmId, vpn: u64) {
        if map.mapcount(pfn) == 0 {
            return Self::add_new(map, pfn, mm, vpn);
        }
        map.add_mapcount(pfn, 1);
        let (at, sharers) = anchor(map, pfn);
        if at == vpn && !self.sharers.contains(sharers, mm) {
            let grown = self.sharers.grow(sharers, mm);
            set_anchor(map, pfn, at, grown);
        } else {
            self.chain(map, pfn, mm, vpn);
        }
    }

    /// Another mapping and its reference: of a frame of a run, which most often has no other.
    #[inline]
    pub fn add_held(&mut self, map: &mut MemMap, pfn: Pfn, mm: MmId, vpn: u64) {
        if !map.map_lone(pfn, owner_words(vpn, SharersId::single(mm))) {
            map.get_page(pfn);
            self.add(map, pfn, mm, vpn);
        }
    }

    fn chain(&mut self, map: &mut MemMap, pfn: Pfn, mm: MmId, vpn: u64) {
        map.add_flags(pfn, page_flags::CHAINED);
        self.chains.entry(pfn.0).or_default().push((mm, vpn));
    }

    /// Removes one mapping and tells how many are left: `folio_remove_rmap_pte()`.
    #[inline]
    pub fn remove(&mut self, map: &mut MemMap, pfn: Pfn, mm: MmId, vpn: u64) -> u32 {
        let left = map.dec_mapcount(pfn);
        if map.flags(pfn) & page_flags::CHAINED != 0 {
            self.unchain(map, pfn, mm, vpn);
        } else if left > 0 {
            let (at, sharers) = anchor(map, pfn);
            let shrunk = self
                .sharers
                .shrink(sharers, mm)
                .expect("others map the frame");
            set_anchor(map, pfn, at, shrunk);
        }
        left
    }

    #[cold]
    fn unchain(&mut self, map: &mut MemMap, pfn: Pfn, mm: MmId, vpn: u64) {
        let (at, sharers) = anchor(map, pfn);
        let chain = self
            .chains
            .get_mut(&pfn.0)
            .expect("a chained frame has a chain");
        if at == vpn && self.sharers.contains(sharers, mm) {
            if let Some(shrunk) = self.sharers.shrink(sharers, mm) {
                set_anchor(map, pfn, at, shrunk);
            } else {
                let (mm, vpn) = chain.remove(0);
                set_anchor(map, pfn, vpn, SharersId::single(mm));
            }
        } else {
            let link = chain.iter().position(|&link| link == (mm, vpn));
            chain.remove(link.expect("every mapping is in the anchor or in the chain"));
        }
        if chain.is_empty() {
            self.chains.remove(&pfn.0);
            map.clear_flags(pfn, page_flags::CHAINED);
        }
    }

    /// Renames one mapping: `mremap(2)` keeps the frame.
    pub fn rename(&mut self, map: &mut MemMap, pfn: Pfn, mm: MmId, (from, to): (u64, u64)) {
        if map.mapcount(pfn) == 1 {
            set_anchor(map, pfn, to, SharersId::single(mm));
            return;
        }
        self.remove(map, pfn, mm, from);
        self.add(map, pfn, mm, to);
    }

    /// Every mapping of an anonymous frame: `rmap_walk_anon()`.
    pub fn walk(&self, map: &MemMap, pfn: Pfn) -> Vec<(MmId, u64)> {
        if map.mapcount(pfn) == 0 {
            return Vec::new();
        }
        let (vpn, sharers) = anchor(map, pfn);
        let mut mappings: Vec<_> = self
            .sharers
            .members(sharers)
            .into_iter()
            .map(|mm| (mm, vpn))
            .collect();
        mappings.extend(self.chains.get(&pfn.0).into_iter().flatten());
        mappings
    }

    /// Whether all mappings of a mapped frame are of one address space.
    pub fn only_by(&self, map: &MemMap, pfn: Pfn, mm: MmId) -> bool {
        let (_, sharers) = anchor(map, pfn);
        let chained = map.flags(pfn) & page_flags::CHAINED != 0;
        sharers == SharersId::single(mm)
            && (!chained || self.walk(map, pfn).iter().all(|&(by, _)| by == mm))
    }

    /// The members of the set that a mapped frame's anchor names, if it names a set.
    pub fn set_of(&self, map: &MemMap, pfn: Pfn) -> Option<Vec<u32>> {
        let (_, sharers) = anchor(map, pfn);
        let members = || {
            self.sharers
                .members(sharers)
                .iter()
                .map(|mm| mm.0)
                .collect()
        };
        sharers.is_set().then(members)
    }

    /// Gives the mappings of one frame to another that has none: the frame was migrated.
    pub fn transfer(&mut self, map: &mut MemMap, from: Pfn, to: Pfn) {
        map.set_owner(to, map.anchor(from), map.index(from));
        if let Some(chain) = self.chains.remove(&from.0) {
            self.chains.insert(to.0, chain);
        }
    }

    pub fn encode(&self, writer: &mut Writer) {
        let Sharers { sets, free, .. } = &self.sharers;
        writer.size(sets.len());
        for set in sets {
            writer.sequence(set.members.iter().copied());
            writer.number(set.frames);
        }
        writer.sequence(free.iter().copied());
        writer.size(self.chains.len());
        for (&pfn, chain) in &self.chains {
            writer.number(pfn);
            writer.size(chain.len());
            for (mm, vpn) in chain {
                writer.number(mm.0);
                writer.number(*vpn);
            }
        }
    }

    pub fn decode(&mut self, reader: &mut Reader<'_>) -> Result<(), SnapshotError> {
        let malformed = || SnapshotError::new("its sets of sharers are malformed");
        let Sharers {
            sets, free, ids, ..
        } = &mut self.sharers;
        for slot in 0..u32::try_from(reader.length()?).map_err(|_| malformed())? {
            let members = reader.sequence()?.into_boxed_slice();
            let set = Set {
                members,
                frames: reader.number()?,
            };
            let live = !set.members.is_empty();
            let sound = set.members.len() > 1 && set.members.is_sorted_by(|a, b| a < b);
            if live && (!sound || ids.insert(set.members.clone(), slot).is_some()) {
                return Err(malformed());
            }
            sets.push(set);
        }
        *free = reader.sequence()?;
        let mut dead = free.clone();
        dead.sort_unstable();
        let empty = (0..).zip(sets).filter(|(_, set)| set.members.is_empty());
        if !dead.into_iter().eq(empty.map(|(slot, _)| slot)) {
            return Err(malformed());
        }
        for _ in 0..reader.length()? {
            let pfn = reader.number()?;
            let mut chain = Vec::new();
            for _ in 0..reader.length()? {
                chain.push((MmId(reader.number()?), reader.number()?));
            }
            if chain.is_empty() || self.chains.insert(pfn, chain).is_some() {
                return Err(SnapshotError::new("a chain of mappings is malformed"));
            }
        }
        Ok(())
    }
}
