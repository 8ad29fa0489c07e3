"""msync(2): mm/msync.c, v6.18."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import EBUSY, EINVAL, ENOMEM, MS_ASYNC, MS_INVALIDATE, MS_SYNC, U64_MAX
from contigmm.errors import Reason, SyscallError
from contigmm.mm.fault import page_align
from contigmm.mm.flags import VM_LOCKED

if TYPE_CHECKING:
    from contigmm.mm.task import Task

_KNOWN: Final = MS_ASYNC | MS_INVALIDATE | MS_SYNC


def msync(task: "Task", addr: int, length: int, flags: int) -> int:
    """Check a range as msync does; nothing is written back, since no disk is simulated.

    Raises:
        SyscallError: EINVAL, ENOMEM or EBUSY; ``reason`` names the check.
    """
    flags &= 0xFFFF_FFFF
    if flags & ~_KNOWN:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if addr & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    if flags & MS_ASYNC and flags & MS_SYNC:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    end = (addr + page_align(length)) & U64_MAX
    if end < addr:
        raise SyscallError(ENOMEM, Reason.RANGE_OVERFLOWS)
    if end == addr:
        return 0
    hole = False
    while addr < end:
        vma = task.mm.find_vma(addr)
        if vma is None:
            raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
        if addr < vma.vm_start:
            hole = True
            if vma.vm_start >= end:
                raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
        if flags & MS_INVALIDATE and vma.vm_flags & VM_LOCKED:
            raise SyscallError(EBUSY, Reason.MAPPING_LOCKED)
        addr = vma.vm_end
    if hole:
        raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
    return 0
