//! Contiguous runs of frames for `mmap(MAP_CONTIG)`.
//!
//! *Profile `contig`*: a run is an object. Each of its frames has one reference and one pin for every
//! mapping object (VMA) that holds the frame, whether or not an entry is present, and a frame goes
//! back when the last of these is released. So nothing can migrate, reclaim or copy it away.
//!
//! *Profile `rfc2017`* (Kravetz, patches 2/3 and 3/3, 2017-10-11): a block is split, its tail is freed
//! page by page, and each frame keeps the one reference of its allocation. The fault path maps a
//! frame *without taking a reference*; unmapping drops that single one. Between allocation and first
//! fault a frame is of class `Kernel` with the flag `ANON`; a fault makes it an ordinary anonymous
//! frame. Frames that are never faulted in are never freed: a leak, as in the RFC.
//!
//! *Wild mappings*: a later fault may compute a frame that this mapping has no right to: freed
//! meanwhile (`MADV_DONTNEED`), given to somebody else, or mapped already through the other half of a
//! split VMA. The RFC maps it all the same. Here the entry is marked `WILD`: it takes part in the
//! resident set and in pagemap, its bytes are the frame's, but the frame's own books stay right, as
//! the entry is in none of them. What it would have corrupted is counted in [`Wild`].

use serde::{Deserialize, Serialize};

use crate::address_space::{ANON_FLAGS, MmId, Owners, RssKind, vm_flags};
use crate::error::AllocError;
use crate::fault::FaultContext;
use crate::gfp::Gfp;
use crate::mem_map::{PageClass, page_flags};
use crate::memory::Memory;
use crate::page_table::{PTRS_PER_TABLE, Pte, Span};
use crate::rmap::Rmap;
use crate::units::{Cpu, MigrateType, NodeId, Order, PAGEBLOCK_NR_PAGES, Pfn};

/// Flags of an RFC frame that no fault has mapped yet, of class `Kernel`.
const PREALLOC_FLAGS: u16 = page_flags::ANON | page_flags::UPTODATE;
/// `GFP_HIGHUSER | __GFP_ZERO`, RFC 3/3: not movable.
const GFP_CONTIG: Gfp = Gfp::HIGHUSER.with(Gfp::ZERO);

/// A run, named by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(pub u32);

/// A contiguous run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContigRun {
    /// First frame.
    pub base: Pfn,
    /// Frames it began with.
    pub nr: u32,
    /// Frames that somebody still holds.
    pub held: u32,
}

/// All runs that still hold a frame, ascending by id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ContigRuns {
    runs: std::collections::BTreeMap<RunId, ContigRun>,
    next_id: u32,
    /// See [`Memory::break_for_test`]; no part of the machine's state.
    #[serde(skip)]
    broken: Option<Broken>,
}

/// A core that is made to hand out frames twice.
#[derive(Clone, Copy, Debug)]
struct Broken {
    every: u32,
    asked: u32,
}

impl ContigRuns {
    pub fn get(&self, run: RunId) -> Option<&ContigRun> {
        self.runs.get(&run)
    }

    pub fn iter(&self) -> impl Iterator<Item = (RunId, &ContigRun)> {
        self.runs.iter().map(|(&id, run)| (id, run))
    }

    fn insert(&mut self, base: Pfn, nr: u32) -> RunId {
        let id = RunId(self.next_id);
        self.next_id = id.0.checked_add(1).expect("fewer than 2^32 runs");
        self.runs.insert(id, ContigRun { base, nr, held: nr });
        id
    }

    /// A run of somebody else that a broken core hands out once more, if it is broken and now due.
    /// `pinned` tells whether a frame is held: a run that was handed out twice stays listed when its
    /// first holder lets go, whoever has its frames by then.
    fn due_twice(&mut self, nr: u32, pinned: impl Fn(Pfn) -> bool) -> Option<Pfn> {
        let broken = self.broken.as_mut()?;
        broken.asked += 1;
        if !broken.asked.is_multiple_of(broken.every) {
            return None;
        }
        let held = |run: &&ContigRun| {
            run.nr == nr && (run.base.0..run.base.0 + nr).all(|pfn| pinned(Pfn(pfn)))
        };
        self.runs.values().rfind(held).map(|run| run.base)
    }
}

