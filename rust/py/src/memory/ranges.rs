//! Ranges of pages of an address space: what they show, and what is changed in all of them.

use contigmm_core::address_space::VmArea;
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::address_space::{Done, check_pages, done, file_of, mm_of};
use super::{Memory, cpu_of};

#[pymethods]
impl Memory {
    #[pyo3(signature = (*, mm, vpn, nr, vm_flags))]
    fn protect(&self, py: Python<'_>, mm: u32, vpn: u64, nr: u64, vm_flags: u64) -> PyResult<()> {
        check_pages(vpn, nr)?;
        self.with_batch(py, nr, |memory| {
            memory.protect(mm_of(memory, mm)?, vpn, nr, vm_flags);
            Ok(())
        })
    }

    #[pyo3(signature = (*, mm, vpn, nr, vm_flags))]
    fn mlock_range(
        &self,
        py: Python<'_>,
        mm: u32,
        vpn: u64,
        nr: u64,
        vm_flags: u64,
    ) -> PyResult<()> {
        check_pages(vpn, nr)?;
        self.with_batch(py, nr, |memory| {
            memory.mlock_range(mm_of(memory, mm)?, vpn, nr, vm_flags);
            Ok(())
        })
    }

    #[pyo3(signature = (*, mm, cpu, src, dst, nr))]
    #[pyo3(name = "move")]
    fn move_pages(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        src: u64,
        dst: u64,
        nr: u64,
    ) -> PyResult<Done> {
        check_pages(src, nr)?;
        check_pages(dst, nr)?;
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            Ok(done(memory.move_pages(mm, cpu, src, dst, nr)))
        })
    }

    #[pyo3(signature = (*, mm, cpu, vpn, nr))]
    fn guard_install(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        nr: u64,
    ) -> PyResult<Done> {
        check_pages(vpn, nr)?;
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            Ok(done(memory.guard_install(mm, cpu, vpn, nr)))
        })
    }

    #[pyo3(signature = (*, mm, vpn, nr))]
    fn guard_remove(&self, py: Python<'_>, mm: u32, vpn: u64, nr: u64) -> PyResult<()> {
        check_pages(vpn, nr)?;
        self.with_batch(py, nr, |memory| {
            memory.guard_remove(mm_of(memory, mm)?, vpn, nr);
            Ok(())
        })
    }

    #[pyo3(signature = (*, mm, vpn, nr))]
    fn pagemap<'py>(
        &self,
        py: Python<'py>,
        mm: u32,
        vpn: u64,
        nr: u64,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        check_pages(vpn, nr)?;
        let words = self.with_batch(py, nr, |memory| {
            Ok::<_, PyErr>(memory.pagemap(mm_of(memory, mm)?, vpn, nr))
        })?;
        Ok(PyArray1::from_vec(py, words))
    }

    #[pyo3(signature = (*, mm, vpn, nr, obj, index))]
    fn mincore<'py>(
        &self,
        py: Python<'py>,
        mm: u32,
        vpn: u64,
        nr: u64,
        obj: u32,
        index: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        check_pages(vpn, nr)?;
        let bytes = self.with_batch(py, nr, |memory| {
            let file = file_of(memory, obj)?;
            let vma = VmArea {
                start_vpn: vpn,
                end_vpn: vpn + nr,
                flags: 0,
                file,
                pgoff: index,
                prealloc: None,
            };
            Ok::<_, PyErr>(memory.mincore(mm_of(memory, mm)?, vpn, nr, &vma))
        })?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[pyo3(signature = (*, mm, vpn, nr))]
    fn usage<'py>(
        &self,
        py: Python<'py>,
        mm: u32,
        vpn: u64,
        nr: u64,
    ) -> PyResult<Bound<'py, PyDict>> {
        check_pages(vpn, nr)?;
        let usage = self.with_batch(py, nr, |memory| {
            Ok::<_, PyErr>(memory.usage(mm_of(memory, mm)?, vpn, nr))
        })?;
        let row = PyDict::new(py);
        row.set_item("rss", usage.rss)?;
        row.set_item("pss", usage.pss)?;
        row.set_item("pss_dirty", usage.pss_dirty)?;
        row.set_item("shared_clean", usage.shared_clean)?;
        row.set_item("shared_dirty", usage.shared_dirty)?;
        row.set_item("private_clean", usage.private_clean)?;
        row.set_item("private_dirty", usage.private_dirty)?;
        row.set_item("referenced", usage.referenced)?;
        row.set_item("anonymous", usage.anonymous)?;
        row.set_item("lazyfree", usage.lazyfree)?;
        row.set_item("anonymous_thp", usage.anonymous_thp)?;
        row.set_item("shmem_thp", usage.shmem_thp)?;
        row.set_item("pss_anon", usage.pss_anon)?;
        row.set_item("pss_shmem", usage.pss_shmem)?;
        Ok(row)
    }

    #[pyo3(signature = (*, mm, cpu, vpn, pfns))]
    fn anon_adopt(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        pfns: &Bound<'_, PyArray1<u32>>,
    ) -> PyResult<Done> {
        let pfns = super::frames_of(pfns)?;
        check_pages(vpn, pfns.len() as u64)?;
        self.with_batch(py, pfns.len() as u64, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            memory
                .anon_adopt(mm, cpu, vpn, &pfns)
                .map(done)
                .map_err(super::refused_adoption)
        })
    }

    fn adopt_pgtables(
        &self,
        py: Python<'_>,
        mm: u32,
        pfns: &Bound<'_, PyArray1<u32>>,
    ) -> PyResult<()> {
        let pfns = super::frames_of(pfns)?;
        self.with_batch(py, pfns.len() as u64, |memory| {
            memory.adopt_pgtables(mm_of(memory, mm)?, &pfns);
            Ok(())
        })
    }
}
