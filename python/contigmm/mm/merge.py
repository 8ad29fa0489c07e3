"""When neighbouring VMAs become one, and how one becomes two: mm/vma.c, v6.18.

A merge asks for equal attributes, adjoining page offsets and compatible anonymous identities. The
flags of ``VM_STICKY`` neither prevent a merge nor get lost by it.
"""

from typing import TYPE_CHECKING

from contigmm.abi import EINVAL, ENOMEM, PAGE_SHIFT, PMD_SIZE
from contigmm.errors import Reason, SyscallError
from contigmm.mm.anon_vma import AnonVma, anon_vma_clone
from contigmm.mm.flags import MERGE_IGNORED, VM_SPECIAL, VM_STICKY, VmFlags
from contigmm.mm.vma import Mempolicy, VmArea, continues_run, is_shared_maywrite, vma_pages

if TYPE_CHECKING:
    from contigmm.mm.files import Backing
    from contigmm.mm.mm_struct import MmStruct


def _same_attributes(
    vma: VmArea, vm_flags: int, file: "Backing | None", policy: Mempolicy | None
) -> bool:
    """Compare all but place and identity: is_mergeable_vma(), v6.18."""
    return (
        not (vma.vm_flags ^ vm_flags) & MERGE_IGNORED and vma.file is file and vma.policy == policy
    )


def had_uncowed_parents(vma: VmArea | None) -> bool:
    """Did the VMA inherit pages over a fork? vma_had_uncowed_parents(), v6.18."""
    return vma is not None and vma.anon_vma is not None and len(vma.anon_chain) != 1


def _compatible_identity(target: VmArea, anon_vma: AnonVma | None, source: VmArea | None) -> bool:
    """May ``target`` take over pages of ``anon_vma``? is_mergeable_anon_vma(), v6.18.

    ``source`` is the VMA whose pages they are, if there is one.
    """
    own = target.anon_vma
    if own is None and anon_vma is not None:
        return not had_uncowed_parents(source)
    if own is not None and anon_vma is None:
        return len(target.anon_chain) == 1
    return own is anon_vma


def _neighbours_compatible(left: VmArea, right: VmArea) -> bool:
    """May both neighbours end up in one VMA? are_anon_vmas_compatible(), v6.18."""
    one, other = left.anon_vma, right.anon_vma
    return one is None or other is None or one is other


def _removable(vma: VmArea) -> bool:
    """VMAs with a close hook may not vanish in a merge: can_merge_remove_vma(), v6.12."""
    return vma.file is None or not vma.file.is_special


def dup_anon_vma(dst: VmArea, src: VmArea) -> None:
    """Let ``dst`` cover the pages of ``src`` too: dup_anon_vma(), v6.12."""
    if src.anon_vma is not None and dst.anon_vma is None:
        dst.anon_vma = src.anon_vma
        anon_vma_clone(dst, src)


def merge_new_range(
    mm: "MmStruct",
    prev: VmArea | None,
    next_: VmArea | None,
    *,
    start: int,
    end: int,
    vm_flags: int,
    pgoff: int,
    file: "Backing | None" = None,
    policy: Mempolicy | None = None,
    anon_vma: AnonVma | None = None,
    copied_from: VmArea | None = None,
    just_expand: bool = False,
) -> VmArea | None:
    """Grow a neighbour over the free range ``[start, end)``; None if neither may.

    vma_merge_new_range() with vma_expand(), v6.18. ``copied_from`` is the VMA that mremap copies:
    its pages come along.
    """
    if vm_flags & VM_SPECIAL:
        return None
    left = (
        prev is not None
        and prev.vm_end == start
        and _same_attributes(prev, vm_flags, file, policy)
        and prev.vm_pgoff + vma_pages(prev) == pgoff
        and _compatible_identity(prev, anon_vma, copied_from)
    )
    right = (
        not just_expand
        and next_ is not None
        and next_.vm_start == end
        and _same_attributes(next_, vm_flags, file, policy)
        and next_.vm_pgoff == pgoff + ((end - start) >> PAGE_SHIFT)
        and _compatible_identity(next_, anon_vma, copied_from)
        and (not left or (prev is not None and _neighbours_compatible(prev, next_)))
    )
    sticky = vm_flags & VM_STICKY
    if left:
        assert prev is not None
        target = prev
        if right:
            assert next_ is not None
            dup_anon_vma(prev, next_)
            sticky |= next_.vm_flags & VM_STICKY
            mm.unlink(next_)
            mm.drop(next_)
            end = next_.vm_end
        mm.resize(prev, prev.vm_start, end)
    elif right:
        assert next_ is not None
        target = next_
        next_.vm_pgoff = pgoff
        mm.resize(next_, start, next_.vm_end)
    else:
        return None
    if sticky:
        target.vm_flags = VmFlags(target.vm_flags | sticky)
    if copied_from is not None:
        dup_anon_vma(target, copied_from)
    return target


