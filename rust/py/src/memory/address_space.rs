//! Address spaces: faults, copies and ends of many pages at once.

use contigmm_core::address_space::{MmId, Progress, VmArea};
use contigmm_core::fault::Touch;
use contigmm_core::fork::ForkRange;
use contigmm_core::page_cache::FileId;
use contigmm_core::page_table::USER_PAGES;
use contigmm_core::placement::Placement;
use contigmm_core::zap::Markers;
use contigmm_core::{Memory as CoreMemory, Pfn};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{Memory, cpu_of};

/// Pages done, and the name of what stopped it: "" if nothing did.
pub type Done = (u64, &'static str);

/// The answer of a bulk call as Python gets it.
pub fn done(progress: Progress) -> Done {
    (
        progress.done,
        progress
            .blocked
            .map_or("", contigmm_core::address_space::Cause::name),
    )
}

/// Checks that the address space lives.
pub fn mm_of(memory: &CoreMemory, mm: u32) -> PyResult<MmId> {
    let mm = MmId(mm);
    if memory.has_mm(mm) {
        return Ok(mm);
    }
    Err(PyValueError::new_err(format!(
        "no address space has the number {}",
        mm.0
    )))
}

/// Checks that the file exists; 0 is none. Python counts files from 1.
pub fn file_of(memory: &CoreMemory, obj: u32) -> PyResult<Option<FileId>> {
    let Some(id) = obj.checked_sub(1).map(FileId) else {
        return Ok(None);
    };
    if memory.has_file(id) {
        return Ok(Some(id));
    }
    Err(PyValueError::new_err(format!(
        "no file has the number {obj}"
    )))
}

/// Checks that pages lie in user space.
pub fn check_pages(vpn: u64, nr: u64) -> PyResult<()> {
    if vpn <= USER_PAGES && nr <= USER_PAGES - vpn {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "pages {vpn:#x}+{nr:#x} go beyond user space"
    )))
}

/// What Python tells of a VMA: bytes, and -1 for no prepared frame.
pub(super) struct VmaArgs {
    pub(super) vm_start: u64,
    pub(super) vm_end: u64,
    pub(super) vm_flags: u64,
    pub(super) obj: u32,
    pub(super) pgoff: u64,
    pub(super) prealloc: i64,
}

impl VmaArgs {
    /// The core's view of the VMA, which must hold the given pages.
    pub(super) fn check(&self, memory: &CoreMemory, vpn: u64, nr: u64) -> PyResult<VmArea> {
        let (start_vpn, end_vpn) = (self.vm_start >> 12, self.vm_end >> 12);
        check_pages(start_vpn, end_vpn.saturating_sub(start_vpn))?;
        if vpn < start_vpn || vpn > end_vpn || nr > end_vpn - vpn {
            return Err(PyValueError::new_err(format!(
                "pages {vpn:#x}+{nr:#x} are not all of {start_vpn:#x}..{end_vpn:#x}"
            )));
        }
        let prealloc = (self.prealloc >= 0)
            .then(|| u32::try_from(self.prealloc).map(Pfn))
            .transpose()
            .map_err(|_| PyValueError::new_err("a frame's number has 32 bits"))?;
        let file = file_of(memory, self.obj)?;
        Ok(VmArea {
            start_vpn,
            end_vpn,
            flags: self.vm_flags,
            file,
            pgoff: self.pgoff,
            prealloc,
        })
    }
}

#[pymethods]
impl Memory {
    fn mm_create(&self, py: Python<'_>) -> u32 {
        self.with(py, |memory| memory.mm_create().0)
    }

