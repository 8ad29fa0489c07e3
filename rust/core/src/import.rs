//! Giving a booted machine the frames of another: used frames with their classes, free blocks in the
//! order of their lists, types of pageblocks, frames that wait on per-CPU lists.

use thiserror::Error;

use crate::free_area::Side;
use crate::mem_map::{MemMap, PageClass};
use crate::memory::Memory;
use crate::pcp::pcp_allowed_order;
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn, ZoneId};
use crate::zone::{PAGEBLOCK, Zone};

/// A state that cannot be: a frame named twice or not at all, a block that is not aligned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ImportError(pub String);

macro_rules! refuse {
    ($($message:tt)+) => {
        return Err(ImportError(format!($($message)+)))
    };
}

/// The state to import, in columns. Columns of one group have equal lengths, but those marked
/// optional may be empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Import<'a> {
    /// Runs of used frames: first frame.
    pub run_start: &'a [u32],
    /// Frames of each run.
    pub run_nr: &'a [u32],
    /// [`PageClass`] of each run, by number; not `Free` or `Pcp`.
    pub run_class: &'a [u8],
    /// Optional: order of the blocks that each run is made of, else 0. A block of order above 0 is
    /// a folio. Ignored for holes and reserved frames.
    pub run_order: &'a [u8],
    /// Free blocks, the blocks of one list from its head on: first frame.
    pub free_pfn: &'a [u32],
    /// Order of each free block.
    pub free_order: &'a [u8],
    /// Optional: migratetype of each pageblock from frame 0 on, else all movable. Free blocks are on
    /// the list of their pageblock's type.
    pub pageblock_mt: &'a [u8],
    /// Blocks on per-CPU lists, those of one list from the next to be handed out on: first frame.
    pub pcp_pfn: &'a [u32],
    /// Order of each.
    pub pcp_order: &'a [u8],
    /// CPU of each.
    pub pcp_cpu: &'a [u16],
    /// `high` of per-CPU lists: zone, CPU, frames.
    pub pcp_high: &'a [(u8, u16, u32)],
}

impl Memory {
    /// Replaces the state of every frame. The frames named must be all those of all zones, each
    /// once. Zones, limits, counters and clocks stay as booted.
    ///
    /// # Errors
    /// [`ImportError`]; the machine is then as it was.
    pub fn import(&mut self, state: &Import<'_>) -> Result<(), ImportError> {
        state.check_lengths()?;
        let mut next = Frames::emptied(self);
        next.set_pageblock_types(state.pageblock_mt)?;
        let gaps = state.gaps(&next.map)?;
        for (start, nr) in gaps {
            next.map.set_run(Pfn(start), nr, PageClass::Nopage);
        }
        next.set_runs(state)?;
        next.set_free(state)?;
        next.set_pcp(state)?;
        next.map.settle_files();
        self.map = next.map;
        self.zones = next.zones;
        Ok(())
    }
}

/// The frames and lists to be.
struct Frames {
    map: MemMap,
    zones: Vec<Zone>,
}

impl Frames {
    /// Those of a machine, emptied.
    fn emptied(memory: &Memory) -> Self {
        let mut zones = memory.zones.clone();
        for zone in &mut zones {
            zone.forget_frames();
        }
        Self {
            map: memory.map.emptied(),
            zones,
        }
    }

    fn set_pageblock_types(&mut self, types: &[u8]) -> Result<(), ImportError> {
        if !types.is_empty() && types.len() != self.map.nr_pageblocks() {
            refuse!(
                "{} pageblock types for {} pageblocks",
                types.len(),
                self.map.nr_pageblocks()
            );
        }
        for (block, &raw) in (0_u32..).zip(types) {
            let pfn = Pfn(block * PAGEBLOCK_NR_PAGES);
            let Ok(migratetype) = MigrateType::new(raw) else {
                refuse!("pageblock {block} has the migratetype {raw}")
            };
            self.map.set_pageblock_migratetype(pfn, migratetype);
            let end = self.map.nr_frames().min(pfn.0 + PAGEBLOCK_NR_PAGES) - 1;
            let zone = self.map.zone_of(pfn).or_else(|| self.map.zone_of(Pfn(end)));
            if let (MigrateType::HighAtomic, Some(zone)) = (migratetype, zone) {
                let zone = &mut self.zones[zone.index()];
                zone.nr_reserved_highatomic += u64::from(PAGEBLOCK_NR_PAGES);
            }
        }
        Ok(())
    }

