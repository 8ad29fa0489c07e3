//! Booting, and blocks of frames for callers without an address space.

use contigmm_core::import::Import;
use contigmm_core::{BootSpec, Gfp, Memory as CoreMemory, NodeId, Order, PageClass, Pfn};
use numpy::{PyArray1, PyArrayMethods};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::{Memory, cpu_of};
use crate::errors::to_py;

/// Checks that a block of this order was allocated at `pfn`, so that it may be freed.
fn check_block(memory: &CoreMemory, pfn: u32, order: Order) -> PyResult<()> {
    let map = memory.map();
    let head = (pfn < map.nr_frames())
        .then(|| map.head_at(Pfn(pfn)))
        .flatten();
    let not_allocated = [
        PageClass::Free,
        PageClass::Pcp,
        PageClass::Nopage,
        PageClass::Reserved,
        PageClass::Offline,
    ];
    if head.is_some_and(|head| head.order == order && !not_allocated.contains(&head.class)) {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "no block of order {} is allocated at {pfn}",
        order.get()
    )))
}

#[pymethods]
impl Memory {
    #[staticmethod]
    fn boot(spec_json: &str) -> PyResult<Self> {
        let to_py = |err: contigmm_core::BootError| PyValueError::new_err(err.to_string());
        let spec = BootSpec::from_json(spec_json).map_err(to_py)?;
        Ok(Self(Mutex::new(CoreMemory::boot(&spec).map_err(to_py)?)))
    }

    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)] // one a column, as PyO3 gives it
    #[pyo3(signature = (*, run_start, run_nr, run_class, run_order, free_pfn, free_order, pageblock_mt, pcp_pfn, pcp_order, pcp_cpu, pcp_high))]
    fn import_frames(
        &self,
        py: Python<'_>,
        run_start: &Bound<'_, PyArray1<u32>>,
        run_nr: &Bound<'_, PyArray1<u32>>,
        run_class: &Bound<'_, PyArray1<u8>>,
        run_order: &Bound<'_, PyArray1<u8>>,
        free_pfn: &Bound<'_, PyArray1<u32>>,
        free_order: &Bound<'_, PyArray1<u8>>,
        pageblock_mt: &Bound<'_, PyArray1<u8>>,
        pcp_pfn: &Bound<'_, PyArray1<u32>>,
        pcp_order: &Bound<'_, PyArray1<u8>>,
        pcp_cpu: &Bound<'_, PyArray1<u16>>,
        pcp_high: Vec<(u8, u16, u32)>,
    ) -> PyResult<()> {
        let run_start = run_start.to_vec()?;
        let run_nr = run_nr.to_vec()?;
        let run_class = run_class.to_vec()?;
        let run_order = run_order.to_vec()?;
        let free_pfn = free_pfn.to_vec()?;
        let free_order = free_order.to_vec()?;
        let pageblock_mt = pageblock_mt.to_vec()?;
        let pcp_pfn = pcp_pfn.to_vec()?;
        let pcp_order = pcp_order.to_vec()?;
        let pcp_cpu = pcp_cpu.to_vec()?;
        let state = Import {
            run_start: &run_start,
            run_nr: &run_nr,
            run_class: &run_class,
            run_order: &run_order,
            free_pfn: &free_pfn,
            free_order: &free_order,
            pageblock_mt: &pageblock_mt,
            pcp_pfn: &pcp_pfn,
            pcp_order: &pcp_order,
            pcp_cpu: &pcp_cpu,
            pcp_high: &pcp_high,
        };
        let imported = py.detach(|| self.0.lock().import(&state));
        imported.map_err(|err| PyValueError::new_err(err.to_string()))
    }

    #[pyo3(signature = (*, order, gfp, cpu = 0, node = None))]
    fn alloc_pages(
        &self,
        py: Python<'_>,
        order: u8,
        gfp: u32,
        cpu: u16,
        node: Option<u8>,
    ) -> PyResult<u32> {
        let order = Order::new(order).map_err(to_py)?;
        let node = node.map(NodeId);
        self.with(py, |memory| {
            let cpu = cpu_of(memory, cpu)?;
            memory
                .alloc_pages(cpu, Gfp(gfp), order, node)
                .map(|pfn| pfn.0)
                .map_err(to_py)
        })
    }

    #[pyo3(signature = (pfn, *, order, cpu = 0))]
    fn free_pages(&self, py: Python<'_>, pfn: u32, order: u8, cpu: u16) -> PyResult<()> {
        let order = Order::new(order).map_err(to_py)?;
        self.with(py, |memory| {
            let cpu = cpu_of(memory, cpu)?;
            check_block(memory, pfn, order)?;
            memory.free_pages(cpu, Pfn(pfn), order);
            Ok(())
        })
    }

    #[pyo3(signature = (nr, *, order, gfp, cpu = 0, node = None))]
    fn alloc_batch<'py>(
        &self,
        py: Python<'py>,
        nr: u32,
        order: u8,
        gfp: u32,
        cpu: u16,
        node: Option<u8>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let order = Order::new(order).map_err(to_py)?;
        let node = node.map(NodeId);
        let pfns = self.with_batch(py, u64::from(nr), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            let mut alloc = || memory.alloc_pages(cpu, Gfp(gfp), order, node).ok();
            Ok::<_, PyErr>(
                (0..nr)
                    .map_while(|_| alloc().map(|pfn| pfn.0))
                    .collect::<Vec<u32>>(),
            )
        })?;
        Ok(PyArray1::from_vec(py, pfns))
    }

    #[pyo3(signature = (pfns, *, order, cpu = 0))]
    fn free_batch(
        &self,
        py: Python<'_>,
        pfns: &Bound<'_, PyArray1<u32>>,
        order: u8,
        cpu: u16,
    ) -> PyResult<()> {
        let order = Order::new(order).map_err(to_py)?;
        let pfns = pfns.readonly();
        let pfns = pfns.as_slice()?;
        self.with_batch(py, pfns.len() as u64, |memory| {
            let cpu = cpu_of(memory, cpu)?;
            for &pfn in pfns {
                check_block(memory, pfn, order)?;
                memory.free_pages(cpu, Pfn(pfn), order);
            }
            Ok(())
        })
    }
}
