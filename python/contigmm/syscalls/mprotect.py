"""mprotect(2) and pkey_mprotect(2): do_mprotect_pkey(), mm/mprotect.c, v6.18."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    EACCES,
    EINVAL,
    ENOMEM,
    EPERM,
    PAGE_SHIFT,
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    PROT_SEM,
    PROT_WRITE,
    READ_IMPLIES_EXEC,
    U64_MAX,
)
from contigmm.errors import Reason, SyscallError
from contigmm.mm.fault import page_align
from contigmm.mm.flags import (
    PROT_BITS,
    VM_ACCESS_FLAGS,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_NORESERVE,
    VM_SEALED,
    VM_SHARED,
    VM_WRITE,
    VmFlags,
)
from contigmm.mm.limits import may_expand_vm
from contigmm.mm.merge import modify_flags
from contigmm.mm.mmap_region import denies_write_exec, expansion_refused
from contigmm.mm.populate import populate_vma

if TYPE_CHECKING:
    from contigmm.mm.task import Task
    from contigmm.mm.vma import VmArea

_GROWS: Final = PROT_GROWSDOWN | PROT_GROWSUP
_KNOWN_PROT: Final = PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM
_ALREADY_CHARGED: Final = VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE


def mprotect(task: "Task", addr: int, length: int, prot: int) -> int:
    """Change the permissions of a range.

    VMA by VMA: what came before the one that fails stays changed.

    Raises:
        SyscallError: EINVAL, ENOMEM, EACCES or EPERM; ``reason`` names the check.
    """
    return pkey_mprotect(task, addr, length, prot, -1)


def pkey_mprotect(task: "Task", addr: int, length: int, prot: int, pkey: int) -> int:
    """mprotect(2) with a protection key; the simulated CPU has none, so that only -1 is known.

    Raises:
        SyscallError: as :func:`mprotect`; EINVAL, a key that is not allocated.
    """
    grows = prot & _GROWS
    prot &= ~_GROWS
    if grows == _GROWS:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    if addr & 0xFFF:
        raise SyscallError(EINVAL, Reason.ADDRESS_UNALIGNED)
    if length == 0:
        return 0
    end = (addr + page_align(length)) & U64_MAX
    if end <= addr:
        raise SyscallError(ENOMEM, Reason.RANGE_OVERFLOWS)
    if prot & ~_KNOWN_PROT:
        raise SyscallError(EINVAL, Reason.UNKNOWN_PROT)
    if pkey & 0xFFFF_FFFF != 0xFFFF_FFFF:
        raise SyscallError(EINVAL, Reason.BAD_PKEY)
    start = _first_address(task, addr, end, grows)
    while start < end:
        vma = task.mm.find_vma(start)
        if vma is None or vma.vm_start > start:
            raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
        start = _fixup(task, vma, start, min(vma.vm_end, end), prot)
    return 0


def _first_address(task: "Task", start: int, end: int, grows: int) -> int:
    """Where the change begins: PROT_GROWSDOWN goes down to the start of the VMA."""
    vma = task.mm.intersection(start, end)
    if vma is None:
        raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
    if grows & PROT_GROWSDOWN:
        if not vma.vm_flags & VM_GROWSDOWN:
            raise SyscallError(EINVAL, Reason.NOT_GROWSDOWN)
        return vma.vm_start
    if vma.vm_start > start:
        raise SyscallError(ENOMEM, Reason.NOT_MAPPED)
    if grows & PROT_GROWSUP:  # no VMA grows up on x86
        raise SyscallError(EINVAL, Reason.NOT_GROWSDOWN)
    return start


def _fixup(task: "Task", vma: "VmArea", start: int, end: int, prot: int) -> int:
    """Change ``[start, end)`` of one VMA; return where the result ends."""
    mm = task.mm
    old = vma.vm_flags
    if task.persona & READ_IMPLIES_EXEC and prot & PROT_READ and old & VM_MAYEXEC:
        prot |= PROT_EXEC
    new = (old & ~VM_ACCESS_FLAGS) | (prot & PROT_BITS)
    if new & ~(new >> 4) & VM_ACCESS_FLAGS:
        raise SyscallError(EACCES, Reason.NOT_PERMITTED_BY_MAPPING)
    if denies_write_exec(mm, old, new):
        raise SyscallError(EACCES, Reason.WRITE_EXEC_DENIED)
    if old & VM_SEALED:
        raise SyscallError(EPERM, Reason.SEALED)
    if new == old:
        return vma.vm_end
    pages = (end - start) >> PAGE_SHIFT
    charged = 0
    if new & VM_WRITE:
        if not may_expand_vm(mm, new, pages) and may_expand_vm(mm, old, pages):
            raise expansion_refused(mm, pages)
        if not old & _ALREADY_CHARGED:
            charged = pages
            if not task.vm_enough_memory(charged):
                raise SyscallError(ENOMEM, Reason.OVERCOMMIT)
            new |= VM_ACCOUNT
    elif old & VM_ACCOUNT and vma.file is None and vma.anon_vma is None:
        new &= ~VM_ACCOUNT
    try:
        vma = modify_flags(mm, vma, start, end, VmFlags(new))
    except SyscallError:
        mm.config.overcommit.committed -= charged
        raise
    mm.memory.protect(mm=mm.id, vpn=start >> PAGE_SHIFT, nr=pages, vm_flags=vma.vm_flags)
    if old & VM_ACCOUNT and not new & VM_ACCOUNT:
        mm.config.overcommit.committed -= pages
    if old & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and new & VM_WRITE:
        populate_vma(task, vma, start, end)
    mm.account(old, -pages)
    mm.account(new, pages)
    return vma.vm_end
