"""Locking VMAs into memory: apply_vma_lock_flags() and mlock_fixup(), mm/mlock.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import EINVAL, ENOMEM, PAGE_SHIFT, U64_MAX
from contigmm.errors import Reason, SyscallError
from contigmm.mm.flags import VM_LOCKED, VM_LOCKED_MASK, VmFlags
from contigmm.mm.merge import modify_flags
from contigmm.mm.vma import vma_supports_mlock

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.vma import VmArea


def lock_vma(mm: "MmStruct", vma: "VmArea", start: int, end: int, lock_bits: int) -> "VmArea":
    """Give ``[start, end)`` of one VMA exactly these lock bits: mlock_fixup(), v6.18.

    VMAs that cannot be locked are passed over in silence. Returns the VMA of the range.

    Raises:
        SyscallError: ENOMEM, one VMA too many.
    """
    old = vma.vm_flags
    new = (old & ~VM_LOCKED_MASK) | lock_bits
    if new == old or not vma_supports_mlock(old):
        return vma
    vma = modify_flags(mm, vma, start, end, VmFlags(new))
    pages = (end - start) >> PAGE_SHIFT
    if not new & VM_LOCKED:
        mm.locked_vm -= pages
    elif not old & VM_LOCKED:
        mm.locked_vm += pages
    if (new ^ old) & VM_LOCKED:
        mm.memory.mlock_range(mm=mm.id, vpn=start >> PAGE_SHIFT, nr=pages, vm_flags=new)
    return vma


def apply_vma_lock_flags(mm: "MmStruct", start: int, length: int, lock_bits: int) -> None:
    """Give a whole range these lock bits: apply_vma_lock_flags(), v6.18.

    Raises:
        SyscallError: EINVAL, the range wraps; ENOMEM, a hole (VMAs before it are changed).
    """
    end = (start + length) & U64_MAX
    if end < start:
        raise SyscallError(EINVAL, Reason.RANGE_OVERFLOWS)
    while start < end:
        vma = mm.find_vma(start)
        if vma is None or vma.vm_start > start:
            raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
        start = lock_vma(mm, vma, start, min(vma.vm_end, end), lock_bits).vm_end


def count_locked_pages(mm: "MmStruct", start: int, length: int) -> int:
    """Pages of the range that are locked already: count_mm_mlocked_page_nr(), v6.12."""
    end = min(start + length, U64_MAX)
    return (
        sum(
            min(end, vma.vm_end) - max(start, vma.vm_start)
            for vma in mm.vmas_in(start, end)
            if vma.vm_flags & VM_LOCKED
        )
        >> PAGE_SHIFT
    )


def apply_to_all(mm: "MmStruct", lock_bits: int) -> None:
    """Give every VMA these lock bits, errors ignored: apply_mlockall_flags(), v6.18."""
    start = 0
    while (vma := mm.find_vma(start)) is not None:
        start = vma.vm_end
        try:
            start = lock_vma(mm, vma, vma.vm_start, vma.vm_end, lock_bits).vm_end
        except SyscallError:  # the kernel goes on to the next VMA
            continue
