//! The books of frames and address spaces against each other: part of `Memory::check`.

use std::collections::{BTreeMap, BTreeSet};

use crate::address_space::{MmId, RssKind, UserStat, rss_kind};
use crate::folio::HPAGE_PMD_ORDER;
use crate::mem_map::{BlockHead, GUP_PIN_COUNTING_BIAS, PageClass, page_flags};
use crate::memory::Memory;
use crate::page_cache::FileId;
use crate::page_table::{Leaf, Pte, Table, USER_PAGES};
use crate::units::{Order, Pfn};

/// What the entries of all address spaces say.
#[derive(Default)]
struct Seen {
    /// Mappings of each frame, and whether one has it locked.
    frames: BTreeMap<u32, (u32, bool)>,
    files: BTreeMap<(FileId, MmId, i64), u32>,
    wild: u64,
    /// Frames that page tables are in.
    tables: BTreeSet<Pfn>,
}

macro_rules! ensure {
    ($test:expr, $($message:tt)*) => {
        if !$test {
            return Err(format!($($message)*));
        }
    };
}

impl Memory {
    /// Tests that every present entry is in its frame's books and every count has its entries.
    ///
    /// # Errors
    /// A sentence about the first violation.
    pub fn check_owners(&self) -> Result<(), String> {
        let mut seen = Seen::default();
        for mm in self.mms() {
            self.check_space(mm, &mut seen)?;
        }
        ensure!(
            seen.wild == self.owners.wild.present,
            "{} wild entries",
            seen.wild
        );
        self.check_mapped_frames(&seen)?;
        self.check_cache(&seen)?;
        self.check_sharers()?;
        self.check_contents()?;
        self.check_runs()
    }

    /// Every table is in a frame of its own.
    fn check_tables(&self, mm: MmId, seen: &mut Seen) -> Result<(), String> {
        let space = self.owners.space(mm);
        let tables = &self.owners.tables;
        let below = space.pgd.map(|pgd| tables.below(pgd)).unwrap_or_default();
        for level in 0..3 {
            let counted_here = |table: &&Table| table.level == level && table.pfn != Pfn::NONE;
            let found = below.iter().filter(counted_here).count();
            let counted = space.tables[level as usize];
            ensure!(
                counted as usize == found,
                "{mm:?} counts {counted} tables of {found}"
            );
        }
        let pgd = space.pgd.map(|pgd| tables.dir_pfn(pgd));
        let frames = below
            .iter()
            .map(|table| table.pfn)
            .filter(|&pfn| pfn != Pfn::NONE)
            .chain(pgd);
        for pfn in frames.chain(space.table_stock.iter().copied()) {
            let head = self.map.head_at(pfn);
            let fits =
                head.is_some_and(|h| h.class == PageClass::Pgtable && h.order == Order::ZERO);
            ensure!(
                fits,
                "a table of {mm:?} is in frame {}, which is {head:?}",
                pfn.0
            );
            ensure!(seen.tables.insert(pfn), "two tables are in frame {}", pfn.0);
        }
        Ok(())
    }

    fn check_contents(&self) -> Result<(), String> {
        let flagged = |pfn: u32| self.map.flags(Pfn(pfn)) & page_flags::HAS_CONTENT != 0;
        for (pfn, ..) in self.owners.contents.entries() {
            ensure!(
                flagged(pfn),
                "frame {pfn} has a content that it does not know of"
            );
        }
        let nr = (0..self.map.nr_frames())
            .filter(|&pfn| flagged(pfn))
            .count();
        let kept = self.owners.contents.len();
        ensure!(nr == kept, "{nr} frames have a content, {kept} are kept");
        Ok(())
    }

    fn check_space(&self, mm: MmId, seen: &mut Seen) -> Result<(), String> {
        let mut rss = [0_u64; 3];
        for span in self.spans(mm, 0, USER_PAGES) {
            let leaf = self.owners.tables.leaf(span.leaf);
            ensure!(
                !leaf.huge || self.is_one_mapping(leaf),
                "the entries of {mm:?} from {:#x} on are not one mapping",
                span.vpn
            );
            for (vpn, &pte) in (span.vpn..)
                .zip(leaf.ptes.iter())
                .filter(|(_, pte)| pte.is_present())
            {
                if pte.has(Pte::ZERO) {
                    let right = leaf.huge || pte.pfn() == self.owners.zero_pfn;
                    ensure!(
                        right && !pte.has(Pte::WRITE),
                        "{mm:?} may write the zero page at {vpn:#x}, or has a wrong one"
                    );
                } else if pte.has(Pte::WILD) {
                    seen.wild += 1;
                    rss[RssKind::Anon as usize] += 1;
                } else {
                    self.check_pte(mm, vpn, pte, seen)?;
                    rss[rss_kind(&self.map, pte.pfn()) as usize] += 1;
                }
            }
        }
        let space = self.owners.space(mm);
        ensure!(
            space.rss == rss,
            "{mm:?} counts {:?} pages, has {rss:?}",
            space.rss
        );
        self.check_tables(mm, seen)?;
        Ok(())
    }