def _may_join(
    left: VmArea, right: VmArea, middle: VmArea, vm_flags: int, policy: Mempolicy | None
) -> bool:
    """May ``middle``, with new attributes, join the neighbour that is not ``middle``?"""
    other = right if left is middle else left
    if vm_flags & VM_SPECIAL and not continues_run(left, right):
        return False
    return (
        _same_attributes(other, vm_flags, middle.file, policy)
        and left.vm_pgoff + vma_pages(left) == right.vm_pgoff
        and _compatible_identity(other, middle.anon_vma, middle)
    )


def merge_existing_range(
    mm: "MmStruct",
    middle: VmArea,
    *,
    start: int,
    end: int,
    vm_flags: int,
    policy: Mempolicy | None,
) -> VmArea | None:
    """Merge ``[start, end)`` of ``middle``, about to change, with neighbours that are so already.

    vma_merge_existing_range(), v6.18. The result holds the range; None if nothing merged.
    """
    next_ = mm.next_of(middle) if end == middle.vm_end else None
    prev = mm.prev_of(start) if start == middle.vm_start else None
    left = (
        prev is not None
        and prev.vm_end == start
        and _may_join(prev, middle, middle, vm_flags, policy)
    )
    right = (
        next_ is not None
        and next_.vm_start == end
        and _may_join(middle, next_, middle, vm_flags, policy)
        and (not left or (prev is not None and _neighbours_compatible(prev, next_)))
    )
    if not left and not right:
        return None
    whole = start == middle.vm_start and end == middle.vm_end
    if whole and not _removable(middle):
        return None
    if left and right and next_ is not None and not _removable(next_):
        right = False
    sticky = vm_flags & VM_STICKY
    if left:
        assert prev is not None
        target = prev
        _merge_left(mm, prev, middle, next_ if right else None, end)
    else:
        assert next_ is not None
        target = next_
        _merge_right(mm, middle, next_, start)
    if right and next_ is not None:
        sticky |= next_.vm_flags & VM_STICKY
    if sticky:
        target.vm_flags = VmFlags(target.vm_flags | sticky)
    return target


def _merge_left(
    mm: "MmStruct", prev: VmArea, middle: VmArea, next_: VmArea | None, end: int
) -> None:
    """Extend ``prev`` to ``end``, or over all of ``next_``; commit_merge(), v6.18."""
    if next_ is not None:
        dup_anon_vma(prev, next_ if next_.anon_vma is not None else middle)
        mm.unlink(middle)
        mm.unlink(next_)
        mm.resize(prev, prev.vm_start, next_.vm_end)
        mm.drop(middle)
        mm.drop(next_)
        return
    dup_anon_vma(prev, middle)
    if end == middle.vm_end:
        mm.unlink(middle)
        mm.resize(prev, prev.vm_start, end)
        mm.drop(middle)
        return
    moved = (end - middle.vm_start) >> PAGE_SHIFT
    middle.vm_pgoff += moved
    if middle.run is not None:
        middle.run_offset += moved
    mm.resize(middle, end, middle.vm_end)
    mm.resize(prev, prev.vm_start, end)
    _split_huge(mm, end)


def _merge_right(mm: "MmStruct", middle: VmArea, next_: VmArea, start: int) -> None:
    """Extend ``next_`` down to ``start``; commit_merge(), v6.18."""
    dup_anon_vma(next_, middle)
    moved = (next_.vm_start - start) >> PAGE_SHIFT
    next_.vm_pgoff -= moved
    if next_.run is not None:
        next_.run_offset -= moved
    if start == middle.vm_start:
        mm.unlink(middle)
        mm.resize(next_, start, next_.vm_end)
        mm.drop(middle)
        return
    mm.resize(middle, middle.vm_start, start)
    mm.resize(next_, start, next_.vm_end)
    _split_huge(mm, start)


