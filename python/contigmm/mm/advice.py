"""What each madvise(2) advice does to one VMA: mm/madvise.c, v6.18."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EACCES,
    EAGAIN,
    EFAULT,
    EINVAL,
    ENOMEM,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_RANDOM,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WIPEONFORK,
    PAGE_SHIFT,
    PMD_SIZE,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.causes import is_fault, no_memory, reason_of
from contigmm.mm.fault import anon_vma_prepare
from contigmm.mm.flags import (
    NOT_KSM,
    VM_CONTIG,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_DROPPABLE,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYBE_GUARD,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WIPEONFORK,
    VM_WRITE,
    VmFlags,
)
from contigmm.mm.huge import may_collapse
from contigmm.mm.object_pages import punch_hole
from contigmm.mm.populate import fault_in
from contigmm.mm.vma import is_shared_maywrite

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.ports import HugePort
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea

#: Advice -> (bits cleared, bits set).
_SIMPLE: Final = {
    MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV_DONTFORK: (0, VM_DONTCOPY),
    MADV_DOFORK: (VM_DONTCOPY, 0),
    MADV_WIPEONFORK: (0, VM_WIPEONFORK),
    MADV_KEEPONFORK: (VM_WIPEONFORK, 0),
    MADV_DONTDUMP: (0, VM_DONTDUMP),
    MADV_DODUMP: (VM_DONTDUMP, 0),
    MADV_HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV_NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
}


def new_flags(mm: "MmStruct", vma: "VmArea", behavior: int) -> VmFlags:
    """Return the flags that an advice about flags leads to: madvise_vma_behavior(), v6.18.

    Raises:
        SyscallError: EINVAL, the advice does not fit this kind of VMA.
    """
    vm_flags = vma.vm_flags
    if behavior == MADV_DOFORK and vm_flags & (VM_IO | mm.config.contig.keeps_pages):
        raise SyscallError(EINVAL, Reason.WRONG_KIND_OF_MAPPING)
    if behavior == MADV_WIPEONFORK:
        has_file = vma.file is not None and not vma.file.is_special
        if has_file or vm_flags & VM_SHARED:
            raise SyscallError(EINVAL, Reason.WRONG_KIND_OF_MAPPING)
    elif behavior == MADV_KEEPONFORK and vm_flags & VM_DROPPABLE:
        raise SyscallError(EINVAL, Reason.WRONG_KIND_OF_MAPPING)
    elif behavior == MADV_DODUMP:
        special = vm_flags & VM_SPECIAL and not vm_flags & (VM_HUGETLB | VM_CONTIG)
        if special or vm_flags & VM_DROPPABLE:
            raise SyscallError(EINVAL, Reason.WRONG_KIND_OF_MAPPING)
    elif behavior == MADV_MERGEABLE:
        return vm_flags if vm_flags & NOT_KSM else VmFlags(vm_flags | VM_MERGEABLE)
    elif behavior == MADV_UNMERGEABLE:
        return VmFlags(vm_flags & ~VM_MERGEABLE)
    clear, set_ = _SIMPLE[behavior]
    return VmFlags((vm_flags & ~clear) | set_)


def _refuse_if(vma: "VmArea", forbidden: int) -> None:
    if vma.vm_flags & forbidden:
        locked = vma.vm_flags & forbidden & VM_LOCKED
        reason = Reason.MAPPING_LOCKED if locked else Reason.WRONG_KIND_OF_MAPPING
        if vma.vm_flags & forbidden & VM_CONTIG:
            reason = Reason.CONTIG_RUN_IS_PINNED
        raise SyscallError(EINVAL, reason)


def willneed(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_WILLNEED: read ahead; anonymous memory has nowhere to be read from."""
    file = vma.file
    if file is None or file.is_special or file.is_shmem or file.is_hugetlb:
        return
    first = vma.vm_pgoff + ((start - vma.vm_start) >> PAGE_SHIFT)
    nr = min((end - start) >> PAGE_SHIFT, file.inode.nr_pages() - first)
    if nr > 0:
        task.mm.memory.cache_insert(file.inode.core_id, index=first, nr=nr, cpu=task.cpu)


