//! Huge pages at faults: `do_huge_pmd_anonymous_page()` and `do_huge_pmd_wp_page()`,
//! mm/huge_memory.c v6.12, and the smaller large folios of `alloc_anon_folio()`, mm/memory.c v6.12.
//!
//! Which orders a fault may take is asked of the machine's [`ThpSettings`], what
//! /sys/kernel/mm/transparent_hugepage holds, and of the VMA's flags and ends.

use serde::{Deserialize, Serialize};

use crate::address_space::{Cause, RssKind, VmArea, vm_flags};
use crate::fault::FaultContext;
use crate::folio::HPAGE_PMD_ORDER;
use crate::gfp::Gfp;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::page_table::{LeafId, PTRS_PER_TABLE, Pte, slot_of};
use crate::shmem_huge::ThpShmem;
use crate::units::{Cpu, Order, Pfn};
use crate::vmstat::VmEvent;

/// `enabled`: who gets huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThpEnabled {
    /// All anonymous memory.
    Always,
    /// Memory with `VM_HUGEPAGE`.
    #[default]
    Madvise,
    /// Nobody.
    Never,
}

/// `defrag`: how much a fault may wait for a huge page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThpDefrag {
    /// Reclaim and compact directly.
    #[serde(rename = "always")]
    Always,
    /// Wake the daemons.
    #[serde(rename = "defer")]
    Defer,
    /// Directly for `VM_HUGEPAGE`, else wake the daemons.
    #[serde(rename = "defer+madvise")]
    DeferMadvise,
    /// Directly for `VM_HUGEPAGE`, else nothing.
    #[default]
    #[serde(rename = "madvise")]
    Madvise,
    /// Nothing.
    #[serde(rename = "never")]
    Never,
}

/// What /sys/kernel/mm/transparent_hugepage holds. Bit `n` of a mask is order `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThpSettings {
    /// Who gets those of the orders that inherit.
    pub enabled: ThpEnabled,
    /// How much a fault may wait.
    pub defrag: ThpDefrag,
    /// Whether reads of untouched memory map the huge zero page.
    pub use_zero_page: bool,
    /// `huge_anon_orders_always`.
    pub orders_always: u16,
    /// `huge_anon_orders_madvise`.
    pub orders_madvise: u16,
    /// `huge_anon_orders_inherit`.
    pub orders_inherit: u16,
    /// Which pages of shared memory are huge.
    #[serde(default)]
    pub shmem: ThpShmem,
}

impl Default for ThpSettings {
    /// As a kernel built with `TRANSPARENT_HUGEPAGE_MADVISE` boots.
    fn default() -> Self {
        Self {
            enabled: ThpEnabled::default(),
            defrag: ThpDefrag::default(),
            use_zero_page: true,
            orders_always: 0,
            orders_madvise: 0,
            orders_inherit: 1 << HPAGE_PMD_ORDER.get(),
            shmem: ThpShmem::default(),
        }
    }
}

impl ThpSettings {
    /// Orders that an anonymous fault in a VMA may take: `thp_vma_allowable_orders()`.
    pub(crate) const fn orders_for(&self, vma: &VmArea) -> u16 {
        if vma.file.is_some()
            || vma.prealloc.is_some()
            || vma.has(vm_flags::NOHUGEPAGE | vm_flags::CONTIG)
        {
            return 0;
        }
        let advised = vma.has(vm_flags::HUGEPAGE);
        let inherited = match self.enabled {
            ThpEnabled::Always => true,
            ThpEnabled::Madvise => advised,
            ThpEnabled::Never => false,
        };
        self.orders_always
            | if advised { self.orders_madvise } else { 0 }
            | if inherited { self.orders_inherit } else { 0 }
    }

