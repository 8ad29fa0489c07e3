"""Operations and answers between the wire and the simulator: per operation, so it is kept cheap."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Final

from contigmm.errors import ERRNO_NAMES, Reason
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import MAX_OPERATIONS, Answer, Call, ExitCause, Operation
from contigmm.v1 import operation_pb2 as pb
from contigmm.v1 import reason_pb2
from contigmm_server.failures import ErrorReason, invalid
from contigmm_server.limits import BATCH_READ_BYTES, READ_BYTES

PAGE_SHIFT: Final = 12
_NAME_BYTES: Final = 15  # TASK_COMM_LEN - 1, include/linux/sched.h, v6.18

# Plain ints: looking a member up in an enum costs as much as the rest of a decoder.
_FORK: Final = int(Call.FORK)
_EXIT: Final = int(Call.EXIT)
_MMAP: Final = int(Call.MMAP)
_MUNMAP: Final = int(Call.MUNMAP)
_MPROTECT: Final = int(Call.MPROTECT)
_MLOCK: Final = int(Call.MLOCK)
_MUNLOCK: Final = int(Call.MUNLOCK)
_TOUCH: Final = int(Call.TOUCH)
_READ: Final = int(Call.READ)
_WRITE: Final = int(Call.WRITE)

# Judged cost, in microseconds; what is over commands.SHORT_US in all leaves the event loop.
CALL_US: Final = 12.0
"""Of any call."""
_PAGE_US: Final = 0.1
_TEARDOWN_US: Final = 300.0  # fork and exit walk whole address spaces
_MOST_PAGES: Final = 1 << 22


def spawn(spec: pb.ProcessSpec) -> Operation:
    """The operation that starts a process.

    Raises:
        ServiceError: INVALID_ARGUMENT, the name is too long.
    """
    if len(spec.name.encode()) > _NAME_BYTES:
        raise invalid(
            ErrorReason.ERROR_REASON_INVALID_FIELD, f"spec.name: more than {_NAME_BYTES} bytes"
        )
    data = SpawnSpec(
        name=spec.name,
        caps=frozenset(spec.capabilities),
        rlimits={name: (limit.soft, limit.hard) for name, limit in spec.rlimits.items()},
    ).encode()
    return Operation(Call.SPAWN, 0, (spec.uid, spec.cpu, spec.node), data)


def fork(process: int, _call: pb.ForkCall) -> Operation:
    """fork(2)."""
    return Operation(_FORK, process)


def leave(process: int, call: pb.ExitCall) -> Operation:
    """exit_group(2)."""
    return Operation(_EXIT, process, (call.status, ExitCause.EXITED))


def advance_clock(_process: int, call: pb.AdvanceClockCall) -> Operation:
    """Time passes."""
    return Operation(Call.ADVANCE_CLOCK, 0, (call.duration_ns,))


def mmap(process: int, call: pb.MmapCall) -> Operation:
    """mmap(2)."""
    fd = call.fd if call.HasField("fd") else -1
    return Operation(
        _MMAP, process, (call.address, call.length, call.prot, call.flags, fd, call.offset)
    )


def munmap(process: int, call: pb.MunmapCall) -> Operation:
    """munmap(2)."""
    return Operation(_MUNMAP, process, (call.address, call.length))


def mprotect(process: int, call: pb.MprotectCall) -> Operation:
    """mprotect(2)."""
    return Operation(_MPROTECT, process, (call.address, call.length, call.prot))


def mlock(process: int, call: pb.MlockCall) -> Operation:
    """mlock(2)."""
    return Operation(_MLOCK, process, (call.address, call.length))


def munlock(process: int, call: pb.MunlockCall) -> Operation:
    """munlock(2)."""
    return Operation(_MUNLOCK, process, (call.address, call.length))


def touch(process: int, call: pb.TouchCall) -> Operation:
    """Accesses to every page of a range."""
    return Operation(_TOUCH, process, (call.address, call.length, int(call.write)))


def read(process: int, call: pb.ReadCall) -> Operation:
    """A load.

    Raises:
        ServiceError: INVALID_ARGUMENT, too many bytes.
    """
    _check_bytes(call.length)
    return Operation(_READ, process, (call.address, call.length))


def write(process: int, call: pb.WriteCall) -> Operation:
    """A store.

    Raises:
        ServiceError: INVALID_ARGUMENT, too many bytes.
    """
    _check_bytes(len(call.data))
    return Operation(_WRITE, process, (call.address,), call.data)


def _check_bytes(count: int) -> None:
    if count > READ_BYTES:
        raise invalid(
            ErrorReason.ERROR_REASON_TOO_LARGE,
            f"{count} bytes in one access, at most {READ_BYTES}",
        )


_DECODERS: Final[dict[str, Callable[[int, Any], Operation]]] = {
    "spawn": lambda _process, spec: spawn(spec),
    "fork": fork,
    "exit": leave,
    "advance_clock": advance_clock,
    "mmap": mmap,
    "munmap": munmap,
    "mprotect": mprotect,
    "mlock": mlock,
    "munlock": munlock,
    "touch": touch,
    "read": read,
    "write": write,
}


def decode(batch: Sequence[pb.Operation]) -> list[Operation]:
    """The operations of a batch.

    Raises:
        ServiceError: INVALID_ARGUMENT, nothing of it may be executed.
    """
    check_count(len(batch))
    operations = []
    read_bytes = 0
    for index, wire in enumerate(batch):
        call = wire.WhichOneof("call")
        if call is None:
            raise _bad(index, "no call, or one that this server does not know")
        operation = _DECODERS[call](wire.process, getattr(wire, call))
        if wire.HasField("addr_from"):
            source = operation.addr_from = wire.addr_from
            check_reference(index, source, operation.args)
        if call == "read":
            read_bytes += operation.args[1]
        operations.append(operation)
    if read_bytes > BATCH_READ_BYTES:
        raise invalid(
            ErrorReason.ERROR_REASON_TOO_LARGE,
            f"{read_bytes} bytes read in one batch, at most {BATCH_READ_BYTES}",
        )
    return operations


def check_count(count: int) -> None:
    """Refuse a batch that is too long.

    Raises:
        ServiceError: INVALID_ARGUMENT.
    """
    if count > MAX_OPERATIONS:
        raise invalid(
            ErrorReason.ERROR_REASON_TOO_LARGE,
            f"{count} operations in one batch, at most {MAX_OPERATIONS}",
        )


def check_reference(index: int, source: int, args: tuple[int, ...]) -> None:
    """Refuse a reference that does not point backwards, or from a call without an address.

    Raises:
        ServiceError: INVALID_ARGUMENT.
    """
    if source >= index:
        raise _bad(index, f"addr_from {source} is not an earlier operation")
    if not args:
        raise _bad(index, "addr_from of a call without an address")


def _bad(index: int, what: str) -> Exception:
    return invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, f"operations[{index}]: {what}")


def cost_us(operations: Iterable[Operation]) -> float:
    """Judge from lengths how long operations will take, in microseconds."""
    calls = pages = teardowns = 0
    for operation in operations:
        calls += 1
        if operation.call in _TEARDOWNS:
            teardowns += 1
        elif len(operation.args) > 1:
            pages += min(operation.args[1] >> PAGE_SHIFT, _MOST_PAGES)
    return CALL_US * calls + _PAGE_US * pages + _TEARDOWN_US * teardowns


def cost_of_one_us(operation: Operation) -> float:
    """Judge one operation: :func:`cost_us` of it alone."""
    if operation.call in _TEARDOWNS:
        return CALL_US + _TEARDOWN_US
    args = operation.args
    return CALL_US + (_PAGE_US * min(args[1] >> PAGE_SHIFT, _MOST_PAGES) if len(args) > 1 else 0)


_TEARDOWNS: Final = frozenset({_FORK, _EXIT})


def reason_number(reason: str) -> "reason_pb2.Reason.ValueType":
    """The number of a Reason, 0 for one that the protos do not have."""
    return _REASONS.get(reason, reason_pb2.REASON_UNSPECIFIED)


_NUMBERS: Final = dict(reason_pb2.Reason.items())
_REASONS: Final = {
    reason.value: _NUMBERS[f"REASON_{reason.name}"]
    for reason in Reason
    if f"REASON_{reason.name}" in _NUMBERS
}


def failure(answer: Answer) -> pb.SyscallFailure:
    """The failure on the wire; shared between answers, so not to be changed."""
    if not answer.detail:
        return _failure(answer.errno, answer.reason)
    detailed = pb.SyscallFailure(detail=answer.detail)
    detailed.MergeFrom(_failure(answer.errno, answer.reason))
    return detailed


@cache
def _failure(errno: int, reason: str) -> pb.SyscallFailure:
    return pb.SyscallFailure(
        errno=errno, errno_name=ERRNO_NAMES.get(errno, ""), reason=reason_number(reason)
    )


def fault(answer: Answer) -> pb.Fault:
    """The signal on the wire."""
    return pb.Fault(
        signal=answer.signal, code=answer.code, address=answer.address, done=answer.value
    )


def encode(operations: Sequence[Operation], answers: Sequence[Answer], out: Any) -> None:
    """Append ``answers`` to ``out``, a repeated field of Answer."""
    add = out.add
    for operation, answer in zip(operations, answers, strict=True):
        if answer.errno:
            add(seq=answer.seq, failure=failure(answer))
        elif answer.signal:
            add(seq=answer.seq, fault=fault(answer))
        elif answer.skipped:
            add(skip=pb.Skip(because=cause(operation, answers)))
        elif operation.call == _READ:
            add(seq=answer.seq, data=answer.data)
        else:
            add(seq=answer.seq, value=answer.value)


def cause(skipped: Operation, answers: Sequence[Answer]) -> int:
    """Index of the refused operation because of which ``skipped`` was not executed."""
    source = skipped.addr_from
    if source >= 0 and not answers[source].ok:
        return source
    return next(index for index, answer in enumerate(answers) if not answer.ok)