def dontneed(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_DONTNEED: madvise_dontneed_single_vma(); EINVAL on locked memory."""
    contig = task.mm.config.contig
    _refuse_if(vma, VM_PFNMAP | VM_LOCKED | contig.keeps_pages)
    _zap(task, vma, start, end)


def dontneed_locked(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_DONTNEED_LOCKED: the same, on locked memory too."""
    _refuse_if(vma, VM_PFNMAP | task.mm.config.contig.keeps_pages)
    _zap(task, vma, start, end)


def _zap(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    if vma.file is not None and vma.file.is_hugetlb:
        if start & (PMD_SIZE - 1):
            raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
        return
    mm = task.mm
    mm.memory.zap(
        mm=mm.id,
        cpu=task.cpu,
        vpn=start >> PAGE_SHIFT,
        nr=(end - start) >> PAGE_SHIFT,
        keep_guards=True,
    )


def free(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_FREE: pages may go when memory is short; anonymous memory only."""
    mm = task.mm
    _refuse_if(vma, VM_PFNMAP | VM_LOCKED | VM_HUGETLB | mm.config.contig.keeps_pages)
    if vma.file is not None:
        raise SyscallError(EINVAL, Reason.WRONG_KIND_OF_MAPPING)
    huge = mm.config.huge
    if huge is not None:
        vpn, nr = start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT
        huge.lazy_free(mm=mm.id, cpu=task.cpu, vpn=vpn, nr=nr)


def remove(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_REMOVE: punch a hole into the object behind a shared mapping."""
    _refuse_if(vma, VM_LOCKED | task.mm.config.contig.keeps_pages)
    file = vma.file
    if file is None or file.is_special:
        raise SyscallError(EINVAL, Reason.WRONG_KIND_OF_MAPPING)
    if not is_shared_maywrite(vma.vm_flags):
        raise SyscallError(EACCES, Reason.PRIVATE_MAPPING)
    if file.is_hugetlb:
        return  # the pool is empty, so that nothing but holes is there
    offset = start - vma.vm_start + (vma.vm_pgoff << PAGE_SHIFT)
    punch_hole(task, file, offset, end - start)


def cold(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_COLD: deactivate, which splits a huge page that the range cuts."""
    mm = task.mm
    _refuse_if(vma, VM_LOCKED | VM_PFNMAP | VM_HUGETLB | mm.config.contig.keeps_pages)
    huge = mm.config.huge
    if huge is not None:
        vpn, nr = start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT
        huge.cold(mm=mm.id, cpu=task.cpu, vpn=vpn, nr=nr)


def pageout(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_PAGEOUT: reclaim now; without swap only what was given up or is on disk goes.

    Of a file that the caller might not write nothing does: can_do_file_pageout(), v6.18.
    """
    mm = task.mm
    _refuse_if(vma, VM_LOCKED | VM_PFNMAP | VM_HUGETLB | mm.config.contig.keeps_pages)
    if vma.file is not None and not vma.file.may_be_written_by(task):
        return
    huge = mm.config.huge
    if huge is not None:
        vpn, nr = start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT
        if vma.vm_flags & VM_DROPPABLE:  # given up from the first, and written or not:
            huge.lazy_free(mm=mm.id, cpu=task.cpu, vpn=vpn, nr=nr)  # try_to_unmap_one(), v6.18
        huge.page_out(mm=mm.id, cpu=task.cpu, vpn=vpn, nr=nr)


def guard_install(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_GUARD_INSTALL: whoever touches these pages dies; madvise_guard_install(), v6.18."""
    mm = task.mm
    _refuse_if(vma, VM_SPECIAL | VM_HUGETLB | VM_LOCKED)
    vma.vm_flags = VmFlags(vma.vm_flags | VM_MAYBE_GUARD)
    if vma.file is None:
        anon_vma_prepare(mm, vma)
    _, cause = mm.memory.guard_install(
        mm=mm.id, cpu=task.cpu, vpn=start >> PAGE_SHIFT, nr=(end - start) >> PAGE_SHIFT
    )
    if cause:
        raise no_memory(cause)


def guard_remove(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_GUARD_REMOVE: take the markers away; madvise_guard_remove(), v6.18."""
    _refuse_if(vma, VM_SPECIAL | VM_HUGETLB)
    mm = task.mm
    mm.memory.guard_remove(mm=mm.id, vpn=start >> PAGE_SHIFT, nr=(end - start) >> PAGE_SHIFT)


_COLLAPSE_ERRNO: Final = {
    "unfit": (EINVAL, Reason.NOTHING_TO_COLLAPSE),
    "busy": (EAGAIN, Reason.NOTHING_TO_COLLAPSE),
    "out_of_memory": (ENOMEM, Reason.OUT_OF_MEMORY_RECLAIM_NOT_SIMULATED),
}


def collapse(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """MADV_COLLAPSE: make huge pages now; madvise_collapse(), mm/khugepaged.c, v6.18."""
    low = (start + PMD_SIZE - 1) & -PMD_SIZE
    high = end & -PMD_SIZE
    mm = task.mm
    huge = mm.config.huge
    if high < low or huge is None or not may_collapse(mm, vma):
        raise SyscallError(EINVAL, Reason.NOTHING_TO_COLLAPSE)
    cause = ""
    for addr in range(low, high, PMD_SIZE):
        failed = _collapse_at(huge, task, vma, addr)
        cause = failed or cause
        if failed and failed != "busy":
            break
    if cause:
        raise SyscallError(*_COLLAPSE_ERRNO[cause])


def _collapse_at(huge: "HugePort", task: "Task", vma: "VmArea", addr: int) -> str:
    """Make one huge page at ``addr``; the cause if it fails: hpage_collapse_scan_*(), v6.18."""
    mm, vpn = task.mm, addr >> PAGE_SHIFT
    if vma.file is None:
        return huge.collapse(mm=mm.id, cpu=task.cpu, vpn=vpn, vm_flags=vma.vm_flags)
    return huge.collapse_file(
        mm=mm.id,
        cpu=task.cpu,
        vpn=vpn,
        vm_start=vma.vm_start,
        vm_end=vma.vm_end,
        vm_flags=vma.vm_flags,
        obj=vma.file.inode.core_id,
        pgoff=vma.vm_pgoff,
    )


def populate(task: "Task", start: int, end: int, *, write: bool) -> None:
    """MADV_POPULATE_READ/WRITE: fault in; stops at the first hole or refusal.

    madvise_populate(), v6.18.

    Raises:
        SyscallError: ENOMEM, a hole or no memory; EINVAL, not permitted; EFAULT, a fault that
            would have been a signal.
    """
    need = VM_WRITE if write else VM_READ
    while start < end:
        vma = task.mm.vma_lookup(start)
        if vma is None:
            raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
        if vma.vm_flags & (VM_IO | VM_PFNMAP) or not vma.vm_flags & need:
            raise SyscallError(EINVAL, Reason.NOT_PERMITTED_BY_MAPPING)
        stop = min(end, vma.vm_end)
        cause = fault_in(task, vma, start, stop, write=write)
        if cause:
            raise SyscallError(EFAULT if is_fault(cause) else ENOMEM, reason_of(cause))
        start = stop
