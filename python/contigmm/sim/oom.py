"""Who goes when memory is out: the choice of mm/oom_kill.c, v6.12."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contigmm.abi import PAGE_SIZE, SIGKILL
from contigmm.errors import MemoryFault, Reason
from contigmm.syscalls.exit import exit as exit_task

if TYPE_CHECKING:
    from contigmm.mm.mm_struct import MmStruct
    from contigmm.sim.state import MachineState
    from contigmm.sim.table import Entry

#: mm/memory.c:pagefault_out_of_memory() comes of a fault that found nothing after reclaim.
_OUT_OF_MEMORY: Final = Reason.NO_ROOM_AFTER_RECLAIM


def calls_for_victim(fault: MemoryFault) -> bool:
    """Tell whether a fault ended for want of memory that no reclaim could free."""
    return fault.signal == SIGKILL and fault.reason == _OUT_OF_MEMORY


def badness(mm: MmStruct) -> int:
    """Return the frames that an end of this address space would free: ``oom_badness()``.

    Resident pages and page tables; there is no swap, and ``oom_score_adj`` is 0.
    """
    anon, file, shmem, table_bytes = mm.memory.rss(mm.id)
    return anon + file + shmem + table_bytes // PAGE_SIZE


def select_victim(state: MachineState) -> Entry | None:
    """Return the process with the most points, the youngest of those: ``select_bad_process()``.

    One task of each thread group is asked. None: nobody has anything.
    """
    chosen, most = None, 1
    for entry in state.table:
        if entry.task.tgid != entry.task.pid:
            continue
        points = badness(entry.task.mm)
        if points >= most:
            chosen, most = entry, points
    return chosen


def kill_one(state: MachineState) -> bool:
    """End the victim, and all tasks that share its address space; tell whether there was one.

    ``__oom_kill_process()``: each end is an ordinary exit.
    """
    victim = select_victim(state)
    if victim is None:
        return False
    mm = victim.task.mm
    for entry in [entry for entry in state.table if entry.task.mm is mm]:
        exit_task(entry.task)
        state.table.remove(entry.id)
    state.memory.count_oom_kill()
    return True
