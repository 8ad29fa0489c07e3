//! Recorded events of a real kernel, replayed.

use contigmm_core::kmem_replay::{Recorded, Replay, ReplayError, Replayed};
use contigmm_core::program_replay::{Played, ProgramReplay as CoreProgramReplay, Requests, Start};
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

fn played_to_dict<'py>(py: Python<'py>, played: &Played) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, nr) in [
        ("allocs", played.allocs),
        ("refused", played.refused),
        ("frees", played.frees),
        ("unknown_frees", played.unknown_frees),
        ("redrawn", played.redrawn),
        ("reclaimed_before", played.reclaimed_before),
        ("left_behind", played.left_behind),
        ("refilled", played.refilled),
        ("drained", played.drained),
        ("claims", played.claims),
        ("steals", played.steals),
        ("migrated", played.migrated),
        ("reclaimed", played.reclaimed),
    ] {
        dict.set_item(name, nr)?;
    }
    Ok(dict)
}

/// A replay of programs' requests on one memory.
#[pyclass(frozen, module = "contigmm._core")]
pub struct ProgramReplay {
    memory: Py<Memory>,
    replay: Mutex<CoreProgramReplay>,
}

#[pymethods]
impl ProgramReplay {
    #[allow(clippy::too_many_arguments)] // one a fact
    #[new]
    #[pyo3(signature = (memory, *, boosts, hopeless, inactive, young, at_ns, seed))]
    fn new(
        py: Python<'_>,
        memory: Py<Memory>,
        boosts: Vec<u64>,
        hopeless: Vec<bool>,
        inactive: Vec<u32>,
        young: Vec<bool>,
        at_ns: u64,
        seed: u64,
    ) -> PyResult<Self> {
        let core = &memory.get().0;
        let start = Start {
            boosts,
            hopeless,
            inactive,
            young,
            at_ns,
            seed,
        };
        let replay = py
            .detach(|| CoreProgramReplay::begin(&mut core.lock(), &start))
            .map_err(refused)?;
        Ok(Self {
            memory,
            replay: Mutex::new(replay),
        })
    }

    #[allow(clippy::too_many_arguments)] // one a column
    #[pyo3(signature = (*, alloc, cpu, order, gfp, handle, at_ns))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        alloc: &Bound<'py, PyArray1<u8>>,
        cpu: &Bound<'py, PyArray1<u8>>,
        order: &Bound<'py, PyArray1<u8>>,
        gfp: &Bound<'py, PyArray1<u32>>,
        handle: &Bound<'py, PyArray1<u32>>,
        at_ns: &Bound<'py, PyArray1<u64>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (alloc, cpu, order) = (alloc.readonly(), cpu.readonly(), order.readonly());
        let (gfp, handle, at_ns) = (gfp.readonly(), handle.readonly(), at_ns.readonly());
        let requests = Requests {
            alloc: alloc.as_slice()?,
            cpu: cpu.as_slice()?,
            order: order.as_slice()?,
            gfp: gfp.as_slice()?,
            handle: handle.as_slice()?,
            at_ns: at_ns.as_slice()?,
        };
        let core = &self.memory.get().0;
        let played = py.detach(|| self.replay.lock().run(&mut core.lock(), &requests));
        played_to_dict(py, &played.map_err(refused)?)
    }
}
