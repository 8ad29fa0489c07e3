"""mlock(2) and mlock2(2): do_mlock(), mm/mlock.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    EAGAIN,
    EINVAL,
    ENOMEM,
    EPERM,
    MLOCK_ONFAULT,
    PAGE_MASK,
    PAGE_SHIFT,
    RLIMIT_MEMLOCK,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.causes import is_fault, reason_of
from contigmm.mm.fault import page_align
from contigmm.mm.flags import VM_LOCKED, VM_LOCKED_MASK
from contigmm.mm.limits import can_do_mlock
from contigmm.mm.locking import apply_vma_lock_flags, count_locked_pages
from contigmm.mm.populate import mm_populate

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def mlock(task: "Task", addr: int, length: int) -> int:
    """Lock a range and fault it in.

    Raises:
        SyscallError: EPERM, ENOMEM, EINVAL or EAGAIN; ``reason`` names the check.
    """
    return _do_mlock(task, addr, length, VM_LOCKED)


def mlock2(task: "Task", addr: int, length: int, flags: int) -> int:
    """Lock a range, with MLOCK_ONFAULT without faulting it in.

    Raises:
        SyscallError: as :func:`mlock`; EINVAL, unknown flags.
    """
    flags &= 0xFFFF_FFFF  # int flags: the upper half never arrives
    if flags & ~MLOCK_ONFAULT:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    return _do_mlock(task, addr, length, VM_LOCKED_MASK if flags else VM_LOCKED)


def _do_mlock(task: "Task", addr: int, length: int, lock_bits: int) -> int:
    if not can_do_mlock(task):
        raise SyscallError(EPERM, Reason.MAY_NOT_LOCK)
    length = page_align((length + (addr & 0xFFF)) & U64_MAX)
    addr &= PAGE_MASK
    mm = task.mm
    limit = task.rlimits[RLIMIT_MEMLOCK][0] >> PAGE_SHIFT
    if "CAP_IPC_LOCK" not in task.caps:
        locked = (length >> PAGE_SHIFT) + mm.locked_vm
        if locked > limit:
            locked -= count_locked_pages(mm, addr, length)
        if locked > limit:
            raise SyscallError(ENOMEM, Reason.MEMLOCK_LIMIT)
    apply_vma_lock_flags(mm, addr, length, lock_bits)
    cause = mm_populate(task, addr, length, ignore_errors=False)
    if cause:  # __mlock_posix_error_return(): EFAULT is ENOMEM here, ENOMEM is EAGAIN
        raise SyscallError(ENOMEM if is_fault(cause) else EAGAIN, reason_of(cause))
    return 0
