"""execve(2) as memory sees it: begin_new_exec() and exec_mmap(), fs/exec.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import ADDR_COMPAT_LAYOUT, PR_MDWE_NO_INHERIT, READ_IMPLIES_EXEC, RLIMIT_STACK
from contigmm.mm.config import mmap_base_for
from contigmm.mm.flags import VM_NOHUGEPAGE, VmFlags
from contigmm.mm.fork import leave_mm
from contigmm.mm.mm_struct import MmStruct

if TYPE_CHECKING:
    from contigmm.mm.ports import VmaIndexPort
    from contigmm.mm.task import Task


def execve(task: "Task", *, index: "VmaIndexPort") -> int:
    """Give the task an empty address space of its own; the old one goes with its last user.

    No image is loaded (docs/fidelity.md). What outlives it, as in Linux: limits, personality but
    for READ_IMPLIES_EXEC, and what mm_init() inherits: PR_SET_THP_DISABLE, PR_SET_MDWE,
    PR_SET_MEMORY_MERGE. What ends: mappings, locks to come (MCL_FUTURE), descriptors marked so.
    """
    old = task.mm
    config = old.config
    new = MmStruct(config.memory, config, index, task.rlimits)
    new.def_flags = VmFlags(old.def_flags & VM_NOHUGEPAGE)  # VM_INIT_DEF_MASK
    new.fault_flags = old.fault_flags
    new.ksm_any = old.ksm_any
    new.mdwe = 0 if old.mdwe & PR_MDWE_NO_INHERIT else old.mdwe
    leave_mm(task, old)
    task.mm = new
    task.persona &= ~READ_IMPLIES_EXEC
    stack_soft = task.rlimits[RLIMIT_STACK][0]
    new.mmap_base = mmap_base_for(stack_soft, stack_guard_gap=config.stack_guard_gap)
    new.topdown = not task.persona & ADDR_COMPAT_LAYOUT
    if task.files.users > 1:  # unshare_files(), before anything is closed
        shared = task.files
        task.files = shared.copy()
        shared.leave()
    for fd in sorted(task.files.close_on_exec):
        task.files.close(fd)
    return 0
