"""fork(2): dup_mmap(), mm/mmap.c and kernel/fork.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import PR_MDWE_NO_INHERIT
from contigmm.mm.fork import dup_mmap
from contigmm.mm.task import Task

if TYPE_CHECKING:
    from contigmm.mm.ports import VmaIndexPort


def fork(task: Task, *, pid: int, index: "VmaIndexPort") -> Task:
    """Make a child with a copy of the address space.

    Raises:
        SyscallError: ENOMEM, not enough memory for the copy; there is no child then.
    """
    parent = task.mm
    child = Task(
        parent.config,
        index,
        pid=pid,
        uid=task.uid,
        caps=task.caps,
        rlimits=dict(task.rlimits),
        cpu=task.cpu,
        node=task.node,
        persona=task.persona,
    )
    child.mempolicy = task.mempolicy
    dup_mmap(task, child)
    child.files = task.files.copy()
    if parent.mdwe & PR_MDWE_NO_INHERIT:
        child.mm.mdwe = 0
    return child