    #[pyo3(signature = (mm, *, cpu))]
    fn mm_exit(&self, py: Python<'_>, mm: u32, cpu: u16) -> PyResult<u64> {
        let (anon, file, shmem, _) = self.rss(py, mm)?;
        self.with_batch(py, anon + file + shmem, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            Ok(memory.mm_exit(mm, cpu))
        })
    }

    #[allow(clippy::too_many_arguments)] // an access, and what is known of its VMA
    #[pyo3(signature = (*, mm, cpu, addr, nr, stride, write, value, vm_start, vm_end, vm_flags, obj, pgoff, prealloc))]
    fn access(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        addr: u64,
        nr: u64,
        stride: u64,
        write: bool,
        value: u8,
        vm_start: u64,
        vm_end: u64,
        vm_flags: u64,
        obj: u32,
        pgoff: u64,
        prealloc: i64,
    ) -> PyResult<(u64, &'static str, u8)> {
        let vma = VmaArgs {
            vm_start,
            vm_end,
            vm_flags,
            obj,
            pgoff,
            prealloc,
        };
        let last = nr.checked_sub(1).map(|more| more.checked_mul(stride));
        let last = last.map_or(Some(addr), |reach| addr.checked_add(reach?));
        let last = last.ok_or_else(|| PyValueError::new_err("the addresses wrap"))?;
        let store = write.then_some(value);
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let vma = vma.check(memory, addr >> 12, (last >> 12) - (addr >> 12) + 1)?;
            let touched = memory.access(
                mm,
                cpu,
                &Touch {
                    addr,
                    nr,
                    stride,
                    store,
                },
                &vma,
            );
            memory.set_placement(Placement::Local);
            let (nr, cause) = done(touched.progress);
            Ok((nr, cause, touched.value))
        })
    }

    #[allow(clippy::too_many_arguments)] // an access, and what is known of its VMA
    #[pyo3(signature = (*, mm, cpu, addr, length, vm_start, vm_end, vm_flags, obj, pgoff, prealloc))]
    fn read_bytes<'py>(
        &self,
        py: Python<'py>,
        mm: u32,
        cpu: u16,
        addr: u64,
        length: u64,
        vm_start: u64,
        vm_end: u64,
        vm_flags: u64,
        obj: u32,
        pgoff: u64,
        prealloc: i64,
    ) -> PyResult<(Bound<'py, PyBytes>, &'static str)> {
        let vma = VmaArgs {
            vm_start,
            vm_end,
            vm_flags,
            obj,
            pgoff,
            prealloc,
        };
        let (bytes, cause) = self.with_batch(py, length >> 12, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let vma = vma.check(memory, addr >> 12, pages_of(addr, length)?)?;
            let mut bytes = vec![0; usize::try_from(length)?];
            let (nr, cause) = done(memory.read_bytes(mm, cpu, addr, &vma, &mut bytes));
            memory.set_placement(Placement::Local);
            bytes.truncate(usize::try_from(nr)?);
            Ok::<_, PyErr>((bytes, cause))
        })?;
        Ok((PyBytes::new(py, &bytes), cause))
    }

    #[allow(clippy::too_many_arguments)] // an access, and what is known of its VMA
    #[pyo3(signature = (*, mm, cpu, addr, data, vm_start, vm_end, vm_flags, obj, pgoff, prealloc))]
    fn write_bytes(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        addr: u64,
        data: &[u8],
        vm_start: u64,
        vm_end: u64,
        vm_flags: u64,
        obj: u32,
        pgoff: u64,
        prealloc: i64,
    ) -> PyResult<Done> {
        let vma = VmaArgs {
            vm_start,
            vm_end,
            vm_flags,
            obj,
            pgoff,
            prealloc,
        };
        let length = data.len() as u64;
        self.with_batch(py, length >> 12, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let vma = vma.check(memory, addr >> 12, pages_of(addr, length)?)?;
            let written = memory.write_bytes(mm, cpu, addr, &vma, data);
            memory.set_placement(Placement::Local);
            Ok(done(written))
        })
    }

    #[allow(clippy::too_many_arguments)] // a range, and what is known of its VMA
    #[pyo3(signature = (*, mm, cpu, vpn, nr, vm_start, vm_end, vm_flags, obj, pgoff, prealloc, write))]
    fn populate(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        nr: u64,
        vm_start: u64,
        vm_end: u64,
        vm_flags: u64,
        obj: u32,
        pgoff: u64,
        prealloc: i64,
        write: bool,
    ) -> PyResult<Done> {
        let vma = VmaArgs {
            vm_start,
            vm_end,
            vm_flags,
            obj,
            pgoff,
            prealloc,
        };
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let vma = vma.check(memory, vpn, nr)?;
            let populated = memory.populate(mm, cpu, vpn, nr, &vma, write);
            memory.set_placement(Placement::Local);
            Ok(done(populated))
        })
    }

    #[pyo3(signature = (*, mm, cpu, vpn, nr, keep_guards = false))]
    fn zap(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        nr: u64,
        keep_guards: bool,
    ) -> PyResult<u64> {
        check_pages(vpn, nr)?;
        let markers = if keep_guards {
            Markers::Keep
        } else {
            Markers::Drop
        };
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            Ok(memory.zap(mm, cpu, vpn, nr, markers))
        })
    }

    #[allow(clippy::too_many_arguments)] // the range and its neighbours
    #[pyo3(signature = (*, mm, cpu, start, end, floor, ceiling))]
    fn free_pgtables(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        start: u64,
        end: u64,
        floor: u64,
        ceiling: u64,
    ) -> PyResult<u64> {
        check_pages(start >> 12, end.saturating_sub(start) >> 12)?;
        self.with_batch(py, end.saturating_sub(start) >> 12, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            Ok(memory.free_pgtables(mm, cpu, start..end, floor, ceiling))
        })
    }

    #[allow(clippy::needless_pass_by_value)] // as PyO3 gives it
    #[pyo3(signature = (*, parent, child, cpu, ranges))]
    fn fork(
        &self,
        py: Python<'_>,
        parent: u32,
        child: u32,
        cpu: u16,
        ranges: Vec<(u64, u64, u64)>,
    ) -> PyResult<Done> {
        let nr = ranges
            .iter()
            .map(|(start, end, _)| end.saturating_sub(*start))
            .sum();
        self.with_batch(py, nr, |memory| {
            let (parent, child) = (mm_of(memory, parent)?, mm_of(memory, child)?);
            let cpu = cpu_of(memory, cpu)?;
            let range = |&(start, end, flags): &(u64, u64, u64)| {
                check_pages(start, end.saturating_sub(start))?;
                Ok(ForkRange {
                    vpns: start..end,
                    flags,
                })
            };
            let ranges = ranges.iter().map(range).collect::<PyResult<Vec<_>>>()?;
            Ok(done(memory.fork(parent, child, cpu, &ranges)))
        })
    }

    fn hiwater_rss(&self, py: Python<'_>, mm: u32) -> PyResult<u64> {
        self.with(py, |memory| Ok(memory.rss(mm_of(memory, mm)?).hiwater))
    }

    fn rss(&self, py: Python<'_>, mm: u32) -> PyResult<(u64, u64, u64, u64)> {
        self.with(py, |memory| {
            let rss = memory.rss(mm_of(memory, mm)?);
            Ok((rss.anon, rss.file, rss.shmem, rss.pgtable_bytes))
        })
    }
}

/// Pages that `length` bytes from `addr` on are in.
fn pages_of(addr: u64, length: u64) -> PyResult<u64> {
    let end = addr
        .checked_add(length)
        .and_then(|end| end.checked_add(4095));
    let end = end.ok_or_else(|| PyValueError::new_err("the addresses wrap"))?;
    Ok((end >> 12) - (addr >> 12))
}
