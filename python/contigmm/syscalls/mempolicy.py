"""mbind(2), set_mempolicy(2), get_mempolicy(2): mm/mempolicy.c, v6.18.

Node masks are ints, bit by node. What a policy means for the pages of a fault is in
mm/placement.py; here they are set, told, and made true of what is mapped already.
"""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EFAULT,
    EINVAL,
    EIO,
    EPERM,
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_F_ADDR,
    MPOL_F_MEMS_ALLOWED,
    MPOL_F_NODE,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_MAX,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    MPOL_WEIGHTED_INTERLEAVE,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.causes import reason_of
from contigmm.mm.fault import page_align
from contigmm.mm.flags import VM_IO, VM_PFNMAP, VM_READ
from contigmm.mm.merge import vma_modify
from contigmm.mm.placement import place
from contigmm.mm.populate import fault_in

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task
    from contigmm.mm.vma import Mempolicy, VmArea

_TIED: Final = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES
_MODE_FLAGS: Final = _TIED | MPOL_F_NUMA_BALANCING
_MODE: Final = 0xFF
_INTERLEAVED: Final = (MPOL_INTERLEAVE, MPOL_WEIGHTED_INTERLEAVE)
_MF_VALID: Final = MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL


def _bad(reason: Reason) -> SyscallError:
    return SyscallError(EINVAL, reason)


def _sanitized(mode: int) -> tuple[int, int]:
    """Take a mode and its flags apart: sanitize_mpol_flags(), v6.18.

    Raises:
        SyscallError: EINVAL, no such mode, or flags that do not fit it.
    """
    flags = mode & _MODE_FLAGS
    mode &= ~_MODE_FLAGS & 0xFFFF_FFFF
    if mode >= MPOL_MAX:
        raise _bad(Reason.UNKNOWN_FLAGS)
    if flags & _TIED == _TIED:
        raise _bad(Reason.FLAGS_CONFLICT)
    if flags & MPOL_F_NUMA_BALANCING and mode not in (MPOL_BIND, MPOL_PREFERRED_MANY):
        raise _bad(Reason.FLAGS_CONFLICT)
    return mode, flags


def _new_policy(task: "Task", mode: int, flags: int, nodes: int) -> "Mempolicy | None":
    """mpol_new() and mpol_set_nodemask(), v6.18.

    Raises:
        SyscallError: EINVAL, nodes that do not fit the mode.
    """
    if mode == MPOL_DEFAULT:
        if nodes:
            raise _bad(Reason.FLAGS_CONFLICT)
        return None
    if mode == MPOL_PREFERRED and not nodes:
        if flags & _TIED:
            raise _bad(Reason.FLAGS_CONFLICT)
        mode = MPOL_LOCAL
    elif mode == MPOL_LOCAL and (nodes or flags & _TIED):
        raise _bad(Reason.FLAGS_CONFLICT)
    nodes = _allowed(nodes, flags, task.mm.config.nodes)
    if not nodes and mode != MPOL_LOCAL:
        raise _bad(Reason.FLAGS_CONFLICT)
    if mode == MPOL_PREFERRED:
        nodes &= -nodes  # the first of them
    return mode | flags, nodes


def _allowed(nodes: int, flags: int, there: int) -> int:
    """Return those of ``nodes`` that are ``there``, or whose turn it is among them.

    mpol_set_nodemask() and mpol_relative_nodemask(), mm/mempolicy.c, v6.18.
    """
    if not flags & MPOL_F_RELATIVE_NODES:
        return nodes & there
    bits = [node for node in range(there.bit_length()) if there >> node & 1]
    asked = (node for node in range(nodes.bit_length()) if nodes >> node & 1)
    return sum({1 << bits[node % len(bits)] for node in asked})


def set_mempolicy(task: "Task", mode: int, nodes: int = 0) -> int:
    """Set the task's own policy: do_set_mempolicy(), v6.18.

    Raises:
        SyscallError: EINVAL; ``reason`` names the check.
    """
    task.mempolicy = _new_policy(task, *_sanitized(mode), nodes)
    return 0


