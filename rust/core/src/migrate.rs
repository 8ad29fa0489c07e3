//! Mappings that change place: `mremap(2)` moves entries, mm/mremap.c v6.12; migration moves frames,
//! mm/migrate.c v6.12.

use crate::address_space::{Cause, MmId, Progress};
use crate::mem_map::page_flags;
use crate::memory::Memory;
use crate::page_cache::FileId;
use crate::page_table::{PTRS_PER_TABLE, Pte, slot_of};
use crate::units::{Cpu, Order, Pfn};
use crate::vmstat::VmEvent;
use crate::zap::mappings_of;

/// Why a frame cannot be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrateError {
    /// Not a page that user space or the page cache owns.
    NotMovable,
    /// Somebody pinned it, or has a reference that no mapping explains: `-EAGAIN`.
    Busy,
}

impl Memory {
    /// Moves `nr` entries from `src` to `dst`, where there are none: `move_page_tables()`. `done`
    /// counts pages.
    pub fn move_pages(&mut self, mm: MmId, cpu: Cpu, src: u64, dst: u64, nr: u64) -> Progress {
        let (mut at, end) = (src, src + nr);
        while let Some(span) = self.owners.next_span(mm, at, end) {
            let to = span.vpn - src + dst;
            let nr = span.nr.min(PTRS_PER_TABLE - to % PTRS_PER_TABLE);
            at = span.vpn + nr;
            let whole = span.is_whole() && nr == span.nr;
            if whole && let Err(error) = self.ensure_pmd(cpu, mm, to) {
                self.owners.cache.settle();
                return Progress::blocked(span.vpn - src, Cause::Memory(error));
            }
            if whole && self.move_table(mm, span.vpn, to) {
                continue;
            }
            let huge = self.owners.tables.leaf(span.leaf).huge;
            if huge && !self.split_huge_pmd(mm, span.vpn, span.leaf) {
                continue;
            }
            let entries = slot_of(span.vpn, 0)..slot_of(span.vpn, 0) + span_len(nr);
            let leaf = self.owners.tables.leaf(span.leaf);
            if leaf.ptes[entries].iter().all(|pte| pte.is_none()) {
                continue;
            }
            if let Err(error) = self.ensure_leaf(cpu, mm, to) {
                self.owners.cache.settle();
                return Progress::blocked(span.vpn - src, Cause::Memory(error));
            }
            self.move_ptes(mm, span.vpn, to, nr);
        }
        self.owners.cache.settle();
        let pte_ns = u64::from(self.clock.costs.pte_ns);
        self.clock.charge(cpu, nr * pte_ns);
        Progress::finished(nr)
    }

    /// `move_normal_pmd()`, `move_huge_pmd()`: the table itself changes place.
    fn move_table(&mut self, mm: MmId, src: u64, dst: u64) -> bool {
        let Some(pgd) = self.owners.space(mm).pgd else {
            return false;
        };
        let tables = &mut self.owners.tables;
        let Some(pmd) = tables.dir_of(pgd, dst, 1) else {
            return false;
        };
        if tables.leaf_of(pgd, dst).is_some() {
            return false;
        }
        let Some(leaf) = tables.unlink_leaf(pgd, src) else {
            return false;
        };
        tables.link_leaf(pmd, dst, leaf);
        for slot in 0..PTRS_PER_TABLE {
            let pte = self.owners.tables.leaf(leaf).ptes[span_len(slot)];
            self.rename(mm, pte, (src + slot, dst + slot));
        }
        true
    }

    /// `move_ptes()`, within one table each.
    fn move_ptes(&mut self, mm: MmId, src: u64, dst: u64, nr: u64) {
        for i in 0..nr {
            let pte = std::mem::take(self.owners.pte_mut(mm, src + i));
            if !pte.is_none() {
                self.rename(mm, pte, (src + i, dst + i));
                *self.owners.pte_mut(mm, dst + i) = pte;
            }
        }
    }

    /// Tells the reverse map of one entry's new place.
    fn rename(&mut self, mm: MmId, pte: Pte, (from, to): (u64, u64)) {
        if !pte.is_present() || pte.has(Pte::ZERO | Pte::WILD) {
            return;
        }
        let pfn = pte.pfn();
        if pte.has(Pte::ANON) {
            self.owners.rmap.rename(&mut self.map, pfn, mm, (from, to));
        } else {
            let (file, index) = (FileId(self.map.anchor(pfn)), self.map.index(pfn));
            let file = self.owners.cache.file_mut(file);
            let delta = |vpn: u64| vpn.cast_signed() - i64::from(index);
            file.count_mappings(mm, delta(from), -1);
            file.count_mappings(mm, delta(to), 1);
        }
    }

