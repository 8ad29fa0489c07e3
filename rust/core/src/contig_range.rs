//! Ranges of frames beyond the largest block: `alloc_contig_range()` empties one and takes it,
//! `alloc_contig_pages()` looks for one. mm/page_alloc.c v6.12.
//!
//! The pageblocks of a range are isolated (`page_isolation`), what is used there is moved elsewhere by
//! the scanner and the steps of compaction, and the free frames that come together are taken. What
//! the kernel tests because others run meanwhile (a fatal signal, `-EINTR`; LRU batches of other
//! CPUs) does not happen here.

use crate::compaction::{CompactControl, MigrateMode, pageblock_end, pageblock_start};
use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::page_isolation::{Blocked, Obstacle};
use crate::units::{Cpu, MigrateType, NodeId, Order, PAGEBLOCK_NR_PAGES, Pfn, ZoneId, ZoneKind};
use crate::vmstat::VmEvent;
use crate::zonelist::Zonelists;

/// `COMPACT_CLUSTER_MAX`, include/linux/swap.h v6.12: frames isolated before they are moved.
const COMPACT_CLUSTER_MAX: u32 = 32;
/// How often a batch is tried: `__alloc_contig_migrate_range()`.
const MIGRATE_TRIES: u32 = 5;

/// Flags that `alloc_contig_range()` knows: `__alloc_contig_verify_gfp_mask()`.
#[derive(Clone, Copy, Debug)]
pub struct ContigGfp(Gfp);

impl ContigGfp {
    /// What chooses zone and node; no matter once the range is given.
    const PLACE: Gfp = Gfp::DMA
        .with(Gfp::HIGHMEM)
        .with(Gfp::DMA32)
        .with(Gfp::MOVABLE)
        .with(Gfp::RECLAIMABLE)
        .with(Gfp::WRITE)
        .with(Gfp::HARDWALL)
        .with(Gfp::THISNODE);
    const RECLAIM: Gfp = Gfp::IO.with(Gfp::FS).with(Gfp::RECLAIM);
    const EFFORT: Gfp = Gfp::RETRY_MAYFAIL.with(Gfp::NOWARN);
    const ACTION: Gfp = Self::EFFORT.with(Gfp::COMP).with(Gfp::ZERO);

    /// Checks flags.
    ///
    /// # Errors
    /// [`AllocError::UnsupportedGfp`]: `__GFP_NORETRY`, `__GFP_NOFAIL`, reserves and the like.
    pub const fn new(gfp: Gfp) -> Result<Self, AllocError> {
        let known = Self::PLACE.with(Self::RECLAIM).with(Self::ACTION);
        if gfp.without(known).0 == 0 {
            Ok(Self(gfp))
        } else {
            Err(AllocError::UnsupportedGfp(gfp.without(known).0))
        }
    }

    /// The flags for a frame to move a folio to: `alloc_migration_target()`, mm/migrate.c v6.12.
    fn target(self, order: Order, zone: ZoneKind) -> Gfp {
        let gfp = Gfp(self.0.0 & Self::RECLAIM.with(Self::EFFORT).0)
            .with(Gfp::HARDWALL)
            .with(Gfp::MOVABLE)
            .with(Gfp::RETRY_MAYFAIL);
        if order > Order::ZERO {
            return gfp.without(Gfp::RECLAIM).with(Gfp::TRANSHUGE);
        }
        if zone == ZoneKind::Movable {
            return gfp.with(Gfp::HIGHMEM);
        }
        gfp
    }
}

/// A request for a range that is being emptied.
#[derive(Clone, Copy, Debug)]
struct Emptying {
    zone: ZoneId,
    kind: ZoneKind,
    node: NodeId,
    cpu: Cpu,
    gfp: ContigGfp,
}

/// A search over the zones of a zonelist, and how far it has come.
pub(crate) struct ContigSearch {
    zones: Vec<ZoneId>,
    /// The zone that is searched, and the frame from which on; none for its first.
    at: (usize, Option<u64>),
    nr: u32,
    cpu: Cpu,
    gfp: ContigGfp,
    class: PageClass,
    tally: Tally,
}

impl ContigSearch {
    /// Why nothing more was found.
    pub fn refusal(&self) -> AllocError {
        self.tally.refusal(self.nr)
    }
}

/// What stood in the way, range by range.
#[derive(Default)]
pub(crate) struct Tally {
    ranges: u32,
    /// How many ranges, and where first.
    by: [Option<(u32, Pfn)>; Obstacle::ALL.len()],
}

