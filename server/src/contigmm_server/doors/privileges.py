"""Privileged processes: uid 0, a capability, a limit above a fresh process's. Who has them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from contigmm.abi import RLIMIT_NUMBERS
from contigmm.mm.config import default_rlimits
from contigmm.sim.machine import Machine
from contigmm.v1 import operation_pb2
from contigmm_server.doors.caller import CURRENT, Caller, Role
from contigmm_server.failures import role_too_low

NOBODY: Final = 65534
"""Linux's overflow uid: DEFAULT_OVERFLOWUID, include/linux/highuid.h, v6.12."""
_DEFAULTS: Final = default_rlimits()


def check(hosted: Any, spec: operation_pb2.ProcessSpec) -> None:
    """Let the caller start this process in a machine.

    Raises:
        ServiceError: PERMISSION_DENIED, it takes the role admin.
    """
    caller = CURRENT.get()
    if caller.everywhere or hosted.access.role_of(caller) == Role.ADMIN:
        return
    what = _privilege(spec)
    if what:
        raise role_too_low(f"a process with {what} takes the role admin")


def check_batch(hosted: Any, operations: Sequence[operation_pb2.Operation]) -> None:
    """Let the caller start every process of a batch.

    Raises:
        ServiceError: As :func:`check`; nothing of the batch is done.
    """
    if not CURRENT.get().everywhere:
        for operation in operations:
            if operation.HasField("spawn"):
                check(hosted, operation.spawn)


def check_machine(caller: Caller, machine: Machine) -> None:
    """Let ``caller`` bring in a machine that has processes already.

    Those of a description belong to nobody afterwards, and have no capability, unless the caller
    might have started them so.

    Raises:
        ServiceError: PERMISSION_DENIED, another process is privileged.
    """
    if caller.everywhere or caller.role == Role.ADMIN:
        return
    for process in machine.processes():
        entry = machine.entry(process.id)
        task = entry.task
        if entry.background:
            task.uid, task.caps = NOBODY, frozenset()
            task.rlimits.update(_lowered(task.rlimits))
            continue
        raised = [name for name, n in RLIMIT_NUMBERS.items() if _raised(n, task.rlimits[n])]
        what = _named(task.uid, bool(task.caps), raised)
        if what:
            raise role_too_low(
                f"process {process.id} has {what}: to restore it takes the role admin"
            )


def _lowered(rlimits: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    return {number: _DEFAULTS[number] for number, pair in rlimits.items() if _raised(number, pair)}


def _privilege(spec: operation_pb2.ProcessSpec) -> str:
    """What of a process is privileged; empty: nothing."""
    limits = {name: (limit.soft, limit.hard) for name, limit in spec.rlimits.items()}
    known = {name: RLIMIT_NUMBERS[name] for name in limits if name in RLIMIT_NUMBERS}
    raised = [name for name, number in known.items() if _raised(number, limits[name])]
    what = _named(spec.uid, bool(spec.capabilities), raised)
    return "uid 0 (the default: name another)" if what == "uid 0" else what


def _raised(number: int, limit: tuple[int, int]) -> bool:
    return max(limit) > _DEFAULTS[number][1]


def _named(uid: int, capable: bool, raised: Sequence[str]) -> str:
    if uid == 0:
        return "uid 0"
    if capable:
        return "capabilities"
    return f"a raised limit {raised[0]}" if raised else ""