/// What mappings to frames that they had no right to would have corrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wild {
    /// Entries that exist now.
    pub present: u64,
    /// Faults that mapped a free frame (defect D3).
    pub mapped_free: u64,
    /// Faults that mapped a frame of somebody else (D3 after reuse).
    pub mapped_foreign: u64,
    /// Faults that mapped a frame twice (D6).
    pub mapped_twice: u64,
    /// Stores through such an entry into a frame that was free: lost here.
    pub stores_to_free: u64,
    /// Stores through such an entry into a frame that somebody uses: done.
    pub stores_to_used: u64,
    /// References dropped that the mapping did not have.
    pub stray_puts: u64,
}

impl Wild {
    /// An entry was zapped: the RFC drops a reference that is not there.
    pub(crate) const fn zapped(&mut self) {
        self.present -= 1;
        self.stray_puts += 1;
    }

    /// A byte was stored.
    pub(crate) const fn stored(&mut self, unowned: bool) {
        if unowned {
            self.stores_to_free += 1;
        } else {
            self.stores_to_used += 1;
        }
    }
}

impl Memory {
    /// Allocates a run of exactly `nr` frames, zeroed, held and pinned once each: from a block of the
    /// buddy allocator, whose rest goes back in the largest aligned blocks, or beyond its largest
    /// block from a range that is emptied ([`Self::alloc_contig_pages`]).
    ///
    /// # Errors
    /// Why no block or range could be had.
    pub fn run_alloc(
        &mut self,
        nr: u32,
        cpu: Cpu,
        node: Option<NodeId>,
        gfp: Gfp,
    ) -> Result<(RunId, Pfn), AllocError> {
        let map = &self.map;
        let pinned = |pfn| map.flags(pfn) & page_flags::PINNED != 0;
        if let Some(base) = self.owners.runs.due_twice(nr, pinned) {
            return Ok((self.hand_out_again(base, nr), base));
        }
        let gfp = gfp.with(Gfp::ZERO);
        let base = if let Ok(order) = Order::covering(nr) {
            let base = self.alloc_class(cpu, gfp, order, node, PageClass::Anon)?;
            self.split_page(base, order);
            self.free_run(cpu, Pfn(base.0 + nr), order.nr_pages() - nr);
            base
        } else {
            self.alloc_contig_pages(nr, cpu, node, gfp, PageClass::Anon)?
        };
        Ok((self.hold_run(base, nr), base))
    }

    /// Allocates up to `most` runs of `nr` frames each, more than the largest block has, until one is
    /// refused; returns how many. Each search goes on behind the run that the last one found, since
    /// what stood in the way before it stands there still.
    ///
    /// # Errors
    /// Why not even one could be had.
    pub fn run_alloc_batch(
        &mut self,
        nr: u32,
        most: u32,
        cpu: Cpu,
        node: Option<NodeId>,
        gfp: Gfp,
    ) -> Result<u32, AllocError> {
        let mut search = self.contig_search(nr, cpu, node, gfp.with(Gfp::ZERO), PageClass::Anon)?;
        let mut got = 0;
        while got < most {
            let Some(base) = self.next_contig(&mut search) else {
                return if got > 0 {
                    Ok(got)
                } else {
                    Err(search.refusal())
                };
            };
            self.hold_run(base, nr);
            got += 1;
        }
        Ok(got)
    }

    /// Makes frames that were just allocated a run: held and pinned.
    fn hold_run(&mut self, base: Pfn, nr: u32) -> RunId {
        self.map
            .pin_fresh(base, nr, ANON_FLAGS | page_flags::PINNED);
        self.claim_pageblocks(base, nr);
        self.owners.stat.nr_contig += u64::from(nr);
        self.owners.runs.insert(base, nr)
    }

    /// **For tests of observers only**: from now on every `every`-th run (from 1) is handed out
    /// although somebody else holds it, if there is such a one of the same length. Frames keep their
    /// books, so that the machine lives on; [`Self::check`] fails.
    ///
    /// # Panics
    /// When `every` is 0.
    pub fn break_for_test(&mut self, every: u32) {
        assert!(every > 0, "every 0th run");
        self.owners.runs.broken = Some(Broken { every, asked: 0 });
    }

    #[cold]
    fn hand_out_again(&mut self, base: Pfn, nr: u32) -> RunId {
        for pfn in (base.0..base.0 + nr).map(Pfn) {
            self.map.get_page(pfn);
            self.map.pin(pfn);
        }
        self.owners.runs.insert(base, nr)
    }

