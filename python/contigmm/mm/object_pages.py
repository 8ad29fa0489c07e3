"""Taking pages away from an object and from everybody who maps them: mm/truncate.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import EFBIG, EPERM, F_SEAL_FUTURE_WRITE, F_SEAL_WRITE, PAGE_SHIFT, PAGE_SIZE
from contigmm.errors import Reason, SyscallError
from contigmm.mm.vma import vma_pages

if TYPE_CHECKING:
    from contigmm.mm.files import Backing, Inode
    from contigmm.mm.task import Task


def unmap_private_copies(task: "Task", inode: "Inode", first: int) -> None:
    """Unmap pages from ``first`` on of an object wherever they are mapped, private copies too.

    unmap_mapping_range() with even_cows, mm/memory.c, v6.12. Guard markers stay.
    """
    for vma, mm in list(inode.i_mmap.items()):
        low = max(first, vma.vm_pgoff)
        high = vma.vm_pgoff + vma_pages(vma)
        if low < high:
            mm.memory.zap(
                mm=mm.id,
                cpu=task.cpu,
                vpn=(vma.vm_start >> PAGE_SHIFT) + low - vma.vm_pgoff,
                nr=high - low,
                keep_guards=True,
            )


def set_size(task: "Task", file: "Backing", size: int) -> None:
    """Cut or extend an object: truncate_setsize(), mm/truncate.c, v6.12."""
    inode = file.inode
    old_size, inode.size = inode.size, size
    if size < old_size:
        unmap_private_copies(task, inode, inode.nr_pages())
    task.mm.memory.file_truncate(inode.core_id, size=size, cpu=task.cpu)


def punch_hole(task: "Task", file: "Backing", offset: int, length: int) -> None:
    """Free the whole pages of a byte range and clear the rest of it: FALLOC_FL_PUNCH_HOLE.

    shmem_fallocate(), mm/shmem.c, and ext4_punch_hole(), fs/ext4/inode.c, v6.12. Private copies
    stay.

    Raises:
        SyscallError: EFBIG, beyond what the file system holds; EPERM, sealed against writing.
    """
    inode = file.inode
    if offset + length > file.max_bytes:
        raise SyscallError(EFBIG, Reason.FILE_TOO_BIG)
    if file.is_shmem and inode.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
        raise SyscallError(EPERM, Reason.FILE_SEALED)
    end = offset + length
    first = (offset + PAGE_SIZE - 1) >> PAGE_SHIFT
    last = min(end >> PAGE_SHIFT, inode.nr_pages())
    if first < last:
        task.mm.memory.file_punch(inode.core_id, index=first, nr=last - first, cpu=task.cpu)
        _clear(task, inode, offset, first << PAGE_SHIFT)
        _clear(task, inode, end & ~(PAGE_SIZE - 1), end)
    else:
        _clear(task, inode, offset, end)


def _clear(task: "Task", inode: "Inode", start: int, end: int) -> None:
    """Zero a few bytes of an object: ext4_zero_partial_blocks(), shmem_undo_range(), v6.12."""
    memory = task.mm.memory
    for offset in range(start, min(end, inode.size)):
        if memory.file_read(inode.core_id, offset=offset, cpu=task.cpu):
            memory.file_write(inode.core_id, offset=offset, value=0, cpu=task.cpu)
