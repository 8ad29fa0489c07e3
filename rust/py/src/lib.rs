//! Python face of `contigmm-core`: conversions only. No policy, no loop over frames, no globals.

use pyo3::prelude::*;

mod errors;
mod memory;
mod study;
mod vma_index;

#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::errors::{CoreError, InvariantError};
    #[pymodule_export]
    use super::memory::Memory;
    #[pymodule_export]
    use super::memory::replay::{KmemReplay, ProgramReplay};
    #[pymodule_export]
    use super::memory::trace::tracepoints;
    #[pymodule_export]
    use super::study::{contention_study, default_costs, frag_study};
    #[pymodule_export]
    use super::vma_index::VmaIndex;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.getattr("CoreError")?.setattr("cause", "")
    }
}
