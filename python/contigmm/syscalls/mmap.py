"""mmap(2): ksys_mmap_pgoff() and do_mmap(), mm/mmap.c, v6.18."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EACCES,
    EAGAIN,
    EBADF,
    EEXIST,
    EINVAL,
    ENODEV,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_WRITE,
    LEGACY_MAP_MASK,
    MAP_ANONYMOUS,
    MAP_CONTIG,
    MAP_DROPPABLE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_HUGE_MASK,
    MAP_HUGE_SHIFT,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_SYNC,
    MAP_TYPE,
    OVERCOMMIT_NEVER,
    PAGE_MASK,
    PAGE_SHIFT,
    PROT_READ,
    PROT_WRITE,
    READ_IMPLIES_EXEC,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.files import MAX_LFS_FILESIZE, Backing, HugetlbFile, Inode
from contigmm.mm.flags import (
    PROT_BITS,
    VM_DONTDUMP,
    VM_DROPPABLE,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAY_ALL,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    VmFlags,
    calc_vm_flag_bits,
)
from contigmm.mm.limits import can_do_mlock, mlock_future_ok
from contigmm.mm.mmap_region import mmap_region
from contigmm.mm.populate import mm_populate
from contigmm.mm.unmapped_area import get_unmapped_area

if TYPE_CHECKING:
    from contigmm.mm.task import Task

#: Sizes of huge pages on x86-64 by their log2 in the flags; 0 asks for the default.
_HUGE_PAGE_BYTES: Final = {0: 2 << 20, 21: 2 << 20, 30: 1 << 30}


def mmap(
    task: "Task",
    addr: int = 0,
    length: int = 0,
    prot: int = 0,
    flags: int = 0,
    fd: int = -1,
    offset: int = 0,
) -> int:
    """Map ``length`` bytes and return the first address.

    The checks stand in the kernel's order, since the first that fails picks the errno.

    Raises:
        SyscallError: ``reason`` names the check.
    """
    if offset & 0xFFF:
        raise SyscallError(EINVAL, Reason.OFFSET_UNALIGNED)
    file: Backing | None = None
    if not flags & MAP_ANONYMOUS:
        file = task.files.get(fd)
        if file is None:
            raise SyscallError(EBADF, Reason.BAD_FILE_DESCRIPTOR)
        if flags & MAP_HUGETLB and not file.is_hugetlb:
            raise SyscallError(EINVAL, Reason.WRONG_KIND_OF_MAPPING)
    elif flags & MAP_HUGETLB:
        file, length = _hugetlb_file(flags, length)
    return do_mmap(task, file, addr, length, prot, flags, offset >> PAGE_SHIFT)


def _hugetlb_file(flags: int, length: int) -> tuple[Backing, int]:
    """Make the nameless hugetlbfs file of MAP_HUGETLB: ksys_mmap_pgoff(), v6.18."""
    page_bytes = _HUGE_PAGE_BYTES.get(flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK)
    if page_bytes is None:
        raise SyscallError(EINVAL, Reason.NO_SUCH_HUGE_PAGE_SIZE)
    length = (length + page_bytes - 1) & -page_bytes & U64_MAX
    return HugetlbFile(Inode(0, length), page_bytes), length


def do_mmap(
    task: "Task",
    file: Backing | None,
    addr: int,
    length: int,
    prot: int,
    flags: int,
    pgoff: int,
) -> int:
    """do_mmap(), v6.18, with the MAP_CONTIG block where RFC 3/3 put it."""
    mm = task.mm
    if length == 0:
        raise SyscallError(EINVAL, Reason.LENGTH_IS_ZERO)
    if task.persona & READ_IMPLIES_EXEC and prot & PROT_READ:
        prot |= 4
    if flags & MAP_FIXED_NOREPLACE:
        flags |= MAP_FIXED
    if not flags & MAP_FIXED:
        addr = _round_hint_to_min(mm.config.mmap_min_addr, addr)
    length = (length + 0xFFF) & PAGE_MASK & U64_MAX
    if length == 0:
        raise SyscallError(ENOMEM, Reason.LENGTH_OVERFLOWS)
    if pgoff + (length >> PAGE_SHIFT) > U64_MAX:
        raise SyscallError(EOVERFLOW, Reason.OFFSET_OVERFLOWS)
    if mm.map_count > mm.config.max_map_count:
        raise SyscallError(ENOMEM, Reason.TOO_MANY_MAPPINGS)
    vm_flags = (
        (prot & PROT_BITS) | calc_vm_flag_bits(flags & ~MAP_CONTIG) | mm.def_flags | VM_MAY_ALL
    )
    addr = get_unmapped_area(task, file, addr, length, pgoff, flags)
    if flags & MAP_FIXED_NOREPLACE and mm.intersection(addr, addr + length) is not None:
        raise SyscallError(EEXIST, Reason.ALREADY_MAPPED)
    if flags & MAP_CONTIG:
        flags, bits = mm.config.contig.flag_bits(task, flags)
        vm_flags |= bits
    if flags & MAP_LOCKED and not can_do_mlock(task):
        raise SyscallError(EPERM, Reason.MAY_NOT_LOCK)
    if not mlock_future_ok(task, mm, vm_flags, length):
        raise SyscallError(EAGAIN, Reason.MEMLOCK_LIMIT)
    if file is None:
        vm_flags, pgoff = _anonymous_type(flags, vm_flags, addr >> PAGE_SHIFT)
    else:
        vm_flags = _file_type(file, flags, prot, vm_flags, pgoff, length)
    if flags & MAP_NORESERVE and (
        mm.config.overcommit.mode != OVERCOMMIT_NEVER or (file is not None and file.is_hugetlb)
    ):
        vm_flags |= VM_NORESERVE
    mmap_region(task, file, addr, length, VmFlags(vm_flags), pgoff)
    if vm_flags & VM_LOCKED or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE:
        mm_populate(task, addr, length, ignore_errors=True)
    return addr


def _round_hint_to_min(mmap_min_addr: int, hint: int) -> int:
    """round_hint_to_min(), mm/mmap.c, v6.12."""
    hint &= PAGE_MASK
    return mmap_min_addr if 0 < hint < mmap_min_addr else hint


def _anonymous_type(flags: int, vm_flags: int, addr_pgoff: int) -> tuple[int, int]:
    """The type of an anonymous mapping: flags and vm_pgoff it gives."""
    kind = flags & MAP_TYPE
    if kind == MAP_PRIVATE:
        return vm_flags, addr_pgoff
    if kind == MAP_SHARED:
        if vm_flags & VM_GROWSDOWN:
            raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
        return vm_flags | VM_SHARED | VM_MAYSHARE, 0
    if kind == MAP_DROPPABLE:
        if flags & (MAP_LOCKED | MAP_HUGETLB) or vm_flags & VM_GROWSDOWN:
            raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
        vm_flags |= VM_DROPPABLE | VM_NORESERVE | VM_WIPEONFORK | VM_DONTDUMP
        return vm_flags, addr_pgoff
    raise SyscallError(EINVAL, Reason.BAD_MAP_TYPE)


def _file_type(file: Backing, flags: int, prot: int, vm_flags: int, pgoff: int, length: int) -> int:
    """The type of a file mapping, what the file permits, and the flags they give."""
    offset = pgoff << PAGE_SHIFT
    if length > MAX_LFS_FILESIZE - offset:  # file_mmap_ok()
        raise SyscallError(EOVERFLOW, Reason.OFFSET_OVERFLOWS)
    kind = flags & MAP_TYPE
    if kind in (MAP_SHARED, MAP_SHARED_VALIDATE):
        known = LEGACY_MAP_MASK | (MAP_SYNC if file.knows_sync else 0)
        if kind == MAP_SHARED_VALIDATE and flags & ~known:
            raise SyscallError(EOPNOTSUPP, Reason.UNKNOWN_FLAGS)
        if prot & PROT_WRITE and not file.mode_write:
            raise SyscallError(EACCES, Reason.FILE_NOT_WRITABLE)
        vm_flags |= VM_SHARED | VM_MAYSHARE
        if not file.mode_write:
            vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
    elif kind != MAP_PRIVATE:
        raise SyscallError(EINVAL, Reason.BAD_MAP_TYPE)
    if not file.readable:
        raise SyscallError(EACCES, Reason.FILE_NOT_MAPPABLE)
    if not file.mappable:
        raise SyscallError(ENODEV, Reason.FILE_NOT_MAPPABLE)
    if vm_flags & VM_GROWSDOWN:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    return _memfd_seals(file, vm_flags)


def _memfd_seals(file: Backing, vm_flags: int) -> int:
    """memfd_check_seals_mmap(), mm/memfd.c, v6.18."""
    if not file.inode.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) or not vm_flags & VM_SHARED:
        return vm_flags
    if vm_flags & VM_WRITE:
        raise SyscallError(EPERM, Reason.FILE_SEALED)
    return vm_flags & ~VM_MAYWRITE
