"""Loads and stores of a process: what the processor does, not a system call."""

from typing import TYPE_CHECKING

from contigmm.abi import PAGE_SIZE
from contigmm.mm.fault import access, load, store

__all__ = ["load", "store", "touch_read", "touch_write"]

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def touch_read(task: "Task", addr: int, n: int = 1, stride: int = PAGE_SIZE) -> tuple[int, int]:
    """Read one byte at ``n`` addresses; return how many and the last byte.

    Raises:
        MemoryFault: SIGSEGV or SIGBUS; ``done`` tells how many had been read.
    """
    return access(task, addr, n, stride, write=False, value=0)


def touch_write(
    task: "Task", addr: int, n: int = 1, stride: int = PAGE_SIZE, value: int = 1
) -> int:
    """Write one byte at ``n`` addresses, ``(value + i) & 255`` at the i-th; return how many.

    Raises:
        MemoryFault: SIGSEGV or SIGBUS; ``done`` tells how many had been written.
    """
    return access(task, addr, n, stride, write=True, value=value)[0]