    /// What a huge page's allocation may do: `vma_thp_gfp_mask()`.
    pub(crate) fn gfp(&self, vma: Option<&VmArea>) -> Gfp {
        let advised = vma.is_some_and(|vma| vma.has(vm_flags::HUGEPAGE));
        let gfp = match (self.defrag, advised) {
            (ThpDefrag::Always, true) => Gfp::TRANSHUGE,
            (ThpDefrag::Always, false) => Gfp::TRANSHUGE.with(Gfp::NORETRY),
            (ThpDefrag::Defer, _) | (ThpDefrag::DeferMadvise, false) => {
                Gfp::TRANSHUGE_LIGHT.with(Gfp::KSWAPD_RECLAIM)
            }
            (ThpDefrag::DeferMadvise | ThpDefrag::Madvise, true) => {
                Gfp::TRANSHUGE_LIGHT.with(Gfp::DIRECT_RECLAIM)
            }
            (ThpDefrag::Madvise, false) | (ThpDefrag::Never, _) => Gfp::TRANSHUGE_LIGHT,
        };
        gfp.with(Gfp::ZERO)
    }
}

/// Orders below that of a huge page.
const SMALLER: u16 = (1 << HPAGE_PMD_ORDER.get()) - 1;

impl Memory {
    /// What /sys/kernel/mm/transparent_hugepage holds.
    pub const fn thp(&self) -> &ThpSettings {
        &self.owners.thp
    }

    /// Sets what /sys/kernel/mm/transparent_hugepage holds; what is mapped stays. Orders without
    /// large anonymous folios (0, 1 and above that of a huge page) are ignored.
    pub const fn set_thp(&mut self, settings: ThpSettings) {
        let known = (SMALLER | 1 << HPAGE_PMD_ORDER.get()) & !3;
        self.owners.thp = ThpSettings {
            orders_always: settings.orders_always & known,
            orders_madvise: settings.orders_madvise & known,
            orders_inherit: settings.orders_inherit & known,
            ..settings
        };
    }

    /// Whether faults in a VMA may make large folios that are smaller than a huge page.
    pub(crate) const fn has_small_orders(&self, vma: &VmArea) -> bool {
        self.owners.thp.orders_for(vma) & SMALLER != 0
    }

    /// The part of a fault that huge pages take: `create_huge_pmd()`, `wp_huge_pmd()`. Nothing: the
    /// fault goes on with small pages.
    pub(crate) fn handle_huge_fault(
        &mut self,
        f: &FaultContext,
        vpn: u64,
        write: bool,
    ) -> Result<Option<Pte>, Cause> {
        let Some(leaf) = self.owners.leaf_of(f.mm, vpn) else {
            return self.do_huge_pmd_anonymous_page(f, vpn, write);
        };
        let entry = self.owners.tables.leaf(leaf);
        if !entry.huge || !write {
            return Ok(None);
        }
        let pte = entry.ptes[slot_of(vpn, 0)];
        if pte.has(Pte::ZERO) {
            return Ok(self.do_huge_zero_wp_pmd(f, leaf, vpn));
        }
        let head = entry.ptes[0].pfn();
        if !pte.has(Pte::EXCLUSIVE) && self.map.refcount(head) != HPAGE_PMD_ORDER.nr_pages() {
            self.split_huge_pmd(f.mm, vpn, leaf);
            return Ok(None);
        }
        let bits = Pte::EXCLUSIVE | f.written();
        for pte in self.owners.tables.leaf_mut(leaf).ptes.iter_mut() {
            *pte = pte.with(bits);
        }
        Ok(Some(self.owners.pte(f.mm, vpn)))
    }

    fn do_huge_pmd_anonymous_page(
        &mut self,
        f: &FaultContext,
        vpn: u64,
        write: bool,
    ) -> Result<Option<Pte>, Cause> {
        let order = 1 << HPAGE_PMD_ORDER.get();
        if self.owners.thp.orders_for(f.vma) & order == 0 || !fits(f.vma, vpn, HPAGE_PMD_ORDER) {
            return Ok(None);
        }
        self.ensure_pmd(f.cpu, f.mm, vpn)?;
        if !write && self.owners.thp.use_zero_page {
            return self.map_huge_zero(f, vpn);
        }
        let Some(head) = self.new_huge_page(f, vpn) else {
            return Ok(None);
        };
        match self.ensure_leaf(f.cpu, f.mm, vpn) {
            Ok(leaf) => Ok(Some(self.map_anon_folio_pmd(f, leaf, vpn, head))),
            Err(error) => {
                self.free_pages(f.cpu, head, HPAGE_PMD_ORDER);
                Err(error.into())
            }
        }
    }

