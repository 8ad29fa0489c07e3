"""Putting a new mapping in place of whatever was there: __mmap_region(), mm/vma.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    EACCES,
    ENOMEM,
    EOPNOTSUPP,
    EPERM,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_WRITE,
    PAGE_SHIFT,
    PR_MDWE_REFUSE_EXEC_GAIN,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.files import Inode, SharedAnonymous
from contigmm.mm.flags import (
    NOT_KSM,
    VM_ACCOUNT,
    VM_CONTIG,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_MERGEABLE,
    VM_NONE,
    VM_NORESERVE,
    VM_SHARED,
    VM_SYNC,
    VM_WRITE,
    VmFlags,
)
from contigmm.mm.limits import may_expand_vm
from contigmm.mm.merge import merge_new_range
from contigmm.mm.munmap import complete, gather
from contigmm.mm.vma import (
    VmArea,
    accountable_mapping,
    is_shared_maywrite,
    vma_supports_mlock,
)

if TYPE_CHECKING:
    from contigmm.mm.files import Backing
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.policy import Run
    from contigmm.mm.task import Task


def expansion_refused(mm: "MmStruct", pages: int) -> SyscallError:
    """Name the limit for which may_expand_vm() said no."""
    over = mm.total_vm + pages > mm.rlimits[9][0] >> PAGE_SHIFT
    reason = Reason.ADDRESS_SPACE_LIMIT if over else Reason.DATA_LIMIT
    return SyscallError(ENOMEM, reason)


def denies_write_exec(mm: "MmStruct", old: int, new: int) -> bool:
    """PR_SET_MDWE: nothing may be writable and executable, or become executable.

    map_deny_write_exec(), include/linux/mman.h, v6.18.
    """
    if not mm.mdwe & PR_MDWE_REFUSE_EXEC_GAIN or not new & VM_EXEC:
        return False
    return bool(new & VM_WRITE) or not old & VM_EXEC


def mmap_region(
    task: "Task",
    file: "Backing | None",
    addr: int,
    length: int,
    vm_flags: VmFlags,
    pgoff: int,
) -> None:
    """Map ``[addr, addr + length)``, unmapping what is there: mmap_region(), v6.18.

    Raises:
        SyscallError: EACCES, EPERM, ENOMEM, EOPNOTSUPP; what a failed call has already changed,
            it has changed in Linux too.
    """
    mm = task.mm
    if denies_write_exec(mm, vm_flags, vm_flags):
        raise SyscallError(EACCES, Reason.WRITE_EXEC_DENIED)
    if (
        file is not None
        and is_shared_maywrite(vm_flags)
        and file.inode.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
    ):
        raise SyscallError(EPERM, Reason.FILE_SEALED)  # mapping_map_writable()
    contig = mm.config.contig
    if not vm_flags & contig.bit or not contig.allocates_first:
        _region(task, file, addr, length, vm_flags, pgoff, None)
        return
    run = contig.allocate(task, length >> PAGE_SHIFT)
    try:
        _region(task, file, addr, length, vm_flags, pgoff, run)
    except SyscallError:
        contig.abandon(task, run)
        raise


def _region(
    task: "Task",
    file: "Backing | None",
    addr: int,
    length: int,
    vm_flags: int,
    pgoff: int,
    run: "Run | None",
) -> None:
    """__mmap_region(), v6.18."""
    mm = task.mm
    end = addr + length
    pages = length >> PAGE_SHIFT
    next_ = mm.find_vma(addr)
    unmapping = None
    if next_ is not None and next_.vm_start < end:
        unmapping = gather(mm, addr, end)
    replaced = 0 if unmapping is None else unmapping.nr_pages
    if not may_expand_vm(mm, vm_flags, pages - replaced):
        raise expansion_refused(mm, pages - replaced)
    charged = 0
    if accountable_mapping(file, vm_flags):
        charged = pages - (0 if unmapping is None else unmapping.nr_accounted)
        if charged and not task.vm_enough_memory(charged):
            raise SyscallError(ENOMEM, Reason.OVERCOMMIT)
        if unmapping is not None:
            unmapping.nr_accounted = 0
        vm_flags |= VM_ACCOUNT
    if unmapping is not None:
        complete(task, mm, unmapping)
        next_ = mm.find_vma(addr)
    vm_flags |= _ksm_flags(mm, file, vm_flags)
    if file is not None and file.mmap_errno:
        mm.config.contig.driver_failed(task, file, pages)
        mm.config.overcommit.committed -= charged
        raise SyscallError(file.mmap_errno, Reason.FILE_NOT_MAPPABLE)
    if file is not None and vm_flags & VM_SYNC and not file.supports_sync:
        mm.config.overcommit.committed -= charged
        raise SyscallError(EOPNOTSUPP, Reason.SYNC_NOT_SUPPORTED)
    vma = None
    if file is not None or not vm_flags & VM_SHARED:
        vma = merge_new_range(
            mm,
            mm.prev_of(addr),
            next_,
            start=addr,
            end=end,
            vm_flags=vm_flags,
            pgoff=pgoff,
            file=file,
        )
    if vma is None:
        try:
            vma = _new_vma(task, file, addr, end, VmFlags(vm_flags), pgoff, run)
        except SyscallError:
            mm.config.overcommit.committed -= charged
            raise
    _count(mm, vma, vm_flags, pages)


def _ksm_flags(mm: "MmStruct", file: "Backing | None", vm_flags: int) -> VmFlags:
    """What PR_SET_MEMORY_MERGE adds to a new mapping: ksm_vma_flags(), mm/ksm.c, v6.18.

    Before it may merge, as ext4 has mmap_prepare(): can_set_ksm_flags_early(), mm/vma.c, v6.18.
    """
    fits = not vm_flags & NOT_KSM and (file is None or not file.is_hugetlb)
    return VM_MERGEABLE if mm.ksm_any and fits else VM_NONE


def _count(mm: "MmStruct", vma: VmArea, vm_flags: int, pages: int) -> None:
    """__mmap_complete(), v6.18; that memory is of huge pages is in the VMA's flags only."""
    mm.account(vm_flags, pages)
    if vm_flags & VM_LOCKED:
        if vma_supports_mlock(vma.vm_flags):
            mm.locked_vm += pages
        else:
            vma.vm_flags = VmFlags(vma.vm_flags & ~VM_LOCKED_MASK)


