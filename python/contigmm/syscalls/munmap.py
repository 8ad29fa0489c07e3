"""munmap(2): mm/mmap.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.mm.munmap import do_munmap

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def munmap(task: "Task", addr: int, length: int) -> int:
    """Unmap whatever lies in ``[addr, addr + length)``; nothing there is fine too.

    Raises:
        SyscallError: EINVAL, ENOMEM or EPERM; ``reason`` names the check.
    """
    do_munmap(task, task.mm, addr, length)
    return 0
