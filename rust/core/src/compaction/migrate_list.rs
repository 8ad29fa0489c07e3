//! Moves the isolated folios to the isolated frames: `migrate_pages()`, mm/migrate.c v6.12, with
//! `compaction_alloc()` and `compaction_free()`, mm/compaction.c v6.12.

use super::control::CompactControl;
use crate::events::Tracepoint;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::units::{Order, Pfn};
use crate::vmstat::VmEvent;

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Migrated {
    All,
    /// Some page could not move.
    Some,
    /// `-ENOMEM`: there was no frame to move to.
    NoTarget,
}

impl Memory {
    /// Migrates all isolated folios, the last isolated first, and empties the list.
    pub(super) fn migrate_isolated(&mut self, cc: &mut CompactControl) -> Migrated {
        let mut folios = std::mem::take(&mut cc.migrate_pages);
        folios.reverse();
        let isolated: u32 = folios.iter().map(|folio| folio.1.nr_pages()).sum();
        let migrated = self.vmstat.get(VmEvent::PgMigrateSuccess);
        let mut pieces = Vec::new();
        let result = self.migrate_batch(cc, &folios, Some(&mut pieces));
        if !pieces.is_empty() {
            self.migrate_batch(cc, &pieces, None);
        }
        cc.nr_migrate_pages = 0;
        let migrated = self.vmstat.get(VmEvent::PgMigrateSuccess) - migrated;
        let migrated = u32::try_from(migrated).unwrap_or(u32::MAX);
        self.map.events.note(
            Tracepoint::CompactionMigratepages,
            [migrated, isolated.saturating_sub(migrated)],
        );
        self.capture_freed(cc);
        result
    }

    /// Finds frames for folios, then moves them. A large folio that has no frames of its size is
    /// split and its pages are put in `pieces`; one that cannot be split ends the run.
    fn migrate_batch(
        &mut self,
        cc: &mut CompactControl,
        folios: &[(Pfn, Order)],
        mut pieces: Option<&mut Vec<(Pfn, Order)>>,
    ) -> Migrated {
        let mut result = Migrated::All;
        let mut moves = Vec::with_capacity(folios.len());
        for &(from, order) in folios {
            if let Some(to) = self.compaction_alloc(cc, order) {
                moves.push((from, to, order));
                continue;
            }
            if let Some(pieces) = pieces.as_deref_mut()
                && order > Order::ZERO
                && let Some(frames) = self.split_to_move(cc.cpu, from)
            {
                let gone = u64::from(order.nr_pages()) - frames.len() as u64;
                cc.nr_migrate_pages -= u32::try_from(gone).expect("no more than a folio has");
                pieces.extend(frames.into_iter().map(|pfn| (pfn, Order::ZERO)));
                continue;
            }
            // Folios behind it are not tried and not counted: migrate_pages_batch().
            self.vmstat
                .count(VmEvent::PgMigrateFail, u64::from(order.nr_pages()));
            result = Migrated::NoTarget;
            break;
        }
        for (from, to, order) in moves {
            if self.migrate_folio(cc.cpu, (from, order), to).is_ok() {
                if let (true, Some(wanted)) = (cc.captures, cc.order) {
                    cc.freed.push(from.0 & !(wanted.nr_pages() - 1));
                }
                continue;
            }
            self.vmstat
                .count(VmEvent::PgMigrateFail, u64::from(order.nr_pages()));
            compaction_free(cc, to, order);
            if result == Migrated::All {
                result = Migrated::Some;
            }
        }
        result
    }

    /// A block of free frames that the free scanner isolated: `compaction_alloc()`.
    fn compaction_alloc(&mut self, cc: &mut CompactControl, order: Order) -> Option<Pfn> {
        if !has_block(cc, order) {
            self.isolate_freepages(cc);
        }
        let from = order
            .and_larger()
            .find(|larger| !cc.free_pages[larger.index()].is_empty())?;
        let pfn = cc.free_pages[from.index()].pop_front()?;
        if from > order {
            self.map.clear_head(Pfn(pfn), from);
        }
        for half in order.up_to(from).rev() {
            let upper = pfn + half.nr_pages();
            self.map.set_head(Pfn(upper), half, PageClass::Kernel);
            cc.free_pages[half.index()].push_front(upper);
        }
        self.map.set_head(Pfn(pfn), order, PageClass::Kernel);
        cc.nr_free_pages -= order.nr_pages();
        cc.nr_migrate_pages -= order.nr_pages();
        Some(Pfn(pfn))
    }
}

fn has_block(cc: &CompactControl, order: Order) -> bool {
    order
        .and_larger()
        .any(|order| !cc.free_pages[order.index()].is_empty())
}

/// `compaction_free()`.
fn compaction_free(cc: &mut CompactControl, pfn: Pfn, order: Order) {
    cc.free_pages[order.index()].push_front(pfn.0);
    cc.nr_free_pages += order.nr_pages();
    cc.nr_migrate_pages += order.nr_pages();
}
