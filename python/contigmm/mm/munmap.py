"""Taking mappings out of an address space: do_vmi_align_munmap(), mm/vma.c, v6.18.

It happens in two steps, because a MAP_FIXED mapping checks its limits between them: gather cuts
VMAs at the ends of the range and adds up what they hold, complete lets it all go.
"""

from typing import TYPE_CHECKING

from contigmm.abi import EINVAL, ENOMEM, EPERM, PAGE_SHIFT, TASK_SIZE
from contigmm.errors import Reason, SyscallError
from contigmm.mm.flags import (
    VM_ACCOUNT,
    VM_LOCKED,
    VM_SEALED,
)
from contigmm.mm.merge import split_unchecked
from contigmm.mm.vma import VmArea, vma_pages

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task


class Unmapping:
    """``struct vma_munmap_struct``: VMAs that are about to go, and their sums in pages."""

    __slots__ = ("end", "locked_vm", "nr_accounted", "nr_pages", "start", "vmas")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.vmas: list[VmArea] = []
        self.nr_pages = 0
        self.nr_accounted = 0
        self.locked_vm = 0


def gather(mm: "MmStruct", start: int, end: int) -> Unmapping:
    """Cut at both ends of the range and list what lies in it: vms_gather_munmap_vmas(), v6.18.

    A cut that was made before a check failed stays, as in Linux.

    Raises:
        SyscallError: ENOMEM, a hole in one VMA would be one VMA too many; EPERM, sealed; EINVAL,
            the mapping may not be cut.
    """
    unmapping = Unmapping(start, end)
    vmas = mm.vmas_in(start, end)
    if not vmas:
        return unmapping
    first = vmas[0]
    if start > first.vm_start:
        if end < first.vm_end and mm.map_count >= mm.config.max_map_count:
            raise SyscallError(ENOMEM, Reason.TOO_MANY_MAPPINGS)
        if first.vm_flags & VM_SEALED:
            raise SyscallError(EPERM, Reason.SEALED)
        split_unchecked(mm, first, start, new_below=True)
    for vma in vmas:
        vm_flags = vma.vm_flags
        if vm_flags & VM_SEALED:
            raise SyscallError(EPERM, Reason.SEALED)
        if vma.vm_end > end:
            split_unchecked(mm, vma, end, new_below=False)
        pages = vma_pages(vma)
        unmapping.nr_pages += pages
        if vm_flags & VM_LOCKED:
            unmapping.locked_vm += pages
        if vm_flags & VM_ACCOUNT:
            unmapping.nr_accounted += pages
    unmapping.vmas = vmas
    return unmapping


def complete(task: "Task", mm: "MmStruct", unmapping: Unmapping) -> None:
    """Let the gathered VMAs go, pages and all: vms_complete_munmap_vmas(), v6.18."""
    vmas = unmapping.vmas
    if not vmas:
        return
    mm.hiwater_vm = max(mm.hiwater_vm, mm.total_vm)  # update_hiwater_vm()
    for vma in vmas:
        mm.unlink(vma)
        mm.account(vma.vm_flags, -vma_pages(vma))
    mm.locked_vm -= unmapping.locked_vm
    memory = mm.memory
    start, end = vmas[0].vm_start, vmas[-1].vm_end
    cpu = task.cpu
    memory.zap(mm=mm.id, cpu=cpu, vpn=start >> PAGE_SHIFT, nr=(end - start) >> PAGE_SHIFT)
    free_pgtables(task, mm, start, end)
    mm.config.overcommit.committed -= unmapping.nr_accounted
    for vma in vmas:
        if vma.run is not None:
            mm.config.contig.release(task, mm, vma)
        if vma.file is not None or vma.anon_chain:
            mm.drop(vma)


def free_pgtables(task: "Task", mm: "MmStruct", start: int, end: int) -> None:
    """Free page tables that no VMA needs any more: free_pgtables(), mm/memory.c, v6.12."""
    prev, next_ = mm.prev_of(start), mm.find_vma(end)
    mm.memory.free_pgtables(
        mm=mm.id,
        cpu=task.cpu,
        start=start,
        end=end,
        floor=0 if prev is None else prev.vm_end,
        ceiling=0 if next_ is None else next_.vm_start,
    )


def do_munmap(task: "Task", mm: "MmStruct", start: int, length: int) -> None:
    """Unmap whatever lies in ``[start, start + length)``: do_vmi_munmap(), v6.18.

    Raises:
        SyscallError: EINVAL, not such a range; else as gather().
    """
    if start & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    if start > TASK_SIZE or length > TASK_SIZE - start:
        raise SyscallError(EINVAL, Reason.BEYOND_TASK_SIZE)
    end = start + ((length + 0xFFF) & ~0xFFF)
    if end == start:
        raise SyscallError(EINVAL, Reason.LENGTH_IS_ZERO)
    complete(task, mm, gather(mm, start, end))