impl Tally {
    pub fn count(&mut self, blocked: Blocked) {
        self.ranges += 1;
        let entry = &mut self.by[blocked.by as usize];
        let (nr, first) = entry.unwrap_or((0, blocked.pfn));
        *entry = Some((nr + 1, first));
    }

    /// The refusal of a request for `nr` frames.
    pub fn refusal(&self, nr: u32) -> AllocError {
        let counted = Obstacle::ALL.into_iter().rev().zip(self.by.iter().rev());
        let most = counted
            .filter_map(|(by, entry)| entry.map(|(count, pfn)| (count, Blocked { pfn, by })))
            .max_by_key(|&(count, _)| count);
        let ranges = self.ranges;
        most.map_or(AllocError::NoRange { nr }, |(_, blocked)| {
            AllocError::RangeBlocked {
                nr,
                ranges,
                blocked,
            }
        })
    }
}

impl Memory {
    /// Looks for a range of `nr` frames and takes it: each is then a block of order 0 of `class`, with
    /// one reference. Zones stand in the order of the zonelist; in each the first range that can be
    /// emptied is taken: `alloc_contig_pages()`.
    ///
    /// Ranges are aligned to their length and lie side by side where the length is a power of two.
    /// Others begin with a pageblock; the kernel's `ALIGN()` has no meaning for them, nor a caller
    /// there that asks for one.
    ///
    /// # Errors
    /// [`AllocError::UnsupportedGfp`]; [`AllocError::NoRange`] where no zone is that large; else
    /// [`AllocError::RangeBlocked`]. Pages that were moved meanwhile stay where they are then.
    pub fn alloc_contig_pages(
        &mut self,
        nr: u32,
        cpu: Cpu,
        node: Option<NodeId>,
        gfp: Gfp,
        class: PageClass,
    ) -> Result<Pfn, AllocError> {
        let mut search = self.contig_search(nr, cpu, node, gfp, class)?;
        self.next_contig(&mut search)
            .ok_or_else(|| search.refusal())
    }

    /// Begins a search.
    pub(crate) fn contig_search(
        &self,
        nr: u32,
        cpu: Cpu,
        node: Option<NodeId>,
        gfp: Gfp,
        class: PageClass,
    ) -> Result<ContigSearch, AllocError> {
        let checked = ContigGfp::new(gfp)?;
        let local = self.node_of(cpu).ok_or(AllocError::NoSuchCpu(cpu.0))?;
        let node = node.unwrap_or(local);
        if usize::from(node.0) >= self.zonelists.nr_nodes() {
            return Err(AllocError::NoSuchNode(node.0));
        }
        let which = Zonelists::which(node, gfp.has(Gfp::THISNODE), gfp.highest_zone());
        Ok(ContigSearch {
            zones: self.zonelists.zones(which).to_vec(),
            at: (0, None),
            nr,
            cpu,
            gfp: checked,
            class,
            tally: Tally::default(),
        })
    }

    /// The next range that could be emptied and taken, if there is one.
    pub(crate) fn next_contig(&mut self, search: &mut ContigSearch) -> Option<Pfn> {
        let nr = u64::from(search.nr);
        let align = if search.nr.is_power_of_two() {
            nr
        } else {
            u64::from(PAGEBLOCK_NR_PAGES)
        };
        while let Some(&id) = search.zones.get(search.at.0) {
            let zone = &self.zones[id.index()];
            let first = || u64::from(zone.start_pfn.0).next_multiple_of(align);
            let start = search.at.1.unwrap_or_else(first);
            if start + nr > u64::from(zone.end_pfn()) {
                search.at = (search.at.0 + 1, None);
                continue;
            }
            search.at.1 = Some(start + nr.next_multiple_of(align));
            let start = u32::try_from(start).expect("the zone spans it");
            let range = (start, start + search.nr);
            let (cpu, gfp, class) = (search.cpu, search.gfp, search.class);
            let movable = MigrateType::Movable;
            let taken = self
                .pfn_range_valid_contig(id, range)
                .and_then(|()| self.alloc_contig_range(range, movable, cpu, gfp, class));
            match taken {
                Ok(()) => return Some(Pfn(start)),
                Err(blocked) => search.tally.count(blocked),
            }
        }
        None
    }

