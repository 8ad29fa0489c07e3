//! Making room: compaction.

use contigmm_core::{Memory as CoreMemory, NodeId};
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::{Memory, cpu_of, frames_of};
use crate::errors::to_py;

#[pymethods]
impl Memory {
    fn mark_dirty(&self, py: Python<'_>, pfns: &Bound<'_, PyArray1<u32>>) -> PyResult<()> {
        let pfns = frames_of(pfns)?;
        self.with_batch(py, pfns.len() as u64, |memory| {
            let nr_frames = memory.map().nr_frames();
            if let Some(pfn) = pfns.iter().find(|pfn| pfn.0 >= nr_frames) {
                return Err(PyValueError::new_err(format!("no frame {}", pfn.0)));
            }
            memory.mark_dirty(&pfns);
            Ok(())
        })
    }

    #[pyo3(signature = (pfns, *, active))]
    fn mark_used(
        &self,
        py: Python<'_>,
        pfns: &Bound<'_, PyArray1<u32>>,
        active: bool,
    ) -> PyResult<()> {
        let pfns = frames_of(pfns)?;
        self.with_batch(py, pfns.len() as u64, |memory| {
            let nr_frames = memory.map().nr_frames();
            if let Some(pfn) = pfns.iter().find(|pfn| pfn.0 >= nr_frames) {
                return Err(PyValueError::new_err(format!("no frame {}", pfn.0)));
            }
            memory.mark_used(&pfns, active);
            Ok(())
        })
    }

    #[pyo3(signature = (nr_bytes, *, index = 0, cpu = 0))]
    fn write_pages(&self, py: Python<'_>, nr_bytes: u32, index: u32, cpu: u16) -> PyResult<u32> {
        let nr = nr_bytes.div_ceil(contigmm_core::contents::PAGE_SIZE.into());
        if index.checked_add(nr).is_none() {
            return Err(PyValueError::new_err("a file has no page beyond 2^32"));
        }
        self.with_batch(py, u64::from(nr), |memory| {
            let cpu = cpu_of(memory, cpu)?;
            memory.write_pages(cpu, index, nr_bytes).map_err(to_py)
        })
    }

    #[pyo3(signature = (*, cpu = 0))]
    fn compact_memory(&self, py: Python<'_>, cpu: u16) -> PyResult<()> {
        self.with_batch(py, u64::MAX, |memory| {
            let cpu = cpu_of(memory, cpu)?;
            memory.compact_memory(cpu);
            Ok(())
        })
    }

    #[pyo3(signature = (*, node, proactiveness, cpu = 0))]
    fn compact_proactively(
        &self,
        py: Python<'_>,
        node: u8,
        proactiveness: u32,
        cpu: u16,
    ) -> PyResult<Option<(u32, u32)>> {
        self.with_batch(py, u64::MAX, |memory| {
            let cpu = cpu_of(memory, cpu)?;
            let tick = memory.compact_proactively(NodeId(node), cpu, proactiveness);
            Ok(tick.map(|tick| (tick.score_before, tick.score_after)))
        })
    }

    #[pyo3(signature = (*, cpu = 0))]
    fn decay_pcp(&self, py: Python<'_>, cpu: u16) -> PyResult<()> {
        self.with(py, |memory| {
            memory.decay_pcp(cpu_of(memory, cpu)?);
            Ok(())
        })
    }

    fn count_oom_kill(&self, py: Python<'_>) {
        self.with(py, CoreMemory::count_oom_kill);
    }

    fn set_khugepaged(&self, py: Python<'_>, on: bool) {
        self.with(py, |memory| memory.set_khugepaged(on));
    }

    fn set_direct_reclaim(&self, py: Python<'_>, on: bool) {
        self.with(py, |memory| memory.set_direct_reclaim(on));
    }

    #[pyo3(signature = (*, node, budget, cpu = 0))]
    fn kswapd(&self, py: Python<'_>, node: u8, budget: u64, cpu: u16) -> PyResult<u64> {
        self.with_batch(py, budget, |memory| {
            let cpu = cpu_of(memory, cpu)?;
            Ok(memory.kswapd(NodeId(node), cpu, budget))
        })
    }
}
