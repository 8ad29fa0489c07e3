"""The address space: its VMAs, its counters, and the index that finds them.

What may be done with VMAs is in merge.py, munmap.py and the system calls; here they are kept.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

from contigmm.abi import TASK_SIZE
from contigmm.mm.anon_vma import unlink_anon_vmas
from contigmm.mm.flags import (
    VM_EXEC,
    VM_GROWSDOWN,
    VM_NONE,
    VM_SHARED,
    VM_WRITE,
    VmFlags,
)
from contigmm.mm.vma import VmArea, is_shared_maywrite

if TYPE_CHECKING:
    from contigmm.mm.config import MmConfig
    from contigmm.mm.files import Backing
    from contigmm.mm.ports import MemoryPort, VmaIndexPort

#: Kinds of mapping that Vm* lines of status count apart.
_CLASS_BITS = VM_WRITE | VM_SHARED | VM_GROWSDOWN | VM_EXEC

Rlimits: TypeAlias = dict[int, tuple[int, int]]


class MmStruct:
    """``struct mm_struct``. Counters are in pages, addresses in bytes."""

    __slots__ = (
        "arg_start", "brk", "config", "data_vm", "def_flags", "end_code", "end_data", "env_end",
        "exec_vm", "fault_flags", "find_id", "hiwater_vm", "id", "index", "ksm_any", "locked_vm",
        "map_count", "mdwe", "memory", "mmap_base", "mmap_legacy_base", "next_vma_id",
        "pinned_vm", "rlimits", "stack_vm",
        "start_brk", "start_code", "start_data", "start_stack", "topdown", "total_vm", "users",
        "vmas",
    )  # fmt: skip

    def __init__(
        self,
        memory: "MemoryPort",
        config: "MmConfig",
        index: "VmaIndexPort",
        rlimits: Rlimits,
        *,
        mm_id: int | None = None,
    ) -> None:
        self.memory = memory
        self.config = config
        self.index = index
        self.find_id = index.find
        self.rlimits = rlimits  # of the process: signal->rlim
        # A restored one is in physical memory already.
        self.id = memory.mm_create() if mm_id is None else mm_id
        self.vmas: dict[int, VmArea] = {}
        self.next_vma_id = 1
        self.users = 1  # tasks that share it
        self.map_count = 0
        self.total_vm = self.data_vm = self.exec_vm = self.stack_vm = 0
        self.locked_vm = self.pinned_vm = 0
        self.hiwater_vm = 0  # most pages it had before it last lost some
        self.def_flags: VmFlags = VM_NONE
        self.mmap_base = config.mmap_base
        self.mmap_legacy_base = config.mmap_legacy_base
        self.topdown = True
        self.mdwe = 0  # PR_MDWE_* bits
        self.fault_flags = 0  # added to vm_flags at faults: VM_NOHUGEPAGE by PR_SET_THP_DISABLE
        self.ksm_any = False  # PR_SET_MEMORY_MERGE
        self.start_brk = self.brk = 0
        self.start_code = self.end_code = self.start_data = self.end_data = 0
        self.start_stack = self.arg_start = self.env_end = 0

    # -- finding ------------------------------------------------------------------------
    def find_vma(self, addr: int) -> VmArea | None:
        """Return the first VMA that ends above ``addr``: find_vma()."""
        found = self.find_id(addr)
        return None if found is None else self.vmas[found]

    def vma_lookup(self, addr: int) -> VmArea | None:
        """Return the VMA that holds ``addr``: vma_lookup()."""
        found = self.find_id(addr)
        if found is None:
            return None
        vma = self.vmas[found]
        return vma if vma.vm_start <= addr else None

    def intersection(self, start: int, end: int) -> VmArea | None:
        """Return the first VMA that touches ``[start, end)``: find_vma_intersection()."""
        found = self.find_id(start)
        if found is None:
            return None
        vma = self.vmas[found]
        return vma if vma.vm_start < end else None

    def prev_of(self, start: int) -> VmArea | None:
        """Return the last VMA that begins below ``start``."""
        found = self.index.prev(start)
        return None if found is None else self.vmas[found]

    def next_of(self, vma: VmArea) -> VmArea | None:
        """Return the VMA after ``vma``."""
        found = self.find_id(vma.vm_end)
        return None if found is None else self.vmas[found]

    def vmas_in(self, start: int, end: int) -> list[VmArea]:
        """Return the VMAs that touch ``[start, end)``, in order."""
        if start >= end:
            return []
        vmas = self.vmas
        return [vmas[found] for found in self.index.range(start, end)]

    def all_vmas(self) -> list[VmArea]:
        """Return every VMA in order of address."""
        return self.vmas_in(0, TASK_SIZE)

    # -- keeping ------------------------------------------------------------------------
    def new_vma(
        self, start: int, end: int, vm_flags: VmFlags, pgoff: int, file: "Backing | None"
    ) -> VmArea:
        """Make a VMA that is not in the index yet."""
        new_id = self.next_vma_id
        self.next_vma_id = new_id + 1
        return VmArea(new_id, start, end, vm_flags, pgoff, file)

    def dup_vma(self, vma: VmArea) -> VmArea:
        """Copy a VMA except for its chain: vm_area_dup()."""
        new = self.new_vma(vma.vm_start, vma.vm_end, vma.vm_flags, vma.vm_pgoff, vma.file)
        new.anon_vma = vma.anon_vma
        new.policy = vma.policy
        new.run = vma.run
        new.run_offset = vma.run_offset
        return new

    def link(self, vma: VmArea) -> None:
        """Put a VMA into the index and its file's list: vma_link(), v6.12."""
        self.vmas[vma.id] = vma
        self.index.insert(start=vma.vm_start, end=vma.vm_end, id=vma.id)
        self.map_count += 1
        if vma.file is not None:
            inode = vma.file.inode
            inode.i_mmap[vma] = self
            if is_shared_maywrite(vma.vm_flags):
                inode.writable_mappings += 1

    def unlink(self, vma: VmArea) -> None:
        """Take a VMA out of the index; it keeps its chain and its file."""
        del self.vmas[vma.id]
        self.index.remove(vma.vm_start)
        self.map_count -= 1

    def drop(self, vma: VmArea) -> None:
        """Release what an unlinked VMA held: remove_vma(), v6.12."""
        if vma.anon_chain:
            unlink_anon_vmas(vma)
        file = vma.file
        if file is None:
            return
        inode = file.inode
        del inode.i_mmap[vma]
        if is_shared_maywrite(vma.vm_flags):
            inode.writable_mappings -= 1
        if not inode.i_mmap:
            self.config.last_unmapped(file)

    def resize(self, vma: VmArea, start: int, end: int) -> None:
        """Move the ends of a linked VMA; vm_pgoff is the caller's to set."""
        self.index.replace(vma.vm_start, new_start=start, new_end=end)
        vma.vm_start = start
        vma.vm_end = end

    # -- counting -----------------------------------------------------------------------
    def account(self, vm_flags: int, pages: int) -> None:
        """Count ``pages`` more of such a mapping: vm_stat_account(), v6.12."""
        self.total_vm += pages
        bits = vm_flags & _CLASS_BITS
        if bits & VM_GROWSDOWN:
            self.stack_vm += pages
        elif bits & VM_WRITE:
            if not bits & VM_SHARED:
                self.data_vm += pages
        elif bits & VM_EXEC:
            self.exec_vm += pages

    def status(self) -> dict[str, int]:
        """Vm* and Rss* of /proc/PID/status in kB: fs/proc/task_mmu.c:task_mem(), v6.12."""
        anon, file, shmem, pgtable_bytes = self.memory.rss(self.id)
        text = self.end_code + (-self.end_code & 0xFFF) - (self.start_code & ~0xFFF)
        text = min(text >> 10, self.exec_vm << 2)
        return {
            "VmPeak": max(self.hiwater_vm, self.total_vm) << 2,
            "VmHWM": self.memory.hiwater_rss(self.id) << 2,
            "VmSize": self.total_vm << 2, "VmLck": self.locked_vm << 2,
            "VmPin": self.pinned_vm << 2, "VmRSS": (anon + file + shmem) << 2,
            "RssAnon": anon << 2, "RssFile": file << 2, "RssShmem": shmem << 2,
            "VmData": self.data_vm << 2, "VmStk": self.stack_vm << 2, "VmExe": text,
            "VmLib": (self.exec_vm << 2) - text, "VmPTE": pgtable_bytes >> 10,
        }  # fmt: skip

    def name_of(self, vma: VmArea) -> str:
        """Name a VMA as /proc/PID/maps does: get_vma_name(), fs/proc/task_mmu.c, v6.12."""
        if vma.file is not None:
            return vma.file.name
        if vma.run is not None:
            return vma.run.maps_name()
        if vma.vm_start < self.brk and vma.vm_end > self.start_brk:
            return "[heap]"
        if vma.vm_start <= self.start_stack <= vma.vm_end:
            return "[stack]"
        return ""

    _COUNTERS = (
        "total_vm", "data_vm", "exec_vm", "stack_vm", "hiwater_vm", "locked_vm", "pinned_vm",
        "def_flags", "mmap_base", "mmap_legacy_base", "topdown", "mdwe", "ksm_any", "fault_flags",
        "start_brk", "brk", "start_code", "end_code", "start_data", "end_data",
        "start_stack", "arg_start", "env_end", "next_vma_id", "users",
    )  # fmt: skip

    def counters(self) -> dict[str, Any]:
        """Return the plain part of the state; snapshot.py adds VMAs and identities."""
        return {name: getattr(self, name) for name in self._COUNTERS}
