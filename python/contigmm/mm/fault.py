"""Touching memory: finding the VMA, growing a stack, asking for a frame.

Which page comes back is physical memory's business; here is what stands before it:
arch/x86/mm/fault.c:do_user_addr_fault(), mm/vma.c:expand_downwards(), mm/rmap.c, v6.18.
"""

from typing import TYPE_CHECKING, Final, TypedDict

from contigmm.abi import (
    BUS_ADRERR,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    RLIMIT_STACK,
    SEGV_ACCERR,
    SEGV_MAPERR,
    SI_KERNEL,
    SIGBUS,
    SIGSEGV,
    TASK_SIZE,
    U64_MAX,
)
from contigmm.errors import MemoryFault
from contigmm.mm.anon_vma import AnonVma, anon_vma_attach, new_root
from contigmm.mm.causes import RUN_PAGE_ABSENT, fault_of, no_memory
from contigmm.mm.files import SpecialMapping
from contigmm.mm.flags import (
    VM_ACCESS_FLAGS,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_PFNMAP,
    VM_SHARED,
    VM_STICKY,
    VM_WRITE,
)
from contigmm.mm.huge import thp_at_fault
from contigmm.mm.limits import may_expand_vm, mlock_future_ok
from contigmm.mm.placement import placing
from contigmm.mm.policy import NO_CORE_RUN
from contigmm.phys import CoreError

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea

_CANONICAL_END: Final = 1 << 47
_KERNEL_START: Final = U64_MAX - _CANONICAL_END + 1


class VmaFacts(TypedDict):
    """What an access and its VMA are to physical memory."""

    mm: int
    cpu: int
    addr: int
    vm_start: int
    vm_end: int
    vm_flags: int
    obj: int
    pgoff: int
    prealloc: int


def _anon_vma_compatible(left: "VmArea", right: "VmArea") -> bool:
    """Could the two be one but for their permissions? anon_vma_compatible(), mm/vma.c, v6.18."""
    return (
        left.vm_end == right.vm_start
        and left.policy == right.policy
        and left.file is right.file
        and not (left.vm_flags ^ right.vm_flags) & ~(VM_ACCESS_FLAGS | VM_STICKY)
        and right.vm_pgoff == left.vm_pgoff + ((right.vm_start - left.vm_start) >> PAGE_SHIFT)
    )


def _find_mergeable_anon_vma(mm: "MmStruct", vma: "VmArea") -> AnonVma | None:
    """Share a neighbour's identity if a merge may follow: find_mergeable_anon_vma(), v6.12."""
    next_ = mm.next_of(vma)
    if next_ is not None and len(next_.anon_chain) == 1 and _anon_vma_compatible(vma, next_):
        return next_.anon_vma
    prev = mm.prev_of(vma.vm_start)
    if prev is not None and len(prev.anon_chain) == 1 and _anon_vma_compatible(prev, vma):
        return prev.anon_vma
    return None


def anon_vma_prepare(mm: "MmStruct", vma: "VmArea") -> None:
    """Give ``vma`` an anonymous identity if it has none: __anon_vma_prepare(), v6.12."""
    if vma.anon_vma is None:
        anon_vma_attach(vma, _find_mergeable_anon_vma(mm, vma) or new_root())


def expand_downwards(task: "Task", mm: "MmStruct", vma: "VmArea", address: int) -> bool:
    """Grow a growsdown VMA to ``address``; False if it may not: expand_downwards(), v6.18."""
    if not vma.vm_flags & VM_GROWSDOWN:
        return False
    address &= PAGE_MASK
    if address < mm.config.mmap_min_addr:
        return False
    prev = mm.prev_of(vma.vm_start)
    if (
        prev is not None
        and not prev.vm_flags & VM_GROWSDOWN
        and prev.vm_flags & VM_ACCESS_FLAGS
        and address - prev.vm_end < mm.config.stack_guard_gap
    ):
        return False
    anon_vma_prepare(mm, vma)
    grow = (vma.vm_start - address) >> PAGE_SHIFT
    if grow > vma.vm_pgoff or not _acct_stack_growth(task, mm, vma, address, grow):
        return False
    if vma.vm_flags & VM_LOCKED:
        mm.locked_vm += grow
    mm.account(vma.vm_flags, grow)
    mm.resize(vma, address, vma.vm_end)
    vma.vm_pgoff -= grow
    return True


