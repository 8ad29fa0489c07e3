//! Huge pages and pages that were given up.

use contigmm_core::huge_memory::{ThpDefrag, ThpEnabled, ThpSettings};
use contigmm_core::shmem_huge::ThpShmem;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::address_space::{VmaArgs, check_pages, mm_of};
use super::{Memory, cpu_of};

/// Pages of a huge page.
const HPAGE_PMD_NR: u64 = 512;

fn unknown(what: &str, word: &str) -> PyErr {
    PyValueError::new_err(format!("transparent_hugepage/{what} has no value {word:?}"))
}

#[pymethods]
impl Memory {
    #[allow(clippy::too_many_arguments)] // so many files in that directory
    #[pyo3(signature = (*, enabled, defrag, shmem, use_zero_page, always, madvise, inherit))]
    fn thp_configure(
        &self,
        py: Python<'_>,
        enabled: &str,
        defrag: &str,
        shmem: &str,
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
            shmem: match shmem {
                "always" => ThpShmem::Always,
                "within_size" => ThpShmem::WithinSize,
                "advise" => ThpShmem::Advise,
                "never" => ThpShmem::Never,
                "deny" => ThpShmem::Deny,
                "force" => ThpShmem::Force,
                _ => return Err(unknown("shmem_enabled", shmem)),
            },
        };
        self.with(py, |memory| memory.set_thp(settings));
        Ok(())
    }

    fn nr_shmem_pmdmapped(&self, py: Python<'_>) -> u64 {
        self.with(py, |memory| memory.nr_shmem_pmdmapped())
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

    #[allow(clippy::too_many_arguments)] // a place, and what is known of its VMA
    #[pyo3(signature = (*, mm, cpu, vpn, vm_start, vm_end, vm_flags, obj, pgoff))]
    fn collapse_file(
        &self,
        py: Python<'_>,
        mm: u32,
        cpu: u16,
        vpn: u64,
        vm_start: u64,
        vm_end: u64,
        vm_flags: u64,
        obj: u32,
        pgoff: u64,
    ) -> PyResult<&'static str> {
        let vma = VmaArgs {
            vm_start,
            vm_end,
            vm_flags,
            obj,
            pgoff,
            prealloc: -1,
        };
        self.with_batch(py, HPAGE_PMD_NR, |memory| {
            let (mm, cpu) = (mm_of(memory, mm)?, cpu_of(memory, cpu)?);
            let vma = vma.check(memory, vpn, HPAGE_PMD_NR)?;
            let index = vma.index_of(vpn);
            if !vpn.is_multiple_of(HPAGE_PMD_NR) || !index.is_multiple_of(HPAGE_PMD_NR) {
                return Err(PyValueError::new_err(
                    "a huge page begins at an aligned page, of memory and of its object",
                ));
            }
            let collapsed = memory.collapse_file(mm, cpu, vpn, &vma);
            Ok(collapsed.err().map_or("", |error| error.name()))
        })
    }
}