    /// Pageblocks that a run covers whole are unmovable from now on, unless they are reserved: what is
    /// pinned for long must not sit where compaction expects to clear.
    fn claim_pageblocks(&mut self, base: Pfn, nr: u32) {
        let first = base.0.next_multiple_of(PAGEBLOCK_NR_PAGES);
        let end = base.0 + nr;
        for start in (first..end).step_by(PAGEBLOCK_NR_PAGES as usize) {
            let own = self.map.pageblock_migratetype(Pfn(start));
            if start + PAGEBLOCK_NR_PAGES <= end && own.is_mergeable() {
                self.map
                    .set_pageblock_migratetype(Pfn(start), MigrateType::Unmovable);
            }
        }
    }

    /// A run that still holds frames.
    pub fn run(&self, run: RunId) -> Option<&ContigRun> {
        self.owners.runs.get(run)
    }

    /// Every run that still holds frames, ascending by id.
    pub fn runs(&self) -> impl Iterator<Item = (RunId, &ContigRun)> {
        self.owners.runs.iter()
    }

    fn run_frames(&self, run: RunId, offset: u32, nr: u32) -> impl Iterator<Item = Pfn> + use<> {
        let ContigRun { base, nr: len, .. } = *self.run(run).expect("a live run");
        assert!(offset + nr <= len, "frames {offset}+{nr} of a run of {len}");
        (base.0 + offset..base.0 + offset + nr).map(Pfn)
    }

    /// Maps `nr` frames of a run from its frame `offset` on, at the entries of `vpn` that are absent;
    /// returns how many pages are mapped.
    ///
    /// # Errors
    /// No frame for a page table; what was mapped stays mapped.
    pub fn run_map(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        vpn: u64,
        run: RunId,
        (offset, nr): (u32, u32),
        flags: u64,
    ) -> Result<u64, AllocError> {
        let shared = flags & vm_flags::SHARED != 0;
        let write = if flags & vm_flags::WRITE != 0 {
            Pte::WRITE | Pte::DIRTY
        } else {
            0
        };
        let own = if shared { 0 } else { Pte::EXCLUSIVE };
        let bits = Pte::ANON | Pte::YOUNG | own | write;
        let mut frames = self.run_frames(run, offset, nr);
        let (mut mapped, mut at, end) = (0, vpn, vpn + u64::from(nr));
        while at < end {
            let leaf = self.ensure_leaf(cpu, mm, at)?;
            let nr = (PTRS_PER_TABLE - at % PTRS_PER_TABLE).min(end - at);
            let span = Span { leaf, vpn: at, nr };
            let Owners {
                tables, rmap, stat, ..
            } = &mut self.owners;
            let ptes = &mut tables.leaf_mut(leaf).ptes[span.slots()];
            for ((vpn, pte), pfn) in (at..).zip(ptes).zip(&mut frames) {
                if pte.is_none() {
                    *pte = Pte::present(pfn, bits);
                    stat.nr_anon_mapped += u64::from(self.map.mapcount(pfn) == 0);
                    rmap.add_held(&mut self.map, pfn, mm, vpn);
                    mapped += 1;
                }
            }
            at += nr;
        }
        self.owners.count_rss(mm, RssKind::Anon, mapped);
        let pte_ns = u64::from(self.clock.costs.pte_ns);
        self.clock.charge(cpu, mapped.unsigned_abs() * pte_ns);
        Ok(mapped.unsigned_abs())
    }

    /// One more VMA holds these frames: a reference and a pin each.
    pub fn run_hold(&mut self, run: RunId, offset: u32, nr: u32) {
        for pfn in self.run_frames(run, offset, nr) {
            debug_assert!(self.map.pins(pfn) > 0, "only a held frame is held again");
            self.map.get_page(pfn);
            self.map.pin(pfn);
        }
    }

    /// A VMA holds these frames no longer; returns how many were freed by that. Mappings must have
    /// been zapped before.
    pub fn run_release(&mut self, run: RunId, offset: u32, nr: u32, cpu: Cpu) -> u32 {
        let mut freed = 0;
        for pfn in self.run_frames(run, offset, nr) {
            if self.map.unpin_lone(pfn) {
                freed += 1;
                self.owners.scratch.push(pfn);
                continue;
            }
            self.map.unpin(pfn);
            if self.map.pins(pfn) == 0 {
                self.map.clear_flags(pfn, page_flags::PINNED);
                freed += 1;
            }
            if self.map.put_page_testzero(pfn) {
                self.owners.scratch.push(pfn);
            }
        }
        self.free_scratch(cpu);
        self.owners.stat.nr_contig -= u64::from(freed);
        let runs = &mut self.owners.runs.runs;
        let held = &mut runs.get_mut(&run).expect("a live run").held;
        *held -= freed;
        if *held == 0 {
            runs.remove(&run);
        }
        freed
    }

