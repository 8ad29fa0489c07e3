"""The processes of a machine: ids that are never reused, pids that are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from contigmm.mm.task import Task

# include/linux/threads.h and kernel/pid.c, v6.18: pids below are for the start of a system.
RESERVED_PIDS: Final = 300
PID_MAX: Final = 32768


@dataclass(slots=True)
class Entry:
    """One process as the machine keeps it."""

    id: int
    name: str
    parent: int  # id, 0: the machine spawned it
    background: bool  # came with the description that the machine was booted from
    task: Task


class ProcessTable:
    """Live processes by id, in the order of their birth."""

    __slots__ = ("_entries", "_last_pid", "_pids", "next_id")

    def __init__(self, *, next_id: int = 1, last_pid: int = RESERVED_PIDS - 1) -> None:
        self._entries: dict[int, Entry] = {}
        self._pids: set[int] = set()
        self._last_pid = last_pid
        self.next_id = next_id

    @property
    def last_pid(self) -> int:
        """The pid given last."""
        return self._last_pid

    def get(self, process: int) -> Entry | None:
        """The live process with this id, if there is one."""
        return self._entries.get(process)

    @property
    def is_full(self) -> bool:
        """Whether every pid is taken."""
        return len(self._pids) >= PID_MAX - RESERVED_PIDS

    def new_pid(self) -> int:
        """Choose the next pid: cyclic, as ``alloc_pid()``, kernel/pid.c v6.18."""
        pid = self._last_pid + 1
        while pid in self._pids or pid >= PID_MAX:
            pid = RESERVED_PIDS if pid >= PID_MAX else pid + 1
        return pid

    def add(self, *, name: str, parent: int, task: Task, background: bool = False) -> Entry:
        """Enter a process whose task has a pid of :meth:`new_pid`."""
        entry = Entry(self.next_id, name, parent, background, task)
        self._last_pid = task.pid
        self.next_id += 1
        self.enter(entry)
        return entry

    def enter(self, entry: Entry) -> None:
        """Put back an entry that has its id and pid already."""
        self._entries[entry.id] = entry
        self._pids.add(entry.task.pid)

    def take_pid(self, entry: Entry, pid: int) -> None:
        """Give an entry the pid of another that is gone: de_thread(), fs/exec.c, v6.18."""
        self._pids.discard(entry.task.pid)
        self._pids.add(pid)
        entry.task.pid = pid

    def find_pid(self, pid: int) -> Entry | None:
        """The live process with this pid, if there is one."""
        return next((entry for entry in self if entry.task.pid == pid), None)

    def thread_group(self, entry: Entry) -> list[Entry]:
        """All live tasks of a task's thread group, the oldest first."""
        return [other for other in self if other.task.tgid == entry.task.tgid]

    def remove(self, process: int) -> Entry:
        """Forget a process; its id is never given again, its pid may be."""
        entry = self._entries.pop(process)
        self._pids.discard(entry.task.pid)
        return entry

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
