"""Who may have how much: resource limits, expansion of an address space, overcommit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    OVERCOMMIT_ALWAYS,
    OVERCOMMIT_GUESS,
    PAGE_SHIFT,
    RLIMIT_AS,
    RLIMIT_DATA,
    RLIMIT_MEMLOCK,
)
from contigmm.mm.flags import VM_LOCKED
from contigmm.mm.vma import is_data_mapping

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.mm.task import Task

#: admin_reserve_kbytes and user_reserve_kbytes, mm/mmap.c:init_admin_reserve(), v6.12
ADMIN_RESERVE_PAGES: Final = 8192 >> 2
USER_RESERVE_PAGES: Final = 131072 >> 2


@dataclass(slots=True)
class Overcommit:
    """Promises of memory on one machine: /proc/sys/vm/overcommit_*, and what was promised."""

    total_ram_pages: int
    total_swap_pages: int = 0
    mode: int = OVERCOMMIT_GUESS
    ratio: int = 50  # per cent of RAM, for mode 2
    kbytes: int = 0  # replaces ratio when not 0
    hugetlb_pages: int = 0
    committed: int = 0  # pages: Committed_AS

    def commit_limit(self) -> int:
        """CommitLimit in pages: mm/util.c:vm_commit_limit(), v6.12."""
        if self.kbytes:
            allowed = self.kbytes >> (PAGE_SHIFT - 10)
        else:
            allowed = (self.total_ram_pages - self.hugetlb_pages) * self.ratio // 100
        return allowed + self.total_swap_pages

    def charge(self, mm: "MmStruct", pages: int, *, is_admin: bool) -> bool:
        """Promise ``pages`` and tell whether they may be: __vm_enough_memory(), v6.12."""
        self.committed += pages
        if self.mode == OVERCOMMIT_ALWAYS:
            return True
        if self.mode == OVERCOMMIT_GUESS:
            if pages <= self.total_ram_pages + self.total_swap_pages:
                return True
        else:
            allowed = self.commit_limit()
            if not is_admin:
                allowed -= ADMIN_RESERVE_PAGES
            allowed -= min(mm.total_vm // 32, USER_RESERVE_PAGES)
            if self.committed < allowed:
                return True
        self.committed -= pages
        return False


def may_expand_vm(mm: "MmStruct", vm_flags: int, pages: int) -> bool:
    """May the address space grow by ``pages``? mm/mmap.c:may_expand_vm(), v6.12."""
    rlimits = mm.rlimits
    if mm.total_vm + pages > rlimits[RLIMIT_AS][0] >> PAGE_SHIFT:
        return False
    soft, hard = rlimits[RLIMIT_DATA]
    if is_data_mapping(vm_flags) and mm.data_vm + pages > soft >> PAGE_SHIFT:
        # Workaround for Valgrind: a limit of 0 that could be raised does not count.
        return soft == 0 and mm.data_vm + pages <= hard >> PAGE_SHIFT
    return True


def can_do_mlock(task: "Task") -> bool:
    """May the task lock anything at all? mm/mlock.c:can_do_mlock(), v6.12."""
    return task.rlimits[RLIMIT_MEMLOCK][0] != 0 or "CAP_IPC_LOCK" in task.caps


def mlock_future_ok(task: "Task", mm: "MmStruct", vm_flags: int, length: int) -> bool:
    """May ``length`` more bytes be locked, if they would be? mm/mmap.c:mlock_future_ok(), v6.12."""
    if not vm_flags & VM_LOCKED or "CAP_IPC_LOCK" in task.caps:
        return True
    pages = (length >> PAGE_SHIFT) + mm.locked_vm
    return pages <= task.rlimits[RLIMIT_MEMLOCK][0] >> PAGE_SHIFT
