"""Invariants that join address spaces to physical memory; the core holds its own."""

from collections.abc import Iterable

from contigmm.abi import PAGE_SHIFT, TASK_SIZE
from contigmm.mm.mm_struct import MmStruct
from contigmm.mm.vma import vma_pages
from contigmm.phys import InvariantError
from contigmm.sim.table import Entry


def check_processes(entries: Iterable[Entry]) -> None:
    """Hold each address space against its VMAs and its pages.

    Raises:
        InvariantError: VMAs overlap or are miscounted, or a page is mapped outside of them.
    """
    for entry in entries:
        try:
            _check_mm(entry.task.mm)
        except InvariantError as broken:
            raise InvariantError(f"process {entry.id}: {broken}") from broken


def _check_mm(mm: MmStruct) -> None:
    vmas = mm.all_vmas()
    if not len(vmas) == len(mm.vmas) == len(mm.index) == mm.map_count:
        counts = f"{len(vmas)} in order, {len(mm.vmas)} known, {len(mm.index)} indexed"
        raise InvariantError(f"VMAs: {counts}, map_count {mm.map_count}")
    end = 0
    for vma in vmas:
        if not end <= vma.vm_start < vma.vm_end <= TASK_SIZE:
            raise InvariantError(f"the VMA at {vma.vm_start:#x} overlaps another or is empty")
        end = vma.vm_end
    total = sum(map(vma_pages, vmas))
    if total != mm.total_vm:
        raise InvariantError(f"VMAs have {total} pages, total_vm is {mm.total_vm}")
    mapped = sum(
        mm.memory.usage(mm=mm.id, vpn=vma.vm_start >> PAGE_SHIFT, nr=vma_pages(vma))["rss"]
        for vma in vmas
    )
    resident = sum(mm.memory.rss(mm.id)[:3]) << PAGE_SHIFT
    if mapped != resident:
        raise InvariantError(f"VMAs show {mapped} bytes, the page tables hold {resident}")
