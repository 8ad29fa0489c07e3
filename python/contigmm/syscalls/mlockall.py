"""mlockall(2) and munlockall(2): mm/mlock.c, v6.18."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EINVAL,
    ENOMEM,
    EPERM,
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    PAGE_SHIFT,
    RLIMIT_MEMLOCK,
    TASK_SIZE,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.flags import VM_LOCKED, VM_LOCKED_MASK, VmFlags
from contigmm.mm.limits import can_do_mlock
from contigmm.mm.locking import apply_to_all
from contigmm.mm.populate import mm_populate

if TYPE_CHECKING:
    from contigmm.mm.task import Task

_KNOWN: Final = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT


def mlockall(task: "Task", flags: int) -> int:
    """Lock all that is mapped, or all that will be.

    Raises:
        SyscallError: EINVAL, EPERM or ENOMEM; ``reason`` names the check.
    """
    flags &= 0xFFFF_FFFF
    if flags == 0 or flags & ~_KNOWN or flags == MCL_ONFAULT:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if not can_do_mlock(task):
        raise SyscallError(EPERM, Reason.MAY_NOT_LOCK)
    mm = task.mm
    limit = task.rlimits[RLIMIT_MEMLOCK][0] >> PAGE_SHIFT
    if flags & MCL_CURRENT and mm.total_vm > limit and "CAP_IPC_LOCK" not in task.caps:
        raise SyscallError(ENOMEM, Reason.MEMLOCK_LIMIT)
    lock_bits = VM_LOCKED_MASK if flags & MCL_ONFAULT else VM_LOCKED
    mm.def_flags = VmFlags(mm.def_flags & ~VM_LOCKED_MASK)
    if flags & MCL_FUTURE:
        mm.def_flags = VmFlags(mm.def_flags | lock_bits)
    if flags & MCL_CURRENT:
        apply_to_all(mm, lock_bits)
        mm_populate(task, 0, TASK_SIZE, ignore_errors=True)
    return 0


def munlockall(task: "Task") -> int:
    """Unlock all that is mapped and will be."""
    mm = task.mm
    mm.def_flags = VmFlags(mm.def_flags & ~VM_LOCKED_MASK)
    apply_to_all(mm, 0)
    return 0