    fn new_huge_page(&mut self, f: &FaultContext, vpn: u64) -> Option<Pfn> {
        let gfp = self.owners.thp.gfp(Some(f.vma));
        let index = f.vma.index_of(vpn);
        let page = self.alloc_folio(f.cpu, gfp, HPAGE_PMD_ORDER, PageClass::AnonThp, index);
        let event = match page {
            Ok(_) => VmEvent::ThpFaultAlloc,
            Err(_) => VmEvent::ThpFaultFallback,
        };
        self.vmstat.count(event, 1);
        page.ok()
    }

    /// Maps a fresh huge page where nothing is mapped: `map_anon_folio_pmd()`.
    fn map_anon_folio_pmd(&mut self, f: &FaultContext, leaf: LeafId, vpn: u64, head: Pfn) -> Pte {
        self.own_anon_folio(head, f.mm, vpn - vpn % PTRS_PER_TABLE);
        self.owners
            .count_rss(f.mm, RssKind::Anon, PTRS_PER_TABLE.cast_signed());
        self.set_huge(leaf, head, Pte::ANON | Pte::EXCLUSIVE | f.written());
        self.finish_huge_fault(f, leaf);
        self.owners.pte(f.mm, vpn)
    }

    /// Makes the entries of a leaf one mapping of consecutive frames.
    pub(crate) fn set_huge(&mut self, leaf: LeafId, head: Pfn, bits: u64) {
        let leaf = self.owners.tables.leaf_mut(leaf);
        leaf.huge = true;
        for (pfn, pte) in (head.0..).zip(leaf.ptes.iter_mut()) {
            *pte = Pte::present(Pfn(pfn), bits);
        }
    }

    /// Counters, time and locks of a fault that mapped a huge page.
    pub(crate) fn finish_huge_fault(&mut self, f: &FaultContext, leaf: LeafId) {
        self.vmstat.count(VmEvent::PgFault, 1);
        let fault_ns = u64::from(self.clock.costs.fault_ns);
        self.clock.charge(f.cpu, fault_ns);
        if f.vma.has(vm_flags::LOCKED) {
            for slot in 0..self.owners.tables.leaf(leaf).ptes.len() {
                let pte = self.owners.tables.leaf(leaf).ptes[slot];
                self.owners.tables.leaf_mut(leaf).ptes[slot] = self.lock_frame(pte);
            }
        }
    }

    /// `set_huge_zero_folio()`, mm/huge_memory.c v6.12.
    fn map_huge_zero(&mut self, f: &FaultContext, vpn: u64) -> Result<Option<Pte>, Cause> {
        let leaf = self.ensure_leaf(f.cpu, f.mm, vpn)?;
        let Some(head) = self.huge_zero_page(f.cpu) else {
            // The table stays, as the fault goes on with small pages.
            self.vmstat.count(VmEvent::ThpFaultFallback, 1);
            return Ok(None);
        };
        self.set_huge(leaf, head, Pte::ZERO | Pte::YOUNG);
        self.finish_huge_fault(f, leaf);
        Ok(Some(self.owners.pte(f.mm, vpn)))
    }

    /// The huge zero page, which is kept once it was made: `get_huge_zero_page()`.
    fn huge_zero_page(&mut self, cpu: Cpu) -> Option<Pfn> {
        if self.owners.huge_zero_pfn != Pfn::NONE {
            return Some(self.owners.huge_zero_pfn);
        }
        let gfp = Gfp::TRANSHUGE.with(Gfp::ZERO).without(Gfp::MOVABLE);
        let page = self
            .zero_frame(cpu) // what the entries show once they are split
            .and_then(|_| self.alloc_folio(cpu, gfp, HPAGE_PMD_ORDER, PageClass::ZeroPage, 0));
        let event = match page {
            Ok(_) => VmEvent::ThpZeroPageAlloc,
            Err(_) => VmEvent::ThpZeroPageAllocFailed,
        };
        self.vmstat.count(event, 1);
        self.owners.huge_zero_pfn = page.ok()?;
        Some(self.owners.huge_zero_pfn)
    }

