"""The rarer Reasons, one call each: what is asked, and which check says no."""

import pytest

from contigmm import abi
from contigmm.errors import Reason, SyscallError
from contigmm.mm.files import Backing, Ext4File, Inode, MemFd, Pipe, SpecialMapping
from contigmm.mm.flags import VM_DONTEXPAND, VM_READ, VmFlags
from contigmm.mm.task import Task
from contigmm.syscalls.files import fallocate, fcntl, ftruncate, pread, pwrite
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mincore import mincore
from contigmm.syscalls.mlock import mlock
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect, pkey_mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.msync import msync
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.pkeys import pkey_alloc, pkey_free
from contigmm.syscalls.rlimit import getrlimit, setrlimit

B, P, RW = 0x1000_0000, 4096, 3
FIXED = 0x32
MEMFD, READ_ONLY, DISK, PIPE = 3, 4, 5, 6


def open_files(task: Task) -> None:
    def inode(*, shmem: bool) -> Inode:
        return Inode(task.mm.memory.file_create(shmem=shmem, size=2 * P), 2 * P, seals=0)

    files: dict[int, Backing] = {
        MEMFD: MemFd("/memfd:a (deleted)", inode(shmem=True)),
        READ_ONLY: Ext4File("/read-only", inode(shmem=False), writable=False),
        DISK: Ext4File("/disk", inode(shmem=False)),
        PIPE: Pipe(readable=True),
    }
    for fd, file in files.items():
        task.files[fd] = file


@pytest.fixture
def ready(task: Task) -> Task:
    """Four anonymous pages, the third guarded, behind them a page locked, and four open files."""
    open_files(task)
    mmap(task, B, 4 * P, RW, FIXED)
    madvise(task, B + 2 * P, P, abi.MADV_GUARD_INSTALL)
    mmap(task, B + 8 * P, P, RW, FIXED | abi.MAP_LOCKED)
    mmap(task, B + 16 * P, 4 * P, RW, 0x11, MEMFD)
    mmap(task, B + 24 * P, P, 1, 0x11, READ_ONLY)
    kernel = SpecialMapping("[vdso]", Inode(task.mm.memory.file_create(shmem=False), 2 * P))
    flags = VmFlags(VM_READ | VM_DONTEXPAND)
    task.mm.link(task.mm.new_vma(B + 32 * P, B + 34 * P, flags, 0, kernel))
    task.mm.account(flags, 2)
    return task


