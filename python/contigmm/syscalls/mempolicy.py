"""mbind(2), set_mempolicy(2), get_mempolicy(2): mm/mempolicy.c, v6.18.

Node masks are ints, bit by node. A policy is kept, compared when VMAs merge, and reported; which
node a page comes from it does not yet decide (docs/fidelity.md).
"""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EFAULT,
    EINVAL,
    EPERM,
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_F_ADDR,
    MPOL_F_MEMS_ALLOWED,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_LOCAL,
    MPOL_MAX,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.fault import page_align
from contigmm.mm.merge import vma_modify

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task
    from contigmm.mm.vma import Mempolicy

_TIED: Final = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES
_MODE_FLAGS: Final = _TIED | MPOL_F_NUMA_BALANCING
_MF_VALID: Final = MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL


def _bad(reason: Reason) -> SyscallError:
    return SyscallError(EINVAL, reason)


def _new_policy(task: "Task", mode: int, nodes: int) -> "Mempolicy | None":
    """sanitize_mpol_flags(), get_nodes(), mpol_new() and mpol_set_nodemask(), v6.18.

    Raises:
        SyscallError: EINVAL, no such mode, or nodes that do not fit it.
    """
    flags = mode & _MODE_FLAGS
    mode &= ~_MODE_FLAGS & 0xFFFF_FFFF
    if mode >= MPOL_MAX:
        raise _bad(Reason.UNKNOWN_FLAGS)
    if flags & _TIED == _TIED:
        raise _bad(Reason.FLAGS_CONFLICT)
    if flags & MPOL_F_NUMA_BALANCING and mode not in (MPOL_BIND, MPOL_PREFERRED_MANY):
        raise _bad(Reason.FLAGS_CONFLICT)
    if mode == MPOL_DEFAULT:
        if nodes:
            raise _bad(Reason.FLAGS_CONFLICT)
        return None
    if mode == MPOL_PREFERRED and not nodes:
        if flags & _TIED:
            raise _bad(Reason.FLAGS_CONFLICT)
        mode = MPOL_LOCAL
    elif mode == MPOL_LOCAL:
        if nodes or flags & _TIED:
            raise _bad(Reason.FLAGS_CONFLICT)
    elif not nodes & task.mm.config.nodes:
        raise _bad(Reason.FLAGS_CONFLICT)
    nodes &= task.mm.config.nodes
    if mode == MPOL_PREFERRED:
        nodes &= -nodes  # the first of them
    return mode | flags, nodes


def set_mempolicy(task: "Task", mode: int, nodes: int = 0) -> int:
    """Set the task's own policy: do_set_mempolicy(), v6.18.

    Raises:
        SyscallError: EINVAL; ``reason`` names the check.
    """
    task.mempolicy = _new_policy(task, mode, nodes)
    return 0


def get_mempolicy(task: "Task", addr: int = 0, flags: int = 0) -> "Mempolicy":
    """Return (mode, nodes) of the task, or of the VMA at ``addr``: do_get_mempolicy(), v6.18.

    Raises:
        SyscallError: EINVAL or EFAULT; ``reason`` names the check.
    """
    if flags == MPOL_F_MEMS_ALLOWED:
        return 0, task.mm.config.nodes
    if flags & ~MPOL_F_ADDR or (addr and not flags):
        raise _bad(Reason.UNKNOWN_FLAGS)
    policy = task.mempolicy
    if flags:
        vma = task.mm.vma_lookup(addr)
        if vma is None:
            raise SyscallError(EFAULT, Reason.NOT_MAPPED)
        policy = vma.policy or policy
    return policy or (MPOL_DEFAULT, 0)


def mbind(task: "Task", addr: int, length: int, mode: int, nodes: int, flags: int = 0) -> int:
    """Give a range a policy; a hole is refused before anything changes: do_mbind(), v6.18.

    Raises:
        SyscallError: EINVAL, EPERM or EFAULT; ENOMEM, one VMA too many. ``reason`` names the check.
    """
    policy = _new_policy_late(task, mode, nodes)
    if flags & ~_MF_VALID:
        raise _bad(Reason.UNKNOWN_FLAGS)
    if flags & MPOL_MF_MOVE_ALL and "CAP_SYS_NICE" not in task.caps:
        raise SyscallError(EPERM, Reason.MISSING_CAPABILITY)
    if addr & 0xFFF:
        raise _bad(Reason.ADDRESS_UNALIGNED)
    end = (addr + page_align(length)) & U64_MAX
    if end < addr:
        raise _bad(Reason.RANGE_OVERFLOWS)
    if end == addr:
        return 0
    if isinstance(policy, SyscallError):
        raise policy
    mm = task.mm
    _check_mapped(mm, addr, end, holes_allowed=policy is None)
    while addr < end:
        vma = mm.intersection(addr, end)
        if vma is None:
            break
        start, stop = max(addr, vma.vm_start), min(end, vma.vm_end)
        if vma.policy != policy:
            vm_flags = vma.vm_flags
            vma, merged = vma_modify(
                mm, vma, start=start, end=stop, vm_flags=vm_flags, policy=policy
            )
            if not merged:
                vma.policy = policy
        addr = vma.vm_end
    return 0


def _new_policy_late(task: "Task", mode: int, nodes: int) -> "Mempolicy | SyscallError | None":
    """Check the mode at once, the nodes only when the range has been: kernel_mbind(), v6.18."""
    bare = mode & ~_MODE_FLAGS & 0xFFFF_FFFF
    if bare >= MPOL_MAX or mode & _TIED == _TIED:
        return _new_policy(task, mode, nodes)
    try:
        return _new_policy(task, mode, nodes)
    except SyscallError as refusal:  # to be raised in its turn
        return refusal


def _check_mapped(mm: "MmStruct", start: int, end: int, *, holes_allowed: bool) -> None:
    """queue_pages_test_walk(), v6.18: the default policy may be given over holes."""
    vmas = mm.vmas_in(start, end)
    at = start
    whole = True
    for vma in vmas:
        whole = whole and vma.vm_start <= at
        at = vma.vm_end
    if not vmas or not (holes_allowed or (whole and at >= end)):
        raise SyscallError(EFAULT, Reason.NOT_MAPPED)