    /// Whether the entries of a huge leaf say the same of all frames of one folio, or of the huge zero
    /// page.
    fn is_one_mapping(&self, leaf: &Leaf) -> bool {
        let first = leaf.ptes[0];
        let owner = if first.has(Pte::ZERO) {
            first.pfn() == self.owners.huge_zero_pfn
        } else {
            first.has(Pte::ANON) != leaf.is_huge_file()
        };
        let block = self.map.head_at(first.pfn());
        let huge = block.is_some_and(|head| head.compound && head.order == HPAGE_PMD_ORDER);
        let bits = |pte: Pte| pte.without(Pte::YOUNG | Pte::DIRTY);
        let same = |(pfn, &pte): (u32, &Pte)| bits(pte) == bits(first).moved_to(Pfn(pfn));
        let frames = first.pfn().0..;
        owner && huge && first.is_present() && frames.zip(leaf.ptes.iter()).all(same)
    }

    fn check_pte(&self, mm: MmId, vpn: u64, pte: Pte, seen: &mut Seen) -> Result<(), String> {
        let pfn = pte.pfn();
        let class = self.map.class(pfn);
        let anon = pte.has(Pte::ANON);
        let fits = if anon {
            class.is_anon()
        } else {
            class.is_cached()
        };
        ensure!(
            fits,
            "{mm:?} maps frame {} of class {class:?} at {vpn:#x}",
            pfn.0
        );
        let (count, locked) = seen.frames.entry(pfn.0).or_default();
        *count += 1;
        *locked |= pte.has(Pte::LOCKED);
        if anon {
            let named = self.owners.rmap.walk(&self.map, pfn).contains(&(mm, vpn));
            ensure!(named, "frame {} does not name {mm:?} at {vpn:#x}", pfn.0);
            let alone = self.map.mapcount(pfn) == 1;
            ensure!(
                !pte.has(Pte::EXCLUSIVE) || alone,
                "frame {} is exclusive, yet shared",
                pfn.0
            );
        } else {
            let delta = vpn.cast_signed() - i64::from(self.map.index(pfn));
            *seen
                .files
                .entry((FileId(self.map.anchor(pfn)), mm, delta))
                .or_default() += 1;
        }
        Ok(())
    }

    fn check_mapped_frames(&self, seen: &Seen) -> Result<(), String> {
        let mut stat = UserStat::default();
        for head in self.map.blocks() {
            let flags = self.map.flags(head.pfn);
            let user = head.class.is_anon() || head.class.is_cached();
            let large = flags & page_flags::LARGE != 0;
            if user && (large || head.order == Order::ZERO && flags & !page_flags::STOCK != 0) {
                self.check_folio(head, seen, &mut stat)?;
            } else {
                let end = head.pfn.0 + head.order.nr_pages();
                let mapped = seen.frames.range(head.pfn.0..end).next();
                ensure!(mapped.is_none(), "{head:?} is mapped: {mapped:?}");
            }
        }
        stat.nr_page_table_pages = self.owners.stat.nr_page_table_pages;
        let kept = self.owners.stat;
        ensure!(stat == kept, "counters {kept:?}, counted {stat:?}");
        Ok(())
    }

    /// Counts of a folio that user space or the page cache owns, of one frame or large.
    fn check_folio(&self, head: BlockHead, seen: &Seen, stat: &mut UserStat) -> Result<(), String> {
        let (large, mut expected, mut unmapped) = (head.order > Order::ZERO, 0, 0);
        for pfn in self.frames_of(head.pfn) {
            let flagged = self.map.flags(pfn) & page_flags::LARGE != 0;
            ensure!(
                flagged == large && head.compound == large,
                "frame {} of {head:?} is flagged wrongly",
                pfn.0
            );
            expected += self.check_user_frame(pfn, head.class, seen, stat)?;
            unmapped += u32::from(self.map.mapcount(pfn) == 0);
        }
        let refs = self.map.refcount(head.pfn);
        ensure!(
            refs == expected,
            "{head:?} has {refs} references of {expected}"
        );
        let partial = large && head.class.is_anon() && unmapped > 0;
        ensure!(
            partial == self.owners.deferred.contains(head.pfn),
            "{head:?}, {unmapped} frames of it not mapped, is queued wrongly"
        );
        Ok(())
    }

