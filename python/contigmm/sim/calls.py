"""What each ``Call`` does: one row a call, and the calls that are the machine's own.

A handler gets the machine's state, the process (``None`` for calls of the machine itself) and the
operation, and returns the answer's value or its data. It raises ``SyscallError`` or
``MemoryFault``. Arguments reach the system calls as the 64-bit words that registers hold.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contigmm.abi import EAGAIN, EINVAL, PAGE_MASK, PAGE_SHIFT, RLIMIT_NUMBERS, U64_MAX
from contigmm.errors import Reason, SyscallError
from contigmm.mm.config import default_rlimits
from contigmm.mm.task import Task
from contigmm.phys import VmaIndex
from contigmm.sim.operation import Call, Operation
from contigmm.sim.state import MachineState
from contigmm.sim.table import Entry
from contigmm.syscalls.brk import brk
from contigmm.syscalls.exit import exit as exit_group
from contigmm.syscalls.fork import fork
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mincore import mincore
from contigmm.syscalls.mlock import mlock, mlock2
from contigmm.syscalls.mlockall import mlockall, munlockall
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.mseal import mseal
from contigmm.syscalls.msync import msync
from contigmm.syscalls.munlock import munlock
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.rlimit import setrlimit
from contigmm.syscalls.touch import load, store, touch_read, touch_write

Handler = Callable[[MachineState, Any, Operation], int | bytes]

# include/uapi/linux/capability.h, v6.18: those that memory management asks for.
CAPABILITIES: Final = frozenset(
    {"CAP_IPC_LOCK", "CAP_SYS_ADMIN", "CAP_SYS_NICE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE"}
)


@dataclass(slots=True, frozen=True)
class CallRow:
    """How an operation of one call is checked and carried out."""

    handler: Handler
    nr_args: int
    of_process: bool = True


@dataclass(slots=True)
class SpawnSpec:
    """What a process is started with beyond the numbers: the data of ``Call.SPAWN``.

    ``rlimits`` maps names without the prefix, such as ``MEMLOCK``, to (soft, hard); what is not
    named has Linux's default.
    """

    name: str = ""
    caps: frozenset[str] = frozenset()
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Write canonical JSON: equal specs are equal bytes."""
        spec = {
            "caps": sorted(self.caps),
            "name": self.name,
            "rlimits": {name: list(pair) for name, pair in self.rlimits.items()},
        }
        return json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> "SpawnSpec":
        """Read what :meth:`encode` wrote; any part may be missing.

        Raises:
            SyscallError: EINVAL, it is no such JSON, or names a capability or a limit that does
                not exist.
        """
        try:
            spec = json.loads(data or b"{}")
            name = str(spec.get("name", ""))
            caps = frozenset(map(str, spec.get("caps", ())))
            pairs = spec.get("rlimits", {}).items()
            rlimits = {str(limit): (int(soft), int(hard)) for limit, (soft, hard) in pairs}
        except (ValueError, TypeError, AttributeError) as error:
            raise SyscallError(EINVAL, Reason.BAD_SPAWN_SPEC) from error
        if not caps <= CAPABILITIES or not rlimits.keys() <= RLIMIT_NUMBERS.keys():
            raise SyscallError(EINVAL, Reason.BAD_SPAWN_SPEC)
        if any(not 0 <= soft <= hard <= U64_MAX for soft, hard in rlimits.values()):
            raise SyscallError(EINVAL, Reason.BAD_SPAWN_SPEC)
        return cls(name, caps, rlimits)


def _spawn(state: MachineState, _: None, operation: Operation) -> int:
    """Start a process with an empty address space."""
    uid, cpu, node = operation.args
    spec = SpawnSpec.decode(operation.data)
    if not 0 <= cpu < state.memory.nr_cpus() or node not in state.nodes or uid < 0:
        raise SyscallError(EINVAL, Reason.BAD_SPAWN_SPEC)
    _check_room(state)
    rlimits = default_rlimits()
    rlimits.update({RLIMIT_NUMBERS[name]: pair for name, pair in spec.rlimits.items()})
    task = Task(
        state.config,
        VmaIndex(),
        pid=state.table.new_pid(),
        uid=uid,
        caps=spec.caps,
        rlimits=rlimits,
        cpu=cpu,
        node=node,
    )
    return state.table.add(name=spec.name, parent=0, task=task).id