def _acct_stack_growth(
    task: "Task", mm: "MmStruct", vma: "VmArea", address: int, grow: int
) -> bool:
    """Limits on a growing stack, in the kernel's order: acct_stack_growth(), mm/vma.c, v6.18."""
    return (
        may_expand_vm(mm, vma.vm_flags, grow)
        and vma.vm_end - address <= task.rlimits[RLIMIT_STACK][0]
        and mlock_future_ok(task, mm, vma.vm_flags, grow << PAGE_SHIFT)
        and task.vm_enough_memory(grow)
    )


def _bad_address(addr: int, done: int) -> MemoryFault:
    """No VMA can be there: arch/x86 raises #GP for non-canonical, #PF for the rest."""
    canonical = addr < _CANONICAL_END or addr >= _KERNEL_START
    return MemoryFault(SIGSEGV, SEGV_MAPERR if canonical else SI_KERNEL, addr, done)


def find_for_access(task: "Task", addr: int, done: int, *, write: bool) -> "VmArea":
    """Find or grow the VMA that allows an access at ``addr``: do_user_addr_fault(), v6.12.

    Raises:
        MemoryFault: SIGSEGV, nothing there or not allowed.
    """
    if addr >= TASK_SIZE:
        raise _bad_address(addr, done)
    mm = task.mm
    vma = mm.find_vma(addr)
    if vma is None or (vma.vm_start > addr and not expand_downwards(task, mm, vma, addr)):
        raise MemoryFault(SIGSEGV, SEGV_MAPERR, addr, done)
    if not vma.vm_flags & (VM_WRITE if write else VM_ACCESS_FLAGS):
        raise MemoryFault(SIGSEGV, SEGV_ACCERR, addr, done)
    return vma


def prealloc_pfn(vma: "VmArea") -> int:
    """Return the frame that the RFC's fault path has for a VMA's first page, -1 for others."""
    run = vma.run
    return -1 if run is None or run.core_run != NO_CORE_RUN else run.base_pfn


def map_run(task: "Task", vma: "VmArea", start: int, end: int) -> None:
    """Map the frames of a run that belong to ``[start, end)``, where nothing is mapped.

    Raises:
        SyscallError: ENOMEM, no frame for a page table.
    """
    run = vma.run
    assert run is not None, "only a contiguous VMA has a run"
    mm = task.mm
    try:
        mm.memory.run_map(
            mm=mm.id,
            cpu=task.cpu,
            vpn=start >> PAGE_SHIFT,
            run=run.core_run,
            offset=vma.run_offset + ((start - vma.vm_start) >> PAGE_SHIFT),
            nr=(end - start) >> PAGE_SHIFT,
            vm_flags=vma.vm_flags,
        )
    except CoreError as refusal:
        raise no_memory(refusal.cause) from None


def prepare_for(mm: "MmStruct", vma: "VmArea", start: int, end: int, *, write: bool) -> None:
    """Give ``vma`` an identity if faults in the range will make it anonymous pages.

    vmf_anon_prepare() stands before every new anonymous page, and before the huge zero page.
    """
    if vma.anon_vma is not None or vma.vm_flags & VM_SHARED:
        return
    if write or (thp_at_fault(mm, vma) and _huge_range_inside(vma, start, end)):
        anon_vma_prepare(mm, vma)


def _huge_range_inside(vma: "VmArea", start: int, end: int) -> bool:
    """Does some huge page's range around ``[start, end)`` lie inside ``vma``?"""
    low = max(start & -PMD_SIZE, (vma.vm_start + PMD_SIZE - 1) & -PMD_SIZE)
    return low < end and low + PMD_SIZE <= vma.vm_end