def get_mempolicy(task: "Task", addr: int = 0, flags: int = 0) -> "Mempolicy":
    """Return (mode, nodes) of the task, or of the VMA at ``addr``: do_get_mempolicy(), v6.18.

    With MPOL_F_NODE the first is a node, beside the policy's nodes: of the page at ``addr``, which
    is faulted in, or, of a task that interleaves, where its next page outside of a VMA comes from.

    Raises:
        SyscallError: EINVAL or EFAULT; ``reason`` names the check.
    """
    if flags == MPOL_F_MEMS_ALLOWED:
        return 0, task.mm.config.nodes
    if flags & ~(MPOL_F_ADDR | MPOL_F_NODE) or (addr and not flags & MPOL_F_ADDR):
        raise _bad(Reason.UNKNOWN_FLAGS)
    policy = task.mempolicy
    if flags & MPOL_F_ADDR:
        vma = task.mm.vma_lookup(addr)
        if vma is None:
            raise SyscallError(EFAULT, Reason.NOT_MAPPED)
        policy = vma.policy  # no fallback to the task's
        if flags & MPOL_F_NODE:
            return _node_at(task, vma, addr & PAGE_MASK), policy[1] if policy else 0
    elif flags:
        if policy is None or policy[0] & _MODE not in _INTERLEAVED:
            raise _bad(Reason.FLAGS_CONFLICT)
        return (policy[1] & -policy[1]).bit_length() - 1, policy[1]
    return policy or (MPOL_DEFAULT, 0)


def _node_at(task: "Task", vma: "VmArea", addr: int) -> int:
    """Fault a page in as a read would, and tell its node: lookup_node(), v6.18."""
    if not vma.vm_flags & VM_READ:
        raise SyscallError(EFAULT, Reason.NOT_PERMITTED_BY_MAPPING)
    cause = fault_in(task, vma, addr, addr + PAGE_SIZE, write=False)
    if cause:
        raise SyscallError(EFAULT, reason_of(cause))
    node, _ = task.mm.memory.node_of_page(mm=task.mm.id, vpn=addr >> PAGE_SHIFT)
    return node  # that of the zero page is 0: it is part of the kernel's image


def mbind(task: "Task", addr: int, length: int, mode: int, nodes: int, flags: int = 0) -> int:
    """Give a range a policy; a hole is refused before anything changes: do_mbind(), v6.18.

    MPOL_MF_STRICT alone refuses, and changes nothing, where a page is on another node already;
    MPOL_MF_MOVE moves such pages unless others map them too, MPOL_MF_MOVE_ALL those as well.

    Raises:
        SyscallError: EINVAL, EPERM or EFAULT; EIO, a page is on another node; ENOMEM, one VMA too
            many. ``reason`` names the check.
    """
    mode, mode_flags = _sanitized(mode)
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
    policy = _new_policy(task, mode, mode_flags, nodes)
    if policy is None:
        flags &= ~MPOL_MF_STRICT
    _check_mapped(task.mm, addr, end, holes_allowed=policy is None)
    if flags & _MF_VALID == MPOL_MF_STRICT and _misplaced(task, addr, end, nodes, 0):
        raise SyscallError(EIO, Reason.PAGE_ON_ANOTHER_NODE)
    _set_policy(task.mm, addr, end, policy)
    if flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        left = _misplaced(task, addr, end, nodes, flags)
        if left and flags & MPOL_MF_STRICT:
            raise SyscallError(EIO, Reason.PAGE_ON_ANOTHER_NODE)
    return 0


def _set_policy(mm: "MmStruct", addr: int, end: int, policy: "Mempolicy | None") -> None:
    """mbind_range() of each VMA, v6.18."""
    while (vma := mm.intersection(addr, end)) is not None:
        start, stop = max(addr, vma.vm_start), min(end, vma.vm_end)
        if vma.policy != policy:
            vm_flags = vma.vm_flags
            vma, merged = vma_modify(
                mm, vma, start=start, end=stop, vm_flags=vm_flags, policy=policy
            )
            if not merged:
                vma.policy = policy
        addr = vma.vm_end


def _misplaced(task: "Task", start: int, end: int, nodes: int, flags: int) -> int:
    """Count folios outside of ``nodes``, after moving those that ``flags`` let move.

    queue_pages_range() and migrate_pages(), v6.18: of mappings that have no folios to move,
    whatever is mapped counts.
    """
    mm = task.mm
    left = 0
    for vma in mm.vmas_in(start, end):
        low, high = max(start, vma.vm_start), min(end, vma.vm_end)
        moves = 0 if vma.vm_flags & (VM_IO | VM_PFNMAP) else flags
        policy = vma.policy or task.mempolicy
        if policy is not None:
            place(mm.memory, policy)
        left += mm.memory.move_misplaced(
            mm=mm.id,
            cpu=task.cpu,
            vpn=low >> PAGE_SHIFT,
            nr=(high - low) >> PAGE_SHIFT,
            index=vma.vm_pgoff + ((low - vma.vm_start) >> PAGE_SHIFT),
            nodes=nodes,
            move_own=bool(moves & MPOL_MF_MOVE),
            move_all=bool(moves & MPOL_MF_MOVE_ALL),
        )
    return left


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
