"""prctl(2) as far as memory goes: kernel/sys.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    EINVAL,
    EPERM,
    PR_GET_MDWE,
    PR_GET_MEMORY_MERGE,
    PR_GET_THP_DISABLE,
    PR_MDWE_NO_INHERIT,
    PR_MDWE_REFUSE_EXEC_GAIN,
    PR_SET_MDWE,
    PR_SET_MEMORY_MERGE,
    PR_SET_THP_DISABLE,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.advice import new_flags
from contigmm.mm.flags import VM_MERGEABLE, VM_NOHUGEPAGE, VmFlags

if TYPE_CHECKING:
    from contigmm.mm.task import Task

_MADV_MERGEABLE = 12


def prctl(task: "Task", option: int, arg2: int = 0, rest: tuple[int, int, int] = (0, 0, 0)) -> int:
    """Control the process; options that memory does not feel are unknown here.

    Raises:
        SyscallError: EINVAL or EPERM; ``reason`` names the check.
    """
    option &= 0xFFFF_FFFF
    mm = task.mm
    if option == PR_SET_THP_DISABLE and not any(rest):
        mm.fault_flags = VM_NOHUGEPAGE if arg2 else 0
        return 0
    if option == PR_GET_THP_DISABLE and not arg2 and not any(rest):
        return int(mm.fault_flags != 0)
    if option == PR_SET_MDWE and not any(rest):
        return _set_mdwe(task, arg2)
    if option == PR_GET_MDWE and not arg2 and not any(rest):
        return mm.mdwe
    if option == PR_SET_MEMORY_MERGE and not any(rest):
        return _set_memory_merge(task, arg2)
    if option == PR_GET_MEMORY_MERGE and not arg2 and not any(rest):
        return int(mm.ksm_any)
    raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)


def _set_mdwe(task: "Task", bits: int) -> int:
    """prctl_set_mdwe(): once set, for ever."""
    mm = task.mm
    if bits & ~(PR_MDWE_REFUSE_EXEC_GAIN | PR_MDWE_NO_INHERIT):
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if bits & PR_MDWE_NO_INHERIT and not bits & PR_MDWE_REFUSE_EXEC_GAIN:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    if mm.mdwe and mm.mdwe != bits:
        raise SyscallError(EPERM, Reason.WRITE_EXEC_DENIED)
    mm.mdwe = bits
    return 0


def _set_memory_merge(task: "Task", on: int) -> int:
    """ksm_enable_merge_any() and ksm_disable_merge_any(), mm/ksm.c, v6.18."""
    mm = task.mm
    if bool(on) == mm.ksm_any:
        return 0
    mm.ksm_any = bool(on)
    for vma in mm.all_vmas():
        if on:
            vma.vm_flags = new_flags(mm, vma, _MADV_MERGEABLE)
        else:
            vma.vm_flags = VmFlags(vma.vm_flags & ~VM_MERGEABLE)
    return 0
