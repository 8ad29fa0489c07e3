"""mincore(2): mm/mincore.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import EFAULT, EINVAL, ENOMEM, PAGE_SHIFT, TASK_SIZE
from contigmm.errors import MemoryFault, Reason, SyscallError
from contigmm.mm.fault import access

if TYPE_CHECKING:
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea


def mincore(task: "Task", addr: int, length: int, vec: int | None = None) -> bytes:
    """Tell for each page of a range whether it is resident: one byte a page, 0 or 1.

    ``vec`` is where user space wants the answer; only whether the first byte may be written there
    is looked at, since the answer is returned.

    Raises:
        SyscallError: EINVAL, ENOMEM or EFAULT; ``reason`` names the check.
    """
    if addr & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    if addr + length > TASK_SIZE:
        raise SyscallError(ENOMEM, Reason.BEYOND_TASK_SIZE)
    pages = (length + 0xFFF) >> PAGE_SHIFT
    if vec is not None and vec + pages > TASK_SIZE:
        raise SyscallError(EFAULT, Reason.BAD_POINTER)
    answer = bytearray()
    end = addr + (pages << PAGE_SHIFT)
    while addr < end:
        vma = task.mm.vma_lookup(addr)
        if vma is None:
            raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
        stop = min(vma.vm_end, end)
        answer += _of_vma(task, vma, addr, stop)
        addr = stop
    if vec is not None and answer:
        _copy_to_user(task, vec)
    return bytes(answer)


def _copy_to_user(task: "Task", vec: int) -> None:
    try:
        access(task, vec, 1, 1, write=True, value=0)
    except MemoryFault:  # copy_to_user() says how much it could not copy
        raise SyscallError(EFAULT, Reason.BAD_POINTER) from None


def _of_vma(task: "Task", vma: "VmArea", start: int, end: int) -> bytes:
    nr = (end - start) >> PAGE_SHIFT
    file = vma.file
    if file is not None and not file.may_be_written_by(task):  # can_do_mincore()
        return b"\1" * nr
    memory = task.mm.memory
    return bytes(
        memory.mincore(
            mm=task.mm.id,
            vpn=start >> PAGE_SHIFT,
            nr=nr,
            obj=0 if file is None else file.inode.core_id,
            index=vma.vm_pgoff + ((start - vma.vm_start) >> PAGE_SHIFT),
        )
    )
