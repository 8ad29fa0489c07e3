"""remap_file_pages(2), emulated since v4.0: mm/mmap.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    EINVAL,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_POPULATE,
    MAP_SHARED,
    PAGE_MASK,
    PAGE_SHIFT,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.flags import PROT_BITS, VM_LOCKED, VM_SHARED
from contigmm.syscalls.mmap import do_mmap

if TYPE_CHECKING:
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea


def remap_file_pages(
    task: "Task", addr: int, length: int, prot: int, pgoff: int, flags: int
) -> int:
    """Map another part of the same object over a range of a shared mapping.

    Raises:
        SyscallError: EINVAL, not such a range; else as mmap(2).
    """
    if prot:
        raise SyscallError(EINVAL, Reason.UNKNOWN_PROT)
    addr &= PAGE_MASK
    length &= PAGE_MASK & U64_MAX
    if (addr + length) & U64_MAX <= addr:
        raise SyscallError(EINVAL, Reason.LENGTH_IS_ZERO)
    if pgoff + (length >> PAGE_SHIFT) > U64_MAX:
        raise SyscallError(EINVAL, Reason.OFFSET_OVERFLOWS)
    mm = task.mm
    vma = mm.vma_lookup(addr)
    if vma is None or not vma.vm_flags & VM_SHARED:
        raise SyscallError(EINVAL, Reason.WRONG_KIND_OF_MAPPING)
    _check_same_object(task, vma, addr + length)
    flags = flags & MAP_NONBLOCK | MAP_SHARED | MAP_FIXED | MAP_POPULATE
    if vma.vm_flags & VM_LOCKED:
        flags |= MAP_LOCKED
    do_mmap(task, vma.file, addr, length, vma.vm_flags & PROT_BITS, flags & ~MAP_ANONYMOUS, pgoff)
    return 0


def _check_same_object(task: "Task", vma: "VmArea", end: int) -> None:
    """All of the range must be mapped alike."""
    at = vma.vm_end
    for next_ in task.mm.vmas_in(vma.vm_end, end):
        alike = next_.file is vma.file and next_.vm_flags == vma.vm_flags
        if next_.vm_start != at or not alike:
            break
        at = next_.vm_end
    if at < end:
        raise SyscallError(EINVAL, Reason.SPANS_SEVERAL_MAPPINGS)
