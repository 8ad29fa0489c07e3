//! Experiments that run whole in the core.

use contigmm_core::contention::{self, Contention, ContentionSpec};
use contigmm_core::cost::CostModel;
use contigmm_core::frag_study::{FragResult, FragSpec, run_linux, run_trees};
use contigmm_core::units::Order;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

fn to_dict<'py>(py: Python<'py>, result: &FragResult) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("system", result.system)?;
    dict.set_item("huge", result.huge.clone())?;
    dict.set_item("free", result.free.clone())?;
    dict.set_item("histogram_start", result.histogram[0].clone())?;
    dict.set_item("histogram_end", result.histogram[1].clone())?;
    Ok(dict)
}

/// Runs the fragmentation experiment without the GIL.
#[allow(clippy::too_many_arguments)] // one a setting, by name
#[pyfunction]
#[pyo3(signature = (*, policy, nr_huge, nr_cpus, filled, freed, churned, rounds, start_huge, seed))]
pub fn frag_study<'py>(
    py: Python<'py>,
    policy: &str,
    nr_huge: u32,
    nr_cpus: u16,
    filled: u32,
    freed: u32,
    churned: u32,
    rounds: u32,
    start_huge: u64,
    seed: u64,
) -> PyResult<Bound<'py, PyDict>> {
    let spec = FragSpec {
        nr_huge,
        nr_cpus,
        filled,
        freed,
        churned,
        rounds,
        start_huge,
        seed,
    };
    let sound = nr_cpus > 0 && (64..=1 << 22).contains(&nr_huge);
    if !sound || [filled, freed, churned].iter().any(|&share| share > 1000) {
        return Err(PyValueError::new_err(
            "a CPU, 64 to 2^22 huge frames, and shares of at most 1000 thousandths are needed",
        ));
    }
    let result = match policy {
        "linux" => py
            .detach(|| run_linux(&spec))
            .map_err(|err| PyValueError::new_err(err.to_string()))?,
        "trees" => py.detach(|| run_trees(&spec)),
        _ => {
            return Err(PyValueError::new_err(format!(
                "no policy is called {policy:?}"
            )));
        }
    };
    to_dict(py, &result)
}

/// The costs that a machine has when none are given, by name.
#[pyfunction]
pub fn default_costs(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in CostModel::default().iter() {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}

/// Lets many CPUs allocate from one zone, without the GIL.
#[pyfunction]
#[pyo3(signature = (*, frames, cpu_nodes, order, blocks, batch, costs))]
pub fn contention_study(
    py: Python<'_>,
    frames: u32,
    cpu_nodes: Vec<u8>,
    order: u8,
    blocks: u32,
    batch: Option<u32>,
    costs: &str,
) -> PyResult<(u64, u64, u64)> {
    let refuse = |what: String| PyValueError::new_err(what);
    if !(1..=1 << 10).contains(&cpu_nodes.len()) || batch == Some(0) {
        return Err(refuse(
            "1 to 1024 CPUs and a batch of at least 1 are needed".to_owned(),
        ));
    }
    let spec = ContentionSpec {
        frames,
        cpu_nodes,
        order: Order::new(order).map_err(|err| refuse(err.to_string()))?,
        blocks,
        batch,
        costs: CostModel::from_json(costs).map_err(|err| refuse(err.to_string()))?,
    };
    let Contention {
        total_ns,
        blocks,
        holds,
    } = py
        .detach(|| contention::run(&spec))
        .map_err(|err| refuse(err.to_string()))?;
    Ok((total_ns, blocks, holds))
}