def split_unchecked(mm: "MmStruct", vma: VmArea, addr: int, *, new_below: bool) -> VmArea:
    """Cut ``vma`` at ``addr`` without asking for the limit of VMAs: __split_vma(), v6.12.

    ``vma`` stays the upper piece when ``new_below``, else the lower one; the new piece is
    returned.

    Raises:
        SyscallError: EINVAL, this kind of mapping cannot be cut there.
    """
    file = vma.file
    if file is not None and (file.is_special or file.is_hugetlb):
        _check_may_split(file, addr)
    new = mm.dup_vma(vma)
    old_start, old_end = vma.vm_start, vma.vm_end
    moved = (addr - old_start) >> PAGE_SHIFT
    upper = vma if new_below else new
    upper.vm_pgoff += moved
    if upper.run is not None and upper.run.pieces_merge:
        upper.run_offset += moved
    if vma.anon_vma is not None or vma.anon_chain:
        anon_vma_clone(new, vma)
    if new_below:
        new.vm_end = addr
        mm.resize(vma, addr, old_end)
    else:
        new.vm_start = addr
        mm.resize(vma, old_start, addr)
    mm.link(new)
    _split_huge(mm, addr)
    return new


def _split_huge(mm: "MmStruct", addr: int) -> None:
    """A huge page may not straddle a boundary of VMAs: vma_adjust_trans_huge(), v6.12."""
    huge = mm.config.huge
    if huge is not None and addr & (PMD_SIZE - 1):
        huge.split_huge_at(mm=mm.id, vpn=addr >> PAGE_SHIFT)


def _check_may_split(file: "Backing", addr: int) -> None:
    page_bytes = getattr(file, "page_bytes", 0)
    if not page_bytes or addr & (page_bytes - 1):  # hugetlb_vm_op_split(), special_mapping_split()
        raise SyscallError(EINVAL, Reason.MAPPING_MAY_NOT_SPLIT)


def split_vma(mm: "MmStruct", vma: VmArea, addr: int, *, new_below: bool) -> VmArea:
    """Cut ``vma`` at ``addr`` if there may be one VMA more: split_vma(), v6.12.

    Raises:
        SyscallError: ENOMEM, max_map_count is reached; EINVAL as split_unchecked().
    """
    if mm.map_count >= mm.config.max_map_count:
        raise SyscallError(ENOMEM, Reason.TOO_MANY_MAPPINGS)
    return split_unchecked(mm, vma, addr, new_below=new_below)


def vma_modify(
    mm: "MmStruct",
    vma: VmArea,
    *,
    start: int,
    end: int,
    vm_flags: int,
    policy: Mempolicy | None,
) -> tuple[VmArea, bool]:
    """Make ``[start, end)`` of ``vma`` a VMA that may take new attributes: vma_modify(), v6.18.

    Returns the VMA of the range and whether it is a merged one, which has the attributes already.

    Raises:
        SyscallError: ENOMEM, max_map_count is reached; EINVAL, the mapping cannot be cut.
    """
    merged = merge_existing_range(mm, vma, start=start, end=end, vm_flags=vm_flags, policy=policy)
    if merged is not None:
        return merged, True
    if vma.vm_start < start:
        split_vma(mm, vma, start, new_below=True)
    if vma.vm_end > end:
        split_vma(mm, vma, end, new_below=False)
    return vma, False


def modify_flags(mm: "MmStruct", vma: VmArea, start: int, end: int, vm_flags: VmFlags) -> VmArea:
    """Give ``[start, end)`` of ``vma`` new flags, merging or splitting as it must.

    vma_modify_flags() and the vm_flags_reset() that follows it, v6.18.

    Raises:
        SyscallError: as vma_modify().
    """
    found, merged = vma_modify(mm, vma, start=start, end=end, vm_flags=vm_flags, policy=vma.policy)
    if not merged:
        set_flags(found, vm_flags)
    return found


def set_flags(vma: VmArea, vm_flags: VmFlags) -> None:
    """Replace the flags of a linked VMA, keeping its file's count of writers true."""
    file = vma.file
    if file is not None:
        file.inode.writable_mappings += is_shared_maywrite(vm_flags) - is_shared_maywrite(
            vma.vm_flags
        )
    vma.vm_flags = vm_flags
