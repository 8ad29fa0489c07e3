//! The full invariant checker: every frame is in exactly one state, lists are well formed, nothing
//! that should have merged is left apart, and every counter equals what it counts.

use thiserror::Error;

use crate::free_area::FreeArea;
use crate::mem_map::{FileList, MemMap, PageClass};
use crate::memory::Memory;
use crate::pcp::pindex_to_order;
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn};
use crate::zone::{PAGEBLOCK, Zone};

/// An invariant that does not hold: a bug of the simulator, never an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct InvariantError(pub String);

macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(InvariantError(format!($($message)+)));
        }
    };
}

/// Frames of each zone that tile as free, or as waiting on a per-CPU list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    free: u64,
    pcp: u64,
}

impl Memory {
    /// Checks everything.
    ///
    /// # Errors
    /// The first invariant that does not hold, in a sentence.
    pub fn check(&self) -> Result<(), InvariantError> {
        self.check_frames()?;
        self.check_cma().map_err(InvariantError)?;
        self.check_owners().map_err(InvariantError)
    }

    /// Checks the frame array and the zones.
    fn check_frames(&self) -> Result<(), InvariantError> {
        let found = self.check_tiling()?;
        for (zone, found) in self.zones.iter().zip(found) {
            let listed = check_free_lists(&self.map, zone)?;
            ensure!(
                listed == found.free,
                "zone {}: {listed} free frames on lists, {} in the frame array",
                zone.id.0,
                found.free
            );
            let waiting = check_pcp_lists(&self.map, zone)?;
            ensure!(
                waiting == found.pcp,
                "zone {}: {waiting} frames on per-CPU lists, {} in the frame array",
                zone.id.0,
                found.pcp
            );
            check_reserved(&self.map, zone)?;
            check_file_lists(&self.map, zone)?;
        }
        Ok(())
    }

    /// Walks the frame array block by block.
    fn check_tiling(&self) -> Result<Vec<Found>, InvariantError> {
        let map = &self.map;
        let mut found = vec![Found::default(); self.zones.len()];
        let mut next = 0;
        while next < map.nr_frames() {
            let pfn = Pfn(next);
            let Some(head) = map.head_at(pfn) else {
                return Err(InvariantError(format!("frame {next} is in no block")));
            };
            let nr = head.order.nr_pages();
            ensure!(
                next & (nr - 1) == 0,
                "block at frame {next} is not aligned to {nr}"
            );
            ensure!(
                next + nr <= map.nr_frames(),
                "block at frame {next} goes beyond the last frame"
            );
            ensure!(
                map.is_bare_within(head.pfn, head.order),
                "a block starts within that at {next}"
            );
            let unused = matches!(head.class, PageClass::Free | PageClass::Pcp);
            ensure!(
                !unused || map.is_unowned(pfn, head.order, head.class == PageClass::Free),
                "the {:?} block at frame {next} has a frame with flags, counts or an owner",
                head.class
            );
            let zone = map.zone_of(pfn);
            ensure!(
                zone == map.zone_of(Pfn(next + nr - 1)) || head.class == PageClass::Nopage,
                "block at frame {next} straddles a zone"
            );
            if unused {
                let Some(zone) = zone else {
                    return Err(InvariantError(format!(
                        "free frame {next} belongs to no zone"
                    )));
                };
                let found = &mut found[zone.index()];
                let counter = if head.class == PageClass::Free {
                    &mut found.free
                } else {
                    &mut found.pcp
                };
                *counter += u64::from(nr);
            }
            next += nr;
        }
        Ok(found)
    }
}

/// Counts the pages of files on the lists of reclaim.
fn check_file_lists(map: &MemMap, zone: &Zone) -> Result<(), InvariantError> {
    for list in [FileList::Inactive, FileList::Active] {
        let (nr, counted) = (map.nr_file(zone.id, list), map.recount_file(zone.id, list));
        ensure!(
            nr == counted,
            "zone {}: {nr} frames of files are on the {list:?} list, {counted} in the frame array",
            zone.id.0
        );
    }
    Ok(())
}

/// Walks every free list of a zone; returns the frames on them.
fn check_free_lists(map: &MemMap, zone: &Zone) -> Result<u64, InvariantError> {
    let mut by_type = [0_u64; MigrateType::COUNT];
    for order in Order::all() {
        for migratetype in MigrateType::ALL {
            let nr = check_list(map, zone, order, migratetype)?;
            by_type[migratetype.index()] += u64::from(nr) << order.get();
        }
    }
    let total: u64 = by_type.iter().sum();
    let isolated = by_type[MigrateType::Isolate.index()];
    ensure!(
        zone.nr_free_pages == total - isolated,
        "zone {}: NR_FREE_PAGES is {}, the lists have {}",
        zone.id.0,
        zone.nr_free_pages,
        total - isolated
    );
    ensure!(
        zone.nr_free_cma == by_type[MigrateType::Cma.index()],
        "zone {}: NR_FREE_CMA_PAGES is {}",
        zone.id.0,
        zone.nr_free_cma
    );
    ensure!(
        zone.nr_free_highatomic == by_type[MigrateType::HighAtomic.index()],
        "zone {}: nr_free_highatomic is {}",
        zone.id.0,
        zone.nr_free_highatomic
    );
    Ok(total)
}