    // ---- the RFC of October 2017 -------------------------------------------------------------

    /// `__alloc_vma_contig_range()`, RFC 3/3: a block of `get_order(length)`, split, its tail freed
    /// page by page.
    ///
    /// # Errors
    /// Why no block could be had; from `MAX_ORDER` on, [`AllocError::OrderTooLarge`].
    pub fn rfc_alloc(
        &mut self,
        nr: u32,
        cpu: Cpu,
        node: Option<NodeId>,
    ) -> Result<Pfn, AllocError> {
        let order = Order::covering(nr)?;
        let base = self.alloc_class(cpu, GFP_CONTIG, order, node, PageClass::Kernel)?;
        self.split_page(base, order);
        for pfn in base.0..base.0 + nr {
            self.map.set_flags(Pfn(pfn), PREALLOC_FLAGS);
        }
        for pfn in base.0 + nr..base.0 + order.nr_pages() {
            self.free_pages(cpu, Pfn(pfn), Order::ZERO);
        }
        Ok(base)
    }

    /// `__free_vma_contig_range()`, RFC 3/3: drops a reference to each frame that still waits for
    /// its first fault, and returns how many were freed; for others it would be a stray one, which
    /// is counted.
    pub fn rfc_free(&mut self, base: Pfn, nr: u32, cpu: Cpu) -> u32 {
        let mut freed = 0;
        for pfn in (base.0..base.0 + nr).map(Pfn) {
            if self.is_prealloc(pfn) {
                self.free_frame(cpu, pfn);
                freed += 1;
            } else {
                self.owners.wild.stray_puts += 1;
            }
        }
        freed
    }

    /// Counters of wild mappings.
    pub const fn wild(&self) -> &Wild {
        &self.owners.wild
    }

    /// An RFC frame that no fault has mapped yet.
    pub(crate) fn is_prealloc(&self, pfn: Pfn) -> bool {
        self.map.class(pfn) == PageClass::Kernel && self.map.flags(pfn) == PREALLOC_FLAGS
    }

    /// A frame that nobody uses.
    pub(crate) fn is_unowned(&self, pfn: Pfn) -> bool {
        pfn.0 >= self.map.nr_frames()
            || matches!(
                self.map.class(pfn),
                PageClass::Free | PageClass::Pcp | PageClass::Nopage | PageClass::Reserved
            )
    }

    /// The entry that the RFC's `do_anonymous_page()` makes: the frame of the run that lies as far
    /// behind `base` as the page behind the VMA's start, whosever it is by now.
    pub(crate) fn map_prealloc(&mut self, f: &FaultContext, base: Pfn, vpn: u64) -> Pte {
        let distance = u32::try_from(vpn - f.vma.start_vpn).expect("a run is at most 4 MiB");
        let pfn = Pfn(base.0 + distance);
        self.owners.count_rss(f.mm, RssKind::Anon, 1);
        if !self.is_unowned(pfn) && self.is_prealloc(pfn) {
            self.map.set_class(pfn, PageClass::Anon);
            self.map.set_flags(pfn, ANON_FLAGS);
            Rmap::add_new(&mut self.map, pfn, f.mm, vpn);
            self.owners.stat.nr_anon_mapped += 1;
            return Pte::present(pfn, Pte::ANON | Pte::EXCLUSIVE);
        }
        let twice = !self.is_unowned(pfn)
            && self.map.flags(pfn) & page_flags::ANON != 0
            && self
                .owners
                .rmap
                .walk(&self.map, pfn)
                .iter()
                .any(|&(mm, _)| mm == f.mm);
        let wild = &mut self.owners.wild;
        wild.present += 1;
        match (self.is_unowned(pfn), twice) {
            (true, _) => self.owners.wild.mapped_free += 1,
            (false, true) => self.owners.wild.mapped_twice += 1,
            (false, false) => self.owners.wild.mapped_foreign += 1,
        }
        Pte::present(pfn, Pte::WILD)
    }
}