    /// Who maps a frame, entry by entry: `rmap_walk()`.
    pub fn rmap_walk(&self, pfn: Pfn) -> Vec<(MmId, u64)> {
        let owners = &self.owners;
        let mut mappings = mappings_of(&self.map, &owners.rmap, &owners.cache, pfn);
        mappings.retain(|&(mm, vpn)| {
            let pte = owners.pte(mm, vpn);
            pte.is_present() && pte.pfn() == pfn && !pte.has(Pte::WILD | Pte::ZERO)
        });
        mappings
    }

    /// Whether the folio whose head is `pfn`, a single frame or a large one, could be moved now: the
    /// tests of `isolate_migratepages_block()`, mm/compaction.c, and `folio_expected_refs()`,
    /// mm/migrate.c v6.12. A tail, or a block that nobody owns, is not movable.
    ///
    /// # Errors
    /// Why not.
    pub fn can_migrate(&self, pfn: Pfn) -> Result<(), MigrateError> {
        let head = self.map.head_at(pfn).ok_or(MigrateError::NotMovable)?;
        let flags = self.map.flags(pfn);
        let large = head.order > Order::ZERO;
        let owned = head.class.is_anon() || head.class.is_cached();
        if !owned || large && flags & page_flags::LARGE == 0 {
            return Err(MigrateError::NotMovable);
        }
        if flags & (page_flags::PINNED | page_flags::LOCKED | page_flags::WRITEBACK) != 0
            || !self.has_expected_refs(pfn)
        {
            return Err(MigrateError::Busy);
        }
        Ok(())
    }

    /// Moves a folio to a fresh block of the same order and frees the old one: `migrate_folio()`. The
    /// new block was allocated by the caller and has one reference and no other state. A large folio
    /// moves whole and stays one: huge mappings stay huge, and pages of it that nobody maps go along.
    /// Whoever has no block of its order splits it first ([`Memory::split_folio`]) and moves its
    /// frames one by one.
    ///
    /// # Errors
    /// Why the folio cannot be moved; the caller still has the new block.
    pub fn migrate_frame(&mut self, cpu: Cpu, from: Pfn, to: Pfn) -> Result<(), MigrateError> {
        self.can_migrate(from)?;
        let order = self.map.folio_order(from);
        let class = self.map.class(from);
        let refs = self.map.refcount(from);
        self.map.clear_head(to, self.map.folio_order(to));
        if order == Order::ZERO {
            self.map.set_head(to, order, class);
        } else {
            self.map.set_compound(to, order, class);
        }
        self.owners.deferred.rename(from, to);
        self.map.unlist_file(from);
        let mut nr_entries = 0;
        for (from, to) in self.frames_of(from).zip(to.0..) {
            nr_entries += self.migrate_page(from, Pfn(to));
        }
        self.map.add_refs(to, refs - 1);
        self.map.list_file(to);
        self.map.abandon(from);
        self.free_pages(cpu, from, order);
        let nr = u64::from(order.nr_pages());
        self.vmstat.count(VmEvent::PgMigrateSuccess, nr);
        let (pte_ns, copy_ns) = (self.clock.costs.pte_ns, self.clock.costs.copy_ns);
        self.clock.charge(
            cpu,
            nr * u64::from(copy_ns) + nr_entries * u64::from(pte_ns),
        );
        Ok(())
    }

    /// Gives one frame's entries, flags, owner and content to another, references not counted; tells
    /// how many entries it had.
    fn migrate_page(&mut self, from: Pfn, to: Pfn) -> u64 {
        let flags = self.map.flags(from);
        let mappings = self.rmap_walk(from);
        for &(mm, vpn) in &mappings {
            let pte = self.owners.pte_mut(mm, vpn);
            *pte = pte.moved_to(to);
        }
        self.map.set_flags(
            to,
            flags & !(page_flags::HAS_CONTENT | page_flags::ISOLATED),
        );
        self.map.add_mapcount(to, self.map.mapcount(from));
        self.owners.contents.transfer(&mut self.map, from, to);
        if flags & page_flags::ANON != 0 {
            self.owners.rmap.transfer(&mut self.map, from, to);
        } else {
            let (file, index) = (self.map.anchor(from), self.map.index(from));
            self.map.set_owner(to, file, index);
            self.owners.cache.file_mut(FileId(file)).replace(index, to);
        }
        self.map.reset_meta(from);
        mappings.len() as u64
    }
}

/// An index within a table.
fn span_len(nr: u64) -> usize {
    usize::try_from(nr).expect("at most 512")
}
