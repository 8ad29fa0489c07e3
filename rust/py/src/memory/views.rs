//! What /proc shows: free lists, zones, counters, clocks.

use contigmm_core::mem_map::{FileList, PageClass};
use contigmm_core::pcp::{MIGRATE_PCPTYPES, Pcp};
use contigmm_core::units::PAGEBLOCK_NR_PAGES;
use contigmm_core::zone::Zone;
use contigmm_core::{Cpu, MigrateType, Order, Pfn};
use numpy::{PyArray1, PyArray2, PyArray3, PyArray4, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::{Memory, cpu_of};
use crate::errors::InvariantError;

/// Count, high, batch, least and greatest high of each CPU's lists.
fn pagesets(zone: &Zone) -> Vec<(u32, u32, u32, u32, u32)> {
    let limits = zone.pcp_limits;
    let row = |pcp: &Pcp| {
        (
            pcp.count,
            pcp.high,
            limits.batch,
            limits.high_min,
            limits.high_max,
        )
    };
    zone.pcps.iter().map(row).collect()
}

/// (pfn, order, migratetype) as columns.
type BlockColumns<'py> = (
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray1<u8>>,
    Bound<'py, PyArray1<u8>>,
);

#[pymethods]
impl Memory {
    fn buddyinfo<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<u64>>> {
        let rows = self.with(py, |memory| memory.buddyinfo());
        let shape = [rows.len(), Order::COUNT];
        PyArray1::from_vec(py, rows.concat()).reshape(shape)
    }

    fn free_by_type<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray3<u64>>> {
        let zones = self.with(py, |memory| memory.free_by_type());
        let shape = [zones.len(), MigrateType::COUNT, Order::COUNT];
        PyArray1::from_vec(py, zones.concat().concat()).reshape(shape)
    }

