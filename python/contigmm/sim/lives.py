"""The birth and death of processes: ``Call.SPAWN``, ``FORK``, ``CLONE``, ``EXECVE``, ``EXIT``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from contigmm import foreign_json
from contigmm.abi import EAGAIN, EINVAL, RLIMIT_NUMBERS, U64_MAX
from contigmm.errors import Reason, SyscallError
from contigmm.mm.config import default_rlimits
from contigmm.mm.task import Task
from contigmm.phys import VmaIndex
from contigmm.sim.operation import Operation
from contigmm.sim.state import MachineState
from contigmm.sim.table import Entry
from contigmm.syscalls.clone import clone as clone_task
from contigmm.syscalls.execve import execve as execve_task
from contigmm.syscalls.exit import exit as exit_task
from contigmm.syscalls.fork import fork as fork_task

# include/uapi/linux/capability.h, v6.18: those that memory management asks for.
CAPABILITIES: Final = frozenset(
    {
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_IPC_LOCK",
        "CAP_SYS_ADMIN",
        "CAP_SYS_NICE",
        "CAP_SYS_PTRACE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_RESOURCE",
    }
)


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
            spec = foreign_json.loads(data or b"{}")
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


def spawn(state: MachineState, _: None, operation: Operation) -> int:
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


def fork(state: MachineState, entry: Entry, _: Operation) -> int:
    """Start a copy of a process."""
    _check_room(state)
    child = fork_task(entry.task, pid=state.table.new_pid(), index=VmaIndex())
    return state.table.add(name=entry.name, parent=entry.id, task=child).id


def clone(state: MachineState, entry: Entry, operation: Operation) -> int:
    """Start a task that shares with its parent what the flags say."""
    (flags,) = operation.args
    _check_room(state)
    pid = state.table.new_pid()
    child = clone_task(entry.task, flags & U64_MAX, pid=pid, index=VmaIndex())
    return state.table.add(name=entry.name, parent=entry.id, task=child).id


def execve(state: MachineState, entry: Entry, operation: Operation) -> int:
    """Begin anew in an empty address space, all other threads gone: de_thread(), v6.18."""
    table = state.table
    for other in table.thread_group(entry):
        if other is not entry:
            exit_task(other.task)
            table.remove(other.id)
    table.take_pid(entry, entry.task.tgid)
    entry.name = operation.data.decode(errors="replace")
    return execve_task(entry.task, index=VmaIndex())


def exit(state: MachineState, entry: Entry, _: Operation) -> int:
    """End a process with all its threads, as exit_group(2): address spaces first."""
    for task in state.table.thread_group(entry):
        exit_task(task.task)
        state.table.remove(task.id)
    return 0
