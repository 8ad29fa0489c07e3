//! Pages of a file that are written and not yet on disk: in which folios a `write(2)` puts them.

use crate::contents::PAGE_SIZE;
use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::mem_map::{PageClass, page_flags};
use crate::memory::Memory;
use crate::units::{Cpu, Order, Pfn};
use crate::zone::PAGEBLOCK;

impl Memory {
    /// Puts `bytes` of a file, from page `index` of it on, in the page cache as one write does that is
    /// followed by no flush: each folio as large as the whole pages left and the alignment of its
    /// index allow, smaller where no block of that order is had. They are dirty, mapped by nobody, and
    /// have no owner, as captured pages. mm/filemap.c:`__filemap_get_folio()` with the order of
    /// `fgf_set_order()`, include/linux/pagemap.h v6.12; ext4 asks for large folios since v6.16.
    /// Returns the number of folios.
    ///
    /// # Errors
    /// Why the first page that is missing got no frame; those before it stay.
    pub fn write_pages(&mut self, cpu: Cpu, index: u32, bytes: u32) -> Result<u32, AllocError> {
        let page = u32::from(PAGE_SIZE);
        let end = index + bytes.div_ceil(page);
        let (mut at, mut folios) = (index, 0);
        while at < end {
            let whole = (bytes / page).saturating_sub(at - index).max(1);
            let wish = Order::largest_at(Pfn(at), whole).min(PAGEBLOCK);
            let (pfn, order) = self.alloc_written(cpu, wish)?;
            self.map.list_file(pfn);
            self.map.add_flags(pfn, page_flags::DIRTY);
            at += order.nr_pages();
            folios += 1;
        }
        Ok(folios)
    }

    /// A folio of the page cache of at most `wish`: the loop of `__filemap_get_folio()`.
    fn alloc_written(&mut self, cpu: Cpu, wish: Order) -> Result<(Pfn, Order), AllocError> {
        let gfp = Gfp::HIGHUSER_MOVABLE.with(Gfp::WRITE);
        let light = gfp.with(Gfp::COMP).with(Gfp::NORETRY).with(Gfp::NOWARN);
        let large = |&order: &Order| order > Order::ZERO && order <= wish;
        for order in Order::all().rev().filter(large) {
            if let Ok(pfn) = self.alloc_class(cpu, light, order, None, PageClass::FileLarge) {
                return Ok((pfn, order));
            }
        }
        let pfn = self.alloc_class(cpu, gfp, Order::ZERO, None, PageClass::File)?;
        Ok((pfn, Order::ZERO))
    }
}