    /// Counts of one frame that user space or the page cache owns; returns the references to it.
    fn check_user_frame(
        &self,
        pfn: Pfn,
        class: PageClass,
        seen: &Seen,
        stat: &mut UserStat,
    ) -> Result<u32, String> {
        let (flags, at) = (self.map.flags(pfn), pfn.0);
        let (maps, locked) = seen.frames.get(&at).copied().unwrap_or_default();
        let mapcount = self.map.mapcount(pfn);
        ensure!(
            maps == mapcount,
            "frame {at} has mapcount {mapcount} of {maps}"
        );
        let cached = u32::from(!class.is_anon());
        let held = flags & page_flags::PINNED != 0;
        let holds = if held { self.map.pins(pfn) } else { 0 };
        let mlocked = flags & page_flags::MLOCKED != 0;
        ensure!(
            mlocked == locked,
            "frame {at} is locked: {mlocked}, not {locked}"
        );
        stat.nr_mlock += u64::from(locked);
        stat.nr_contig += u64::from(held);
        let mapped = u64::from(maps > 0);
        if cached == 0 {
            stat.nr_anon_mapped += mapped;
        } else {
            stat.nr_file_mapped += mapped;
            stat.nr_file_pages += 1;
            stat.nr_shmem += u64::from(class.is_shmem());
        }
        Ok(maps + cached + holds * (GUP_PIN_COUNTING_BIAS + 1))
    }

    fn check_cache(&self, seen: &Seen) -> Result<(), String> {
        let mut mapped = BTreeMap::new();
        for (&id, file) in &self.owners.cache.files {
            for (index, pfn) in file.cached(0..u32::MAX) {
                let owner = (self.map.anchor(pfn), self.map.index(pfn));
                ensure!(
                    owner == (id.0, index),
                    "frame {} is not page {index} of {id:?}",
                    pfn.0
                );
            }
            let cached = file.cached(0..u32::MAX).count() as u64;
            ensure!(
                cached == file.nr_pages,
                "{id:?} counts {} pages of {cached}",
                file.nr_pages
            );
            let counts = file.mappings.iter();
            mapped.extend(counts.map(|(&(mm, delta), &count)| ((id, mm, delta), count)));
        }
        ensure!(
            mapped == seen.files,
            "files are mapped {:?}, counted {mapped:?}",
            seen.files
        );
        Ok(())
    }

    fn check_sharers(&self) -> Result<(), String> {
        let mut counts = BTreeMap::new();
        for pfn in (0..self.map.nr_frames()).map(Pfn) {
            let anon = self.map.flags(pfn) & page_flags::ANON != 0;
            if anon && self.map.mapcount(pfn) > 0 {
                let walk = self.owners.rmap.walk(&self.map, pfn);
                ensure!(
                    walk.len() == self.map.mapcount(pfn) as usize,
                    "{} has {walk:?}",
                    pfn.0
                );
                if let Some(members) = self.owners.rmap.set_of(&self.map, pfn) {
                    *counts.entry(members).or_insert(0_u32) += 1;
                }
            }
        }
        let sets: BTreeMap<_, _> = self
            .owners
            .rmap
            .sharers
            .iter()
            .map(|(set, frames)| (set.to_vec(), frames))
            .collect();
        ensure!(
            sets == counts,
            "sets of sharers {sets:?}, counted {counts:?}"
        );
        Ok(())
    }

    fn check_runs(&self) -> Result<(), String> {
        for (id, run) in self.runs() {
            let frames = (run.base.0..run.base.0 + run.nr).map(Pfn);
            let held = frames
                .filter(|&pfn| self.map.flags(pfn) & page_flags::PINNED != 0)
                .count();
            ensure!(
                held >= run.held as usize,
                "{id:?} holds {} frames of {held}",
                run.held
            );
        }
        let held: u64 = self.runs().map(|(_, run)| u64::from(run.held)).sum();
        let nr_contig = self.owners.stat.nr_contig;
        ensure!(
            held == nr_contig,
            "runs hold {held} frames, nr_contig is {nr_contig}"
        );
        Ok(())
    }
}
