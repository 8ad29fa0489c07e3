//! `Memory`: the physical memory of one machine, behind one lock. A file a subject.

mod address_space;
mod allocator;
mod files;
mod huge;
mod nodes;
mod ranges;
pub mod replay;
mod room;
mod runs;
mod state;
pub mod trace;
mod views;

use contigmm_core::adopt::AdoptError;
use contigmm_core::{Cpu, Memory as CoreMemory, Pfn};
use numpy::{PyArray1, PyArrayMethods};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::to_py;

/// Frames from which on a call releases the GIL. Releasing it costs 20 ns when nobody waits, but a
/// thread that does wait keeps it for a whole switch interval: not worth it below some 10 µs.
const BATCH_NR_PAGES: u64 = 256;

/// `frozen` + a lock: safe from any thread.
#[pyclass(frozen, module = "contigmm._core")]
pub struct Memory(Mutex<CoreMemory>);

impl Memory {
    /// Runs a short call. Whoever has to wait for another thread waits without the GIL.
    fn with<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&mut CoreMemory) -> T + Send) -> T {
        match self.0.try_lock() {
            Some(mut memory) => f(&mut memory),
            None => py.detach(|| f(&mut self.0.lock())),
        }
    }

    /// Runs a call on `nr` frames: a batch does not hold the GIL.
    fn with_batch<T: Send>(
        &self,
        py: Python<'_>,
        nr: u64,
        f: impl FnOnce(&mut CoreMemory) -> T + Send,
    ) -> T {
        if nr < BATCH_NR_PAGES {
            return self.with(py, f);
        }
        py.detach(|| f(&mut self.0.lock()))
    }
}

/// Checks that the machine has this CPU.
fn cpu_of(memory: &CoreMemory, cpu: u16) -> PyResult<Cpu> {
    let nr_cpus = memory.clock().nr_cpus();
    if cpu < nr_cpus {
        return Ok(Cpu(cpu));
    }
    Err(to_py(contigmm_core::AllocError::NoSuchCpu(cpu)))
}

/// Frame numbers from an array.
fn frames_of(pfns: &Bound<'_, PyArray1<u32>>) -> PyResult<Vec<Pfn>> {
    Ok(pfns.to_vec()?.into_iter().map(Pfn).collect())
}

/// The exception for a frame that cannot be given an owner.
#[allow(clippy::needless_pass_by_value)] // as map_err gives it
fn refused_adoption(err: AdoptError) -> PyErr {
    PyValueError::new_err(err.to_string())
}
