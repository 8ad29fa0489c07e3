"""Which VMAs may have huge pages: thp_vma_allowable_orders(), mm/huge_memory.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import PAGE_SHIFT, PMD_SIZE
from contigmm.mm.flags import VM_HUGEPAGE, VM_NO_KHUGEPAGED, VM_NOHUGEPAGE

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.vma import VmArea

_HPAGE_PMD_NR = PMD_SIZE >> PAGE_SHIFT


def thp_at_fault(mm: "MmStruct", vma: "VmArea") -> bool:
    """May a fault in this VMA make a huge page of anonymous memory?"""
    config = mm.config
    vm_flags = vma.vm_flags
    if vma.file is not None or (vm_flags | mm.fault_flags) & VM_NOHUGEPAGE:
        return False
    return config.thp_always or (config.thp_madvise and bool(vm_flags & VM_HUGEPAGE))


def thp_eligible(mm: "MmStruct", vma: "VmArea") -> bool:
    """Tell the line THPeligible of smaps."""
    if vma.file is None:
        return _is_suitable(vma) and thp_at_fault(mm, vma)
    refused = (vma.vm_flags | mm.fault_flags) & VM_NOHUGEPAGE
    return vma.file.is_shmem and not refused and _is_suitable(vma) and _shmem_allows(mm, vma)


def may_collapse(mm: "MmStruct", vma: "VmArea") -> bool:
    """May MADV_COLLAPSE make huge pages in this VMA, whatever the settings say?

    Files of a disk have none without CONFIG_READ_ONLY_THP_FOR_FS.
    """
    if (vma.vm_flags | mm.fault_flags) & (VM_NOHUGEPAGE | VM_NO_KHUGEPAGED):
        return False
    if vma.file is None:
        return _is_suitable(vma) and vma.anon_vma is not None
    return vma.file.is_shmem and mm.config.thp_shmem != "deny" and _is_suitable(vma)


def _is_suitable(vma: "VmArea") -> bool:
    """Is there room for a huge page, at an address as aligned as its place in the object?

    thp_vma_suitable_order(), include/linux/huge_mm.h, v6.18.
    """
    shift = (vma.vm_start >> PAGE_SHIFT) - vma.vm_pgoff
    if vma.file is not None and shift % _HPAGE_PMD_NR:
        return False
    inside = (vma.vm_start + PMD_SIZE - 1) & -PMD_SIZE
    return inside + PMD_SIZE <= vma.vm_end


def _shmem_allows(mm: "MmStruct", vma: "VmArea") -> bool:
    """May the first page of a VMA be huge? shmem_allowable_huge_orders(), mm/shmem.c, v6.18."""
    assert vma.file is not None, "of shared memory"
    mode = mm.config.thp_shmem
    if mode in ("always", "force"):
        return True
    end = (vma.vm_pgoff // _HPAGE_PMD_NR + 1) * _HPAGE_PMD_NR
    if mode == "within_size" and end <= vma.file.inode.nr_pages():
        return True
    return mode in ("within_size", "advise") and bool(vma.vm_flags & VM_HUGEPAGE)