    /// Whether a range is worth a try: `pfn_range_valid_contig()`.
    fn pfn_range_valid_contig(
        &self,
        zone: ZoneId,
        (start, end): (u32, u32),
    ) -> Result<(), Blocked> {
        let mut next = start;
        while next < end {
            let block = self.map.block_of(Pfn(next));
            let hole = matches!(block.class, PageClass::Reserved | PageClass::Nopage);
            if hole || block.class == PageClass::Hugetlb {
                return Err(self.blocked_by(block));
            }
            if self.map.zone_of(Pfn(next)) != Some(zone) {
                let by = Obstacle::ZoneBoundary;
                return Err(Blocked { pfn: Pfn(next), by });
            }
            next = block.pfn.0 + block.order.nr_pages();
        }
        Ok(())
    }

    /// Empties `[start, end)`, which lies in one zone, and takes it: each frame is then a block of
    /// order 0 of `class`, with one reference. `migratetype` is that of a CMA area's pageblocks, or
    /// `Movable` for any others: `alloc_contig_range()`.
    ///
    /// # Errors
    /// What is in the way: `-EBUSY`, or `-ENOMEM` for [`Obstacle::NoTarget`]. What was moved stays
    /// where it is.
    ///
    /// # Panics
    /// When the range is empty or its first frame belongs to no zone.
    pub fn alloc_contig_range(
        &mut self,
        (start, end): (u32, u32),
        migratetype: MigrateType,
        cpu: Cpu,
        gfp: ContigGfp,
        class: PageClass,
    ) -> Result<(), Blocked> {
        assert!(start < end, "an empty range");
        let id = self.map.zone_of(Pfn(start)).expect("a frame of a zone");
        let zone = &self.zones[id.index()];
        let emptying = Emptying {
            zone: id,
            kind: zone.kind,
            node: zone.node,
            cpu,
            gfp,
        };
        let isolation = self.start_isolate_page_range(id, cpu, (start, end), migratetype)?;
        self.drain_all_pages(Some(id));
        let taken = self
            .migrate_range(&emptying, (start, end))
            .and_then(|()| self.take_range(id, cpu, (start, end), class));
        self.undo_isolate_page_range(isolation);
        if taken.is_ok() && gfp.0.has(Gfp::ZERO) {
            let ns = u64::from(self.clock.costs.zero_ns) * u64::from(end - start);
            self.clock.charge(cpu, ns);
        }
        taken
    }

    /// Takes an isolated range that is free, and gives back what the blocks at its ends have too
    /// much: `find_large_buddy()`, `isolate_freepages_range()`, `split_free_pages()`.
    fn take_range(
        &mut self,
        id: ZoneId,
        cpu: Cpu,
        (start, end): (u32, u32),
        class: PageClass,
    ) -> Result<(), Blocked> {
        let first = self.map.block_of(Pfn(start));
        let outer_start = if first.class == PageClass::Free {
            first.pfn.0
        } else {
            start
        };
        self.test_pages_isolated(outer_start, end)?;
        let mut next = outer_start;
        while next < end {
            let block = self.map.block_of(Pfn(next));
            let zone = &mut self.zones[id.index()];
            zone.take_free(&mut self.map, block.pfn, block.order);
            let nr = block.order.nr_pages();
            self.map.set_heads(block.pfn, Order::ZERO, nr, class);
            next += nr;
        }
        self.zones[id.index()].work_locked(&mut self.clock, cpu, 0, 1);
        self.vmstat
            .count(VmEvent::CompactIsolated, u64::from(next - outer_start));
        self.free_each(cpu, Pfn(outer_start), start - outer_start);
        self.free_each(cpu, Pfn(end), next - end);
        Ok(())
    }

    // ---- moving what is used -----------------------------------------------------------------

    /// Moves what is used in a range, a cluster at a time. A page that stays is no error yet, but ends
    /// the work: `__alloc_contig_migrate_range()`.
    fn migrate_range(
        &mut self,
        emptying: &Emptying,
        (start, end): (u32, u32),
    ) -> Result<(), Blocked> {
        let mut cc = CompactControl::whole(emptying.zone, emptying.cpu, MigrateMode::Sync);
        cc.no_set_skip_hint = true;
        cc.alloc_contig = true;
        cc.may_enter_fs = emptying.gfp.0.has(Gfp::FS);
        let mut folios: Vec<(Pfn, Order)> = Vec::new();
        let (mut next, mut tries) = (start, 0);
        while next < end || !folios.is_empty() {
            if folios.is_empty() {
                next = self.isolate_migratepages_range(&mut cc, next, end);
                folios = std::mem::take(&mut cc.migrate_pages);
                folios.reverse();
                tries = 0;
            } else {
                tries += 1;
                if tries == MIGRATE_TRIES {
                    break;
                }
            }
            self.reclaim_clean_pages(emptying.cpu, &mut folios);
            folios = self.migrate_to_anywhere(emptying, folios)?;
        }
        let scan_ns = u64::from(self.clock.costs.scan_ns);
        self.clock
            .charge(emptying.cpu, cc.total_migrate_scanned * scan_ns);
        Ok(())
    }

