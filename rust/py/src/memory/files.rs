//! Files and their pages in the cache. Python counts files from 1; 0 is none.

use contigmm_core::address_space::Progress;
use contigmm_core::page_cache::{FileId, FileKind, FileSpec};
use contigmm_core::{Cpu, Memory as CoreMemory, Pfn};
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::address_space::{Done, done, file_of};
use super::{Memory, cpu_of};
use crate::errors::to_py;

/// `MAX_LFS_FILESIZE`, include/linux/fs.h v6.12, 64 bits: sizes are Python's to check.
const MAX_LFS_FILESIZE: u64 = (1 << 63) - 1;

/// Checks that there is such a file.
fn some_file(memory: &CoreMemory, file: u32) -> PyResult<FileId> {
    file_of(memory, file)?.ok_or_else(|| PyValueError::new_err("0 is no file"))
}

#[pymethods]
impl Memory {
    #[pyo3(signature = (*, shmem, size = None, fill = None))]
    fn file_create(&self, py: Python<'_>, shmem: bool, size: Option<u64>, fill: Option<u8>) -> u32 {
        let kind = if shmem {
            FileKind::Shmem
        } else {
            FileKind::Regular
        };
        let size = size.unwrap_or(MAX_LFS_FILESIZE);
        self.with(py, |memory| {
            memory.file_create(FileSpec { kind, size, fill }).0 + 1
        })
    }

    #[pyo3(signature = (file, *, cpu = 0))]
    fn file_drop(&self, py: Python<'_>, file: u32, cpu: u16) -> PyResult<u64> {
        let nr = self.file_nr_pages(py, file)?;
        self.with_batch(py, nr, |memory| {
            let (file, cpu) = (some_file(memory, file)?, cpu_of(memory, cpu)?);
            Ok(memory.file_drop(file, cpu))
        })
    }

    #[pyo3(signature = (file, *, size, cpu = 0))]
    fn file_truncate(&self, py: Python<'_>, file: u32, size: u64, cpu: u16) -> PyResult<u64> {
        let nr = self.file_nr_pages(py, file)?;
        self.with_batch(py, nr, |memory| {
            let (file, cpu) = (some_file(memory, file)?, cpu_of(memory, cpu)?);
            Ok(memory.file_truncate(file, cpu, size))
        })
    }

    #[pyo3(signature = (file, *, index, nr, cpu = 0))]
    fn file_punch(
        &self,
        py: Python<'_>,
        file: u32,
        index: u32,
        nr: u32,
        cpu: u16,
    ) -> PyResult<u64> {
        self.with_batch(py, u64::from(nr), |memory| {
            let (file, cpu) = (some_file(memory, file)?, cpu_of(memory, cpu)?);
            Ok(memory.file_punch(file, cpu, index..index.saturating_add(nr)))
        })
    }

    #[pyo3(signature = (file, *, offset, cpu = 0))]
    fn file_read(&self, py: Python<'_>, file: u32, offset: u64, cpu: u16) -> PyResult<Option<u8>> {
        self.with(py, |memory| {
            let (file, cpu) = (some_file(memory, file)?, cpu_of(memory, cpu)?);
            memory.file_read(file, cpu, offset).map_err(to_py)
        })
    }

    #[pyo3(signature = (file, *, offset, value, cpu = 0))]
    fn file_write(
        &self,
        py: Python<'_>,
        file: u32,
        offset: u64,
        value: u8,
        cpu: u16,
    ) -> PyResult<()> {
        self.with(py, |memory| {
            let (file, cpu) = (some_file(memory, file)?, cpu_of(memory, cpu)?);
            memory.file_write(file, cpu, offset, value).map_err(to_py)
        })
    }

    fn file_nr_pages(&self, py: Python<'_>, file: u32) -> PyResult<u64> {
        self.with(py, |memory| {
            Ok(memory.file_nr_pages(some_file(memory, file)?))
        })
    }

    #[pyo3(signature = (file, *, index, nr, cpu = 0))]
    fn cache_insert(
        &self,
        py: Python<'_>,
        file: u32,
        index: u32,
        nr: u32,
        cpu: u16,
    ) -> PyResult<Done> {
        self.fill_cache(py, (file, index, nr, cpu), CoreMemory::cache_insert)
    }

    #[pyo3(signature = (file, *, index, nr, cpu = 0))]
    fn cache_reserve(
        &self,
        py: Python<'_>,
        file: u32,
        index: u32,
        nr: u32,
        cpu: u16,
    ) -> PyResult<Done> {
        self.fill_cache(py, (file, index, nr, cpu), CoreMemory::cache_reserve)
    }

    #[pyo3(signature = (file, *, index, nr, cpu = 0))]
    fn cache_drop(
        &self,
        py: Python<'_>,
        file: u32,
        index: u32,
        nr: u32,
        cpu: u16,
    ) -> PyResult<u64> {
        self.with_batch(py, u64::from(nr), |memory| {
            let (file, cpu) = (some_file(memory, file)?, cpu_of(memory, cpu)?);
            Ok(memory.cache_drop(file, cpu, index..index.saturating_add(nr)))
        })
    }

    #[pyo3(signature = (file, *, index, pfns))]
    fn cache_adopt(
        &self,
        py: Python<'_>,
        file: u32,
        index: u32,
        pfns: &Bound<'_, PyArray1<u32>>,
    ) -> PyResult<()> {
        let pfns: Vec<Pfn> = super::frames_of(pfns)?;
        self.with_batch(py, pfns.len() as u64, |memory| {
            let file = some_file(memory, file)?;
            memory
                .cache_adopt(file, index, &pfns)
                .map_err(super::refused_adoption)
        })
    }
}

impl Memory {
    /// Brings pages `(file, index, nr)` into the cache on a CPU, in the way that `fill` has.
    fn fill_cache(
        &self,
        py: Python<'_>,
        (file, index, nr, cpu): (u32, u32, u32, u16),
        fill: fn(&mut CoreMemory, FileId, Cpu, u32, u32) -> Progress,
    ) -> PyResult<Done> {
        if index.checked_add(nr).is_none() {
            return Err(PyValueError::new_err("a file has at most 2**32 pages"));
        }
        self.with_batch(py, u64::from(nr), |memory| {
            let (file, cpu) = (some_file(memory, file)?, cpu_of(memory, cpu)?);
            Ok(done(fill(memory, file, cpu, index, nr)))
        })
    }
}
