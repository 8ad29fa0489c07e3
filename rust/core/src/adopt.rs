//! Giving captured frames the owners that were drawn for them: processes and files.
//!
//! A captured large folio becomes one of its owner's if its frames are given one after the other to
//! pages that are aligned as it is, and is split before if they are not.

use crate::address_space::{ANON_FLAGS, Cause, MmId, Progress, RssKind};
use crate::contents::PAGE_SIZE;
use crate::folio::HPAGE_PMD_ORDER;
use crate::mem_map::{BlockHead, MemMap, PageClass, page_flags};
use crate::memory::Memory;
use crate::page_cache::{File, FileId, FileKind};
use crate::page_table::{LeafId, PTRS_PER_TABLE, Pte, slot_of};
use crate::rmap::Rmap;
use crate::units::{Cpu, Order, Pfn};

/// A frame that cannot be adopted: it is not an allocated frame without an owner, or not of the kind
/// that the owner has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {0} cannot be given an owner")]
pub struct AdoptError(pub u32);

/// Bits of an adopted frame's entry.
const ADOPTED: u64 = Pte::ANON | Pte::EXCLUSIVE | Pte::WRITE | Pte::DIRTY | Pte::YOUNG;

impl Memory {
    /// Gives captured anonymous frames to an address space, mapped one after the other from `vpn` on.
    /// Page tables come from [`Self::adopt_pgtables`] first.
    ///
    /// # Errors
    /// The first frame that is none without an owner, or no frame for a table; what was done stays.
    pub fn anon_adopt(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        vpn: u64,
        pfns: &[Pfn],
    ) -> Result<Progress, AdoptError> {
        let mut at = vpn;
        let mut rest = pfns;
        while !rest.is_empty() {
            let room = PTRS_PER_TABLE - at % PTRS_PER_TABLE;
            let (now, later) = rest.split_at(rest.len().min(slot_of(room - 1, 0) + 1));
            let leaf = match self.ensure_leaf(cpu, mm, at) {
                Ok(leaf) => leaf,
                Err(error) => return Ok(Progress::blocked(at - vpn, Cause::Memory(error))),
            };
            let mut now = now;
            while !now.is_empty() {
                let done = self.adopt_anon_folio(mm, leaf, at, now)?;
                self.owners.count_rss(mm, RssKind::Anon, done.cast_signed());
                at += done;
                now = &now[slot_of(done - 1, 0) + 1..];
            }
            rest = later;
        }
        Ok(Progress::finished(pfns.len() as u64))
    }

    /// Maps the folio that `pfns` begin with and tells how many pages it has.
    fn adopt_anon_folio(
        &mut self,
        mm: MmId,
        leaf: LeafId,
        at: u64,
        pfns: &[Pfn],
    ) -> Result<u64, AdoptError> {
        let head = adoptable(&mut self.map, pfns, at)?;
        if head.class == PageClass::Mlocked {
            self.map.set_class(head.pfn, PageClass::Anon);
        } else if !head.class.is_anon() {
            return Err(AdoptError(head.pfn.0));
        }
        if head.order == Order::ZERO {
            self.map.set_flags(head.pfn, ANON_FLAGS);
            Rmap::add_new(&mut self.map, head.pfn, mm, at);
            self.owners.stat.nr_anon_mapped += 1;
            let entry = Pte::present(head.pfn, ADOPTED);
            self.owners.tables.leaf_mut(leaf).ptes[slot_of(at, 0)] = entry;
            return Ok(1);
        }
        self.own_anon_folio(head.pfn, mm, at);
        if head.order == HPAGE_PMD_ORDER {
            self.set_huge(leaf, head.pfn, ADOPTED);
        } else {
            let ptes = &mut self.owners.tables.leaf_mut(leaf).ptes[slot_of(at, 0)..];
            for (pte, pfn) in ptes.iter_mut().zip(head.frames()) {
                *pte = Pte::present(pfn, ADOPTED);
            }
        }
        Ok(u64::from(head.order.nr_pages()))
    }

    /// Gives captured page-cache frames to a file, from page `index` on, and grows the file to hold
    /// them.
    ///
    /// # Errors
    /// The first frame that is none without an owner; what was done stays.
    pub fn cache_adopt(
        &mut self,
        file: FileId,
        index: u32,
        pfns: &[Pfn],
    ) -> Result<(), AdoptError> {
        let Self { map, owners, .. } = self;
        let entry = owners.cache.file_mut(file);
        let is_shmem = entry.kind == FileKind::Shmem;
        let (mut at, mut rest) = (index, pfns);
        while !rest.is_empty() {
            let head = adoptable(map, rest, u64::from(at))?;
            if !head.class.is_cached() || head.class.is_shmem() != is_shmem {
                return Err(AdoptError(head.pfn.0));
            }
            cache_folio(map, entry, head, (file, at));
            let nr = head.order.nr_pages();
            owners.stat.nr_file_pages += u64::from(nr);
            owners.stat.nr_shmem += if is_shmem { u64::from(nr) } else { 0 };
            at += nr;
            rest = &rest[nr as usize..];
        }
        Ok(())
    }
}

/// Makes the frames of a folio cached pages of a file.
fn cache_folio(map: &mut MemMap, entry: &mut File, head: BlockHead, (file, at): (FileId, u32)) {
    let mut flags = page_flags::LRU | page_flags::UPTODATE;
    if entry.kind == FileKind::Shmem {
        flags |= page_flags::SWAPBACKED;
    }
    if head.order > Order::ZERO {
        flags |= page_flags::LARGE;
        map.add_refs(head.pfn, head.order.nr_pages() - 1);
    }
    for (pfn, at) in head.frames().zip(at..) {
        map.set_flags(pfn, flags);
        map.set_owner(pfn, file.0, at);
        entry.insert(at, pfn);
        entry.size = entry.size.max((u64::from(at) + 1) * u64::from(PAGE_SIZE));
    }
}

/// The folio that the frames begin with, if it may be given an owner at page `at` of its owner. A large
/// one whose frames are not all next, or would not be aligned, is split.
fn adoptable(map: &mut MemMap, pfns: &[Pfn], at: u64) -> Result<BlockHead, AdoptError> {
    let refused = AdoptError(pfns[0].0);
    let head = map.head_at(pfns[0]).ok_or(refused)?;
    let nr = head.order.nr_pages();
    if map.flags(head.pfn) != 0 || head.order > Order::ZERO && !head.compound {
        return Err(refused);
    }
    let whole = pfns.get(..nr as usize);
    let follow = whole.is_some_and(|pfns| head.frames().eq(pfns.iter().copied()));
    let fits = head.order <= HPAGE_PMD_ORDER && at.is_multiple_of(u64::from(nr));
    if head.order > Order::ZERO && !(follow && fits) {
        map.split_block(head.pfn);
        return map.head_at(head.pfn).ok_or(refused);
    }
    Ok(head)
}
