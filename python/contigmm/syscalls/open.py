"""open(2) and close(2): do_sys_openat2(), fs/open.c, v6.18, on one flat directory."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    EEXIST,
    ENAMETOOLONG,
    ENOENT,
    NAME_MAX,
    O_ACCMODE,
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    PATH_MAX,
    RLIMIT_NOFILE,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.files import Ext4File, Inode
from contigmm.mm.object_pages import set_size

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def open(task: "Task", flags: int, path: bytes) -> int:
    """Open a file of the machine's one directory and return the descriptor.

    A path is a name: no component of it is looked up by itself (docs/fidelity.md).

    Raises:
        SyscallError: ENOENT, EEXIST, ENAMETOOLONG or EMFILE; ``reason`` names the check.
    """
    path = path.split(b"\0", 1)[0]
    if len(path) >= PATH_MAX:
        raise SyscallError(ENAMETOOLONG, Reason.FILE_NAME_TOO_LONG)
    if not path:
        raise SyscallError(ENOENT, Reason.NO_SUCH_FILE)
    limit = task.rlimits[RLIMIT_NOFILE][0]
    task.files.lowest_free(limit)
    if any(len(part) > NAME_MAX for part in path.split(b"/")):
        raise SyscallError(ENAMETOOLONG, Reason.FILE_NAME_TOO_LONG)
    name = path.decode(errors="replace")
    directory = task.mm.config.directory
    inode = directory.get(name)
    if inode is None:
        if not flags & O_CREAT:
            raise SyscallError(ENOENT, Reason.NO_SUCH_FILE)
        core_id = task.mm.memory.file_create(shmem=False, size=0)
        inode = directory[name] = Inode(core_id, 0, owner_uid=task.uid)
    elif flags & O_CREAT and flags & O_EXCL:
        raise SyscallError(EEXIST, Reason.FILE_EXISTS)
    mode = flags & O_ACCMODE
    file = Ext4File(name, inode, readable=mode in (0, O_RDWR), writable=mode in (O_WRONLY, O_RDWR))
    if flags & O_TRUNC and inode.size:
        set_size(task, file, 0)
    return task.files.install(file, limit=limit, close_on_exec=bool(flags & O_CLOEXEC))


def close(task: "Task", fd: int) -> int:
    """Close a descriptor; mappings of the file stay.

    Raises:
        SyscallError: EBADF, it is not open.
    """
    task.files.close(fd)
    return 0
