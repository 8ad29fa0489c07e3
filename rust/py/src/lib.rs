//! Python face of `contigmm-core`: conversions only. No policy, no loop over frames, no globals.

use pyo3::prelude::*;

#[pymodule]
mod _core {}
