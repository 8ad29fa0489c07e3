"""Batches in columns: little-endian numbers that NumPy reads in one go."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from contigmm.sim.operation import Answer, Call, ExitCause, Operation
from contigmm.v1 import batch_pb2 as pb
from contigmm_server import codec
from contigmm_server.failures import ErrorReason, invalid

SKIPPED: Final = 0xFFFF
"""In the column of errnos: not executed."""
SIGNAL: Final = 0xFF00
"""In the column of errnos: a signal, its number added."""

_NR_ARGS: Final = {
    Call.FORK: 0,
    Call.EXIT: 1,
    Call.ADVANCE_CLOCK: 1,
    Call.MMAP: 4,
    Call.MUNMAP: 2,
    Call.MPROTECT: 3,
    Call.MLOCK: 2,
    Call.MUNLOCK: 2,
    Call.TOUCH: 3,
}
_TAILS: Final[dict[int, tuple[int, ...]]] = {
    Call.MMAP: (-1, 0),  # fd, offset
    Call.EXIT: (ExitCause.EXITED,),
}


def decode(columns: pb.Columns) -> list[Operation]:
    """The operations of a batch in columns.

    Raises:
        ServiceError: INVALID_ARGUMENT, nothing of it may be executed.
    """
    calls = columns.calls  # uint8: bytes are the numbers
    count = len(calls)
    codec.check_count(count)
    processes = _column(columns.processes, "<u8", count, "processes")
    addr_from = _column(columns.addr_from, "<i4", count, "addr_from", absent=-1)
    rows = zip(
        _column(columns.first, "<u8", count, "first"),
        _column(columns.second, "<u8", count, "second"),
        _column(columns.third, "<u8", count, "third"),
        _column(columns.fourth, "<u8", count, "fourth"),
        strict=True,
    )
    operations = []
    for index, (call, process, source, row) in enumerate(
        zip(calls, processes, addr_from, rows, strict=True)
    ):
        nr_args = _NR_ARGS.get(call)  # type: ignore[call-overload]  # an int that may be no Call
        if nr_args is None:
            raise _bad(index, f"call {call} does not fit in columns")
        args = row[:nr_args] + _TAILS.get(call, ())
        if source != -1:
            if source < 0:
                raise _bad(index, f"addr_from {source}")
            codec.check_reference(index, source, args)
        operations.append(Operation(call, process, args, b"", source))
    return operations


def _column(data: bytes, dtype: str, count: int, name: str, *, absent: int = 0) -> list[int]:
    """The numbers of a column; an empty one is all ``absent``."""
    if not data:
        return [absent] * count
    width = np.dtype(dtype).itemsize
    if len(data) != count * width:
        raise invalid(
            ErrorReason.ERROR_REASON_INVALID_FIELD,
            f"columns.{name}: {len(data)} bytes, not {count} numbers of {width}",
        )
    numbers: list[int] = np.frombuffer(data, dtype).tolist()
    return numbers


def _bad(index: int, what: str) -> Exception:
    return invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, f"operations[{index}]: {what}")


def encode(
    operations: Sequence[Operation], answers: Sequence[Answer], out: pb.ColumnAnswers
) -> None:
    """Write ``answers`` into the columns of ``out``."""
    values = [answer.value for answer in answers]
    errnos = [answer.errno for answer in answers]
    reasons = [0] * len(answers)
    for index, answer in enumerate(answers):
        if answer.ok:
            continue
        if answer.errno:
            reasons[index] = codec.reason_number(answer.reason)
        elif answer.signal:
            errnos[index] = SIGNAL + answer.signal
            values[index] = answer.address
        else:
            errnos[index] = SKIPPED
            values[index] = codec.cause(operations[index], answers)
    out.values = _packed(values, "<u8")
    out.errnos = _packed(errnos, "<u2")
    out.reasons = _packed(reasons, "<u2")
    out.seqs = _packed([answer.seq for answer in answers], "<u8")


def _packed(numbers: list[Any], dtype: str) -> bytes:
    return np.array(numbers, dtype).tobytes()
