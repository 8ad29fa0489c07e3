"""brk(2): mm/mmap.c and do_brk_flags(), mm/vma.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    ENOMEM,
    MAP_FIXED,
    PAGE_SHIFT,
    PAGE_SIZE,
    READ_IMPLIES_EXEC,
    RLIM_INFINITY,
    RLIMIT_DATA,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.fault import page_align
from contigmm.mm.flags import (
    VM_ACCOUNT,
    VM_DATA_FLAGS_TSK_EXEC,
    VM_EXEC,
    VM_LOCKED,
    VM_MERGEABLE,
    VmFlags,
)
from contigmm.mm.limits import may_expand_vm, mlock_future_ok
from contigmm.mm.merge import merge_new_range
from contigmm.mm.mmap_region import expansion_refused
from contigmm.mm.munmap import complete, gather
from contigmm.mm.populate import mm_populate
from contigmm.mm.unmapped_area import get_unmapped_area, vm_start_gap

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def brk(task: "Task", addr: int) -> int:
    """Move the end of the heap; return the new one, or the old one if it may not move."""
    mm = task.mm
    old = mm.brk
    if addr < mm.start_brk:
        return old
    limit = task.rlimits[RLIMIT_DATA][0]
    data = addr - mm.start_brk + mm.end_data - mm.start_data
    if limit != RLIM_INFINITY and data > limit:  # check_data_rlimit()
        return old
    new_end, old_end = page_align(addr), page_align(old)
    if new_end == old_end:
        mm.brk = addr
        return addr
    try:
        if addr <= old:
            _shrink(task, new_end, old_end)
        else:
            _grow(task, old_end, new_end)
    except SyscallError:  # brk(2) has no errno: it answers with the old end
        return old
    mm.brk = addr
    if addr > old and mm.def_flags & VM_LOCKED:
        mm_populate(task, old_end, new_end - old_end, ignore_errors=True)
    return addr


def _shrink(task: "Task", new_end: int, old_end: int) -> None:
    mm = task.mm
    if mm.intersection(new_end, old_end) is None:
        raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
    complete(task, mm, gather(mm, new_end, old_end))


def _grow(task: "Task", start: int, end: int) -> None:
    mm = task.mm
    length = (end - start) & U64_MAX  # an end that wrapped is refused below
    get_unmapped_area(task, None, start, length, 0, MAP_FIXED)  # check_brk_limits()
    if not mlock_future_ok(task, mm, mm.def_flags, length):
        raise SyscallError(ENOMEM, Reason.MEMLOCK_LIMIT)
    next_ = mm.intersection(start, end + PAGE_SIZE + mm.config.stack_guard_gap)
    if next_ is not None and end + PAGE_SIZE > vm_start_gap(mm, next_):
        raise SyscallError(ENOMEM, Reason.ALREADY_MAPPED)
    _do_brk_flags(task, start, end)


def _do_brk_flags(task: "Task", start: int, end: int) -> None:
    """do_brk_flags(), mm/vma.c, v6.18."""
    mm = task.mm
    pages = (end - start) >> PAGE_SHIFT
    vm_flags = VM_DATA_FLAGS_TSK_EXEC | VM_ACCOUNT | mm.def_flags
    if task.persona & READ_IMPLIES_EXEC:
        vm_flags |= VM_EXEC
    if mm.ksm_any:
        vm_flags |= VM_MERGEABLE
    if not may_expand_vm(mm, vm_flags, pages):
        raise expansion_refused(mm, pages)
    if mm.map_count > mm.config.max_map_count:
        raise SyscallError(ENOMEM, Reason.TOO_MANY_MAPPINGS)
    if not task.vm_enough_memory(pages):
        raise SyscallError(ENOMEM, Reason.OVERCOMMIT)
    prev = mm.prev_of(start)
    if prev is not None and prev.vm_end <= mm.start_brk:
        prev = None  # vma_prev_limit(): not of the heap
    pgoff = start >> PAGE_SHIFT
    merged = merge_new_range(
        mm, prev, None, start=start, end=end, vm_flags=vm_flags, pgoff=pgoff, just_expand=True
    )
    if merged is None:
        mm.link(mm.new_vma(start, end, VmFlags(vm_flags), pgoff, None))
    mm.total_vm += pages
    mm.data_vm += pages
    if vm_flags & VM_LOCKED:
        mm.locked_vm += pages
