//! Page faults: `handle_pte_fault()` and what it calls, mm/memory.c v6.12; and the two bulk calls
//! that fault pages in, [`Memory::access`] and [`Memory::populate`].

use crate::address_space::{
    ANON_FLAGS, Cause, MmId, Progress, RssKind, VmArea, rss_kind, vm_flags,
};
use crate::contents::Fill;
use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::mem_map::{PageClass, page_flags};
use crate::memory::Memory;
use crate::page_cache::FileId;
use crate::page_table::{PTRS_PER_TABLE, Pte, Span, slot_of};
use crate::placement::Placement;
use crate::rmap::Rmap;
use crate::units::{Cpu, Order, Pfn};
use crate::vmstat::VmEvent;
use crate::zap::Unmap;

pub(crate) const GFP_ANON: Gfp = Gfp::HIGHUSER_MOVABLE.with(Gfp::ZERO);

/// One byte at each of `nr` addresses, `stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// First address.
    pub addr: u64,
    /// How many.
    pub nr: u64,
    /// Bytes from one to the next.
    pub stride: u64,
    /// What to store: byte `i` gets `value + i` (mod 256). Nothing: read.
    pub store: Option<u8>,
}

/// What an access did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Addresses done, and what stopped it.
    pub progress: Progress,
    /// The last byte read or stored.
    pub value: u8,
}

/// Who faults, and where.
#[derive(Clone, Copy)]
pub(crate) struct FaultContext<'a> {
    pub mm: MmId,
    pub cpu: Cpu,
    pub vma: &'a VmArea,
}

impl FaultContext<'_> {
    /// `maybe_mkwrite()`, and dirty as a write leaves it.
    pub(crate) const fn written(&self) -> u64 {
        let write = if self.vma.has(vm_flags::WRITE) {
            Pte::WRITE
        } else {
            0
        };
        Pte::YOUNG | Pte::DIRTY | write
    }
}

impl Memory {
    /// Faults in what is absent and reads or writes one byte at each address. Permissions are the
    /// caller's business, and all addresses lie in the VMA.
    pub fn access(&mut self, mm: MmId, cpu: Cpu, touch: &Touch, vma: &VmArea) -> Touched {
        let fault = FaultContext { mm, cpu, vma };
        let mut value = 0;
        for i in 0..touch.nr {
            let addr = touch.addr + i * touch.stride;
            let pte = match self.touch_page(&fault, addr >> 12, touch.store.is_some()) {
                Ok(pte) => pte,
                Err(cause) => {
                    self.owners.cache.settle();
                    return Touched {
                        progress: Progress::blocked(i, cause),
                        value,
                    };
                }
            };
            let offset = u16::try_from(addr % 4096).expect("an offset within a page");
            value = match touch.store {
                Some(first) => {
                    let byte = first.wrapping_add(i.to_le_bytes()[0]);
                    self.store_byte(pte, offset, byte);
                    byte
                }
                None => self.load_byte(pte, offset),
            };
        }
        self.owners.cache.settle();
        Touched {
            progress: Progress::finished(touch.nr),
            value,
        }
    }

    /// Reads `bytes.len()` bytes from `addr` on, faulting in what is absent; `done` counts bytes.
    pub fn read_bytes(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        addr: u64,
        vma: &VmArea,
        bytes: &mut [u8],
    ) -> Progress {
        let fault = FaultContext { mm, cpu, vma };
        self.each_page(addr, bytes.len() as u64, |memory, at, range| {
            let pte = memory.touch_page(&fault, at >> 12, false)?;
            for (offset, byte) in (at % 4096..).zip(&mut bytes[range]) {
                *byte = memory.load_byte(pte, u16::try_from(offset).expect("within a page"));
            }
            Ok(())
        })
    }

    /// Writes bytes from `addr` on, faulting in what is absent; `done` counts bytes.
    pub fn write_bytes(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        addr: u64,
        vma: &VmArea,
        bytes: &[u8],
    ) -> Progress {
        let fault = FaultContext { mm, cpu, vma };
        self.each_page(addr, bytes.len() as u64, |memory, at, range| {
            let pte = memory.touch_page(&fault, at >> 12, true)?;
            for (offset, &byte) in (at % 4096..).zip(&bytes[range]) {
                memory.store_byte(pte, u16::try_from(offset).expect("within a page"), byte);
            }
            Ok(())
        })
    }