def access(
    task: "Task", addr: int, n: int, stride: int, *, write: bool, value: int
) -> tuple[int, int]:
    """Read or write one byte at ``n`` addresses; return the count and the last byte read.

    Write ``i`` stores ``(value + i) & 255``.

    Raises:
        MemoryFault: an access ended in a signal; ``done`` tells how many had succeeded.
    """
    mm = task.mm
    done = last = 0
    while done < n:
        at = (addr + done * stride) & U64_MAX
        vma = find_for_access(task, at, done, write=write)
        end = vma.vm_end
        if vma.file is not None and (vma.file.is_special or vma.file.is_hugetlb):
            _check_unusual(vma, at, done)
        count = 1
        if done + 1 < n and 0 < stride < TASK_SIZE and not vma.vm_flags & VM_PFNMAP:
            count = min(n - done, (end - at + stride - 1) // stride)
        prepare_for(mm, vma, at, at + (count - 1) * stride + 1, write=write)
        got, cause, last = placing(task, vma).access(
            mm=mm.id,
            cpu=task.cpu,
            addr=at,
            nr=count,
            stride=stride,
            write=write,
            value=(value + done) & 255,
            vm_start=vma.vm_start,
            vm_end=vma.vm_end,
            vm_flags=vma.vm_flags | mm.fault_flags,
            obj=0 if vma.file is None else vma.file.inode.core_id,
            pgoff=vma.vm_pgoff,
            prealloc=prealloc_pfn(vma),
        )
        done += got
        if cause:
            if cause == RUN_PAGE_ABSENT:
                map_run(task, vma, vma.vm_start, vma.vm_end)
                continue
            raise fault_of(cause, (addr + done * stride) & U64_MAX, done)
    return done, last


def load(task: "Task", addr: int, length: int) -> bytes:
    """Read ``length`` bytes, as so many loads would.

    Raises:
        MemoryFault: a load ended in a signal; ``done`` bytes had been read.
    """
    parts: list[bytes] = []
    done = 0
    while done < length:
        at = (addr + done) & U64_MAX
        vma = _reachable(task, at, done, write=False)
        part, cause = placing(task, vma).read_bytes(
            length=min(length - done, vma.vm_end - at), **_of_vma(task, vma, at)
        )
        parts.append(part)
        done += len(part)
        if cause:
            _resolve(task, vma, cause, addr, done)
    return b"".join(parts)


def store(task: "Task", addr: int, data: bytes) -> int:
    """Write bytes, as so many stores would; return how many.

    Raises:
        MemoryFault: a store ended in a signal; ``done`` bytes had been written.
    """
    done = 0
    while done < len(data):
        at = (addr + done) & U64_MAX
        vma = _reachable(task, at, done, write=True)
        part = data[done : done + vma.vm_end - at]
        prepare_for(task.mm, vma, at, at + len(part), write=True)
        got, cause = placing(task, vma).write_bytes(data=part, **_of_vma(task, vma, at))
        done += got
        if cause:
            _resolve(task, vma, cause, addr, done)
    return done


def _reachable(task: "Task", at: int, done: int, *, write: bool) -> "VmArea":
    """Find the VMA that allows an access at ``at``, and that has something behind it."""
    vma = find_for_access(task, at, done, write=write)
    if vma.file is not None and (vma.file.is_special or vma.file.is_hugetlb):
        _check_unusual(vma, at, done)
    return vma


def _of_vma(task: "Task", vma: "VmArea", at: int) -> "VmaFacts":
    """Tell physical memory what it must know of an access and its VMA."""
    mm = task.mm
    return {
        "mm": mm.id,
        "cpu": task.cpu,
        "addr": at,
        "vm_start": vma.vm_start,
        "vm_end": vma.vm_end,
        "vm_flags": vma.vm_flags | mm.fault_flags,
        "obj": 0 if vma.file is None else vma.file.inode.core_id,
        "pgoff": vma.vm_pgoff,
        "prealloc": prealloc_pfn(vma),
    }


def _resolve(task: "Task", vma: "VmArea", cause: str, addr: int, done: int) -> None:
    """Map the run that an access missed, or end the access in a signal."""
    if cause == RUN_PAGE_ABSENT:
        map_run(task, vma, vma.vm_start, vma.vm_end)
        return
    raise fault_of(cause, (addr + done) & U64_MAX, done)


def _check_unusual(vma: "VmArea", at: int, done: int) -> None:
    """Refuse pages that have nothing behind them.

    The pool of huge pages is empty, so that hugetlb_no_page() ends in SIGBUS; of [vvar] some pages
    do: lib/vdso/datastore.c:vvar_fault(), v6.18.
    """
    page = vma.vm_pgoff + ((at - vma.vm_start) >> PAGE_SHIFT)
    file = vma.file
    if not isinstance(file, SpecialMapping) or page in file.absent:
        raise MemoryFault(SIGBUS, BUS_ADRERR, at, done)


def page_align(length: int) -> int:
    """Round up to pages in 64 bits: PAGE_ALIGN(), which wraps to 0."""
    return (length + PAGE_SIZE - 1) & PAGE_MASK & U64_MAX
