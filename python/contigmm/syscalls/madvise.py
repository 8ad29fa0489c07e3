"""madvise(2): do_madvise(), mm/madvise.c, v6.18. What an advice does is in mm/advice.py."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EAGAIN,
    EINVAL,
    ENOMEM,
    EPERM,
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm import advice
from contigmm.mm.fault import page_align
from contigmm.mm.flags import VM_SEALED, VM_SHARED, VM_WRITE
from contigmm.mm.merge import modify_flags

if TYPE_CHECKING:
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea

_POPULATE: Final = frozenset({MADV_POPULATE_READ, MADV_POPULATE_WRITE})
#: Advice that changes pages, and what does it.
_ACTIONS: Final = {
    MADV_WILLNEED: advice.willneed,
    MADV_DONTNEED: advice.dontneed,
    MADV_DONTNEED_LOCKED: advice.dontneed_locked,
    MADV_FREE: advice.free,
    MADV_REMOVE: advice.remove,
    MADV_COLD: advice.cold,
    MADV_PAGEOUT: advice.pageout,
    MADV_COLLAPSE: advice.collapse,
    MADV_GUARD_INSTALL: advice.guard_install,
    MADV_GUARD_REMOVE: advice.guard_remove,
}
#: Advice that only changes flags: madvise_vma_behavior().
_FLAGS: Final = frozenset({
    MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_DONTFORK, MADV_DOFORK, MADV_MERGEABLE,
    MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP,
    MADV_WIPEONFORK, MADV_KEEPONFORK,
})  # fmt: skip
#: Advice that loses contents: is_madv_discard(), v6.18.
_DISCARDS: Final = frozenset({
    MADV_FREE, MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_REMOVE, MADV_DONTFORK, MADV_WIPEONFORK,
    MADV_GUARD_INSTALL,
})  # fmt: skip
_KNOWN: Final = frozenset(_ACTIONS) | _FLAGS | _POPULATE


def madvise(task: "Task", addr: int, length: int, behavior: int) -> int:
    """Advise on a range.

    Holes are passed over, and reported at the end; an error of one VMA ends the walk.

    Raises:
        SyscallError: EINVAL, ENOMEM, EAGAIN, EPERM, EACCES or EFAULT; ``reason`` names the check.
    """
    behavior &= 0xFFFF_FFFF
    if behavior not in _KNOWN:
        raise SyscallError(EINVAL, Reason.UNKNOWN_ADVICE)
    if addr & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    aligned = page_align(length)
    if length and not aligned:
        raise SyscallError(EINVAL, Reason.LENGTH_OVERFLOWS)
    end = (addr + aligned) & U64_MAX
    if end < addr:
        raise SyscallError(EINVAL, Reason.RANGE_OVERFLOWS)
    if end == addr:
        return 0
    if behavior in _POPULATE:
        advice.populate(task, addr, end, write=behavior == MADV_POPULATE_WRITE)
        return 0
    _walk(task, addr, end, behavior)
    return 0


def _walk(task: "Task", start: int, end: int, behavior: int) -> None:
    """Go from VMA to VMA: madvise_walk_vmas(), v6.18."""
    mm = task.mm
    hole = False
    while start < end:
        vma = mm.find_vma(start)
        if vma is None:
            raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
        if start < vma.vm_start:
            hole = True
            start = vma.vm_start
            if start >= end:
                break
        stop = min(vma.vm_end, end)
        start = max(stop, _one(task, vma, start, stop, behavior))
    if hole:
        raise SyscallError(ENOMEM, Reason.NOT_MAPPED)


def _one(task: "Task", vma: "VmArea", start: int, end: int, behavior: int) -> int:
    """Advise on a part of one VMA; return where the VMA of that part ends."""
    if vma.vm_flags & VM_SEALED and behavior in _DISCARDS and not _may_discard_sealed(vma):
        raise SyscallError(EPERM, Reason.SEALED)
    action = _ACTIONS.get(behavior)
    if action is not None:
        action(task, vma, start, end)
        return end
    new = advice.new_flags(task.mm, vma, behavior)
    if new == vma.vm_flags:
        return end
    try:
        return modify_flags(task.mm, vma, start, end, new).vm_end
    except SyscallError as refusal:
        if refusal.errno == ENOMEM:  # "kernel resources temporarily unavailable"
            raise SyscallError(EAGAIN, refusal.reason) from None
        raise


def _may_discard_sealed(vma: "VmArea") -> bool:
    """A sealed mapping may lose contents that its owner could overwrite, or that are not its own.

    can_madvise_modify(), mm/madvise.c, v6.18: what is not anonymous may, also [vdso], and what may
    be written.
    """
    return vma.file is not None or bool(vma.vm_flags & (VM_SHARED | VM_WRITE))
