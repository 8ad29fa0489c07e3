//! Huge pages and pages that were given up.

use contigmm_core::huge_memory::{ThpDefrag, ThpEnabled, ThpSettings};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::address_space::{check_pages, mm_of};
use super::{Memory, cpu_of};

/// Pages of a huge page.
const HPAGE_PMD_NR: u64 = 512;

fn unknown(what: &str, word: &str) -> PyErr {
    PyValueError::new_err(format!("transparent_hugepage/{what} has no value {word:?}"))
}

#[pymethods]
impl Memory {
    #[allow(clippy::too_many_arguments)] // so many files in that directory
    #[pyo3(signature = (*, enabled, defrag, use_zero_page, always, madvise, inherit))]
    fn thp_configure(
        &self,
        py: Python<'_>,
        enabled: &str,
        defrag: &str,
        use_zero_page: bool,
        always: u16,
        madvise: u16,
        inherit: u16,
    ) -> PyResult<()> {
        let settings = ThpSettings {
            enabled: match enabled {
                "always" => ThpEnabled::Always,
                "madvise" => ThpEnabled::Madvise,
                "never" => ThpEnabled::Never,
                _ => return Err(unknown("enabled", enabled)),
            },
            defrag: match defrag {
                "always" => ThpDefrag::Always,
                "defer" => ThpDefrag::Defer,
                "defer+madvise" => ThpDefrag::DeferMadvise,
                "madvise" => ThpDefrag::Madvise,
                "never" => ThpDefrag::Never,
                _ => return Err(unknown("defrag", defrag)),
            },
            use_zero_page,
            orders_always: always,
            orders_madvise: madvise,
            orders_inherit: inherit,
        };
        self.with(py, |memory| memory.set_thp(settings));
        Ok(())
    }

    #[pyo3(signature = (*, mm, vpn))]
    fn split_huge_at(&self, py: Python<'_>, mm: u32, vpn: u64) -> PyResult<()> {
        check_pages(vpn, 0)?;
        self.with(py, |memory| {
            memory.split_huge_at(mm_of(memory, mm)?, vpn);
            Ok(())
        })
    }

    #[pyo3(signature = (*, mm, cpu, vpn, nr))]
    fn lazy_free(&self, py: Python<'_>, mm: u32, cpu: u16, vpn: u64, nr: u64) -> PyResult<()> {
        check_pages(vpn, nr)?;
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            memory.lazy_free(mm, cpu, vpn, nr);
            Ok(())
        })
    }

    #[pyo3(signature = (*, mm, cpu, vpn, nr))]
    fn cold(&self, py: Python<'_>, mm: u32, cpu: u16, vpn: u64, nr: u64) -> PyResult<()> {
        check_pages(vpn, nr)?;
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            memory.cold(mm, cpu, vpn, nr);
            Ok(())
        })
    }

    #[pyo3(signature = (*, mm, cpu, vpn, nr))]
    fn page_out(&self, py: Python<'_>, mm: u32, cpu: u16, vpn: u64, nr: u64) -> PyResult<u64> {
        check_pages(vpn, nr)?;
        self.with_batch(py, nr, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            Ok(memory.page_out(mm, cpu, vpn, nr))
        })
    }

    #[pyo3(signature = (*, mm, cpu, vpn, vm_flags))]
    fn collapse(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        vm_flags: u64,
    ) -> PyResult<&'static str> {
        check_pages(vpn, HPAGE_PMD_NR)?;
        if !vpn.is_multiple_of(HPAGE_PMD_NR) {
            return Err(PyValueError::new_err(
                "a huge page begins at an aligned page",
            ));
        }
        self.with_batch(py, HPAGE_PMD_NR, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let collapsed = memory.collapse(mm, cpu, vpn, vm_flags);
            Ok(collapsed.err().map_or("", |error| error.name()))
        })
    }
}
