"""memfd_create(2): mm/memfd.c, v6.18."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EINVAL,
    ENODEV,
    F_SEAL_EXEC,
    F_SEAL_SEAL,
    MAP_HUGE_MASK,
    MAP_HUGE_SHIFT,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_EXEC,
    MFD_HUGETLB,
    MFD_NOEXEC_SEAL,
    NAME_MAX,
    RLIMIT_NOFILE,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.files import Inode, MemFd

if TYPE_CHECKING:
    from contigmm.mm.task import Task

_ALL_FLAGS: Final = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_NOEXEC_SEAL | MFD_EXEC
_NAME_MAX: Final = NAME_MAX - len("memfd:")


def memfd_create(task: "Task", flags: int, name: bytes) -> int:
    """Make an empty nameless file of shared memory and return a descriptor of it.

    Raises:
        SyscallError: EINVAL or EMFILE; ENODEV, MFD_HUGETLB (docs/fidelity.md). ``reason`` names
            the check.
    """
    flags &= 0xFFFF_FFFF
    known = _ALL_FLAGS
    if flags & MFD_HUGETLB:
        known |= MAP_HUGE_MASK << MAP_HUGE_SHIFT
    if flags & ~known:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if flags & MFD_EXEC and flags & MFD_NOEXEC_SEAL:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    name = name.split(b"\0", 1)[0]
    if len(name) > _NAME_MAX:
        raise SyscallError(EINVAL, Reason.FILE_NAME_TOO_LONG)
    limit = task.rlimits[RLIMIT_NOFILE][0]
    task.files.lowest_free(limit)
    if flags & MFD_HUGETLB:
        raise SyscallError(ENODEV, Reason.HUGE_PAGE_POOL_EMPTY)
    seals = F_SEAL_SEAL
    if flags & MFD_NOEXEC_SEAL:
        seals = F_SEAL_EXEC
    elif flags & MFD_ALLOW_SEALING:
        seals = 0
    inode = Inode(task.mm.memory.file_create(shmem=True, size=0), 0, seals)
    file = MemFd(f"/memfd:{name.decode(errors='replace')} (deleted)", inode)
    return task.files.install(file, limit=limit, close_on_exec=bool(flags & MFD_CLOEXEC))