    fn set_runs(&mut self, state: &Import<'_>) -> Result<(), ImportError> {
        for (at, (&start, &nr)) in state.run_start.iter().zip(state.run_nr).enumerate() {
            let raw = state.run_class[at];
            let class = match PageClass::new(raw) {
                Some(class) if !matches!(class, PageClass::Free | PageClass::Pcp) => class,
                _ => refuse!("the run at frame {start} has the class {raw}"),
            };
            if matches!(
                class,
                PageClass::Nopage | PageClass::Reserved | PageClass::Offline
            ) {
                self.map.set_run(Pfn(start), nr, class);
                continue;
            }
            let order = order_of(state.run_order.get(at).copied().unwrap_or(0), start)?;
            let mask = order.nr_pages() - 1;
            if start & mask != 0 || nr & mask != 0 {
                refuse!(
                    "the run at frame {start} cannot be cut into blocks of {}",
                    mask + 1
                );
            }
            if order == Order::ZERO {
                self.map.set_heads(Pfn(start), order, nr, class);
                continue;
            }
            for block in (start..start + nr).step_by(order.nr_pages() as usize) {
                self.map.set_compound(Pfn(block), order, class);
            }
        }
        Ok(())
    }

    fn set_free(&mut self, state: &Import<'_>) -> Result<(), ImportError> {
        for (&pfn, &raw) in state.free_pfn.iter().zip(state.free_order) {
            let order = order_of(raw, pfn)?;
            let id = self.zone_of_block(Pfn(pfn), order)?;
            let migratetype = self.map.pageblock_migratetype(Pfn(pfn));
            if order > PAGEBLOCK {
                let upper = self
                    .map
                    .pageblock_migratetype(Pfn(pfn + PAGEBLOCK_NR_PAGES));
                if upper != migratetype {
                    refuse!("the free block at frame {pfn} has two migratetypes");
                }
            }
            let zone = &mut self.zones[id.index()];
            zone.account_added(u64::from(order.nr_pages()), migratetype);
            zone.free_area
                .add(&mut self.map, Pfn(pfn), order, migratetype, Side::Tail);
        }
        for (&pfn, &raw) in state.free_pfn.iter().zip(state.free_order) {
            let order = order_of(raw, pfn)?;
            let buddy = Pfn(pfn).buddy(order);
            let may_merge = order < Order::MAX && self.map.is_free_head(buddy, order);
            if may_merge && self.would_merge(Pfn(pfn), buddy) {
                refuse!("the free blocks at frames {pfn} and {} are one", buddy.0);
            }
        }
        Ok(())
    }

    fn would_merge(&self, pfn: Pfn, buddy: Pfn) -> bool {
        let own = self.map.pageblock_migratetype(pfn);
        let other = self.map.pageblock_migratetype(buddy);
        let types = own == other || (own.is_mergeable() && other.is_mergeable());
        types && self.map.zone_of(pfn) == self.map.zone_of(buddy)
    }

