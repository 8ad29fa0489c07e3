//! Recorded events of a real kernel, replayed.

use contigmm_core::kmem_replay::{Recorded, Replay, ReplayError, Replayed};
use numpy::{PyArray1, PyArrayMethods};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Memory;

fn to_dict<'py>(py: Python<'py>, replayed: &Replayed) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("taken", replayed.taken)?;
    dict.set_item("silent", replayed.silent)?;
    dict.set_item("missing", replayed.missing)?;
    dict.set_item("unknown_frees", replayed.unknown_frees)?;
    dict.set_item("claims", replayed.claims)?;
    dict.set_item("steals", replayed.steals)?;
    Ok(dict)
}

#[allow(clippy::needless_pass_by_value)] // as map_err gives it
fn refused(err: ReplayError) -> PyErr {
    PyValueError::new_err(err.to_string())
}

/// A replay on one memory.
#[pyclass(frozen, module = "contigmm._core")]
pub struct KmemReplay {
    memory: Py<Memory>,
    replay: Mutex<Replay>,
}

#[pymethods]
impl KmemReplay {
    #[new]
    fn new(py: Python<'_>, memory: Py<Memory>) -> PyResult<Self> {
        let core = &memory.get().0;
        let replay = py
            .detach(|| Replay::begin(&mut core.lock()))
            .map_err(refused)?;
        Ok(Self {
            memory,
            replay: Mutex::new(replay),
        })
    }

    #[allow(clippy::too_many_arguments)] // one a column
    #[pyo3(signature = (*, step, cpu, zone, order, migratetype, handle))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        step: &Bound<'py, PyArray1<u8>>,
        cpu: &Bound<'py, PyArray1<u8>>,
        zone: &Bound<'py, PyArray1<u8>>,
        order: &Bound<'py, PyArray1<u8>>,
        migratetype: &Bound<'py, PyArray1<u8>>,
        handle: &Bound<'py, PyArray1<u32>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (step, cpu, zone) = (step.readonly(), cpu.readonly(), zone.readonly());
        let (order, migratetype) = (order.readonly(), migratetype.readonly());
        let handle = handle.readonly();
        let events = Recorded {
            step: step.as_slice()?,
            cpu: cpu.as_slice()?,
            zone: zone.as_slice()?,
            order: order.as_slice()?,
            migratetype: migratetype.as_slice()?,
            handle: handle.as_slice()?,
        };
        let core = &self.memory.get().0;
        let replayed = py.detach(|| {
            let mut replay = self.replay.lock();
            replay.run(&mut core.lock(), &events)?;
            Ok(replay.replayed)
        });
        to_dict(py, &replayed.map_err(refused)?)
    }
}
