//! Pages and the nodes they lie on.

use contigmm_core::NodeId;
use pyo3::prelude::*;

use super::address_space::mm_of;
use super::{Memory, cpu_of};

#[pymethods]
impl Memory {
    #[pyo3(signature = (*, mm, vpn))]
    fn node_of_page(&self, py: Python<'_>, mm: u32, vpn: u64) -> PyResult<(u8, &'static str)> {
        self.with(py, |memory| {
            let mm = mm_of(memory, mm)?;
            Ok(match memory.node_of_page(mm, vpn) {
                Ok(node) => (node.0, ""),
                Err(refusal) => (0, refusal.cause()),
            })
        })
    }

    #[pyo3(signature = (*, mm, cpu, vpn, node, shared_too))]
    fn move_to_node(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        node: u8,
        shared_too: bool,
    ) -> PyResult<&'static str> {
        self.with(py, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let moved = memory.move_to_node(mm, cpu, vpn, NodeId(node), shared_too);
            Ok(moved.map_or_else(contigmm_core::node_move::NodeMoveError::cause, |()| ""))
        })
    }
}
