//! Contiguous runs, and what the RFC of October 2017 had instead.

use contigmm_core::contig_run::{ContigRun, RunId};
use contigmm_core::{Gfp, Memory as CoreMemory, NodeId, PageClass, Pfn};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::address_space::{check_pages, mm_of};
use super::{Memory, cpu_of};
use crate::errors::to_py;

/// Checks that the run still holds frames and has these.
fn run_of(memory: &CoreMemory, run: u32, offset: u32, nr: u32) -> PyResult<RunId> {
    let id = RunId(run);
    let fits = |run: &ContigRun| offset <= run.nr && nr <= run.nr - offset;
    if memory.run(id).is_some_and(fits) {
        return Ok(id);
    }
    Err(PyValueError::new_err(format!(
        "no run {run} has the frames {offset}+{nr}"
    )))
}

/// Checks that there is such a CMA area.
fn check_area(memory: &CoreMemory, area: usize) -> PyResult<()> {
    let areas = memory.cma_areas().count();
    if area < areas {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "no CMA area has the number {area} of {areas}"
    )))
}

#[pymethods]
impl Memory {
    #[pyo3(signature = (*, every))]
    fn break_for_test(&self, py: Python<'_>, every: u32) -> PyResult<()> {
        if every == 0 {
            return Err(PyValueError::new_err("every 0th run"));
        }
        self.with(py, |memory| memory.break_for_test(every));
        Ok(())
    }

    #[pyo3(signature = (*, nr, cpu, node = None, gfp = None))]
    fn run_alloc(
        &self,
        py: Python<'_>,
        nr: u32,
        cpu: u16,
        node: Option<u8>,
        gfp: Option<u32>,
    ) -> PyResult<(u32, u32)> {
        let gfp = gfp.map_or(Gfp::HIGHUSER, Gfp);
        self.with_batch(py, u64::from(nr), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            let (run, base) = memory
                .run_alloc(nr, cpu, node.map(NodeId), gfp)
                .map_err(to_py)?;
            Ok((run.0, base.0))
        })
    }

    #[pyo3(signature = (*, nr, gfp, cpu = 0, node = None))]
    fn alloc_contig_pages(
        &self,
        py: Python<'_>,
        nr: u32,
        gfp: u32,
        cpu: u16,
        node: Option<u8>,
    ) -> PyResult<u32> {
        if nr == 0 {
            return Err(PyValueError::new_err("a range of no frames"));
        }
        self.with_batch(py, u64::from(nr), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            let (node, gfp) = (node.map(NodeId), Gfp(gfp));
            let pfn = memory
                .alloc_contig_pages(nr, cpu, node, gfp, PageClass::Hugetlb)
                .map_err(to_py)?;
            Ok(pfn.0)
        })
    }

    #[pyo3(signature = (*, area, nr, align = 0, cpu = 0, gfp = None))]
    fn cma_alloc(
        &self,
        py: Python<'_>,
        area: usize,
        nr: u32,
        align: u8,
        cpu: u16,
        gfp: Option<u32>,
    ) -> PyResult<u32> {
        let gfp = gfp.map_or(Gfp::KERNEL, Gfp);
        self.with_batch(py, u64::from(nr), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            check_area(memory, area)?;
            let pfn = memory.cma_alloc(area, nr, align, cpu, gfp).map_err(to_py)?;
            Ok(pfn.0)
        })
    }

    #[pyo3(signature = (*, area, pfn, nr, cpu = 0))]
    fn cma_release(
        &self,
        py: Python<'_>,
        area: usize,
        pfn: u32,
        nr: u32,
        cpu: u16,
    ) -> PyResult<bool> {
        self.with_batch(py, u64::from(nr), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            check_area(memory, area)?;
            Ok(memory.cma_release(area, Pfn(pfn), nr, cpu))
        })
    }

    #[pyo3(signature = (*, nr, most, cpu, node = None, gfp = None))]
    fn run_alloc_batch(
        &self,
        py: Python<'_>,
        nr: u32,
        most: u32,
        cpu: u16,
        node: Option<u8>,
        gfp: Option<u32>,
    ) -> PyResult<u32> {
        let gfp = gfp.map_or(Gfp::HIGHUSER, Gfp);
        self.with_batch(py, u64::from(nr), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            memory
                .run_alloc_batch(nr, most, cpu, node.map(NodeId), gfp)
                .map_err(to_py)
        })
    }

    #[allow(clippy::too_many_arguments)] // where, and which part of what
    #[pyo3(signature = (*, mm, cpu, vpn, run, offset, nr, vm_flags))]
    fn run_map(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        run: u32,
        offset: u32,
        nr: u32,
        vm_flags: u64,
    ) -> PyResult<u64> {
        check_pages(vpn, u64::from(nr))?;
        self.with_batch(py, u64::from(nr), |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let run = run_of(memory, run, offset, nr)?;
            memory
                .run_map(mm, cpu, vpn, run, (offset, nr), vm_flags)
                .map_err(to_py)
        })
    }

    #[pyo3(signature = (*, run, offset, nr))]
    fn run_hold(&self, py: Python<'_>, run: u32, offset: u32, nr: u32) -> PyResult<()> {
        self.with_batch(py, u64::from(nr), |memory| {
            let run = run_of(memory, run, offset, nr)?;
            memory.run_hold(run, offset, nr);
            Ok(())
        })
    }

    #[pyo3(signature = (*, run, offset, nr, cpu))]
    fn run_release(
        &self,
        py: Python<'_>,
        run: u32,
        offset: u32,
        nr: u32,
        cpu: u16,
    ) -> PyResult<u32> {
        self.with_batch(py, u64::from(nr), |memory| {
            let (run, cpu) = (run_of(memory, run, offset, nr)?, cpu_of(memory, cpu)?);
            Ok(memory.run_release(run, offset, nr, cpu))
        })
    }

    #[pyo3(signature = (*, length_pages, cpu, node = None))]
    fn rfc_alloc(
        &self,
        py: Python<'_>,
        length_pages: u32,
        cpu: u16,
        node: Option<u8>,
    ) -> PyResult<u32> {
        self.with_batch(py, u64::from(length_pages), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            let base = memory
                .rfc_alloc(length_pages, cpu, node.map(NodeId))
                .map_err(to_py)?;
            Ok(base.0)
        })
    }

    #[pyo3(signature = (*, base, nr, cpu))]
    fn rfc_free(&self, py: Python<'_>, base: u32, nr: u32, cpu: u16) -> PyResult<u32> {
        self.with_batch(py, u64::from(nr), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            if base
                .checked_add(nr)
                .is_none_or(|end| end > memory.map().nr_frames())
            {
                return Err(PyValueError::new_err(format!(
                    "frames {base}+{nr} do not exist"
                )));
            }
            Ok(memory.rfc_free(Pfn(base), nr, cpu))
        })
    }
}
