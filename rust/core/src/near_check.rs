//! The invariants that one step could have broken, checked around one frame: in constant time, so that
//! a soak can afford it after every step. `Memory::check` looks at everything.

use crate::invariants::{InvariantError, check_unmerged};
use crate::mem_map::{BlockHead, MemMap, PageClass};
use crate::memory::Memory;
use crate::units::{MigrateType, Order, Pfn};
use crate::zone::Zone;

macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(InvariantError(format!($($message)+)));
        }
    };
}

impl Memory {
    /// Checks the block that holds a frame, its neighbours on its list, and the counters and list
    /// lengths of its zone against each other.
    ///
    /// # Errors
    /// The first invariant that does not hold, in a sentence.
    pub fn check_near(&self, pfn: Pfn) -> Result<(), InvariantError> {
        let block = cover(&self.map, pfn)?;
        let at = block.pfn.0;
        ensure!(
            self.map.is_bare_within(block.pfn, block.order),
            "a block starts within that at {at}"
        );
        let Some(id) = self.map.zone_of(block.pfn) else {
            let none = matches!(block.class, PageClass::Nopage | PageClass::Reserved);
            ensure!(none, "frame {at} is used, but belongs to no zone");
            return Ok(());
        };
        let zone = &self.zones[id.index()];
        let unused = matches!(block.class, PageClass::Free | PageClass::Pcp);
        ensure!(
            !unused
                || self
                    .map
                    .is_unowned(block.pfn, block.order, block.class == PageClass::Free),
            "the {:?} block at frame {at} has a frame with flags, counts or an owner",
            block.class
        );
        if block.class == PageClass::Free {
            check_listed(&self.map, zone, block)?;
        }
        check_totals(zone)
    }
}

/// The block that holds a frame; an error where `MemMap::block_of` would panic.
fn cover(map: &MemMap, pfn: Pfn) -> Result<BlockHead, InvariantError> {
    let starts = Order::all().map(|order| Pfn(pfn.0 & !(order.nr_pages() - 1)));
    let mut heads = starts.filter_map(|start| map.head_at(start));
    match heads.next() {
        Some(head) if pfn.0 - head.pfn.0 < head.order.nr_pages() => Ok(head),
        _ => Err(InvariantError(format!("frame {} is in no block", pfn.0))),
    }
}

/// A free block hangs between its neighbours on its pageblock's list.
fn check_listed(map: &MemMap, zone: &Zone, block: BlockHead) -> Result<(), InvariantError> {
    let BlockHead { pfn, order, .. } = block;
    let at = pfn.0;
    let migratetype = map.pageblock_migratetype(pfn);
    let (before, after) = zone.free_area.neighbours(map, pfn, order, migratetype);
    ensure!(
        before == Some(pfn) && after == Some(pfn),
        "the {migratetype:?} list of order {} does not pass through frame {at}",
        order.get()
    );
    check_unmerged(map, zone, pfn, order, migratetype)
}

/// The zone's counters are what its lists' lengths say.
fn check_totals(zone: &Zone) -> Result<(), InvariantError> {
    let id = zone.id.0;
    let frames = |migratetype| -> u64 {
        let listed =
            |order: Order| u64::from(zone.free_area.nr_of(order, migratetype)) << order.get();
        Order::all().map(listed).sum()
    };
    let by_type = MigrateType::ALL.map(frames);
    let free = by_type.iter().sum::<u64>() - by_type[MigrateType::Isolate.index()];
    ensure!(
        zone.nr_free_pages == free,
        "zone {id}: NR_FREE_PAGES is {}, the lists have {free}",
        zone.nr_free_pages
    );
    ensure!(
        zone.nr_free_cma == by_type[MigrateType::Cma.index()],
        "zone {id}: NR_FREE_CMA_PAGES is {}",
        zone.nr_free_cma
    );
    ensure!(
        zone.nr_free_highatomic == by_type[MigrateType::HighAtomic.index()],
        "zone {id}: nr_free_highatomic is {}",
        zone.nr_free_highatomic
    );
    ensure!(
        zone.free_area.masks_agree(),
        "zone {id}: a mask does not say which lists have blocks"
    );
    for pcp in &zone.pcps {
        let listed: usize = pcp
            .lists()
            .map(|(order, list)| list.len() << order.get())
            .sum();
        ensure!(
            listed == pcp.count as usize,
            "zone {id}: a per-CPU count is {}, its lists have {listed}",
            pcp.count
        );
    }
    Ok(())
}