    /// Calls `page` for each page's part of `len` bytes from `addr`, with the part's address and its
    /// range of the buffer.
    fn each_page(
        &mut self,
        addr: u64,
        len: u64,
        mut page: impl FnMut(&mut Self, u64, std::ops::Range<usize>) -> Result<(), Cause>,
    ) -> Progress {
        let mut done = 0;
        while done < len {
            let at = addr + done;
            let next = len.min(done + 4096 - at % 4096);
            let part = |at: u64| usize::try_from(at).expect("within a buffer");
            if let Err(cause) = page(self, at, part(done)..part(next)) {
                self.owners.cache.settle();
                return Progress::blocked(done, cause);
            }
            done = next;
        }
        self.owners.cache.settle();
        Progress::finished(len)
    }

    /// Faults in `nr` pages from `vpn`, for writing if `write`: `populate_vma_page_range()`, mm/gup.c
    /// v6.12. `done` counts pages that are present now.
    pub fn populate(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        vpn: u64,
        nr: u64,
        vma: &VmArea,
        write: bool,
    ) -> Progress {
        let fault = FaultContext { mm, cpu, vma };
        let bulk = write
            && vma.file.is_none()
            && vma.prealloc.is_none()
            && !vma.has(vm_flags::CONTIG)
            && self.owners.placement == Placement::Local
            && !self.has_small_orders(vma);
        let (mut at, end) = (vpn, vpn + nr);
        while at < end {
            match self.populate_step(&fault, at, end, (write, bulk)) {
                Ok(done) => at += done,
                Err(cause) => {
                    self.owners.cache.settle();
                    return Progress::blocked(at - vpn, cause);
                }
            }
        }
        self.owners.cache.settle();
        Progress::finished(nr)
    }

    /// Faults in one page, with a huge page all of it, or, in bulk, what is absent of a leaf; returns
    /// how many pages are done.
    fn populate_step(
        &mut self,
        f: &FaultContext,
        at: u64,
        end: u64,
        (write, bulk): (bool, bool),
    ) -> Result<u64, Cause> {
        if bulk && self.owners.leaf_of(f.mm, at).is_some() {
            let done = self.populate_anon(f, at, end)?;
            if done > 0 {
                return Ok(done);
            }
        }
        self.touch_page(f, at, write)?;
        let leaf = self.owners.leaf_of(f.mm, at).expect("a page is mapped");
        if self.owners.tables.leaf(leaf).huge {
            return Ok((PTRS_PER_TABLE - at % PTRS_PER_TABLE).min(end - at));
        }
        Ok(1)
    }

    /// Maps fresh frames at the absent entries that `at` begins, as far as the leaf goes; returns how
    /// many, 0 when the first entry is not absent.
    fn populate_anon(&mut self, f: &FaultContext, at: u64, end: u64) -> Result<u64, Cause> {
        let leaf = self.owners.leaf_of(f.mm, at).expect("the caller looked");
        let nr = (PTRS_PER_TABLE - at % PTRS_PER_TABLE).min(end - at);
        let span = Span { leaf, vpn: at, nr };
        let ptes = &self.owners.tables.leaf(leaf).ptes[span.slots()];
        let wanted = ptes.iter().take_while(|pte| pte.is_none()).count() as u64;
        if wanted == 0 {
            return Ok(0);
        }
        let mut pfns = std::mem::take(&mut self.owners.scratch);
        let mut vpn = at;
        let nr_pages = u32::try_from(wanted).expect("at most a leaf");
        let refused = self.alloc_bulk(
            f.cpu,
            GFP_ANON,
            None,
            PageClass::Anon,
            nr_pages,
            |map, pfn| {
                map.set_flags(pfn, ANON_FLAGS);
                Rmap::add_new(map, pfn, f.mm, vpn);
                vpn += 1;
                pfns.push(pfn);
            },
        );
        let bits = Pte::ANON | Pte::EXCLUSIVE | f.written();
        let first = slot_of(at, 0);
        let ptes = &mut self.owners.tables.leaf_mut(leaf).ptes[first..first + pfns.len()];
        for (pte, &pfn) in ptes.iter_mut().zip(&pfns) {
            *pte = Pte::present(pfn, bits);
        }
        let done = pfns.len() as u64;
        pfns.clear();
        self.owners.scratch = pfns;
        self.finish_bulk(f, at, done);
        match refused {
            Err(error) if done == 0 => Err(error.into()),
            _ => Ok(done),
        }
    }

    /// Counters, time and locks of `done` faults that were taken together.
    fn finish_bulk(&mut self, f: &FaultContext, at: u64, done: u64) {
        self.owners.stat.nr_anon_mapped += done;
        self.owners
            .count_rss(f.mm, RssKind::Anon, done.cast_signed());
        self.vmstat.count(VmEvent::PgFault, done);
        let fault_ns = u64::from(self.clock.costs.fault_ns);
        self.clock.charge(f.cpu, done * fault_ns);
        if f.vma.has(vm_flags::LOCKED) {
            for vpn in at..at + done {
                let pte = self.owners.pte(f.mm, vpn);
                *self.owners.pte_mut(f.mm, vpn) = self.lock_frame(pte);
            }
        }
    }

