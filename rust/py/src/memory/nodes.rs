//! Pages and the nodes they lie on.

use contigmm_core::NodeId;
use contigmm_core::node_move::Misplaced;
use contigmm_core::placement::Placement;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::address_space::{check_pages, mm_of};
use super::{Memory, cpu_of};

/// A policy by its kind and its mask of nodes.
fn placement_of(kind: &str, nodes: u64) -> PyResult<Placement> {
    if nodes == 0 && kind != "local" {
        return Err(PyValueError::new_err(format!(
            "a placement {kind:?} needs a node"
        )));
    }
    let first = nodes.trailing_zeros().to_le_bytes()[0];
    Ok(match kind {
        "local" => Placement::Local,
        "preferred" => Placement::Preferred(NodeId(first)),
        "preferred_many" => Placement::PreferredMany(nodes),
        "bind" => Placement::Bind(nodes),
        "interleave" => Placement::Interleave(nodes),
        _ => return Err(PyValueError::new_err(format!("no placement is {kind:?}"))),
    })
}

#[pymethods]
impl Memory {
    #[pyo3(signature = (kind, *, nodes = 0))]
    fn place(&self, py: Python<'_>, kind: &str, nodes: u64) -> PyResult<()> {
        let placement = placement_of(kind, nodes)?;
        self.with(py, |memory| memory.set_placement(placement));
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // a range, its place in its object, and what is wanted
    #[pyo3(signature = (*, mm, cpu, vpn, nr, index, nodes, move_own, move_all))]
    fn move_misplaced(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        nr: u64,
        index: u64,
        nodes: u64,
        move_own: bool,
        move_all: bool,
    ) -> PyResult<u64> {
        check_pages(vpn, nr)?;
        let how = match (move_own, move_all) {
            (_, true) => Misplaced::MoveAll,
            (true, false) => Misplaced::MoveOwn,
            (false, false) => Misplaced::Count,
        };
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let failed = memory.move_misplaced(mm, cpu, (vpn, nr, index), nodes, how);
            memory.set_placement(Placement::Local);
            Ok(failed)
        })
    }

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
