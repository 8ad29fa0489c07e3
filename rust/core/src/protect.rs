//! Changing entries that stay: `mprotect(2)`, `mlock(2)`, guard markers. mm/mprotect.c, mm/mlock.c,
//! mm/madvise.c v6.12 (guards: v6.13).

use crate::address_space::{Cause, MmId, Progress, vm_flags};
use crate::memory::Memory;
use crate::page_table::{Leaf, PTRS_PER_TABLE, Pte, slot_of};
use crate::units::Cpu;
use crate::zap::Markers;

impl Memory {
    /// Calls `change` for each leaf's entries in the range that are not none.
    pub(crate) fn for_each_pte(
        &mut self,
        mm: MmId,
        vpn: u64,
        nr: u64,
        mut change: impl FnMut(&mut Self, u64, Pte) -> Pte,
    ) {
        let (mut at, end) = (vpn, vpn + nr);
        while let Some(span) = self.owners.next_span(mm, at, end) {
            at = span.vpn + span.nr;
            for (vpn, slot) in (span.vpn..).zip(span.slots()) {
                let pte = self.owners.tables.leaf(span.leaf).ptes[slot];
                if !pte.is_none() {
                    let new = change(self, vpn, pte);
                    self.owners.tables.leaf_mut(span.leaf).ptes[slot] = new;
                }
            }
        }
    }

    /// Gives present entries the permissions of `flags`: `change_pte_range()`, `change_huge_pmd()`; a
    /// huge mapping that the range cuts is split. An entry becomes
    /// writable at once only where no fault would have anything to do: `can_change_pte_writable()`.
    pub fn protect(&mut self, mm: MmId, vpn: u64, nr: u64, flags: u64) {
        let write = flags & vm_flags::WRITE != 0;
        let ready = if flags & vm_flags::SHARED != 0 {
            Pte::DIRTY
        } else {
            Pte::EXCLUSIVE
        };
        let (mut at, end) = (vpn, vpn + nr);
        while let Some(span) = self.owners.next_span(mm, at, end) {
            at = span.vpn + span.nr;
            let cut = !span.is_whole() && self.owners.tables.leaf(span.leaf).huge;
            if cut && !self.split_huge_pmd(mm, span.vpn, span.leaf) {
                continue;
            }
            let leaf: &mut Leaf = self.owners.tables.leaf_mut(span.leaf);
            for pte in leaf.ptes[span.slots()]
                .iter_mut()
                .filter(|pte| pte.is_present())
            {
                if !write {
                    *pte = pte.without(Pte::WRITE);
                } else if pte.has(ready) {
                    *pte = pte.with(Pte::WRITE);
                }
            }
        }
    }

    /// Counts the present pages of a range as locked, or no longer, by `VM_LOCKED` in `flags`:
    /// `mlock_vma_pages_range()`.
    pub fn mlock_range(&mut self, mm: MmId, vpn: u64, nr: u64, flags: u64) {
        let lock = flags & vm_flags::LOCKED != 0;
        self.for_each_pte(mm, vpn, nr, |memory, _, pte| {
            if !pte.is_present() || pte.has(Pte::LOCKED) == lock {
                return pte;
            }
            if lock {
                return memory.lock_frame(pte);
            }
            memory.owners.munlocked.push(pte.pfn());
            pte.without(Pte::LOCKED)
        });
        self.settle_mlock();
    }

    /// Zaps a range and puts guard markers there: `madvise_guard_install()`. `done` counts pages.
    pub fn guard_install(&mut self, mm: MmId, cpu: Cpu, vpn: u64, nr: u64) -> Progress {
        self.zap(mm, cpu, vpn, nr, Markers::Keep);
        let mut at = vpn;
        while at < vpn + nr {
            let leaf = match self.ensure_leaf(cpu, mm, at) {
                Ok(leaf) => leaf,
                Err(error) => return Progress::blocked(at - vpn, Cause::Memory(error)),
            };
            let next = (at - at % PTRS_PER_TABLE + PTRS_PER_TABLE).min(vpn + nr);
            for page in at..next {
                self.owners.tables.leaf_mut(leaf).ptes[slot_of(page, 0)] = Pte(Pte::GUARD);
            }
            at = next;
        }
        Progress::finished(nr)
    }

    /// Removes the guard markers of a range: `madvise_guard_remove()`.
    pub fn guard_remove(&mut self, mm: MmId, vpn: u64, nr: u64) {
        self.for_each_pte(mm, vpn, nr, |_, _, pte| {
            if pte.has(Pte::GUARD) { Pte::NONE } else { pte }
        });
    }
}
