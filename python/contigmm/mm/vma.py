"""One virtual memory area: a range of addresses with one set of attributes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from contigmm.abi import PAGE_SHIFT
from contigmm.mm.flags import (
    VM_DROPPABLE,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_SHARED,
    VM_SPECIAL,
    VM_WRITE,
    VmFlags,
)

if TYPE_CHECKING:
    from contigmm.mm.anon_vma import AnonVma
    from contigmm.mm.files import Backing
    from contigmm.mm.policy import Run

#: ``struct mempolicy`` as far as VMAs compare it: (mode, nodes), or None for the task's own.
Mempolicy: TypeAlias = tuple[int, int]


@dataclass(slots=True, eq=False)  # identity is what the kernel compares; not frozen: VMAs are hot
class VmArea:
    """``struct vm_area_struct``."""

    id: int  # never reused within one mm
    vm_start: int  # first byte
    vm_end: int  # one past the last byte
    vm_flags: VmFlags
    vm_pgoff: int  # pages: offset in the file, or where a private VMA was first made
    file: "Backing | None"  # None: private anonymous
    anon_vma: "AnonVma | None" = None
    anon_chain: "tuple[AnonVma, ...]" = ()
    policy: Mempolicy | None = None
    run: "Run | None" = None  # MAP_CONTIG: the run that backs this VMA
    run_offset: int = 0  # pages: where in the run this VMA begins


def vma_pages(vma: VmArea) -> int:
    """Length in pages."""
    return (vma.vm_end - vma.vm_start) >> PAGE_SHIFT


_DATA_BITS: Final = VM_WRITE | VM_SHARED | VM_GROWSDOWN
_EXEC_BITS: Final = VM_EXEC | VM_WRITE | VM_GROWSDOWN


def is_data_mapping(vm_flags: int) -> bool:
    """Private and writable, and no stack: what RLIMIT_DATA counts. mm/vma.h, v6.12."""
    return vm_flags & _DATA_BITS == VM_WRITE


def is_exec_mapping(vm_flags: int) -> bool:
    """Code: executable, not writable, no stack. mm/vma.h, v6.12."""
    return vm_flags & _EXEC_BITS == VM_EXEC


def is_shared_maywrite(vm_flags: int) -> bool:
    """May stores reach the object behind it? include/linux/mm.h, v6.12."""
    both = VM_SHARED | VM_MAYWRITE
    return vm_flags & both == both


def accountable_mapping(file: "Backing | None", vm_flags: int) -> bool:
    """Does a new mapping promise memory? Shared objects account for themselves.

    mm/vma.h:accountable_mapping(), v6.12.
    """
    if file is not None and file.is_hugetlb:
        return False
    return vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE


def vma_supports_mlock(vm_flags: int) -> bool:
    """Can the pages of such a VMA be locked? mm/internal.h:vma_supports_mlock(), v6.18."""
    return not vm_flags & (VM_SPECIAL | VM_DROPPABLE | VM_HUGETLB)


def vma_is_anonymous(vma: VmArea) -> bool:
    """No object behind it: private anonymous memory. include/linux/mm.h, v6.12."""
    return vma.file is None


def may_share_perms(vm_flags: int) -> str:
    """The fourth letter of a maps line: fs/proc/task_mmu.c:show_vma_header_prefix(), v6.12."""
    return "s" if vm_flags & VM_MAYSHARE else "p"


def continues_run(left: VmArea, right: VmArea) -> bool:
    """Tell whether ``right`` is the next piece of the same contiguous run as ``left``.

    Neighbours in virtual memory need not be neighbours in physical memory: a contiguous VMA
    merges with nothing but the next piece of its own run (ours; docs/fidelity.md). Pieces of the
    RFC's runs all begin at 0, and so follow none.
    """
    return (
        left.run is right.run
        and left.run is not None
        and left.run_offset + vma_pages(left) == right.run_offset
    )
