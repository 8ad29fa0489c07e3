"""exit_group(2) as memory sees it: exit_mmap(), mm/mmap.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.mm.fork import exit_mmap

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def exit(task: "Task") -> int:
    """Let the address space go, unless another task shares it; return the frames freed."""
    mm = task.mm
    mm.users -= 1
    task.files = {}
    return exit_mmap(task, mm) if mm.users == 0 else 0