    /// The entry of a page after an access to it, with a fault if the hardware would take one.
    #[inline]
    fn touch_page(&mut self, f: &FaultContext, vpn: u64, write: bool) -> Result<Pte, Cause> {
        if let Some(leaf) = self.owners.leaf_of(f.mm, vpn) {
            let pte = &mut self.owners.tables.leaf_mut(leaf).ptes[slot_of(vpn, 0)];
            if pte.is_present() && (!write || pte.has(Pte::WRITE)) {
                *pte = pte.with(if write {
                    Pte::YOUNG | Pte::DIRTY
                } else {
                    Pte::YOUNG
                });
                return Ok(*pte);
            }
        }
        self.handle_fault(f, vpn, write)
    }

    /// `__handle_mm_fault()` and `handle_pte_fault()`.
    fn handle_fault(&mut self, f: &FaultContext, vpn: u64, write: bool) -> Result<Pte, Cause> {
        if f.vma.file.is_none()
            && let Some(pte) = self.handle_huge_fault(f, vpn, write)?
        {
            return Ok(pte);
        }
        if let Some(file) = f.vma.file
            && let Some(pte) = self.handle_huge_file_fault(f, file, vpn, write)?
        {
            return Ok(pte);
        }
        let around = !write && self.maps_around(f, vpn);
        if let Some(file) = f.vma.file
            && !around
            && f.vma.index_of(vpn) >= self.owners.cache.file(file).end_index()
            && self.owners.leaf_of(f.mm, vpn).is_none()
        {
            return Err(Cause::BeyondEof); // and nobody has installed a page table
        }
        let leaf = self.ensure_leaf(f.cpu, f.mm, vpn)?;
        self.vmstat.count(VmEvent::PgFault, 1);
        let fault_ns = u64::from(self.clock.costs.fault_ns);
        self.clock.charge(f.cpu, fault_ns);
        let pte = self.owners.tables.leaf(leaf).ptes[slot_of(vpn, 0)];
        let new = if pte.has(Pte::GUARD) {
            return Err(Cause::Guard);
        } else if pte.is_none() {
            match f.vma.file {
                None => self.do_anonymous_page(f, vpn, write)?,
                Some(file) => self.do_fault(f, file, leaf, vpn, (write, around))?,
            }
        } else if write && !pte.has(Pte::WRITE) {
            self.do_wp_page(f, vpn, pte)?
        } else {
            pte.with(if write {
                Pte::YOUNG | Pte::DIRTY
            } else {
                Pte::YOUNG
            })
        };
        let new = if f.vma.has(vm_flags::LOCKED) {
            self.lock_frame(new)
        } else {
            new
        };
        self.owners.tables.leaf_mut(leaf).ptes[slot_of(vpn, 0)] = new;
        Ok(new)
    }

    /// `do_anonymous_page()`; the run of the RFC where its patch 2/3 (2017-10-11) has it.
    fn do_anonymous_page(&mut self, f: &FaultContext, vpn: u64, write: bool) -> Result<Pte, Cause> {
        if f.vma.has(vm_flags::CONTIG) && f.vma.prealloc.is_none() {
            return Err(Cause::RunPageAbsent);
        }
        if !write {
            return Ok(Pte::present(
                self.zero_frame(f.cpu)?,
                Pte::ZERO | Pte::YOUNG,
            ));
        }
        let written = if f.vma.has(vm_flags::WRITE) {
            f.written()
        } else {
            Pte::YOUNG
        };
        if let Some(base) = f.vma.prealloc {
            return Ok(self.map_prealloc(f, base, vpn).with(written));
        }
        if let Some(pte) = self.do_anon_folio(f, vpn) {
            return Ok(pte);
        }
        let pfn = self.new_anon(f, vpn, GFP_ANON)?;
        Ok(Pte::present(pfn, Pte::ANON | Pte::EXCLUSIVE | written))
    }

    /// A fresh anonymous frame, mapped once.
    pub(crate) fn new_anon(
        &mut self,
        f: &FaultContext,
        vpn: u64,
        gfp: Gfp,
    ) -> Result<Pfn, AllocError> {
        let index = f.vma.index_of(vpn);
        let pfn = self.alloc_placed(f.cpu, gfp, Order::ZERO, PageClass::Anon, index)?;
        self.map.set_flags(pfn, ANON_FLAGS);
        Rmap::add_new(&mut self.map, pfn, f.mm, vpn);
        self.owners.stat.nr_anon_mapped += 1;
        self.owners.count_rss(f.mm, RssKind::Anon, 1);
        Ok(pfn)
    }

