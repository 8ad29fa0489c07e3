"""clone(2): copy_process(), kernel/fork.c, v6.18. fork(2) is clone(2) without flags."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    CLONE_FILES,
    CLONE_FS,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_SIGHAND,
    CLONE_THREAD,
    CLONE_VM,
    EINVAL,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.task import Task
from contigmm.syscalls.fork import fork

if TYPE_CHECKING:
    from contigmm.mm.ports import VmaIndexPort


def clone(task: Task, flags: int, *, pid: int, index: "VmaIndexPort") -> Task:
    """Make a task that shares what ``flags`` say; flags that memory does not feel are ignored.

    With CLONE_VM the new task has the same address space, and ``index`` is not used.

    Raises:
        SyscallError: EINVAL, flags that contradict; else as fork(2).
    """
    _check_flags(flags)
    if not flags & CLONE_VM:
        child = fork(task, pid=pid, index=index)
        if flags & CLONE_FILES:
            child.files.leave()
    else:
        task.mm.users += 1
        child = Task(
            task.mm.config,
            index,
            pid=pid,
            uid=task.uid,
            caps=task.caps,
            rlimits=task.rlimits if flags & CLONE_THREAD else dict(task.rlimits),
            cpu=task.cpu,
            node=task.node,
            persona=task.persona,
            mm=task.mm,
        )
        child.mempolicy = task.mempolicy
        if not flags & CLONE_FILES:
            child.files = task.files.copy()
    if flags & CLONE_FILES:
        task.files.users += 1
        child.files = task.files
    if flags & CLONE_THREAD:
        child.tgid = task.tgid
    return child


def _check_flags(flags: int) -> None:
    """What does not go together, in the kernel's order: copy_process(), v6.18."""
    for together in (CLONE_NEWNS | CLONE_FS, CLONE_NEWUSER | CLONE_FS):
        if flags & together == together:
            raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    if flags & CLONE_THREAD and not flags & CLONE_SIGHAND:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    if flags & CLONE_SIGHAND and not flags & CLONE_VM:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    if flags & CLONE_THREAD and flags & (CLONE_NEWUSER | CLONE_NEWPID):
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
