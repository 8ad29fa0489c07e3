//! What compaction and contiguous ranges move: pages with owners through the reverse map (`migrate`),
//! and captured pages whose owner nobody told.

use crate::mem_map::{BlockHead, PageClass, page_flags};
use crate::memory::Memory;
use crate::migrate::MigrateError;
use crate::units::{Cpu, Order, Pfn};
use crate::vmstat::VmEvent;

impl Memory {
    /// Says that captured folios without owners hold what is not written back yet. Others are passed
    /// over.
    pub fn mark_dirty(&mut self, heads: &[Pfn]) {
        for &pfn in heads {
            if self
                .map
                .head_at(pfn)
                .is_some_and(|head| self.is_stock(head))
            {
                self.map.add_flags(pfn, page_flags::DIRTY);
            }
        }
    }

    /// A captured page (or folio) of user memory or the page cache that nobody was given: it can
    /// move, as nothing points at it.
    pub(crate) fn is_stock(&self, head: BlockHead) -> bool {
        head.class.is_lru()
            && self.map.flags(head.pfn) & !page_flags::STOCK == 0
            && self.map.refcount(head.pfn) == 1
            && self.map.mapcount(head.pfn) == 0
    }

    /// Whether the scanner of compaction takes a folio off its LRU list: the tests of
    /// `isolate_migratepages_block()`, mm/compaction.c v6.12. A file's page with a reference too many
    /// is taken, and fails to migrate.
    pub(crate) fn can_isolate(&self, head: BlockHead) -> bool {
        if self.is_stock(head) {
            return true;
        }
        let flags = self.map.flags(head.pfn);
        if !head.class.is_lru() || flags & (page_flags::ISOLATED | page_flags::PINNED) != 0 {
            return false;
        }
        let owned = flags & page_flags::LRU != 0;
        let anon = flags & page_flags::ANON != 0;
        owned && (!anon || self.has_expected_refs(head.pfn))
    }

    /// Moves a folio to a fresh block of its order and frees the old one: `migrate_folio()`.
    ///
    /// # Errors
    /// Why it cannot be moved; the caller still has the new block.
    pub(crate) fn migrate_folio(
        &mut self,
        cpu: Cpu,
        (from, order): (Pfn, Order),
        to: Pfn,
    ) -> Result<(), MigrateError> {
        let head = self.map.head_at(from).ok_or(MigrateError::NotMovable)?;
        if !self.is_stock(head) {
            return self.migrate_frame(cpu, from, to);
        }
        if let Some(moves) = &mut self.moves {
            moves.push((from, to, order));
        }
        self.mark_folio(to, order, head.class);
        self.map.set_flags(to, self.map.flags(from));
        self.map.list_file(to);
        self.map.unlist_file(from);
        self.map.reset_meta(from);
        self.map.abandon(from);
        self.free_pages(cpu, from, order);
        let nr = u64::from(order.nr_pages());
        self.vmstat.count(VmEvent::PgMigrateSuccess, nr);
        self.clock
            .charge(cpu, nr * u64::from(self.clock.costs.copy_ns));
        Ok(())
    }

    fn mark_folio(&mut self, pfn: Pfn, order: Order, class: PageClass) {
        if order > Order::ZERO {
            self.map.set_compound(pfn, order, class);
        } else {
            self.map.set_head(pfn, order, class);
        }
    }

    /// Splits a large folio that has no block to move to, and returns those of its frames that are
    /// still in use: `try_split_folio()`, mm/migrate.c v6.12. None for one that somebody else holds,
    /// or with buffers that are not written back, which `filemap_release_folio()` cannot free.
    pub(crate) fn split_to_move(&mut self, cpu: Cpu, head: Pfn) -> Option<Vec<Pfn>> {
        let block = self.map.head_at(head)?;
        let cached_dirty = !block.class.is_anon() && self.map.flags(head) & page_flags::DIRTY != 0;
        if cached_dirty {
            return None;
        }
        if self.is_stock(block) {
            self.map.split_block(head);
        } else {
            self.split_folio(cpu, head)?;
        }
        let frames = (head.0..head.0 + block.order.nr_pages()).map(Pfn);
        let in_use = |&pfn: &Pfn| {
            let head = self.map.head_at(pfn);
            head.is_some_and(|head| head.order == Order::ZERO && self.can_isolate(head))
        };
        Some(frames.filter(in_use).collect())
    }
}
