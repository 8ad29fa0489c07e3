"""Prefaulting a range: __mm_populate() and populate_vma_page_range(), mm/gup.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import PAGE_SHIFT
from contigmm.mm.causes import BEYOND_EOF, NO_ACCESS
from contigmm.mm.fault import map_run, prealloc_pfn, prepare_for
from contigmm.mm.flags import (
    VM_ACCESS_FLAGS,
    VM_IO,
    VM_LOCKONFAULT,
    VM_PFNMAP,
    VM_SHARED,
    VM_WRITE,
)
from contigmm.mm.placement import placing
from contigmm.mm.policy import NO_CORE_RUN

if TYPE_CHECKING:
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea


def populate_vma(task: "Task", vma: "VmArea", start: int, end: int) -> str:
    """Fault in ``[start, end)`` of one VMA; '' or the cause that stopped it.

    Private writable memory is write-faulted to break copy-on-write early; shared memory is only
    read, lest it become dirty: populate_vma_page_range(), v6.18.
    """
    vm_flags = vma.vm_flags
    if vm_flags & VM_LOCKONFAULT:
        return ""
    if not vm_flags & VM_ACCESS_FLAGS:
        return NO_ACCESS
    write = vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE
    return fault_in(task, vma, start, end, write=write)


def fault_in(task: "Task", vma: "VmArea", start: int, end: int, *, write: bool) -> str:
    """Fault in every page of ``[start, end)`` inside one VMA; '' or the cause that stopped it."""
    if vma.run is not None and vma.run.core_run != NO_CORE_RUN:
        map_run(task, vma, start, end)
        return ""
    if vma.file is not None and vma.file.is_hugetlb:
        return BEYOND_EOF  # the pool is empty: hugetlb_no_page() ends in SIGBUS
    mm = task.mm
    prepare_for(mm, vma, start, end, write=write)
    _, cause = placing(task, vma).populate(
        mm=mm.id,
        cpu=task.cpu,
        vpn=start >> PAGE_SHIFT,
        nr=(end - start) >> PAGE_SHIFT,
        vm_start=vma.vm_start,
        vm_end=vma.vm_end,
        vm_flags=vma.vm_flags | mm.fault_flags,
        obj=0 if vma.file is None else vma.file.inode.core_id,
        pgoff=vma.vm_pgoff,
        prealloc=prealloc_pfn(vma),
        write=write,
    )
    return cause


def mm_populate(task: "Task", start: int, length: int, *, ignore_errors: bool) -> str:
    """Fault in a range over its VMAs; '' or the first cause: __mm_populate(), v6.18."""
    end = start + length
    mm = task.mm
    for vma in mm.vmas_in(start, end):
        if vma.vm_flags & (VM_IO | VM_PFNMAP):
            continue
        cause = populate_vma(task, vma, max(start, vma.vm_start), min(end, vma.vm_end))
        if cause and not ignore_errors:
            return cause
    return ""
