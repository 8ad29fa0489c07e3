//! Keeping a block that comes together for the request that compacts: `compaction_capture()`,
//! mm/page_alloc.c v6.12.
//!
//! The kernel looks on every free. Here the blocks in which pages were freed are looked at after each
//! batch and each flush, which is the same as nobody else frees or takes in between; a block that
//! merged beyond the order wanted is split again.

use super::control::CompactControl;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::units::{MigrateType, Pfn};
use crate::zone::PAGEBLOCK;

impl Memory {
    /// Takes the first block of the wanted order that is free where pages were freed.
    pub(super) fn capture_freed(&mut self, cc: &mut CompactControl) {
        let Some(order) = cc.order.filter(|_| cc.captures) else {
            return;
        };
        cc.freed.dedup();
        for &start in &cc.freed {
            if cc.captured.is_some() {
                return;
            }
            let block = self.map.block_of(Pfn(start));
            if block.class != PageClass::Free || block.order < order {
                continue;
            }
            let own = self.map.pageblock_migratetype(block.pfn);
            let spared = order < PAGEBLOCK
                && own == MigrateType::Movable
                && cc.migratetype != MigrateType::Movable;
            if !own.is_mergeable() && own != MigrateType::HighAtomic || spared {
                continue;
            }
            let zone = &mut self.zones[cc.zone.index()];
            zone.del_and_expand(&mut self.map, block.pfn, order, block.order, own);
            self.map.set_head(block.pfn, order, PageClass::Kernel);
            cc.captured = Some(block.pfn);
        }
        cc.freed.retain(|&start| {
            let block = self.map.block_of(Pfn(start));
            block.class != PageClass::Free || block.order < order
        });
    }
}