    /// Isolates folios from `start` on until a cluster is full; tells how far that came:
    /// `isolate_migratepages_range()`, mm/compaction.c v6.12.
    fn isolate_migratepages_range(&mut self, cc: &mut CompactControl, start: u32, end: u32) -> u32 {
        cc.nr_migrate_pages = 0;
        let mut next = start;
        while next < end && cc.nr_migrate_pages < COMPACT_CLUSTER_MAX {
            let block_end = pageblock_end(pageblock_start(next)).min(end);
            self.isolate_migratepages_block(cc, next, block_end);
            next = cc.migrate_pfn;
        }
        next
    }

    /// Drops clean pages of files, which need not be moved: `reclaim_clean_pages_from_list()`,
    /// mm/vmscan.c v6.12.
    fn reclaim_clean_pages(&mut self, cpu: Cpu, folios: &mut Vec<(Pfn, Order)>) {
        folios.retain(|&(pfn, _)| {
            let file = self.map.head_at(pfn).filter(|head| head.class.is_file());
            file.is_none_or(|head| self.evict_folio(cpu, head) == 0)
        });
    }

    /// Moves folios to frames of the allocator; returns those that stay: `migrate_pages()` with
    /// `alloc_migration_target()`, mm/migrate.c v6.12.
    fn migrate_to_anywhere(
        &mut self,
        emptying: &Emptying,
        folios: Vec<(Pfn, Order)>,
    ) -> Result<Vec<(Pfn, Order)>, Blocked> {
        let (mut pieces, mut moves, mut refused) = (Vec::new(), Vec::new(), None);
        for (from, order) in folios {
            match self.migration_target(emptying, order) {
                Ok(to) => moves.push((from, to, order)),
                Err(_) if order > Order::ZERO => match self.split_to_move(emptying.cpu, from) {
                    Some(frames) => pieces.extend(frames.into_iter().map(|pfn| (pfn, Order::ZERO))),
                    None => refused = Some(from),
                },
                Err(_) => refused = Some(from),
            }
            if refused.is_some() {
                break;
            }
        }
        let mut left = self.move_all(emptying.cpu, moves);
        if let Some(pfn) = refused {
            let by = Obstacle::NoTarget;
            return Err(Blocked { pfn, by });
        }
        if !pieces.is_empty() {
            left.extend(self.migrate_to_anywhere(emptying, pieces)?);
        }
        Ok(left)
    }

    fn migration_target(&mut self, emptying: &Emptying, order: Order) -> Result<Pfn, AllocError> {
        let gfp = emptying.gfp.target(order, emptying.kind);
        let (cpu, node) = (emptying.cpu, Some(emptying.node));
        self.alloc_class(cpu, gfp, order, node, PageClass::Kernel)
    }

    /// Moves folios to their targets; returns those that stay. A folio that went while targets were
    /// looked for, since that may reclaim and compact, needs its own no more.
    fn move_all(&mut self, cpu: Cpu, moves: Vec<(Pfn, Pfn, Order)>) -> Vec<(Pfn, Order)> {
        let mut left = Vec::new();
        for (from, to, order) in moves {
            let head = self.map.head_at(from);
            let there = head.is_some_and(|head| head.order == order && self.can_isolate(head));
            if there && self.migrate_folio(cpu, (from, order), to).is_ok() {
                continue;
            }
            self.free_pages(cpu, to, order);
            if there {
                let nr = u64::from(order.nr_pages());
                self.vmstat.count(VmEvent::PgMigrateFail, nr);
                left.push((from, order));
                continue;
            }
            let frames = (from.0..from.0 + order.nr_pages()).map(Pfn);
            let heads = frames.filter_map(|pfn| self.map.head_at(pfn));
            let used = heads.filter(|&head| self.can_isolate(head));
            left.extend(used.map(|head| (head.pfn, head.order)));
        }
        left
    }
}