/// Walks one list; returns how many blocks are on it.
fn check_list(
    map: &MemMap,
    zone: &Zone,
    order: Order,
    migratetype: MigrateType,
) -> Result<u32, InvariantError> {
    let listed = zone.free_area.nr_of(order, migratetype);
    let mut previous = None;
    let mut nr = 0;
    for pfn in zone.free_area.iter(map, order, migratetype) {
        let at = pfn.0;
        nr += 1;
        ensure!(
            nr <= listed,
            "the list of order {} has more than {listed} blocks",
            order.get()
        );
        ensure!(
            map.is_free_head(pfn, order),
            "frame {at} is listed at order {}",
            order.get()
        );
        ensure!(
            FreeArea::prev(map, pfn, order) == previous,
            "the list is torn at frame {at}"
        );
        ensure!(
            map.zone_of(pfn) == Some(zone.id),
            "frame {at} is on another zone's list"
        );
        for block in (0..order.nr_pages()).step_by(PAGEBLOCK_NR_PAGES as usize) {
            let own = map.pageblock_migratetype(Pfn(at + block));
            ensure!(
                own == migratetype,
                "{own:?} frame {at} is on a {migratetype:?} list"
            );
        }
        check_unmerged(map, zone, pfn, order, migratetype)?;
        previous = Some(pfn);
    }
    ensure!(
        nr == listed,
        "a list of order {} has {nr} blocks, not {listed}",
        order.get()
    );
    ensure!(
        zone.free_area.last(order, migratetype) == previous,
        "a list's tail is not its last"
    );
    let marked = zone.free_area.smallest(order, migratetype) == Some(order);
    ensure!(
        marked == (nr > 0),
        "the mask of order {} is wrong",
        order.get()
    );
    Ok(nr)
}

/// A free block's buddy is not free at the same order, unless their pageblocks may not merge.
pub(crate) fn check_unmerged(
    map: &MemMap,
    zone: &Zone,
    pfn: Pfn,
    order: Order,
    migratetype: MigrateType,
) -> Result<(), InvariantError> {
    let buddy = pfn.buddy(order);
    let apart = order == Order::MAX
        || !map.is_free_head(buddy, order)
        || map.zone_of(buddy) != Some(zone.id)
        || (order >= PAGEBLOCK && {
            let other = map.pageblock_migratetype(buddy);
            other != migratetype && !(other.is_mergeable() && migratetype.is_mergeable())
        });
    ensure!(
        apart,
        "free buddies {} and {} of order {} are apart",
        pfn.0,
        buddy.0,
        order.get()
    );
    Ok(())
}

/// Walks the per-CPU lists of a zone; returns the frames on them.
fn check_pcp_lists(map: &MemMap, zone: &Zone) -> Result<u64, InvariantError> {
    let mut total = 0;
    for pcp in &zone.pcps {
        let mut count = 0;
        for (pindex, list) in pcp.lists.iter().enumerate() {
            let order = pindex_to_order(pindex);
            for pfn in list.iter() {
                let head = map.head_at(Pfn(pfn));
                let ok = head.is_some_and(|h| h.class == PageClass::Pcp && h.order == order);
                ensure!(ok, "frame {pfn} on a per-CPU list is {head:?}");
                ensure!(
                    map.zone_of(Pfn(pfn)) == Some(zone.id),
                    "frame {pfn} is of another zone"
                );
                count += order.nr_pages();
            }
        }
        ensure!(
            count == pcp.count,
            "a per-CPU count is {}, its lists have {count}",
            pcp.count
        );
        total += u64::from(count);
    }
    Ok(total)
}

/// `nr_reserved_highatomic` counts the pageblocks of that type.
fn check_reserved(map: &MemMap, zone: &Zone) -> Result<(), InvariantError> {
    let mut nr = 0;
    let mut start = zone.start_pfn.0 & !(PAGEBLOCK_NR_PAGES - 1);
    while start < zone.end_pfn() {
        let pfn = Pfn(start.max(zone.start_pfn.0));
        let own = map.zone_of(pfn) == Some(zone.id);
        if own && map.pageblock_migratetype(pfn) == MigrateType::HighAtomic {
            nr += u64::from(PAGEBLOCK_NR_PAGES);
        }
        start += PAGEBLOCK_NR_PAGES;
    }
    ensure!(
        nr == zone.nr_reserved_highatomic,
        "zone {}: nr_reserved_highatomic is {}, pageblocks have {nr}",
        zone.id.0,
        zone.nr_reserved_highatomic
    );
    Ok(())
}