    fn set_pcp(&mut self, state: &Import<'_>) -> Result<(), ImportError> {
        for &(zone, cpu, high) in state.pcp_high {
            let zone = self.zones.get_mut(usize::from(zone));
            let pcp = zone.and_then(|zone| zone.pcps.get_mut(usize::from(cpu)));
            let Some(pcp) = pcp else {
                refuse!("no per-CPU lists of CPU {cpu} in that zone")
            };
            pcp.high = high;
        }
        for (at, &pfn) in state.pcp_pfn.iter().enumerate() {
            let order = order_of(state.pcp_order[at], pfn)?;
            let cpu = usize::from(state.pcp_cpu[at]);
            let id = self.zone_of_block(Pfn(pfn), order)?;
            let Some(pcp) = self.zones[id.index()].pcps.get_mut(cpu) else {
                refuse!("frame {pfn} waits on a list of CPU {cpu}, which has none")
            };
            if !pcp_allowed_order(order) {
                refuse!("no per-CPU list has blocks of order {}", order.get());
            }
            let own = self.map.pageblock_migratetype(Pfn(pfn));
            let listed = if own.is_mergeable() {
                own
            } else {
                MigrateType::Movable
            };
            pcp.list_mut(order, listed).push_back(pfn, order);
            pcp.count += order.nr_pages();
            self.map.set_head(Pfn(pfn), order, PageClass::Pcp);
        }
        Ok(())
    }

    /// The zone of an aligned block that lies within one.
    fn zone_of_block(&self, pfn: Pfn, order: Order) -> Result<ZoneId, ImportError> {
        if pfn.0 & (order.nr_pages() - 1) != 0 {
            refuse!(
                "the block of order {} at frame {} is not aligned",
                order.get(),
                pfn.0
            );
        }
        let last = Pfn(pfn.0 + (order.nr_pages() - 1));
        match self.map.zone_of(pfn) {
            Some(zone) if self.map.zone_of(last) == Some(zone) => Ok(zone),
            _ => refuse!("the block at frame {} is not in one zone", pfn.0),
        }
    }
}

impl Import<'_> {
    fn check_lengths(&self) -> Result<(), ImportError> {
        let runs = self.run_start.len();
        let optional = self.run_order.is_empty() || self.run_order.len() == runs;
        if self.run_nr.len() != runs || self.run_class.len() != runs || !optional {
            refuse!("the columns of the runs differ in length");
        }
        if self.free_order.len() != self.free_pfn.len() {
            refuse!("the columns of the free blocks differ in length");
        }
        let pcp = self.pcp_pfn.len();
        if self.pcp_order.len() != pcp || self.pcp_cpu.len() != pcp {
            refuse!("the columns of the per-CPU lists differ in length");
        }
        Ok(())
    }

    /// Ranges that nothing names, if none is memory and nothing is named twice.
    fn gaps(&self, map: &MemMap) -> Result<Vec<(u32, u32)>, ImportError> {
        let blocks = |pfns: &[u32], orders: &[u8]| -> Vec<(u32, u32)> {
            pfns.iter()
                .zip(orders)
                .map(|(&pfn, &raw)| (pfn, 1 << raw.min(31)))
                .collect()
        };
        let mut ranges: Vec<(u32, u32)> = self
            .run_start
            .iter()
            .copied()
            .zip(self.run_nr.iter().copied())
            .collect();
        ranges.extend(blocks(self.free_pfn, self.free_order));
        ranges.extend(blocks(self.pcp_pfn, self.pcp_order));
        ranges.sort_unstable();
        ranges.push((map.nr_frames(), 0));
        let mut gaps = Vec::new();
        let mut next = 0_u64;
        for &(start, nr) in &ranges {
            if u64::from(start) < next {
                refuse!("frame {start} is named twice, or lies beyond the last");
            }
            if u64::from(start) > next {
                let from = u32::try_from(next).expect("below start");
                gaps.push((from, start - from));
            }
            next = u64::from(start) + u64::from(nr);
        }
        for &(start, nr) in &gaps {
            if let Some(pfn) = map.first_present(Pfn(start), nr) {
                refuse!("frame {} is not named", pfn.0);
            }
        }
        Ok(gaps)
    }
}

fn order_of(raw: u8, pfn: u32) -> Result<Order, ImportError> {
    Order::new(raw).map_err(|error| ImportError(format!("the block at frame {pfn}: {error}")))
}
