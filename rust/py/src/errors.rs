//! `CoreError`: a refusal of the core as a Python exception.

use contigmm_core::AllocError;
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;

pyo3::create_exception!(
    contigmm._core,
    CoreError,
    PyOSError,
    "The core refused. `errno` is Linux's number, `cause` says which rule it was."
);

pyo3::create_exception!(
    contigmm._core,
    InvariantError,
    PyException,
    "An invariant of the core does not hold: a bug of the simulator, never an answer."
);

/// The exception for a refusal: `OSError`'s errno and strerror, and the variant's name as `cause`.
pub fn to_py(err: AllocError) -> PyErr {
    let error = CoreError::new_err((err.errno(), err.to_string()));
    Python::attach(|py| match error.value(py).setattr("cause", err.cause()) {
        Ok(()) => error,
        Err(unexpected) => unexpected,
    })
}
