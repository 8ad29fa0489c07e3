"""Calls on open files that memory feels: ftruncate, fallocate, fcntl, pread, pwrite, v6.18."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EBADF,
    EBUSY,
    EFBIG,
    EINVAL,
    ENOSPC,
    EOPNOTSUPP,
    EPERM,
    ESPIPE,
    F_ADD_SEALS,
    F_GET_SEALS,
    F_SEAL_EXEC,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_UNSHARE_RANGE,
    FALLOC_FL_WRITE_ZEROES,
    FALLOC_FL_ZERO_RANGE,
    PAGE_SHIFT,
    PAGE_SIZE,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.causes import reason_of
from contigmm.mm.object_pages import punch_hole, set_size

if TYPE_CHECKING:
    from contigmm.mm.files import Backing
    from contigmm.mm.task import Task

_ALL_SEALS: Final = (
    F_SEAL_SEAL | F_SEAL_EXEC | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
)
#: Bytes that one pread gives: what an answer holds on the wire.
_MAX_READ: Final = 1 << 16
_NO_WRITE: Final = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
#: What a seal on the execute bits of an executable file brings with it: memfd_add_seals(), v6.18.
_IMPLIED_BY_EXEC: Final = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
#: The modes of fallocate(2) that belong together: vfs_fallocate(), fs/open.c, v6.18.
_FALLOC_MODES: Final = (
    0,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_ZERO_RANGE,
    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_UNSHARE_RANGE,
    FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_WRITE_ZEROES,
)


def _file(task: "Task", fd: int) -> "Backing":
    file = task.files.get(fd)
    if file is None:
        raise SyscallError(EBADF, Reason.BAD_FILE_DESCRIPTOR)
    return file


def ftruncate(task: "Task", fd: int, length: int) -> int:
    """Set the size of a file: do_ftruncate(), fs/open.c, v6.12.

    Raises:
        SyscallError: EINVAL, EBADF, EPERM or EFBIG; ``reason`` names the check.
    """
    if length >> 63:
        raise SyscallError(EINVAL, Reason.RANGE_OVERFLOWS)
    file = _file(task, fd)
    if not file.mode_write:
        raise SyscallError(EINVAL, Reason.FILE_NOT_WRITABLE)
    if length > file.max_bytes:
        raise SyscallError(EFBIG, Reason.FILE_TOO_BIG)
    inode = file.inode
    seal = F_SEAL_SHRINK if length < inode.size else F_SEAL_GROW
    if file.is_shmem and inode.seals & seal and length != inode.size:
        raise SyscallError(EPERM, Reason.FILE_SEALED)
    set_size(task, file, length)
    return 0


def fallocate(task: "Task", fd: int, mode: int, offset: int, length: int) -> int:
    """Make room in a file or punch a hole into it: vfs_fallocate(), fs/open.c, v6.12.

    Raises:
        SyscallError: EINVAL, EBADF, EOPNOTSUPP, EPERM or EFBIG; ``reason`` names the check.
    """
    file = _file(task, fd)
    mode &= 0xFFFF_FFFF
    if offset >> 63 or length >> 63 or length == 0:
        raise SyscallError(EINVAL, Reason.RANGE_OVERFLOWS)
    if mode not in _FALLOC_MODES:
        raise SyscallError(EOPNOTSUPP, Reason.UNKNOWN_FLAGS)
    if not file.mode_write:
        raise SyscallError(EBADF, Reason.FILE_NOT_WRITABLE)
    if offset + length > file.max_bytes:
        raise SyscallError(EFBIG, Reason.FILE_TOO_BIG)
    if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
        _check_extents(file, mode, offset, length)
    inode = file.inode
    end = offset + length
    if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
        punch_hole(task, file, offset, length)
        if mode == FALLOC_FL_ZERO_RANGE and end > inode.size:
            set_size(task, file, end)
        return 0
    if file.is_shmem:
        if inode.seals & F_SEAL_GROW and end > inode.size and not mode & FALLOC_FL_KEEP_SIZE:
            raise SyscallError(EPERM, Reason.FILE_SEALED)
        first, last = offset >> PAGE_SHIFT, (end + PAGE_SIZE - 1) >> PAGE_SHIFT
        _, cause = _reserve(task, inode.core_id, first, last - first)
        if cause:
            raise SyscallError(ENOSPC, reason_of(cause))
    if not mode & FALLOC_FL_KEEP_SIZE and end > inode.size:
        set_size(task, file, end)
    return 0


def _check_extents(file: "Backing", mode: int, offset: int, length: int) -> None:
    """What asks for a file system with extents: ext4_fallocate() and below, fs/ext4, v6.18.

    Ranges are not moved, as no blocks are simulated: where ext4 would, it is not supported.
    """
    if file.is_shmem or mode & (FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_WRITE_ZEROES):
        raise SyscallError(EOPNOTSUPP, Reason.UNKNOWN_FLAGS)
    if mode & FALLOC_FL_ZERO_RANGE:
        return
    if (offset | length) & (PAGE_SIZE - 1):
        raise SyscallError(EINVAL, Reason.OFFSET_UNALIGNED)
    beyond = offset if mode == FALLOC_FL_INSERT_RANGE else offset + length
    if beyond >= file.inode.size:
        raise SyscallError(EINVAL, Reason.RANGE_OVERFLOWS)
    raise SyscallError(EOPNOTSUPP, Reason.UNKNOWN_FLAGS)


def _reserve(task: "Task", core_id: int, index: int, nr: int) -> tuple[int, str]:
    """Allocate pages of shmem that nobody has filled yet: shmem_fallocate(), mm/shmem.c, v6.12."""
    huge = task.mm.config.huge
    if huge is not None:
        return huge.cache_reserve(core_id, index=index, nr=nr, cpu=task.cpu)
    return task.mm.memory.cache_insert(core_id, index=index, nr=nr, cpu=task.cpu)


def fcntl(task: "Task", fd: int, cmd: int, arg: int) -> int:
    """F_ADD_SEALS and F_GET_SEALS: memfd_fcntl(), mm/memfd.c, v6.18.

    Raises:
        SyscallError: EINVAL, EBADF, EPERM or EBUSY; ``reason`` names the check.
    """
    file = _file(task, fd)
    inode = file.inode
    arg &= 0xFFFF_FFFF
    if cmd not in (F_ADD_SEALS, F_GET_SEALS):
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if cmd == F_ADD_SEALS and not file.mode_write:
        raise SyscallError(EPERM, Reason.FILE_NOT_WRITABLE)
    if cmd == F_ADD_SEALS and arg & ~_ALL_SEALS:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if not file.is_shmem:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if cmd == F_GET_SEALS:
        return inode.seals
    if inode.seals & F_SEAL_SEAL:
        raise SyscallError(EPERM, Reason.FILE_SEALED)
    if arg & F_SEAL_EXEC and not inode.seals & F_SEAL_EXEC:  # all others are executable
        arg |= _IMPLIED_BY_EXEC
    if arg & F_SEAL_WRITE and not inode.seals & F_SEAL_WRITE and inode.writable_mappings:
        raise SyscallError(EBUSY, Reason.FILE_BUSY)
    inode.seals |= arg
    return 0


def pread(task: "Task", fd: int, offset: int, length: int) -> bytes:
    """Read from a file without moving its position: generic_file_read_iter(), v6.12.

    At most 64 KiB come at once (docs/fidelity.md).

    Raises:
        SyscallError: EBADF, EINVAL or ESPIPE; ``reason`` names the check.
    """
    if offset >> 63:
        raise SyscallError(EINVAL, Reason.RANGE_OVERFLOWS)
    file = _file(task, fd)
    if not file.mappable:
        raise SyscallError(ESPIPE, Reason.FILE_NOT_SEEKABLE)
    if not file.readable:
        raise SyscallError(EBADF, Reason.FILE_NOT_READABLE)
    length = max(0, min(length, file.inode.size - offset, _MAX_READ))
    memory = task.mm.memory
    core_id = file.inode.core_id
    answer = bytearray()
    for at in range(offset, offset + length):
        answer.append(memory.file_read(core_id, offset=at, cpu=task.cpu) or 0)
    return bytes(answer)


def pwrite(task: "Task", fd: int, offset: int, data: bytes) -> int:
    """Write to a file without moving its position: generic_file_write_iter(), v6.12.

    Raises:
        SyscallError: EBADF, EINVAL, ESPIPE, EPERM or EFBIG; ``reason`` names the check.
    """
    if offset >> 63:
        raise SyscallError(EINVAL, Reason.RANGE_OVERFLOWS)
    file = _file(task, fd)
    if not file.mappable:
        raise SyscallError(ESPIPE, Reason.FILE_NOT_SEEKABLE)
    if not file.mode_write:
        raise SyscallError(EBADF, Reason.FILE_NOT_WRITABLE)
    inode = file.inode
    end = offset + len(data)
    if end > file.max_bytes:
        raise SyscallError(EFBIG, Reason.FILE_TOO_BIG)
    if file.is_shmem and data:
        if inode.seals & _NO_WRITE:
            raise SyscallError(EPERM, Reason.FILE_SEALED)
        if inode.seals & F_SEAL_GROW and end > inode.size:
            raise SyscallError(EPERM, Reason.FILE_SEALED)
    memory = task.mm.memory
    for at, byte in enumerate(data, offset):
        memory.file_write(inode.core_id, offset=at, value=byte, cpu=task.cpu)
    inode.size = max(inode.size, end)
    return len(data)
