"""The library's operations and answers on the wire."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from contigmm.errors import MemoryFault, Reason, SyscallError
from contigmm.sim.operation import Answer, Call, Operation
from contigmm.v1 import batch_pb2, reason_pb2
from contigmm.v1 import operation_pb2 as pb

_WORD: Final = 2**64 - 1
_REASON_PREFIX: Final = len("REASON_")


def int32(value: int) -> int:
    """A register's low half, as a signed number."""
    return (value + 2**31) % 2**32 - 2**31


def mmap(args: Sequence[int]) -> pb.MmapCall:
    """Arguments of mmap(2)."""
    addr, length, prot, flags, fd, offset = args
    return pb.MmapCall(
        address=addr & _WORD,
        length=length & _WORD,
        prot=prot & _WORD,
        flags=flags & _WORD,
        fd=int32(fd),
        offset=offset & _WORD,
    )


def munmap(args: Sequence[int]) -> pb.MunmapCall:
    """Arguments of munmap(2)."""
    return pb.MunmapCall(address=args[0] & _WORD, length=args[1] & _WORD)


def mprotect(args: Sequence[int]) -> pb.MprotectCall:
    """Arguments of mprotect(2)."""
    return pb.MprotectCall(address=args[0] & _WORD, length=args[1] & _WORD, prot=args[2] & _WORD)


def mlock(args: Sequence[int]) -> pb.MlockCall:
    """Arguments of mlock(2)."""
    return pb.MlockCall(address=args[0] & _WORD, length=args[1] & _WORD)


def munlock(args: Sequence[int]) -> pb.MunlockCall:
    """Arguments of munlock(2)."""
    return pb.MunlockCall(address=args[0] & _WORD, length=args[1] & _WORD)


def touch(args: Sequence[int]) -> pb.TouchCall:
    """Arguments of a touch."""
    return pb.TouchCall(address=args[0] & _WORD, length=args[1] & _WORD, write=bool(args[2]))


def read(args: Sequence[int]) -> pb.ReadCall:
    """Arguments of a load."""
    return pb.ReadCall(address=args[0] & _WORD, length=args[1] & _WORD)


_ENCODERS: Final[dict[int, tuple[str, Callable[[Sequence[int]], Any]]]] = {
    Call.FORK: ("fork", lambda args: pb.ForkCall()),
    Call.EXIT: ("exit", lambda args: pb.ExitCall(status=int32(args[0]))),
    Call.ADVANCE_CLOCK: ("advance_clock", lambda args: pb.AdvanceClockCall(duration_ns=args[0])),
    Call.MMAP: ("mmap", mmap),
    Call.MUNMAP: ("munmap", munmap),
    Call.MPROTECT: ("mprotect", mprotect),
    Call.MLOCK: ("mlock", mlock),
    Call.MUNLOCK: ("munlock", munlock),
    Call.TOUCH: ("touch", touch),
    Call.READ: ("read", read),
}


def spawn(operation: Operation, lifetime: pb.Lifetime | None) -> pb.ProcessSpec:
    """What a spawn operation starts, and until when it lives."""
    uid, cpu, node = operation.args
    more = json.loads(operation.data)
    limits = {name: pb.Rlimit(soft=s, hard=h) for name, (s, h) in more["rlimits"].items()}
    return pb.ProcessSpec(
        name=more["name"],
        uid=uid,
        capabilities=more["caps"],
        rlimits=limits,
        cpu=cpu,
        node=node,
        lifetime=lifetime,
    )


def add(operation: Operation, batch: batch_pb2.Batch, lifetime: pb.Lifetime | None) -> None:
    """Append an operation to a batch; a spawned process lives for ``lifetime``.

    Raises:
        ValueError: The service has no such call.
    """
    call = operation.call
    if call == Call.WRITE:
        address = operation.args[0] & _WORD
        fields: dict[str, Any] = {"write": pb.WriteCall(address=address, data=operation.data)}
    elif call == Call.SPAWN:
        fields = {"spawn": spawn(operation, lifetime)}
    else:
        encoder = _ENCODERS.get(call)
        if encoder is None:
            raise ValueError(f"call {call} is not to be had over the service")
        name, encode = encoder
        fields = {name: encode(operation.args)}
    wire = batch.operations.add(process=operation.process, **fields)
    if operation.addr_from >= 0:
        wire.addr_from = operation.addr_from


def answer(wire: pb.Answer) -> Answer:
    """An answer as the library gives it."""
    result = wire.WhichOneof("result")
    if result == "value":
        return Answer(wire.seq, wire.value)
    if result == "failure":
        failure = wire.failure
        return Answer(
            wire.seq, errno=failure.errno, reason=reason(failure.reason), detail=failure.detail
        )
    if result == "data":
        return Answer(wire.seq, len(wire.data), data=wire.data)
    if result == "fault":
        fault = wire.fault
        return Answer(
            wire.seq, fault.done, signal=fault.signal, code=fault.code, address=fault.address
        )
    return Answer(0, skipped=True)


def answers(wires: Iterable[pb.Answer]) -> list[Answer]:
    """The answers of a batch."""
    return [answer(wire) for wire in wires]


def reason(number: "reason_pb2.Reason.ValueType") -> str:
    """The Reason of a number; empty if this client is too old for it."""
    return _REASONS.get(number, "")


_REASONS: Final = {
    number: Reason[name[_REASON_PREFIX:]].value
    for name, number in reason_pb2.Reason.items()
    if name[_REASON_PREFIX:] in Reason.__members__
}


def check(response: Any) -> None:
    """Raise what a unary answer says, if it says that the call failed.

    Raises:
        SyscallError: The simulated kernel refused.
        MemoryFault: The access ended in a signal.
    """
    if response.HasField("failure"):
        failure = response.failure
        raise SyscallError(failure.errno, Reason(reason(failure.reason)), failure.detail)
    if "fault" in response.DESCRIPTOR.fields_by_name and response.HasField("fault"):
        fault = response.fault
        raise MemoryFault(fault.signal, fault.code, fault.address, fault.done)
