"""Copying an address space, and its end: dup_mmap() and exit_mmap(), mm/mmap.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import ENOMEM, PAGE_SHIFT
from contigmm.errors import Reason, SyscallError
from contigmm.mm.anon_vma import anon_vma_fork
from contigmm.mm.causes import no_memory
from contigmm.mm.flags import (
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_LOCKED_MASK,
    VM_MAYBE_GUARD,
    VM_MIXEDMAP,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_WIPEONFORK,
    VmFlags,
)
from contigmm.mm.vma import VmArea, vma_pages

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task

#: Page tables are copied even where nothing anonymous is: VM_COPY_ON_FORK, v6.18.
_COPY_ON_FORK = VM_PFNMAP | VM_MIXEDMAP | VM_MAYBE_GUARD

_COPIED = (
    "total_vm", "data_vm", "exec_vm", "stack_vm", "mmap_base", "mmap_legacy_base", "topdown",
    "mdwe", "ksm_any", "fault_flags", "start_brk", "brk", "start_code", "end_code", "start_data",
    "end_data", "start_stack", "arg_start", "env_end",
)  # fmt: skip


def dup_mmap(parent: "Task", child: "Task") -> None:
    """Copy the VMAs and page tables of ``parent`` into the empty ``child``.

    Raises:
        SyscallError: ENOMEM, a promise that cannot be made twice or no frames; the child is
            empty again.
    """
    old, new = parent.mm, child.mm
    for name in _COPIED:
        setattr(new, name, getattr(old, name))
    new.def_flags = VmFlags(old.def_flags & VM_NOHUGEPAGE)  # VM_INIT_DEF_MASK
    ranges: list[tuple[int, int, int]] = []
    for vma in old.all_vmas():
        if vma.vm_flags & VM_DONTCOPY:
            new.account(vma.vm_flags, -vma_pages(vma))
            continue
        if vma.vm_flags & VM_ACCOUNT and not parent.vm_enough_memory(vma_pages(vma)):
            exit_mmap(child, new)
            raise SyscallError(ENOMEM, Reason.OVERCOMMIT)
        copy = _copy_vma(child, new, vma)
        wiped = copy.vm_flags & VM_WIPEONFORK
        if not wiped and (vma.anon_vma is not None or vma.vm_flags & _COPY_ON_FORK):
            ranges.append((vma.vm_start >> PAGE_SHIFT, vma.vm_end >> PAGE_SHIFT, vma.vm_flags))
    _, cause = old.memory.fork(parent=old.id, child=new.id, cpu=parent.cpu, ranges=ranges)
    if cause:
        exit_mmap(child, new)
        raise no_memory(cause)
    new.hiwater_vm = new.total_vm


def _copy_vma(child: "Task", new: "MmStruct", vma: VmArea) -> VmArea:
    copy = new.dup_vma(vma)
    copy.anon_vma = None
    if not vma.vm_flags & VM_WIPEONFORK and vma.anon_vma is not None:
        anon_vma_fork(copy, vma)
    copy.vm_flags = VmFlags(vma.vm_flags & ~VM_LOCKED_MASK)
    if vma.run is not None:
        new.config.contig.fork(child, new, copy)
    new.link(copy)
    return copy


def leave_mm(task: "Task", mm: "MmStruct") -> int:
    """One task less uses ``mm``, the last one drops it; return the frames freed: mmput(), v6.18."""
    mm.users -= 1
    return exit_mmap(task, mm) if mm.users == 0 else 0


def exit_mmap(task: "Task", mm: "MmStruct") -> int:
    """Drop everything; return how many frames became free: exit_mmap(), v6.18."""
    vmas = mm.all_vmas()
    freed: int = mm.memory.mm_exit(mm.id, cpu=task.cpu)
    accounted = 0
    for vma in vmas:
        if vma.vm_flags & VM_ACCOUNT:
            accounted += vma_pages(vma)
        if vma.run is not None:
            mm.config.contig.release(task, mm, vma)
        mm.unlink(vma)
        mm.drop(vma)
    mm.config.overcommit.committed -= accounted
    return freed
