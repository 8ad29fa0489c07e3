"""move_pages(2): kernel_move_pages(), mm/migrate.c, v6.18."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EACCES,
    EBUSY,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOENT,
    EPERM,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    PAGE_SHIFT,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.flags import VM_IO, VM_PFNMAP

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task

#: What becomes of a page that physical memory did not move, as its status tells it. A page for
#: which there was no memory has none: the status stays what it was, and the call counts it.
_STATUS: Final = {"absent": -ENOENT, "zero_page": -EFAULT, "shared": -EACCES, "busy": -EBUSY}
#: Nodes that the type of a node mask has room for: CONFIG_NODES_SHIFT 10.
_MAX_NUMNODES: Final = 1 << 10


def move_pages(
    task: "Task", target: "Task", pages: Sequence[int], nodes: Sequence[int] | None, flags: int
) -> tuple[int, list[int]]:
    """Move pages of ``target`` to nodes, or tell where they are if ``nodes`` is None.

    Before it come :func:`check_flags` and the search for ``target``. Returns how many pages could
    not be moved, and for each page its node or a negative errno. What comes behind a bad node is
    not looked at; pages before it have moved.

    Raises:
        SyscallError: EPERM or ENODEV; ``reason`` names the check.
    """
    if target is not task and not _may_trace(task, target):
        raise SyscallError(EPERM, Reason.MAY_NOT_TRACE)
    mm = target.mm
    if nodes is None:
        return 0, [_node_of(mm, addr) for addr in pages]
    status: list[int] = []
    left = 0
    for addr, node in zip(pages, nodes, strict=True):
        if not (0 <= node < _MAX_NUMNODES and mm.config.nodes >> node & 1):
            raise SyscallError(ENODEV, Reason.NO_SUCH_NODE)
        word, moved = _move(task, mm, addr, node, shared_too=bool(flags & MPOL_MF_MOVE_ALL))
        status.append(word)
        left += not moved
    return left, status


def check_flags(task: "Task", flags: int) -> None:
    """What is refused before the target is looked for.

    Raises:
        SyscallError: EINVAL or EPERM.
    """
    if flags & 0xFFFF_FFFF & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if flags & MPOL_MF_MOVE_ALL and "CAP_SYS_NICE" not in task.caps:
        raise SyscallError(EPERM, Reason.MISSING_CAPABILITY)


def _may_trace(task: "Task", target: "Task") -> bool:
    """__ptrace_may_access() with real credentials, kernel/ptrace.c, v6.18."""
    if task.tgid == target.tgid or "CAP_SYS_PTRACE" in task.caps:
        return True
    return task.uid == target.uid and target.caps <= task.caps


def _node_of(mm: "MmStruct", addr: int) -> int:
    """One page of do_pages_stat_array()."""
    if mm.vma_lookup(addr) is None:
        return -EFAULT
    node, cause = mm.memory.node_of_page(mm=mm.id, vpn=addr >> PAGE_SHIFT)
    return _STATUS[cause] if cause else node


def _move(
    task: "Task", mm: "MmStruct", addr: int, node: int, *, shared_too: bool
) -> tuple[int, bool]:
    """One page of do_pages_move(): its status, and False if it should have moved and did not."""
    vma = mm.vma_lookup(addr)
    if vma is None or vma.vm_flags & (VM_IO | VM_PFNMAP):  # vma_migratable()
        return -EFAULT, True
    cause = mm.memory.move_to_node(
        mm=mm.id, cpu=task.cpu, vpn=addr >> PAGE_SHIFT, node=node, shared_too=shared_too
    )
    if cause in _STATUS:
        return _STATUS[cause], True
    return (_node_of(mm, addr), False) if cause else (node, True)
