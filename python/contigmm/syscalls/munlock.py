"""munlock(2): mm/mlock.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import PAGE_MASK, U64_MAX
from contigmm.mm.fault import page_align
from contigmm.mm.locking import apply_vma_lock_flags

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def munlock(task: "Task", addr: int, length: int) -> int:
    """Unlock a range; nobody needs permission for that.

    Raises:
        SyscallError: ENOMEM, a hole or one VMA too many; EINVAL, the range wraps.
    """
    length = page_align((length + (addr & 0xFFF)) & U64_MAX)
    apply_vma_lock_flags(task.mm, addr & PAGE_MASK, length, 0)
    return 0
