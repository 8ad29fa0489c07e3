"""mseal(2): mm/mseal.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import EINVAL, ENOMEM, U64_MAX
from contigmm.errors import Reason, SyscallError
from contigmm.mm.fault import page_align
from contigmm.mm.flags import VM_SEALED, VmFlags
from contigmm.mm.merge import modify_flags

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def mseal(task: "Task", addr: int, length: int, flags: int) -> int:
    """Make a range unchangeable; all of it must be mapped.

    Raises:
        SyscallError: EINVAL or ENOMEM; ``reason`` names the check.
    """
    if flags:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if addr & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    aligned = page_align(length)
    if length and not aligned:
        raise SyscallError(EINVAL, Reason.LENGTH_OVERFLOWS)
    end = (addr + aligned) & U64_MAX
    if end < addr:
        raise SyscallError(EINVAL, Reason.RANGE_OVERFLOWS)
    mm = task.mm
    at = addr
    for vma in mm.vmas_in(addr, end):
        if vma.vm_start > at:
            break
        at = vma.vm_end
    if at < end:
        raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
    while addr < end:
        found = mm.vma_lookup(addr)
        assert found is not None, "the range was whole a moment ago"
        stop = min(found.vm_end, end)
        if not found.vm_flags & VM_SEALED:
            sealed = VmFlags(found.vm_flags | VM_SEALED)
            found = modify_flags(mm, found, addr, stop, sealed)
        addr = found.vm_end
    return 0
