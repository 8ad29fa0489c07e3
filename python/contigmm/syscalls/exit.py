"""exit(2) of one task as memory sees it: exit_files() and exit_mm(), kernel/exit.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.mm.fork import leave_mm

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def exit(task: "Task") -> int:
    """Let address space and open files go, unless others share them; return the frames freed."""
    freed = leave_mm(task, task.mm)
    task.files.leave()
    return freed
