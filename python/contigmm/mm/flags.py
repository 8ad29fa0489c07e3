"""``vm_flags``: the attributes of a VMA, and the letters by which smaps names them.

What user space passes is a plain ``int``; what the kernel derived from it is a ``VmFlags``, and
the type checker tells the two apart. It is no ``IntFlag``: unknown bits must survive, and a bit
test must cost nanoseconds.
"""

from typing import Final, NewType

from contigmm.abi import (
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_STACK,
    MAP_SYNC,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)

VmFlags = NewType("VmFlags", int)

# include/linux/mm.h, v6.18
VM_NONE: Final = VmFlags(0)
VM_READ: Final = VmFlags(0x1)
VM_WRITE: Final = VmFlags(0x2)
VM_EXEC: Final = VmFlags(0x4)
VM_SHARED: Final = VmFlags(0x8)
VM_MAYREAD: Final = VmFlags(0x10)
VM_MAYWRITE: Final = VmFlags(0x20)
VM_MAYEXEC: Final = VmFlags(0x40)
VM_MAYSHARE: Final = VmFlags(0x80)
VM_GROWSDOWN: Final = VmFlags(0x100)
VM_PFNMAP: Final = VmFlags(0x400)
VM_MAYBE_GUARD: Final = VmFlags(0x800)  # v6.19, and in stable v6.18
VM_LOCKED: Final = VmFlags(0x2000)
VM_IO: Final = VmFlags(0x4000)
VM_SEQ_READ: Final = VmFlags(0x8000)
VM_RAND_READ: Final = VmFlags(0x1_0000)
VM_DONTCOPY: Final = VmFlags(0x2_0000)
VM_DONTEXPAND: Final = VmFlags(0x4_0000)
VM_LOCKONFAULT: Final = VmFlags(0x8_0000)
VM_ACCOUNT: Final = VmFlags(0x10_0000)
VM_NORESERVE: Final = VmFlags(0x20_0000)
VM_HUGETLB: Final = VmFlags(0x40_0000)
VM_SYNC: Final = VmFlags(0x80_0000)
VM_WIPEONFORK: Final = VmFlags(0x200_0000)
VM_DONTDUMP: Final = VmFlags(0x400_0000)
VM_SOFTDIRTY: Final = VmFlags(0x800_0000)
VM_MIXEDMAP: Final = VmFlags(0x1000_0000)
VM_HUGEPAGE: Final = VmFlags(0x2000_0000)
VM_NOHUGEPAGE: Final = VmFlags(0x4000_0000)
VM_MERGEABLE: Final = VmFlags(0x8000_0000)
VM_DROPPABLE: Final = VmFlags(1 << 40)
VM_SEALED: Final = VmFlags(1 << 42)
# Ours: a piece of a contiguous run in the profile contig; no bit of Linux.
VM_CONTIG: Final = VmFlags(1 << 50)

VM_SPECIAL: Final = VmFlags(VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP)
VM_LOCKED_MASK: Final = VmFlags(VM_LOCKED | VM_LOCKONFAULT)
VM_ACCESS_FLAGS: Final = VmFlags(VM_READ | VM_WRITE | VM_EXEC)
VM_MAY_ALL: Final = VmFlags(VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC)
# Flags that never prevent a merge and stay on the merged VMA.
VM_STICKY: Final = VmFlags(VM_MAYBE_GUARD | VM_SOFTDIRTY)
MERGE_IGNORED: Final = ~VM_STICKY
VM_DATA_FLAGS_TSK_EXEC: Final = VmFlags(VM_READ | VM_WRITE | VM_MAY_ALL)
# mm/ksm.c:ksm_compatible(), v6.18: what MADV_MERGEABLE passes over
NOT_KSM: Final = VmFlags(VM_SHARED | VM_MAYSHARE | VM_SPECIAL | VM_HUGETLB | VM_DROPPABLE)
# include/linux/huge_mm.h, v6.18
VM_NO_KHUGEPAGED: Final = VmFlags(VM_SPECIAL | VM_HUGETLB)

# fs/proc/task_mmu.c:show_smap_vma_flags(), v6.18, in bit order
_LETTERS: Final = (
    (VM_READ, "rd"), (VM_WRITE, "wr"), (VM_EXEC, "ex"), (VM_SHARED, "sh"), (VM_MAYREAD, "mr"),
    (VM_MAYWRITE, "mw"), (VM_MAYEXEC, "me"), (VM_MAYSHARE, "ms"), (VM_GROWSDOWN, "gd"),
    (VM_PFNMAP, "pf"), (VM_MAYBE_GUARD, "gu"), (VM_LOCKED, "lo"), (VM_IO, "io"),
    (VM_SEQ_READ, "sr"), (VM_RAND_READ, "rr"), (VM_DONTCOPY, "dc"), (VM_DONTEXPAND, "de"),
    (VM_LOCKONFAULT, "lf"), (VM_ACCOUNT, "ac"), (VM_NORESERVE, "nr"), (VM_HUGETLB, "ht"),
    (VM_SYNC, "sf"), (VM_WIPEONFORK, "wf"), (VM_DONTDUMP, "dd"), (VM_SOFTDIRTY, "sd"),
    (VM_MIXEDMAP, "mm"), (VM_HUGEPAGE, "hg"), (VM_NOHUGEPAGE, "nh"), (VM_MERGEABLE, "mg"),
    (VM_DROPPABLE, "dp"), (VM_SEALED, "sl"), (VM_CONTIG, "cg"),
)  # fmt: skip
_BY_LETTERS: Final = {letters: bit for bit, letters in _LETTERS}
_names: dict[int, str] = {}


def vm_flags_letters(vm_flags: VmFlags) -> str:
    """Spell ``vm_flags`` as the VmFlags line of smaps does, without the trailing space."""
    text = _names.get(vm_flags)
    if text is None:
        text = " ".join(letters for bit, letters in _LETTERS if vm_flags & bit)
        _names[vm_flags] = text
    return text


def vm_flags_from_letters(text: str) -> VmFlags:
    """Read a VmFlags line of smaps; letters unknown here are an error.

    Raises:
        KeyError: a pair of letters that no flag of this module has.
    """
    vm_flags = 0
    for letters in text.split():
        vm_flags |= _BY_LETTERS[letters]
    return VmFlags(vm_flags)


# mm/mmap.c:calc_vm_prot_bits(), v6.18: the three bits have the same value on both sides.
PROT_BITS: Final = PROT_READ | PROT_WRITE | PROT_EXEC


def calc_vm_flag_bits(flags: int) -> VmFlags:
    """Derive the VM_* bits that MAP_* ``flags`` ask for: calc_vm_flag_bits(), mman.h, v6.18."""
    vm_flags = 0
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & MAP_LOCKED:
        vm_flags |= VM_LOCKED
    if flags & MAP_SYNC:
        vm_flags |= VM_SYNC
    if flags & MAP_STACK:
        vm_flags |= VM_NOHUGEPAGE  # v6.7
    return VmFlags(vm_flags)