CASES = [
    (abi.ENOMEM, Reason.RANGE_OVERFLOWS, mprotect, (B, abi.U64_MAX, RW)),
    (abi.EOVERFLOW, Reason.OFFSET_OVERFLOWS, mmap, (0, P, RW, 2, DISK, (1 << 63) - P)),
    (abi.EINVAL, Reason.UNKNOWN_PROT, mprotect, (B, P, 16)),
    (abi.EFAULT, Reason.BAD_POINTER, mincore, (B, P, 1 << 60)),
    (abi.EFAULT, Reason.BAD_POINTER, mincore, (B, P, 0x5000_0000)),
    (abi.EINVAL, Reason.BAD_PKEY, pkey_mprotect, (B, P, RW, 3)),
    (abi.EINVAL, Reason.BAD_PKEY, pkey_alloc, (0, 0)),
    (abi.EINVAL, Reason.BAD_PKEY, pkey_free, (1,)),
    (abi.EPERM, Reason.LIMIT_NOT_RAISABLE, setrlimit, (8, 1, 1 << 40)),
    (abi.EINVAL, Reason.UNKNOWN_FLAGS, getrlimit, (99,)),
    (abi.EINVAL, Reason.NOT_GROWSDOWN, mprotect, (B, P, 1 | abi.PROT_GROWSDOWN)),
    (abi.EINVAL, Reason.MAPPING_MAY_NOT_SPLIT, munmap, (B + 32 * P, P)),
    (abi.EINVAL, Reason.MAPPING_LOCKED, madvise, (B + 8 * P, P, abi.MADV_DONTNEED)),
    (abi.EBUSY, Reason.MAPPING_LOCKED, msync, (B + 8 * P, P, abi.MS_INVALIDATE)),
    (abi.EINVAL, Reason.WRONG_KIND_OF_MAPPING, madvise, (B + 16 * P, P, abi.MADV_FREE)),
    (abi.EFAULT, Reason.GUARD_PAGE, madvise, (B, 4 * P, abi.MADV_POPULATE_WRITE)),
    (abi.ENOMEM, Reason.GUARD_PAGE, mlock, (B, 4 * P)),
    (abi.EINVAL, Reason.NOTHING_TO_COLLAPSE, madvise, (B, 4 * P, abi.MADV_COLLAPSE)),
    (abi.EACCES, Reason.FILE_NOT_WRITABLE, mmap, (0, P, RW, 1, READ_ONLY)),
    (abi.EBADF, Reason.FILE_NOT_WRITABLE, pwrite, (READ_ONLY, 0, b"x")),
    (abi.EINVAL, Reason.FILE_NOT_WRITABLE, ftruncate, (READ_ONLY, 0)),
    (abi.EACCES, Reason.NOT_PERMITTED_BY_MAPPING, mprotect, (B + 24 * P, P, RW)),
    (abi.EACCES, Reason.PRIVATE_MAPPING, madvise, (B + 24 * P, P, abi.MADV_REMOVE)),
    (abi.ENODEV, Reason.FILE_NOT_MAPPABLE, mmap, (0, P, 1, 2, PIPE)),
    (abi.EBUSY, Reason.FILE_BUSY, fcntl, (MEMFD, abi.F_ADD_SEALS, abi.F_SEAL_WRITE)),
    (abi.EFBIG, Reason.FILE_TOO_BIG, ftruncate, (DISK, 1 << 60)),
    (abi.EOPNOTSUPP, Reason.UNKNOWN_FLAGS, fallocate, (DISK, abi.FALLOC_FL_PUNCH_HOLE, 0, P)),
    (abi.EOPNOTSUPP, Reason.UNKNOWN_FLAGS, fallocate, (MEMFD, abi.FALLOC_FL_ZERO_RANGE, 0, P)),
    (abi.EOPNOTSUPP, Reason.UNKNOWN_FLAGS, fallocate, (DISK, abi.FALLOC_FL_UNSHARE_RANGE, 0, P)),
    (abi.EBADF, Reason.FILE_NOT_WRITABLE, fallocate, (READ_ONLY, abi.FALLOC_FL_ZERO_RANGE, 0, P)),
    (abi.EINVAL, Reason.OFFSET_UNALIGNED, fallocate, (DISK, abi.FALLOC_FL_COLLAPSE_RANGE, 1, P)),
    (abi.EINVAL, Reason.RANGE_OVERFLOWS, fallocate, (DISK, abi.FALLOC_FL_COLLAPSE_RANGE, P, P)),
    (abi.EINVAL, Reason.RANGE_OVERFLOWS, fallocate, (DISK, abi.FALLOC_FL_INSERT_RANGE, 2 * P, P)),
    (abi.EOPNOTSUPP, Reason.UNKNOWN_FLAGS, fallocate, (DISK, abi.FALLOC_FL_INSERT_RANGE, P, P)),
    (abi.EPERM, Reason.FILE_NOT_WRITABLE, fcntl, (READ_ONLY, abi.F_ADD_SEALS, 1 << 6)),
    (abi.EINVAL, Reason.UNKNOWN_FLAGS, fcntl, (DISK, abi.F_ADD_SEALS, abi.F_SEAL_SEAL)),
    (abi.EFAULT, Reason.BEYOND_END_OF_FILE, madvise, (B + 16 * P, 4 * P, abi.MADV_POPULATE_READ)),
    (abi.EOPNOTSUPP, Reason.SYNC_NOT_SUPPORTED, mmap, (0, P, RW, 3 | abi.MAP_SYNC, DISK)),
    (abi.EOPNOTSUPP, Reason.UNKNOWN_FLAGS, mmap, (0, P, RW, 3 | abi.MAP_SYNC, MEMFD)),
    (abi.EFAULT, Reason.MAPPING_MAY_NOT_EXPAND, mremap, (B + 32 * P, 2 * P, 3 * P, 1)),
    (abi.EINVAL, Reason.RANGE_OVERFLOWS, pread, (DISK, 1 << 63, 1)),
]


@pytest.mark.parametrize(("errno", "reason", "call", "args"), CASES)
def test_the_check_that_says_no(ready, errno, reason, call, args):
    with pytest.raises(SyscallError) as caught:
        call(ready, *args)
    assert (caught.value.errno, caught.value.reason) == (errno, reason)


def test_seals_hold(ready):
    munmap(ready, B + 16 * P, 4 * P)
    seals = abi.F_SEAL_SHRINK | abi.F_SEAL_GROW | abi.F_SEAL_WRITE
    assert fcntl(ready, MEMFD, abi.F_ADD_SEALS, seals) == 0
    assert fcntl(ready, MEMFD, abi.F_GET_SEALS, 0) == seals
    for call, args in [
        (ftruncate, (MEMFD, 0)),
        (ftruncate, (MEMFD, 3 * P)),
        (pwrite, (MEMFD, 0, b"x")),
        (mmap, (0, P, RW, 1, MEMFD)),
        (fallocate, (MEMFD, 3, 0, P)),
    ]:
        with pytest.raises(SyscallError) as caught:
            call(ready, *args)
        assert (caught.value.errno, caught.value.reason) == (abi.EPERM, Reason.FILE_SEALED)
    assert mmap(ready, 0, P, 1, 1, MEMFD), "reading is still allowed"


def test_a_truncated_file_takes_its_private_copies_along(ready):
    from contigmm.errors import MemoryFault
    from contigmm.syscalls.touch import touch_read, touch_write

    addr = mmap(ready, 0, 2 * P, RW, 2, DISK)
    touch_write(ready, addr, 2, value=40)
    ftruncate(ready, DISK, P)
    assert touch_read(ready, addr) == (1, 40)
    with pytest.raises(MemoryFault) as caught:
        touch_read(ready, addr + P)
    assert (caught.value.signal, caught.value.code) == (abi.SIGBUS, abi.BUS_ADRERR)
