//! What happens in the allocator, for whoever listens.

use contigmm_core::events::{Event, MAX_FIELDS, Tracepoint};
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::prelude::*;

use super::Memory;

type Columns<'py> = (
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<u16>>,
    Bound<'py, PyArray1<u8>>,
    Bound<'py, PyArray2<u32>>,
    u64,
);

/// Name and fields of every tracepoint, by number.
#[pyfunction]
pub fn tracepoints() -> Vec<(&'static str, Vec<&'static str>)> {
    let row = |point: Tracepoint| (point.name(), point.fields().to_vec());
    Tracepoint::ALL.into_iter().map(row).collect()
}

#[pymethods]
impl Memory {
    fn trace_start(&self, py: Python<'_>, capacity: usize) -> bool {
        self.with(py, |memory| memory.trace_start(capacity))
    }

    fn trace_stop(&self, py: Python<'_>) {
        self.with(py, contigmm_core::Memory::trace_stop);
    }

    fn trace_take<'py>(&self, py: Python<'py>) -> Columns<'py> {
        let (events, dropped) = self.with(py, contigmm_core::Memory::trace_take);
        let mut fields = Array2::zeros((events.len(), MAX_FIELDS));
        for (mut row, event) in fields.outer_iter_mut().zip(&events) {
            for (cell, &value) in row.iter_mut().zip(&event.fields) {
                *cell = value;
            }
        }
        let number = |event: &Event| event.tracepoint as u8;
        (
            PyArray1::from_iter(py, events.iter().map(|event| event.time_ns)),
            PyArray1::from_iter(py, events.iter().map(|event| event.cpu)),
            PyArray1::from_iter(py, events.iter().map(number)),
            fields.into_pyarray(py),
            dropped,
        )
    }
}
