//! Many single frames given back at once: the same lists, counters and times as one after the other,
//! without what would be asked again for each.

use crate::mem_map::{MemMap, PageClass, aligned_blocks, page_flags};
use crate::memory::Memory;
use crate::units::{Cpu, Order, Pfn};
use crate::vmstat::VmEvent;
use crate::zone::{PAGEBLOCK, Zone};

impl Memory {
    /// Frees frames whose last reference is gone, in this order, or the folios that they are part of,
    /// and tells how many frames that are: `free_unref_folios()`.
    pub(crate) fn free_frames(&mut self, cpu: Cpu, pfns: &[Pfn]) -> u64 {
        let mut freed = 0;
        let mut single = 0;
        for (at, &pfn) in pfns.iter().enumerate() {
            let flags = self.map.flags(pfn);
            if flags & page_flags::LARGE != 0 {
                self.free_singles(cpu, &pfns[single..at]);
                freed += (at - single) as u64 + self.free_frame(cpu, pfn);
                single = at + 1;
                continue;
            }
            if flags & page_flags::ACTIVE != 0 {
                self.map.relist_file(pfn, 0, page_flags::ACTIVE);
            }
            if flags & page_flags::HAS_CONTENT != 0 {
                self.owners.contents.clear(&mut self.map, pfn);
            }
            if !self.map.meta_is_clear(pfn) {
                self.map.reset_meta(pfn);
            }
        }
        self.free_singles(cpu, &pfns[single..]);
        freed + (pfns.len() - single) as u64
    }

    /// Frees single frames in this order: [`Self::free_pages`] of each.
    ///
    /// # Panics
    /// When one is no allocated block of order 0: an invariant is broken.
    pub fn free_singles(&mut self, cpu: Cpu, pfns: &[Pfn]) {
        let mut left = pfns;
        while let Some((&first, others)) = left.split_first() {
            left = match self.free_to_list(cpu, left) {
                0 => {
                    self.free_pages(cpu, first, Order::ZERO);
                    others
                }
                done => &left[done..],
            };
        }
    }

    /// Puts the first of these frames on this CPU's list, as many as lie in one pageblock and leave
    /// the list short of its limit; returns how many, 0 where the next one is to be decided about.
    fn free_to_list(&mut self, cpu: Cpu, pfns: &[Pfn]) -> usize {
        let block = pfns[0].pageblock();
        let (zone, migratetype) = self.map.pageblock(pfns[0]);
        let plain = migratetype.is_mergeable() && self.map.pageblock_is_whole(pfns[0]);
        if !plain || self.map.events.is_on() {
            return 0;
        }
        let zone = &mut self.zones[zone.expect("the pageblock is of one zone").index()];
        let room = zone.room_for_singles(cpu) as usize;
        if room == 0 {
            return 0;
        }
        let limits = zone.pcp_limits;
        let pcp = &mut zone.pcps[usize::from(cpu.0)];
        let list = pcp.list_mut(Order::ZERO, migratetype);
        let mut nr = 0;
        for &pfn in pfns.iter().take(room) {
            if pfn.pageblock() != block || !self.map.is_unlisted_head(pfn, Order::ZERO) {
                break;
            }
            debug_assert!(self.map.meta_is_clear(pfn), "frame {} is in use", pfn.0);
            self.map.set_head(pfn, Order::ZERO, PageClass::Pcp);
            list.push_front(pfn.0, Order::ZERO);
            nr += 1;
        }
        pcp.put(nr, limits);
        self.vmstat.count(VmEvent::PgFree, u64::from(nr));
        let pcp_ns = u64::from(self.clock.costs.pcp_ns);
        self.clock.charge(cpu, u64::from(nr) * pcp_ns);
        nr as usize
    }
}

impl Zone {
    /// How many single frames a CPU's list takes before one more makes it look at its limit.
    fn room_for_singles(&self, cpu: Cpu) -> u32 {
        if self.reclaim_active || self.below_high {
            return 0; // each free changes the limit
        }
        let pcp = self.pcps.get(usize::from(cpu.0));
        pcp.map_or(0, |pcp| pcp.room(self.pcp_limits))
    }

    /// Gives back what a CPU's list of single frames ends with, if these are neighbours of one
    /// pageblock that were freed in ascending order, up to `most`; returns how many.
    ///
    /// They merge to the largest aligned blocks among them before any other frame has a part in it,
    /// so that it is all one whether they come as frames or as these blocks.
    pub(crate) fn drain_neighbours(
        &mut self,
        map: &mut MemMap,
        cpu: usize,
        pindex: usize,
        most: u32,
    ) -> u32 {
        if map.events.is_on() {
            return 0;
        }
        let pcp = &mut self.pcps[cpu];
        let Some((first, nr)) = pcp.lists[pindex].pop_back_ascending(most, PAGEBLOCK) else {
            return 0;
        };
        pcp.count -= nr;
        for pfn in first..first + nr {
            map.clear_head(Pfn(pfn), Order::ZERO);
        }
        let migratetype = map.pageblock_migratetype(Pfn(first));
        for (pfn, order) in aligned_blocks(Pfn(first), nr) {
            self.free_one_page(map, pfn, order, migratetype, None);
        }
        nr
    }
}