def _new_vma(
    task: "Task",
    file: "Backing | None",
    start: int,
    end: int,
    vm_flags: VmFlags,
    pgoff: int,
    run: "Run | None",
) -> VmArea:
    """__mmap_new_vma(), v6.18; the run of rfc2017 is taken here, after the old VMAs are gone."""
    mm = task.mm
    pages = (end - start) >> PAGE_SHIFT
    if vm_flags & mm.config.contig.bit and run is None:
        run = mm.config.contig.allocate(task, pages)
    if file is None and vm_flags & VM_SHARED and not vm_flags & VM_CONTIG:
        file = _shared_anonymous(task, pages, vm_flags)
    if file is not None and file.is_hugetlb:
        _reserve_hugetlb(mm, file, vm_flags)
        vm_flags = VmFlags(vm_flags | VM_HUGETLB | VM_DONTEXPAND)
    vma = mm.new_vma(start, end, vm_flags, pgoff, file)
    mm.link(vma)
    if run is not None:
        vma.run = run
        mm.config.contig.hold(task, mm, vma)
    return vma


def _shared_anonymous(task: "Task", pages: int, vm_flags: int) -> SharedAnonymous:
    """shmem_zero_setup(), mm/shmem.c, v6.18: the object is charged whole, whatever its prot."""
    charged = 0 if vm_flags & VM_NORESERVE else pages
    if charged and not task.vm_enough_memory(charged):
        raise SyscallError(ENOMEM, Reason.OVERCOMMIT)
    core_id = task.mm.memory.file_create(shmem=True, size=pages << PAGE_SHIFT)
    return SharedAnonymous(Inode(core_id, pages << PAGE_SHIFT), charged)


def _reserve_hugetlb(mm: "MmStruct", file: "Backing", vm_flags: int) -> None:
    """hugetlb_reserve_pages(), mm/hugetlb.c, v6.12: without MAP_NORESERVE pages must be free."""
    page_bytes: int = getattr(file, "page_bytes", 1)
    if not vm_flags & VM_NORESERVE and file.inode.size // page_bytes > mm.config.hugetlb_free:
        raise SyscallError(ENOMEM, Reason.HUGE_PAGE_POOL_EMPTY)
