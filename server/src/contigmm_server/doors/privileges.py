"""Privileged processes: uid 0, a capability, a limit above a fresh process's. Who starts them."""

from collections.abc import Sequence
from typing import Any, Final

from contigmm.abi import RLIMIT_NUMBERS
from contigmm.mm.config import default_rlimits
from contigmm.v1 import operation_pb2
from contigmm_server.doors.caller import CURRENT, Role
from contigmm_server.failures import role_too_low

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


def _privilege(spec: operation_pb2.ProcessSpec) -> str:
    """What of a process is privileged; empty: nothing."""
    if spec.uid == 0:
        return "uid 0 (the default: name another)"
    if spec.capabilities:
        return "capabilities"
    for name, limit in spec.rlimits.items():
        number = RLIMIT_NUMBERS.get(name)
        if number is not None and max(limit.soft, limit.hard) > _DEFAULTS[number][1]:
            return f"a raised limit {name}"
    return ""
