"""mremap(2): mm/mremap.c, v6.18, several VMAs at once included."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    EAGAIN,
    EFAULT,
    EINVAL,
    ENOMEM,
    EPERM,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SHIFT,
    PMD_SIZE,
    TASK_SIZE,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.fault import page_align
from contigmm.mm.flags import (
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SEALED,
    VM_SHARED,
)
from contigmm.mm.limits import may_expand_vm, mlock_future_ok
from contigmm.mm.mmap_region import expansion_refused
from contigmm.mm.munmap import do_munmap
from contigmm.mm.populate import mm_populate
from contigmm.mm.remap import Remap, expand_in_place, expandable, move_vma, set_new_addr

if TYPE_CHECKING:
    from contigmm.mm.task import Task

_NEW_ADDR = MREMAP_FIXED | MREMAP_DONTUNMAP


def mremap(
    task: "Task", addr: int, old_len: int, new_len: int, flags: int = 0, new_addr: int = 0
) -> int:
    """Grow, shrink, move or duplicate a mapping; return where it is.

    Raises:
        SyscallError: EINVAL, EFAULT, ENOMEM, EAGAIN or EPERM; ``reason`` names the check.
    """
    old_len, new_len = page_align(old_len), page_align(new_len)
    _check_params(task, addr, old_len, new_len, flags, new_addr)
    mm = task.mm
    if flags & MREMAP_FIXED and old_len == new_len:
        return _move_only(task, addr, old_len, flags, new_addr)
    vma = mm.vma_lookup(addr)
    if vma is None:
        raise SyscallError(EFAULT, Reason.NOT_MAPPED)
    remap = Remap(vma, addr, old_len, new_len, flags, new_addr)
    _check_vma(task, remap)
    result = _mremap_to(task, remap) if flags & _NEW_ADDR else _mremap_at(task, remap)
    if remap.populate_expand:
        mm_populate(task, result + old_len, new_len - old_len, ignore_errors=True)
    return result


def _check_params(
    task: "Task", addr: int, old_len: int, new_len: int, flags: int, new_addr: int
) -> None:
    """check_mremap_params(), v6.18."""
    if flags & ~(MREMAP_MAYMOVE | _NEW_ADDR):
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if addr & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    if new_len == 0:
        raise SyscallError(EINVAL, Reason.LENGTH_IS_ZERO)
    if new_len > TASK_SIZE:
        raise SyscallError(EINVAL, Reason.BEYOND_TASK_SIZE)
    if not flags & _NEW_ADDR:
        return
    if new_addr > TASK_SIZE - new_len:
        raise SyscallError(EINVAL, Reason.BEYOND_TASK_SIZE)
    if new_addr & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    if not flags & MREMAP_MAYMOVE:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    if flags & MREMAP_DONTUNMAP and old_len != new_len:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    if (addr + old_len) & U64_MAX > new_addr and new_addr + new_len > addr:
        raise SyscallError(EINVAL, Reason.RANGES_OVERLAP)
    mm = task.mm
    if mm.map_count + 2 >= mm.config.max_map_count - 3:
        raise SyscallError(ENOMEM, Reason.TOO_MANY_MAPPINGS)


def _check_vma(task: "Task", remap: Remap) -> None:
    """check_prep_vma(), v6.18."""
    vma = remap.vma
    vm_flags = vma.vm_flags
    if vm_flags & VM_SEALED:
        raise SyscallError(EPERM, Reason.SEALED)
    if vm_flags & VM_HUGETLB:
        _align_hugetlb(remap)
    old_len, new_len, flags = remap.old_len, remap.new_len, remap.flags
    if not flags & _NEW_ADDR:
        remap.new_addr = remap.addr
        if new_len <= old_len:
            return
    if not old_len and not vm_flags & (VM_SHARED | VM_MAYSHARE):
        raise SyscallError(EINVAL, Reason.PRIVATE_MAPPING)
    if flags & MREMAP_DONTUNMAP and vm_flags & (VM_DONTEXPAND | VM_PFNMAP):
        raise SyscallError(EINVAL, Reason.MAPPING_MAY_NOT_EXPAND)
    if min(old_len, new_len) > vma.vm_end - remap.addr:
        raise SyscallError(EFAULT, Reason.SPANS_SEVERAL_MAPPINGS)
    if new_len <= old_len:
        return
    if vm_flags & VM_LOCKED:
        remap.populate_expand = True
    pgoff = vma.vm_pgoff + ((remap.addr - vma.vm_start) >> PAGE_SHIFT)
    if pgoff + (new_len >> PAGE_SHIFT) > U64_MAX:
        raise SyscallError(EINVAL, Reason.OFFSET_OVERFLOWS)
    if vm_flags & (VM_DONTEXPAND | VM_PFNMAP):
        raise SyscallError(EFAULT, Reason.MAPPING_MAY_NOT_EXPAND)
    mm = task.mm
    delta = new_len - old_len
    if not mlock_future_ok(task, mm, vm_flags, delta):
        raise SyscallError(EAGAIN, Reason.MEMLOCK_LIMIT)
    if not may_expand_vm(mm, vm_flags, delta >> PAGE_SHIFT):
        raise expansion_refused(mm, delta >> PAGE_SHIFT)


def _align_hugetlb(remap: Remap) -> None:
    """Lengths are whole huge pages, and there is no growth: align_hugetlb(), v6.18."""
    page_bytes: int = getattr(remap.vma.file, "page_bytes", PMD_SIZE)
    remap.old_len = (remap.old_len + page_bytes - 1) & -page_bytes
    remap.new_len = (remap.new_len + page_bytes - 1) & -page_bytes
    if (remap.addr | remap.new_addr) & (page_bytes - 1):
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    if remap.new_len > remap.old_len:
        raise SyscallError(EINVAL, Reason.MAPPING_MAY_NOT_EXPAND)


def _shrink(task: "Task", remap: Remap) -> None:
    """Unmap the tail, whatever VMAs it spans: shrink_vma(), v6.18."""
    mm = task.mm
    start = remap.addr + remap.new_len
    do_munmap(task, mm, start & U64_MAX, remap.old_len - remap.new_len)
    _reload(task, remap)


def _reload(task: "Task", remap: Remap) -> None:
    vma = task.mm.vma_lookup(remap.addr)
    if vma is None:
        raise SyscallError(EFAULT, Reason.NOT_MAPPED)
    remap.vma = vma


def _mremap_at(task: "Task", remap: Remap) -> int:
    """Stay if possible: mremap_at() and expand_vma(), v6.18."""
    old_len, new_len = remap.old_len, remap.new_len
    if new_len == old_len:
        return remap.addr
    if new_len < old_len:
        _shrink(task, remap)
        return remap.addr
    delta = new_len - old_len
    vma = remap.vma
    if vma.vm_end - remap.addr == old_len and expandable(task, vma, delta):
        expand_in_place(task, remap, delta)
        return remap.addr
    if not remap.flags & MREMAP_MAYMOVE:
        raise SyscallError(ENOMEM, Reason.ALREADY_MAPPED)
    set_new_addr(task, remap)
    return move_vma(task, remap)


def _mremap_to(task: "Task", remap: Remap) -> int:
    """Go where told: mremap_to(), v6.18."""
    mm = task.mm
    if remap.flags & MREMAP_FIXED:
        do_munmap(task, mm, remap.new_addr, remap.new_len)
        _reload(task, remap)
    if remap.new_len < remap.old_len:
        _shrink(task, remap)
        remap.old_len = remap.new_len
    if remap.flags & MREMAP_DONTUNMAP:
        pages = remap.old_len >> PAGE_SHIFT
        if not may_expand_vm(mm, remap.vma.vm_flags, pages):
            raise expansion_refused(mm, pages)
    set_new_addr(task, remap)
    return move_vma(task, remap)


def _move_only(task: "Task", start: int, length: int, flags: int, new_addr: int) -> int:
    """Move every VMA of a range, keeping the holes between them: remap_move(), v6.18."""
    end = start + length
    mm = task.mm
    result: int | None = None
    target = new_addr
    last_end = at = start
    while at < end and (vma := mm.intersection(at, end)) is not None:
        if result is None and vma.vm_start > start:
            break
        addr = max(vma.vm_start, start)
        part = min(end, vma.vm_end) - addr
        gap = 0 if result is None else vma.vm_start - last_end
        last_end = at = vma.vm_end
        remap = Remap(vma, addr, part, part, flags, target + gap)
        _check_vma(task, remap)
        moved = _mremap_to(task, remap)
        if result is None:
            result = moved
        target = moved + part
    if result is None:
        raise SyscallError(EFAULT, Reason.NOT_MAPPED)
    return result
