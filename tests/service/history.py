"""What clients were told, held against the journal and against the library.

The journal is read between a crash and the next start. Its commands run again in a machine of the
library that has never seen the server, and each acknowledgement must be what the library says.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contigmm.sim.machine import Machine
from contigmm.sim.operation import Answer, Call, Operation
from contigmm_server import codec, columns
from contigmm_server.durable import kinds
from contigmm_server.durable.disk import OsDisk
from contigmm_server.durable.segment import Record
from contigmm_server.durable.store import MachineStore
from contigmm_server.names import split_process

DECODERS = {20: codec.mmap, 21: codec.munmap, 22: codec.mprotect, 40: codec.touch}


class LostError(AssertionError):
    """A promise was broken."""


@dataclass
class History:
    """Acknowledgements of all clients, and the library's machine as far as the journal was read."""

    library: Machine
    acknowledged: dict[int, tuple[Operation, Answer]] = field(default_factory=dict)
    """By machine_seq."""
    digests: dict[int, str] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    sessions: dict[str, int] = field(default_factory=dict)
    """Number of the last operation that each applied."""
    followed: int = -1
    """Number of the last segment that was read."""
    compared: int = 0
    digests_compared: int = 0

    def told(self, operation: Operation, answer: Answer) -> None:
        """A client was told that ``operation`` is at ``answer.seq``."""
        before = self.acknowledged.get(answer.seq)
        if before is not None and before != (operation, answer):
            raise LostError(f"position {answer.seq} was told twice: {before}, {operation} {answer}")
        self.acknowledged[answer.seq] = operation, answer

    def follow(self, path: Path) -> None:
        """Read the segments that a server began in its life, and run their commands.

        ``path`` has all of them, also those that a snapshot made superfluous.
        """
        store = MachineStore(path, OsDisk())
        for segment in store.segments(self.followed + 1):
            self.followed = segment.index
            for record in segment.records:
                if record.body:
                    self._run(record)
        lost = [seq for seq in self.acknowledged if seq > self.library.seq]
        if lost:
            raise LostError(f"{len(lost)} acknowledged commands are gone, the first {min(lost)}")

    def _run(self, record: Record) -> None:
        if record.seq != self.library.seq:
            raise LostError(f"the journal goes on at {record.seq}, after {self.library.seq}")
        self._compare_digest()
        operations, stop, request_id = decode(record)
        answers = self.library.execute(operations, stop_on_refusal=stop)
        if request_id and any(answer.seq for answer in answers):
            if request_id in self.ids:
                raise LostError(f"request {request_id} was applied twice")
            self.ids.add(request_id)
        if record.kind == kinds.OPERATE:
            self._count(record, len(operations))
        for operation, answer in zip(operations, answers, strict=True):
            told = self.acknowledged.pop(answer.seq, None) if answer.seq else None
            if told is None:
                continue
            self.compared += 1
            if told[0].call != operation.call or told[1] != answer:
                raise LostError(f"told {told}, the library has {operation} {answer}")

    def _count(self, record: Record, operations: int) -> None:
        """Hold that a session's operations are applied in order, none of them twice."""
        session, request = kinds.read_operate(record.body)
        first = (request.columns if request.HasField("columns") else request.batch).first_operation
        last = self.sessions.get(session, 0)
        if first != last + 1:
            raise LostError(f"{session} went on with operation {first}, after {last}")
        self.sessions[session] = last + operations

    def _compare_digest(self) -> None:
        told = self.digests.pop(self.library.seq, None)
        if told is not None:
            self.digests_compared += 1
            if told != self.library.digest():
                raise LostError(f"the digest told at {self.library.seq} is not the library's")


def decode(record: Record) -> tuple[list[Operation], bool, str]:
    """A record's operations, whether a refusal stops them, and its request id."""
    if record.kind == kinds.EXITS:
        cause, processes = kinds.read_exits(record.body)
        return [Operation(Call.EXIT, process, (0, cause)) for process in processes], False, ""
    if record.kind == kinds.OPERATE:
        _, message = kinds.read_operate(record.body)
        if message.HasField("columns"):
            return columns.decode(message.columns), message.columns.stop_on_refusal, ""
        return codec.decode(message.batch.operations), message.batch.stop_on_refusal, ""
    request: Any = kinds.UNARY[record.kind].request.FromString(record.body)
    if record.kind == 60:
        operations = codec.decode(request.batch.operations)
        return operations, request.batch.stop_on_refusal, request.request_id
    if record.kind == 61:
        operations = columns.decode(request.columns)
        return operations, request.columns.stop_on_refusal, request.request_id
    if record.kind == 10:
        return [codec.spawn(request.spec)], False, request.request_id
    process = split_process(request.process)[1]
    if record.kind == 12:
        return [codec.leave(process, request.call)], False, request.request_id
    return [DECODERS[record.kind](process, request.call)], False, request.request_id
