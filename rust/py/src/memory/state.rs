//! Saving, restoring and comparing the whole memory.

use contigmm_core::Memory as CoreMemory;
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::Memory;

#[pymethods]
impl Memory {
    fn snapshot<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes = py.detach(|| self.0.lock().snapshot());
        PyBytes::new(py, &bytes)
    }

    #[staticmethod]
    #[pyo3(signature = (snapshot, *, max_bytes))]
    fn restore(py: Python<'_>, snapshot: &[u8], max_bytes: u64) -> PyResult<Self> {
        let restored = py.detach(|| CoreMemory::restore(snapshot, max_bytes));
        let to_py = |err: contigmm_core::SnapshotError| PyValueError::new_err(err.to_string());
        Ok(Self(Mutex::new(restored.map_err(to_py)?)))
    }

    fn digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let digest = py.detach(|| self.0.lock().digest());
        PyBytes::new(py, &digest)
    }
}