def _check_room(state: MachineState) -> None:
    """alloc_pid(), kernel/pid.c, v6.18: EAGAIN when every pid is taken."""
    if state.table.is_full:
        raise SyscallError(EAGAIN, Reason.TOO_MANY_PROCESSES)


def _fork(state: MachineState, entry: Entry, _: Operation) -> int:
    """Start a copy of a process."""
    _check_room(state)
    child = fork(entry.task, pid=state.table.new_pid(), index=VmaIndex())
    return state.table.add(name=entry.name, parent=entry.id, task=child).id


def _exit(state: MachineState, entry: Entry, _: Operation) -> int:
    """End a process: its address space first, then its entry."""
    exit_group(entry.task)
    state.table.remove(entry.id)
    return 0


def _advance_clock(state: MachineState, _: None, operation: Operation) -> int:
    """Let time pass on every CPU."""
    (ns,) = operation.args
    if ns < 0 or state.memory.clock_ns() + ns > U64_MAX >> 1:
        raise SyscallError(EINVAL, Reason.BAD_DURATION)
    state.memory.advance_clock(ns)
    return state.memory.clock_ns()


def _touch(_: MachineState, entry: Entry, operation: Operation) -> int:
    """Read or write one byte of every page that the range touches."""
    addr, length, write = operation.args
    addr &= U64_MAX
    length &= U64_MAX
    nr = ((addr + length + ~PAGE_MASK) >> PAGE_SHIFT) - (addr >> PAGE_SHIFT) if length else 0
    if write:
        return touch_write(entry.task, addr, nr)
    return touch_read(entry.task, addr, nr)[0]


def _read(_: MachineState, entry: Entry, operation: Operation) -> bytes:
    """Load bytes."""
    addr, length = operation.args
    return load(entry.task, addr & U64_MAX, length & U64_MAX)


def _write(_: MachineState, entry: Entry, operation: Operation) -> int:
    """Store bytes."""
    (addr,) = operation.args
    return store(entry.task, addr & U64_MAX, operation.data)


def _words(call: Callable[..., int | bytes]) -> Handler:
    """Make the handler of a system call whose arguments are all words."""

    def handler(_: MachineState, entry: Entry, operation: Operation) -> int | bytes:
        return call(entry.task, *[word & U64_MAX for word in operation.args])

    return handler


CALLS: Final[Mapping[int, CallRow]] = {
    Call.SPAWN: CallRow(_spawn, 3, of_process=False),
    Call.FORK: CallRow(_fork, 0),
    Call.EXIT: CallRow(_exit, 2),
    Call.ADVANCE_CLOCK: CallRow(_advance_clock, 1, of_process=False),
    Call.SETRLIMIT: CallRow(_words(setrlimit), 3),
    Call.MMAP: CallRow(_words(mmap), 6),
    Call.MUNMAP: CallRow(_words(munmap), 2),
    Call.MPROTECT: CallRow(_words(mprotect), 3),
    Call.MREMAP: CallRow(_words(mremap), 5),
    Call.BRK: CallRow(_words(brk), 1),
    Call.MLOCK: CallRow(_words(mlock), 2),
    Call.MLOCK2: CallRow(_words(mlock2), 3),
    Call.MUNLOCK: CallRow(_words(munlock), 2),
    Call.MLOCKALL: CallRow(_words(mlockall), 1),
    Call.MUNLOCKALL: CallRow(_words(munlockall), 0),
    Call.MADVISE: CallRow(_words(madvise), 3),
    Call.MINCORE: CallRow(_words(mincore), 2),
    Call.MSYNC: CallRow(_words(msync), 3),
    Call.MSEAL: CallRow(_words(mseal), 3),
    Call.TOUCH: CallRow(_touch, 3),
    Call.READ: CallRow(_read, 2),
    Call.WRITE: CallRow(_write, 1),
}
