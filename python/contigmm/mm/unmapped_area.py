"""Where a mapping goes when nobody says: __get_unmapped_area(), mm/mmap.c, v6.18 for x86-64."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    EINVAL,
    ENOMEM,
    EPERM,
    MAP_32BIT,
    MAP_ABOVE4G,
    MAP_FIXED,
    MAP_SHARED,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    TASK_SIZE,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.flags import VM_GROWSDOWN

if TYPE_CHECKING:
    from contigmm.mm.files import Backing
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea

_32BIT_LOW, _32BIT_HIGH = 0x4000_0000, 0x8000_0000


def vm_start_gap(mm: "MmStruct", vma: "VmArea") -> int:
    """Return the lowest address that a growsdown VMA keeps to itself: vm_start_gap(), v6.12."""
    if vma.vm_flags & VM_GROWSDOWN:
        return max(vma.vm_start - mm.config.stack_guard_gap, 0)
    return vma.vm_start


def _highest(
    mm: "MmStruct", length: int, low: int, high: int, *, align_mask: int = 0
) -> int | None:
    """Search from above: unmapped_area_topdown(), mm/vma.c, v6.12.

    A gap that runs into the guard of a growsdown VMA ends the search above that guard for good,
    even for gaps below the VMAs in between.
    """
    low = max(low, mm.config.mmap_min_addr)
    find, vmas = mm.find_id, mm.vmas
    while True:
        found = mm.index.highest_gap(length=length, low=low, high=high, align_mask=align_mask)
        if found is None:
            return None
        above = find(found)
        if above is None or not vmas[above].vm_flags & VM_GROWSDOWN:
            return found
        gap_end = min(vmas[above].vm_start, high)
        guard = vm_start_gap(mm, vmas[above])
        if guard >= gap_end:
            return found
        high = guard


def _lowest(mm: "MmStruct", length: int, low: int, high: int, *, align_mask: int = 0) -> int | None:
    """Search from below: unmapped_area(), mm/vma.c, v6.12."""
    low = max(low, mm.config.mmap_min_addr)
    while True:
        found = mm.index.lowest_gap(length=length, low=low, high=high, align_mask=align_mask)
        if found is None:
            return None
        above = mm.find_vma(found)
        if above is None or vm_start_gap(mm, above) >= found + length + align_mask - 1:
            return found
        low = above.vm_end


def _bottom_up(mm: "MmStruct", addr: int, length: int, flags: int) -> int | None:
    """arch_get_unmapped_area(), arch/x86/kernel/sys_x86_64.c, v6.12."""
    low, high = mm.mmap_legacy_base, TASK_SIZE
    if flags & MAP_32BIT:
        low, high = _32BIT_LOW, _32BIT_HIGH
    if length > high:
        return None
    if addr:
        addr = (addr + PAGE_SIZE - 1) & PAGE_MASK
        if high - length >= addr:
            vma = mm.find_vma(addr)
            if vma is None or addr + length <= vm_start_gap(mm, vma):
                return addr
    return _lowest(mm, length, low, high)


def _top_down(mm: "MmStruct", addr: int, length: int, flags: int) -> int | None:
    """arch_get_unmapped_area_topdown(), arch/x86/kernel/sys_x86_64.c, v6.12."""
    if length > TASK_SIZE:
        return None
    if not flags & MAP_32BIT:
        if addr:
            hint = addr & PAGE_MASK
            # mmap_address_hint_valid(): with four-level tables nothing reaches beyond the window
            if TASK_SIZE - length >= hint:
                vma = mm.find_vma(hint)
                if vma is None or hint + length <= vm_start_gap(mm, vma):
                    return hint
        low = 1 << 32 if flags & MAP_ABOVE4G else PAGE_SIZE
        found = _highest(mm, length, low, mm.mmap_base)
        if found is not None:
            return found
    return _bottom_up(mm, addr, length, flags)


def _plain(mm: "MmStruct", addr: int, length: int, flags: int) -> int | None:
    """mm_get_unmapped_area_vmflags(), mm/mmap.c, v6.12."""
    if flags & MAP_FIXED:
        return addr
    if mm.topdown:
        return _top_down(mm, addr, length, flags)
    return _bottom_up(mm, addr, length, flags)


def _thp_aligned(mm: "MmStruct", addr: int, length: int, offset: int, flags: int) -> int | None:
    """Prefer an address congruent to ``offset`` (bytes) modulo the size of a huge page.

    thp_get_unmapped_area_vmflags(), mm/huge_memory.c, v6.12.
    """
    end, aligned = offset + length, (offset + PMD_SIZE - 1) & ~(PMD_SIZE - 1)
    if end > aligned and end - aligned >= PMD_SIZE:
        found = _plain(mm, addr, length + PMD_SIZE, flags)
        if found is not None:
            if found == addr:
                return addr
            below = (offset - found) & (PMD_SIZE - 1)
            return found + (PMD_SIZE if mm.topdown and not below else below)
    return _plain(mm, addr, length, flags)


def _shmem(mm: "MmStruct", addr: int, length: int, pgoff: int, flags: int) -> int | None:
    """Prefer an address as aligned as its place in the object: shmem_get_unmapped_area(), v6.18.

    Only where huge pages of shared memory are enabled, and no hint was honoured.
    """
    found = _plain(mm, addr, length, flags)
    if found is None or mm.config.thp_shmem in ("never", "deny") or flags & MAP_FIXED:
        return found
    offset = (pgoff << PAGE_SHIFT) & (PMD_SIZE - 1)
    cut = bool(offset) and offset + length < 2 * PMD_SIZE
    aligned = found & (PMD_SIZE - 1) == offset
    if found == addr or length < PMD_SIZE or cut or aligned:
        return found
    inflated = _plain(mm, addr, length + PMD_SIZE - PAGE_SIZE, flags)
    if inflated is None or inflated > TASK_SIZE - length:
        return found
    return inflated + ((offset - inflated) & (PMD_SIZE - 1))


def get_unmapped_area(
    task: "Task",
    file: "Backing | None",
    addr: int,
    length: int,
    pgoff: int,
    flags: int,
) -> int:
    """Choose the address of a mapping of ``length`` bytes.

    Raises:
        SyscallError: ENOMEM, no room; EINVAL, a fixed address off a page; EPERM, too low.
    """
    mm = task.mm
    if length > TASK_SIZE:
        raise SyscallError(ENOMEM, Reason.BEYOND_TASK_SIZE)
    if file is not None and file.thp_aligned:
        found = _thp_aligned(mm, addr, length, pgoff << 12, flags)
    elif flags & MAP_SHARED if file is None else file.is_shmem:
        found = _shmem(mm, addr, length, 0 if file is None else pgoff, flags)
    elif file is not None and file.is_hugetlb:
        found = _hugetlb(task, file, addr, length, flags)
    elif file is None and not addr and not length & (PMD_SIZE - 1):
        found = _thp_aligned(mm, addr, length, 0, flags)
    else:
        found = _plain(mm, addr, length, flags)
    if found is None:
        raise SyscallError(ENOMEM, Reason.NO_GAP)
    if found > TASK_SIZE - length:
        raise SyscallError(ENOMEM, Reason.BEYOND_TASK_SIZE)
    if found & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    # security/commoncap.c:cap_mmap_addr(), v6.12
    if found < mm.config.dac_mmap_min_addr and "CAP_SYS_RAWIO" not in task.caps:
        raise SyscallError(EPERM, Reason.ADDRESS_BELOW_MIN)
    return found


def _hugetlb(task: "Task", file: "Backing", addr: int, length: int, flags: int) -> int | None:
    """hugetlb_get_unmapped_area(), fs/hugetlbfs/inode.c, v6.18."""
    page_bytes: int = getattr(file, "page_bytes", PMD_SIZE)
    mm = task.mm
    if length & (page_bytes - 1):
        raise SyscallError(EINVAL, Reason.LENGTH_OVERFLOWS)
    if flags & MAP_FIXED:
        if addr & (page_bytes - 1):
            raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
        return addr
    if addr:
        hint = (addr + page_bytes - 1) & -page_bytes
        if TASK_SIZE - length >= hint:
            vma = mm.find_vma(hint)
            if vma is None or hint + length <= vm_start_gap(mm, vma):
                return hint
    if not mm.topdown or flags & MAP_32BIT:
        low, high = mm.mmap_legacy_base, TASK_SIZE
        if flags & MAP_32BIT:
            low, high = _32BIT_LOW, _32BIT_HIGH
        return _lowest(mm, length, low, high, align_mask=page_bytes - 1)
    return _highest(mm, length, PAGE_SIZE, mm.mmap_base, align_mask=page_bytes - 1)
