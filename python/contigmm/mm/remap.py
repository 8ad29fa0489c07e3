"""Moving a mapping: copy_vma(), move_vma() and their like, mm/mremap.c and mm/vma.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import (
    EINVAL,
    ENOMEM,
    MAP_FIXED,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    PAGE_SHIFT,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.anon_vma import anon_vma_clone, unlink_anon_vmas
from contigmm.mm.causes import no_memory
from contigmm.mm.flags import VM_ACCOUNT, VM_LOCKED, VM_LOCKED_MASK, VM_MAYSHARE, VmFlags
from contigmm.mm.merge import merge_new_range
from contigmm.mm.munmap import do_munmap
from contigmm.mm.unmapped_area import get_unmapped_area

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea


class Remap:
    """``struct vma_remap_struct``: one mremap on its way."""

    __slots__ = ("addr", "flags", "new_addr", "new_len", "old_len", "populate_expand", "vma")

    def __init__(
        self, vma: "VmArea", addr: int, old_len: int, new_len: int, flags: int, new_addr: int
    ) -> None:
        self.vma = vma
        self.addr = addr
        self.old_len = old_len
        self.new_len = new_len
        self.flags = flags
        self.new_addr = new_addr
        self.populate_expand = False  # locked and grown: fault the new part in at the end


def charge(task: "Task", remap: Remap) -> int:
    """Promise what the new mapping needs more than the old one: vrm_calc_charge(), v6.18.

    Nothing more is asked for too: where promises exceed the strict limit a mere move is refused.

    Raises:
        SyscallError: ENOMEM, overcommit.
    """
    if not remap.vma.vm_flags & VM_ACCOUNT:
        return 0
    more = remap.new_len if remap.flags & MREMAP_DONTUNMAP else remap.new_len - remap.old_len
    pages = more >> PAGE_SHIFT
    if not task.vm_enough_memory(pages):
        raise SyscallError(ENOMEM, Reason.OVERCOMMIT)
    return pages


def account_new(mm: "MmStruct", remap: Remap, length: int) -> None:
    """Count a grown or new mapping: vrm_stat_account(), v6.18."""
    pages = length >> PAGE_SHIFT
    mm.account(remap.vma.vm_flags, pages)
    if remap.vma.vm_flags & VM_LOCKED:
        mm.locked_vm += pages


def set_new_addr(task: "Task", remap: Remap) -> None:
    """Choose where it goes: vrm_set_new_addr(), v6.18.

    Raises:
        SyscallError: as get_unmapped_area().
    """
    vma = remap.vma
    flags = remap.flags
    map_flags = MAP_FIXED if flags & MREMAP_FIXED else 0
    if vma.vm_flags & VM_MAYSHARE:
        map_flags |= MAP_SHARED
    wanted = remap.new_addr if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) else 0
    pgoff = vma.vm_pgoff + ((remap.addr - vma.vm_start) >> PAGE_SHIFT)
    file = vma.file
    if file is not None and file.is_special:
        file = None
    remap.new_addr = get_unmapped_area(task, file, wanted, remap.new_len, pgoff, map_flags)


def copy_vma(mm: "MmStruct", remap: Remap) -> "VmArea":
    """Make the target's VMA, merged with its neighbours if it may be: copy_vma(), v6.18.

    Memory that was never written takes its page offset from the new address, to merge better.
    """
    vma = remap.vma
    addr = remap.new_addr
    if vma.file is None and vma.anon_vma is None:
        pgoff = addr >> PAGE_SHIFT
    else:
        pgoff = vma.vm_pgoff + ((remap.addr - vma.vm_start) >> PAGE_SHIFT)
    old_start = vma.vm_start
    merged = merge_new_range(
        mm,
        mm.prev_of(addr),
        mm.find_vma(addr),
        start=addr,
        end=addr + remap.new_len,
        vm_flags=vma.vm_flags,
        pgoff=pgoff,
        file=vma.file,
        policy=vma.policy,
        anon_vma=vma.anon_vma,
        copied_from=vma,
    )
    if merged is not None:
        if merged.vm_start <= old_start < merged.vm_end:
            remap.vma = merged  # the source has been merged into the target
        return merged
    new = mm.dup_vma(vma)
    new.vm_start, new.vm_end, new.vm_pgoff = addr, addr + remap.new_len, pgoff
    if vma.anon_chain:
        anon_vma_clone(new, vma)
    if new.run is not None:
        if new.run.pieces_merge:
            new.run_offset += (remap.addr - vma.vm_start) >> PAGE_SHIFT
        mm.config.contig.duplicate(mm, new)
    mm.link(new)
    return new


def move_vma(task: "Task", remap: Remap) -> int:
    """Move or duplicate a mapping and its pages: move_vma(), v6.18.

    Raises:
        SyscallError: ENOMEM, too many VMAs or overcommit; EINVAL, it may not be cut.
    """
    mm = task.mm
    if mm.map_count >= mm.config.max_map_count - 3:
        raise SyscallError(ENOMEM, Reason.TOO_MANY_MAPPINGS)
    _check_may_split(remap)
    charge(task, remap)
    new_vma = copy_vma(mm, remap)
    src, dst = remap.addr >> PAGE_SHIFT, remap.new_addr >> PAGE_SHIFT
    nr = remap.old_len >> PAGE_SHIFT
    done, cause = mm.memory.move(mm=mm.id, cpu=task.cpu, src=src, dst=dst, nr=nr)
    if cause:
        mm.memory.move(mm=mm.id, cpu=task.cpu, src=dst, dst=src, nr=done)
        account_new(mm, remap, remap.new_len)
        do_munmap(task, mm, remap.new_addr, remap.new_len)
        raise no_memory(cause)
    hiwater_vm = mm.hiwater_vm
    account_new(mm, remap, remap.new_len)
    if remap.flags & MREMAP_DONTUNMAP:
        _dontunmap_complete(remap, new_vma)
    else:
        _unmap_source(task, remap)
    mm.hiwater_vm = hiwater_vm  # both places counted for a moment only
    return remap.new_addr


def _check_may_split(remap: Remap) -> None:
    """vm_ops->may_split() on both ends: prep_move_vma(), v6.18."""
    vma = remap.vma
    if vma.file is None or not vma.file.is_special:
        return
    if vma.vm_start != remap.addr or vma.vm_end != remap.addr + remap.old_len:
        raise SyscallError(EINVAL, Reason.MAPPING_MAY_NOT_SPLIT)


def _dontunmap_complete(remap: Remap, new_vma: "VmArea") -> None:
    """The source stays, empty and unlocked: dontunmap_complete(), v6.18."""
    vma = remap.vma
    vma.vm_flags = VmFlags(vma.vm_flags & ~VM_LOCKED_MASK)
    whole = vma.vm_start == remap.addr and vma.vm_end == remap.addr + remap.old_len
    if new_vma is not vma and whole:
        unlink_anon_vmas(vma)


def _unmap_source(task: "Task", remap: Remap) -> None:
    """Unmap the source; its promise of memory has moved: unmap_source_vma(), v6.18."""
    mm = task.mm
    vma = remap.vma
    addr, length = remap.addr, remap.old_len
    if not length:
        return
    accounted = vma.vm_flags & VM_ACCOUNT
    start, end = vma.vm_start, vma.vm_end
    if accounted:
        vma.vm_flags = VmFlags(vma.vm_flags & ~VM_ACCOUNT)
    do_munmap(task, mm, addr, length)
    if not accounted:
        return
    if start < addr:
        _account_again(mm.prev_of(addr))
    if end > addr + length:
        _account_again(mm.find_vma(addr + length))


def _account_again(vma: "VmArea | None") -> None:
    if vma is not None:
        vma.vm_flags = VmFlags(vma.vm_flags | VM_ACCOUNT)


def expandable(task: "Task", vma: "VmArea", delta: int) -> bool:
    """Is there free room behind ``vma``? vma_expandable(), v6.18.

    Raises:
        SyscallError: never; a refusal of get_unmapped_area() is the answer no.
    """
    mm = task.mm
    end = vma.vm_end + delta
    if end > U64_MAX or mm.intersection(vma.vm_end, end) is not None:
        return False
    try:
        get_unmapped_area(task, None, vma.vm_start, end - vma.vm_start, 0, MAP_FIXED)
    except SyscallError:  # beyond the end of user space
        return False
    return True


def expand_in_place(task: "Task", remap: Remap, delta: int) -> None:
    """Grow a VMA over free room behind it: expand_vma_in_place(), v6.18.

    Raises:
        SyscallError: ENOMEM, overcommit.
    """
    mm = task.mm
    vma = remap.vma
    charge(task, remap)
    merged = merge_new_range(
        mm,
        vma,
        mm.next_of(vma),
        start=vma.vm_end,
        end=vma.vm_end + delta,
        vm_flags=vma.vm_flags,
        pgoff=vma.vm_pgoff + ((vma.vm_end - vma.vm_start) >> PAGE_SHIFT),
        file=vma.file,
        policy=vma.policy,
        anon_vma=vma.anon_vma,
    )
    assert merged is vma, "a VMA continues itself"
    account_new(mm, remap, delta)