    fn free_blocks<'py>(&self, py: Python<'py>) -> BlockColumns<'py> {
        let (mut pfns, mut orders, mut types) = (Vec::new(), Vec::new(), Vec::new());
        self.with(py, |memory| {
            for block in memory
                .zones()
                .iter()
                .flat_map(|zone| memory.free_blocks(zone.id))
            {
                pfns.push(block.pfn.0);
                orders.push(block.order.get());
                types.push(block.migratetype as u8);
            }
        });
        let orders = PyArray1::from_vec(py, orders);
        (
            PyArray1::from_vec(py, pfns),
            orders,
            PyArray1::from_vec(py, types),
        )
    }

    fn pcp_frames<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray4<u64>>> {
        let zones = self.with(py, |memory| memory.pcp_frames());
        let nr_cpus = zones.first().map_or(0, Vec::len);
        let frames: Vec<u64> = zones.concat().concat().concat();
        let shape = [zones.len(), nr_cpus, MIGRATE_PCPTYPES, Order::COUNT];
        PyArray1::from_vec(py, frames).reshape(shape)
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        let found = py.detach(|| self.0.lock().check());
        found.map_err(|broken| InvariantError::new_err(broken.to_string()))
    }

    #[pyo3(signature = (*, first=0, nr=u32::MAX))]
    fn frame_classes<'py>(&self, py: Python<'py>, first: u32, nr: u32) -> Bound<'py, PyArray1<u8>> {
        let frames = first..first.saturating_add(nr);
        let classes = py.detach(|| self.0.lock().frame_classes_in(frames));
        PyArray1::from_vec(py, classes)
    }

    fn frame_files<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        let files = py.detach(|| self.0.lock().frame_files());
        PyArray1::from_vec(py, files)
    }

    fn user_stat<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stat = self.with(py, |memory| *memory.user_stat());
        let row = PyDict::new(py);
        row.set_item("nr_anon_pages", stat.nr_anon_mapped)?;
        row.set_item("nr_mapped", stat.nr_file_mapped)?;
        row.set_item("nr_file_pages", stat.nr_file_pages)?;
        row.set_item("nr_shmem", stat.nr_shmem)?;
        row.set_item("nr_mlock", stat.nr_mlock)?;
        row.set_item("nr_page_table_pages", stat.nr_page_table_pages)?;
        row.set_item("nr_contig", stat.nr_contig)?;
        Ok(row)
    }

    fn pageblock_types<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u8>> {
        let types = self.with(py, |memory| {
            let map = memory.map();
            let starts = (0..map.nr_frames()).step_by(PAGEBLOCK_NR_PAGES as usize);
            starts
                .map(|pfn| map.pageblock_migratetype(Pfn(pfn)) as u8)
                .collect::<Vec<u8>>()
        });
        PyArray1::from_vec(py, types)
    }

    #[pyo3(signature = (*, first=0, nr=u32::MAX))]
    fn class_counts<'py>(
        &self,
        py: Python<'py>,
        first: u32,
        nr: u32,
    ) -> PyResult<Bound<'py, PyArray2<u16>>> {
        let pageblocks = first as usize..first.saturating_add(nr) as usize;
        let rows = self.with_batch(py, u64::MAX, |memory| memory.class_counts_in(pageblocks));
        let shape = [rows.len(), PageClass::COUNT];
        PyArray1::from_vec(py, rows.concat()).reshape(shape)
    }

    fn class_counts_of<'py>(
        &self,
        py: Python<'py>,
        pageblocks: &Bound<'py, PyArray1<u32>>,
    ) -> PyResult<Bound<'py, PyArray2<u16>>> {
        let pageblocks = pageblocks.to_vec()?;
        let rows = self.with_batch(py, u64::MAX, |memory| memory.class_counts_of(&pageblocks));
        let shape = [rows.len(), PageClass::COUNT];
        PyArray1::from_vec(py, rows.concat()).reshape(shape)
    }

    #[pyo3(signature = (*, first=0, nr=u32::MAX))]
    fn pageblock_fingerprints<'py>(
        &self,
        py: Python<'py>,
        first: u32,
        nr: u32,
    ) -> Bound<'py, PyArray1<u32>> {
        let pageblocks = first as usize..first.saturating_add(nr) as usize;
        let prints = self.with_batch(py, u64::MAX, |memory| memory.fingerprints_in(pageblocks));
        PyArray1::from_vec(py, prints)
    }

    fn contig_runs<'py>(
        &self,
        py: Python<'py>,
    ) -> (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u32>>) {
        let runs: Vec<(u32, u32)> = self.with(py, |memory| {
            memory.runs().map(|(_, run)| (run.base.0, run.nr)).collect()
        });
        let (pfns, nrs) = runs.into_iter().unzip();
        (PyArray1::from_vec(py, pfns), PyArray1::from_vec(py, nrs))
    }

    fn zones<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let zones = self.with(py, |memory| {
            let zones = memory.zones().iter();
            zones
                .map(|zone| {
                    let list = |list| memory.map().nr_file(zone.id, list);
                    let files = [FileList::Inactive, FileList::Active].map(list);
                    (zone.clone(), memory.cma_pages(zone.id), files)
                })
                .collect::<Vec<_>>()
        });
        let rows = zones.iter().map(|(zone, cma_pages, [inactive, active])| {
            let row = PyDict::new(py);
            row.set_item("node", zone.node.0)?;
            row.set_item("name", zone.kind.name())?;
            row.set_item("start_pfn", zone.start_pfn.0)?;
            row.set_item("spanned", zone.spanned)?;
            row.set_item("present", zone.present)?;
            row.set_item("managed", zone.managed)?;
            row.set_item("free", zone.nr_free_pages)?;
            row.set_item("free_cma", zone.nr_free_cma)?;
            row.set_item("cma", *cma_pages)?;
            row.set_item("free_highatomic", zone.nr_free_highatomic)?;
            row.set_item("inactive_file", *inactive)?;
            row.set_item("active_file", *active)?;
            row.set_item("watermark_min", zone.watermark.min)?;
            row.set_item("watermark_low", zone.watermark.low)?;
            row.set_item("watermark_high", zone.watermark.high)?;
            row.set_item("watermark_promo", zone.watermark.promo)?;
            row.set_item("watermark_boost", zone.watermark_boost)?;
            row.set_item("protection", zone.lowmem_reserve)?;
            row.set_item("pcp", pagesets(zone))?;
            row.set_item("numa_hit", zone.numa.hit)?;
            row.set_item("numa_miss", zone.numa.miss)?;
            row.set_item("numa_foreign", zone.numa.foreign)?;
            row.set_item("numa_local", zone.numa.local)?;
            row.set_item("numa_other", zone.numa.other)?;
            Ok::<_, PyErr>(row)
        });
        PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)
    }

    fn vmstat<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = PyDict::new(py);
        let events = self.with(py, |memory| memory.vmstat().iter().collect::<Vec<_>>());
        for (name, count) in events {
            counts.set_item(name, count)?;
        }
        Ok(counts)
    }

    fn nr_frames(&self, py: Python<'_>) -> u32 {
        self.with(py, |memory| memory.map().nr_frames())
    }

    fn nr_cpus(&self, py: Python<'_>) -> u16 {
        self.with(py, |memory| memory.clock().nr_cpus())
    }

    #[pyo3(signature = (cpu = None))]
    fn clock_ns(&self, py: Python<'_>, cpu: Option<u16>) -> PyResult<u64> {
        self.with(py, |memory| match cpu {
            Some(cpu) => cpu_of(memory, cpu).map(|cpu| memory.clock().now_ns(cpu)),
            None => Ok(memory.clock().latest_ns()),
        })
    }

    #[pyo3(signature = (*, cpu))]
    fn enter_syscall(&self, py: Python<'_>, cpu: u16) -> PyResult<()> {
        self.with(py, |memory| {
            let cpu = cpu_of(memory, cpu)?;
            let ns = u64::from(memory.clock().costs.syscall_ns);
            memory.clock_mut().charge(cpu, ns);
            memory.work_in_background();
            Ok(())
        })
    }

    fn advance_clock(&self, py: Python<'_>, ns: u64) {
        self.with(py, |memory| memory.advance_clock(ns));
    }

    fn node_of_cpu(&self, py: Python<'_>, cpu: u16) -> Option<u8> {
        self.with(py, |memory| memory.node_of(Cpu(cpu)).map(|node| node.0))
    }
}
