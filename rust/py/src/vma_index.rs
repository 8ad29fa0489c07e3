//! `VmaIndex`: the ordered map of an address space's ranges, which knows its gaps.

use contigmm_core::vma_index::{GapQuery, IndexError, VmaEntry, VmaIndex as CoreIndex};
use parking_lot::Mutex;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;

fn to_py(err: IndexError) -> PyErr {
    match err {
        IndexError::Empty { .. } | IndexError::Overlap { .. } => {
            PyValueError::new_err(err.to_string())
        }
        IndexError::NotFound(_) => PyKeyError::new_err(err.to_string()),
    }
}

/// `frozen` + a lock: safe from any thread.
#[pyclass(frozen, module = "contigmm._core")]
pub struct VmaIndex(Mutex<CoreIndex>);

#[pymethods]
impl VmaIndex {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(CoreIndex::new()))
    }

    #[pyo3(signature = (*, start, end, id, gap_below = 0))]
    fn insert(&self, start: u64, end: u64, id: u64, gap_below: u64) -> PyResult<()> {
        self.0
            .lock()
            .insert(VmaEntry {
                start,
                end,
                id,
                gap_below,
            })
            .map_err(to_py)
    }

    fn remove(&self, start: u64) -> PyResult<u64> {
        self.0
            .lock()
            .remove(start)
            .map(|entry| entry.id)
            .map_err(to_py)
    }

    #[pyo3(signature = (start, *, new_start, new_end))]
    fn replace(&self, start: u64, new_start: u64, new_end: u64) -> PyResult<()> {
        let mut index = self.0.lock();
        let old = index.lookup(start).filter(|entry| entry.start == start);
        let old = *old.ok_or(IndexError::NotFound(start)).map_err(to_py)?;
        let entry = VmaEntry {
            start: new_start,
            end: new_end,
            ..old
        };
        index.replace(start, entry).map(|_| ()).map_err(to_py)
    }

    fn find(&self, addr: u64) -> Option<u64> {
        self.0.lock().find(addr).map(|entry| entry.id)
    }

    fn lookup(&self, addr: u64) -> Option<u64> {
        self.0.lock().lookup(addr).map(|entry| entry.id)
    }

    fn prev(&self, addr: u64) -> Option<u64> {
        self.0.lock().prev(addr).map(|entry| entry.id)
    }

    fn next(&self, addr: u64) -> Option<u64> {
        self.0.lock().next(addr).map(|entry| entry.id)
    }

    fn range(&self, start: u64, end: u64) -> Vec<u64> {
        let mut ids = Vec::new();
        self.0
            .lock()
            .for_each_in(start, end, |entry| ids.push(entry.id));
        ids
    }

    #[pyo3(signature = (*, length, low, high, align_mask = 0, align_offset = 0, start_gap = 0))]
    fn highest_gap(
        &self,
        length: u64,
        low: u64,
        high: u64,
        align_mask: u64,
        align_offset: u64,
        start_gap: u64,
    ) -> Option<u64> {
        self.0.lock().highest_gap(&GapQuery {
            length,
            low_limit: low,
            high_limit: high,
            align_mask,
            align_offset,
            start_gap,
        })
    }

    #[pyo3(signature = (*, length, low, high, align_mask = 0, align_offset = 0, start_gap = 0))]
    fn lowest_gap(
        &self,
        length: u64,
        low: u64,
        high: u64,
        align_mask: u64,
        align_offset: u64,
        start_gap: u64,
    ) -> Option<u64> {
        self.0.lock().lowest_gap(&GapQuery {
            length,
            low_limit: low,
            high_limit: high,
            align_mask,
            align_offset,
            start_gap,
        })
    }

    fn copy(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }

    fn __len__(&self) -> usize {
        self.0.lock().len()
    }
}