    /// `do_wp_page()`: a write to a present page that may not be written.
    fn do_wp_page(&mut self, f: &FaultContext, vpn: u64, pte: Pte) -> Result<Pte, Cause> {
        if f.vma.has(vm_flags::SHARED) || pte.has(Pte::WILD) {
            return Ok(pte.with(f.written()));
        }
        if pte.has(Pte::ZERO) {
            let pfn = self.new_anon(f, vpn, GFP_ANON)?;
            return Ok(Pte::present(pfn, Pte::ANON | Pte::EXCLUSIVE | f.written()));
        }
        if pte.has(Pte::ANON) && (pte.has(Pte::EXCLUSIVE) || self.can_reuse_anon(f.mm, pte.pfn())) {
            return Ok(pte.with(Pte::EXCLUSIVE | f.written()));
        }
        self.wp_page_copy(f, vpn, pte)
    }

    /// `wp_can_reuse_anon_folio()`: nobody else has a reference, to any page of a large folio:
    /// `__wp_can_reuse_large_anon_folio()`, mm/memory.c v6.15.
    fn can_reuse_anon(&self, mm: MmId, pfn: Pfn) -> bool {
        if self.map.flags(pfn) & page_flags::LARGE == 0 {
            return self.map.refcount(pfn) == 1;
        }
        let head = self.map.large_head(pfn);
        self.is_mapped_only_by(head, mm) && self.has_expected_refs(head)
    }

    /// `wp_page_copy()`.
    fn wp_page_copy(&mut self, f: &FaultContext, vpn: u64, old: Pte) -> Result<Pte, Cause> {
        let kind = rss_kind(&self.map, old.pfn());
        let fill = self.fill_of(old);
        let new = |memory: &mut Self| memory.new_anon(f, vpn, Gfp::HIGHUSER_MOVABLE);
        let pfn = self.holding(f.cpu, old.pfn(), new)?;
        self.owners
            .contents
            .copy(&mut self.map, old.pfn(), pfn, fill);
        let copy_ns = u64::from(self.clock.costs.copy_ns);
        self.clock.charge(f.cpu, copy_ns);
        self.owners.count_rss(f.mm, kind, -1);
        // Out of the table first, as whether the old frame stays locked is looked up there.
        *self.owners.pte_mut(f.mm, vpn) = Pte::NONE;
        self.drop_mapping(f.mm, f.cpu, vpn, old);
        Ok(Pte::present(pfn, Pte::ANON | Pte::EXCLUSIVE | f.written()))
    }

    /// Removes a mapping whose entry the caller replaces; not counted in the resident set. Returns how
    /// many frames that freed.
    pub(crate) fn drop_mapping(&mut self, mm: MmId, cpu: Cpu, vpn: u64, pte: Pte) -> u64 {
        let owners = &mut self.owners;
        let mut unmap = Unmap {
            map: &mut self.map,
            rmap: &mut owners.rmap,
            cache: &mut owners.cache,
            stat: &mut owners.stat,
            munlocked: &mut owners.munlocked,
            partial: &mut owners.partial,
        };
        let freed = unmap.present(mm, vpn, pte);
        self.settle_mlock();
        let freed = freed.map_or(0, |pfn| self.free_frame(cpu, pfn));
        self.settle_partial();
        freed
    }

    // ---- bytes -------------------------------------------------------------------------------

    /// What a mapped frame holds where nothing was written.
    fn fill_of(&self, pte: Pte) -> Fill {
        let pfn = pte.pfn();
        if pte.has(Pte::ANON | Pte::ZERO) || pte.has(Pte::WILD) && !self.is_cached(pfn) {
            return Fill::ZERO;
        }
        let file = FileId(self.map.anchor(pfn));
        self.owners.cache.file(file).fill_of(self.map.index(pfn))
    }

    /// Whether the page cache owns the frame.
    fn is_cached(&self, pfn: Pfn) -> bool {
        self.map.class(pfn).is_cached()
    }

    fn load_byte(&self, pte: Pte, offset: u16) -> u8 {
        if pte.has(Pte::ZERO) || pte.has(Pte::WILD) && self.is_unowned(pte.pfn()) {
            return 0;
        }
        let fill = self.fill_of(pte);
        self.owners
            .contents
            .read(&self.map, pte.pfn(), fill, offset)
    }

    fn store_byte(&mut self, pte: Pte, offset: u16, byte: u8) {
        if pte.has(Pte::WILD) {
            let unowned = self.is_unowned(pte.pfn());
            self.owners.wild.stored(unowned);
            if unowned {
                return;
            }
        }
        let fill = self.fill_of(pte);
        self.owners
            .contents
            .write(&mut self.map, pte.pfn(), fill, (offset, byte));
    }
}