    /// A write to the huge zero page: `do_huge_zero_wp_pmd()`, mm/huge_memory.c v6.13. Without a huge
    /// page the mapping is split, and the fault goes on.
    fn do_huge_zero_wp_pmd(&mut self, f: &FaultContext, leaf: LeafId, vpn: u64) -> Option<Pte> {
        let Some(head) = self.new_huge_page(f, vpn) else {
            self.split_huge_pmd(f.mm, vpn, leaf);
            return None;
        };
        Some(self.map_anon_folio_pmd(f, leaf, vpn, head))
    }

    /// The largest folio below a huge page that the settings, the VMA and the entries around `vpn`
    /// allow, mapped page by page: `alloc_anon_folio()`, mm/memory.c v6.12. Nothing: a single page.
    pub(crate) fn do_anon_folio(&mut self, f: &FaultContext, vpn: u64) -> Option<Pte> {
        let mut orders = self.owners.thp.orders_for(f.vma) & SMALLER;
        let leaf = self.owners.leaf_of(f.mm, vpn)?;
        let mut gfp = None;
        while orders != 0 {
            let order = Order::new(u8::try_from(orders.ilog2()).ok()?).ok()?;
            orders &= !(1 << order.get());
            // Once the entries around are free for an order, they are so for the smaller ones.
            let free = gfp.is_some() || self.is_range_none(leaf, vpn, order);
            if !fits(f.vma, vpn, order) || !free {
                continue;
            }
            let gfp = *gfp.get_or_insert_with(|| self.owners.thp.gfp(Some(f.vma)));
            let index = f.vma.index_of(vpn);
            if let Ok(head) = self.alloc_folio(f.cpu, gfp, order, PageClass::AnonThp, index) {
                return Some(self.map_anon_folio_ptes(f, leaf, vpn, head));
            }
        }
        None
    }

    /// `pte_range_none()` of the aligned range of an order.
    fn is_range_none(&self, leaf: LeafId, vpn: u64, order: Order) -> bool {
        let nr = u64::from(order.nr_pages());
        let first = slot_of(vpn - vpn % nr, 0);
        let ptes = &self.owners.tables.leaf(leaf).ptes[first..=first + slot_of(nr - 1, 0)];
        ptes.iter().all(|pte| pte.is_none())
    }

    fn map_anon_folio_ptes(&mut self, f: &FaultContext, leaf: LeafId, vpn: u64, head: Pfn) -> Pte {
        let nr = u64::from(self.map.folio_order(head).nr_pages());
        let start = vpn - vpn % nr;
        self.own_anon_folio(head, f.mm, start);
        self.owners.count_rss(f.mm, RssKind::Anon, nr.cast_signed());
        let bits = Pte::ANON | Pte::EXCLUSIVE | f.written();
        for (pfn, slot) in self.frames_of(head).zip(slot_of(start, 0)..) {
            let mut pte = Pte::present(pfn, bits);
            if f.vma.has(vm_flags::LOCKED) {
                pte = self.lock_frame(pte);
            }
            self.owners.tables.leaf_mut(leaf).ptes[slot] = pte;
        }
        self.owners.pte(f.mm, vpn)
    }
}

/// Whether the aligned range of an order around `vpn` lies within the VMA:
/// `thp_vma_suitable_order()`, include/linux/huge_mm.h v6.12.
const fn fits(vma: &VmArea, vpn: u64, order: Order) -> bool {
    let nr = order.nr_pages() as u64;
    let start = vpn - vpn % nr;
    start >= vma.start_vpn && start + nr <= vma.end_vpn
}
