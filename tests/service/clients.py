"""The clients of the crash test: what each asks, and what it remembers of what it was told.

``UnaryClient`` sends one request after the other, unary calls, batches and batches in columns, each
with a request id. ``SessionClient`` sends several batches of one session ahead on a stream. What is
unanswered when the server dies, both ask again.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from history import History, LostError

from contigmm.abi import ESRCH
from contigmm.client import channel, exchanges, wire
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import Answer, Call, Operation
from contigmm.v1 import batch_pb2, memory_pb2, operation_pb2, process_pb2
from contigmm_server.columns import SIGNAL, SKIPPED

PAGE: Final = 4096
MACHINE: Final = "machines/m"
MMAP: Final = (0, 4 * PAGE, 3, 0x22, -1, 0)
CONTIG: Final = (0, 64 * 1024, 3, 0x80022, -1, 0)
SPEC: Final = SpawnSpec("crash").encode()
SPAWN: Final = Operation(Call.SPAWN, 0, (0, 0, 0), SPEC)
LEASES_S: Final = (0.1, 0.3, 1.0)
AHEAD: Final = 3
"""Batches that a session sends before the first of them is answered."""
GONE: Final = {
    (grpc.StatusCode.INTERNAL, "Internal error from Core"),
    (grpc.StatusCode.CANCELLED, "CANCELLED"),
}
"""What grpc's client says, in UNAVAILABLE's place, of a stream that broke while it was written."""
DIGESTS: Final = 0.05
"""Share of batches and unary calls that ask for the digest of the state."""
_NAMES: Final = {Call.MMAP: "address", Call.TOUCH: "pages", Call.SPAWN: "process"}


def chain_of(process: int, args: tuple[int, ...], first: int = 0) -> list[Operation]:
    """Map, touch and unmap, the latter two by reference to operation ``first`` of the batch."""
    return [
        Operation(Call.MMAP, process, args),
        Operation(Call.TOUCH, process, (0, PAGE, 1), addr_from=first),
        Operation(Call.MUNMAP, process, (0, args[1]), addr_from=first),
    ]


def batch_of(
    operations: Sequence[Operation], lifetime: operation_pb2.Lifetime | None = None
) -> batch_pb2.Batch:
    """A batch on the wire."""
    batch = batch_pb2.Batch()
    for operation in operations:
        wire.add(operation, batch, lifetime)
    return batch


def columns_of(operations: Sequence[Operation]) -> batch_pb2.Columns:
    """The same in columns; there are no spawns in it."""
    rows = [(*operation.args[:4], 0, 0, 0, 0)[:4] for operation in operations]
    first, second, third, fourth = (
        np.array(column, "<u8").tobytes() for column in zip(*rows, strict=True)
    )
    return batch_pb2.Columns(
        calls=bytes(operation.call for operation in operations),
        processes=np.array([operation.process for operation in operations], "<u8").tobytes(),
        addr_from=np.array([operation.addr_from for operation in operations], "<i4").tobytes(),
        first=first,
        second=second,
        third=third,
        fourth=fourth,
    )


def column_answers(columns: batch_pb2.ColumnAnswers) -> list[Answer]:
    """Answers in columns as the library's; none of them is a signal."""
    rows = zip(
        np.frombuffer(columns.seqs, "<u8").tolist(),
        np.frombuffer(columns.values, "<u8").tolist(),
        np.frombuffer(columns.errnos, "<u2").tolist(),
        np.frombuffer(columns.reasons, "<u2").tolist(),
        strict=True,
    )
    answers = []
    for seq, value, errno, reason in rows:
        if errno == SKIPPED:
            answers.append(Answer(0, skipped=True))
        elif errno > SIGNAL:
            raise LostError(f"signal {errno - SIGNAL} where nothing can fault")
        elif errno:
            answers.append(Answer(seq, errno=errno, reason=wire.reason(reason)))
        else:
            answers.append(Answer(seq, value))
    return answers


def unary_answer(operation: Operation, response: Any) -> Answer:
    """A unary response as the library's answer."""
    seq = response.machine_seq
    if response.HasField("failure"):
        failure = response.failure
        return Answer(seq, errno=failure.errno, reason=wire.reason(failure.reason))
    name = _NAMES.get(Call(operation.call))
    if name is None:
        return Answer(seq)
    return Answer(seq, response.process.id if name == "process" else getattr(response, name))


class Asker(ABC):
    """What both kinds of client have in common."""

    def __init__(self, number: int, seed: int, history: History) -> None:
        self.random = random.Random(seed * 1000 + number)
        self.number = number
        self.history = history
        self.process = 0
        """Who asks; 0: nobody lives, as far as is known."""
        self.answered = 0
        self.retried = 0

    async def run(self, address: str) -> None:
        """Ask until the connection is gone."""
        async with grpc.aio.insecure_channel(
            address, options=(("grpc.use_local_subchannel_pool", 1),)
        ) as connection:
            try:
                await self.ask(channel.methods(connection))
            except grpc.aio.AioRpcError as error:
                unavailable = error.code() is grpc.StatusCode.UNAVAILABLE
                if not unavailable and (error.code(), error.details()) not in GONE:
                    raise

    @abstractmethod
    async def ask(self, methods: dict[str, Any]) -> None:
        """Ask for ever."""

    def told(self, operations: Sequence[Operation], answers: Sequence[Answer]) -> None:
        """Note the answers of one command."""
        self.answered += 1
        for operation, answer in zip(operations, answers, strict=True):
            if answer.seq:
                self.history.told(operation, answer)
            if operation.call == Call.SPAWN:
                self.process = answer.value
            elif answer.errno == ESRCH:
                self.process = 0


class UnaryClient(Asker):
    """One request at a time; every other client's process lives on a lease, and dies of it."""

    def __init__(self, number: int, seed: int, history: History) -> None:
        super().__init__(number, seed, history)
        self._asked = 0
        self._mapped: list[int] = []
        self._open: tuple[str, Any, list[Operation]] | None = None

    async def ask(self, methods: dict[str, Any]) -> None:
        """See :meth:`Asker.ask`."""
        while True:
            if self._open is None:
                self._open = self._next()
            else:
                self.retried += 1
            name, request, operations = self._open
            try:
                response = await methods[name](request, timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                self.process, self._open = 0, None  # its lease has run out
                continue
            self._open = None
            self.told(operations, self._answers(operations, response))

    def _answers(self, operations: list[Operation], response: Any) -> list[Answer]:
        answered = getattr(response, "answers", response)
        if answered.state_digest:
            self.history.digests[answered.machine_seq] = answered.state_digest
        if isinstance(response, batch_pb2.RunBatchResponse):
            return wire.answers(response.answers.answers)
        if isinstance(response, batch_pb2.RunColumnsResponse):
            return column_answers(response.answers)
        (operation,) = operations
        answer = unary_answer(operation, response)
        if operation.call == Call.MMAP and answer.ok:
            self._mapped.append(answer.value)
        return [answer]

    def _next(self) -> tuple[str, Any, list[Operation]]:
        self._asked += 1
        request_id = f"{self.number}-{self._asked}"
        if not self.process:
            self._mapped.clear()
            lease_s = self.random.choice(LEASES_S) if self.number % 2 else None
            spec = wire.spawn(SPAWN, exchanges.lease(lease_s))
            request = process_pb2.SpawnProcessRequest(
                machine=MACHINE, spec=spec, request_id=request_id
            )
            return "SpawnProcess", request, [SPAWN]
        draw = self.random.random()
        if draw < 0.25:
            return self._batch(request_id, in_columns=draw < 0.1)
        name, request, operations = self._call(request_id, draw)
        request.state_digest = self.random.random() < DIGESTS
        return name, request, operations

    def _batch(self, request_id: str, *, in_columns: bool) -> tuple[str, Any, list[Operation]]:
        operations = chain_of(self.process, self.random.choice((MMAP, CONTIG)))
        if in_columns:
            columns = columns_of(operations)
            packed = batch_pb2.RunColumnsRequest(
                machine=MACHINE, columns=columns, request_id=request_id
            )
            return "RunColumns", packed, operations
        batch = batch_of(operations)
        batch.state_digest = self.random.random() < DIGESTS
        run = batch_pb2.RunBatchRequest(machine=MACHINE, batch=batch, request_id=request_id)
        return "RunBatch", run, operations

    def _call(self, request_id: str, draw: float) -> tuple[str, Any, list[Operation]]:
        process = self.process
        name = f"{MACHINE}/processes/{process}"
        if draw < 0.55 or not self._mapped:
            args = self.random.choice((MMAP, CONTIG))
            call = exchanges.mmap(name, request_id, args)
            return "Mmap", call.request, [Operation(Call.MMAP, process, args)]
        address = self.random.choice(self._mapped)
        if draw < 0.75:
            touch = memory_pb2.TouchRequest(
                process=name,
                call=operation_pb2.TouchCall(address=address, length=PAGE, write=True),
                request_id=request_id,
            )
            return "Touch", touch, [Operation(Call.TOUCH, process, (address, PAGE, 1))]
        self._mapped.remove(address)
        munmap = exchanges.munmap(name, request_id, address, 4 * PAGE)
        return "Munmap", munmap.request, [Operation(Call.MUNMAP, process, (address, 4 * PAGE))]


@dataclass(slots=True)
class _Sent:
    request: batch_pb2.OperateRequest
    operations: list[Operation]


class SessionClient(Asker):
    """Batches of a session, three ahead; its process lives as long as the stream."""

    def __init__(self, number: int, seed: int, history: History) -> None:
        super().__init__(number, seed, history)
        self._sent: deque[_Sent] = deque()
        self._next_operation = 1
        self._received = 0
        self._spawning = False

    async def ask(self, methods: dict[str, Any]) -> None:
        """See :meth:`Asker.ask`."""
        call = methods["Operate"]()
        session = f"session-{self.number}"
        opening = batch_pb2.OpenSession(machine=MACHINE, session=session, received=self._received)
        await self._write(call, batch_pb2.OperateRequest(open=opening))
        opened = (await self._read(call)).opened
        if opened.last_applied < self._received:
            raise LostError(
                f"{session} was answered up to operation {self._received}, and the server has "
                f"applied {opened.last_applied}"
            )
        self.process = 0
        self._spawning = False
        for sent in self._sent:
            self.retried += 1
            await self._write(call, sent.request)
        while True:
            while len(self._sent) < AHEAD and not self._spawning:
                self._sent.append(self._next())
                await self._write(call, self._sent[-1].request)
            response = await self._read(call)
            self._told(self._sent.popleft(), response)

    async def _read(self, call: Any) -> Any:
        """The next message; the status is raised when there is none."""
        message = await call.read()
        if message is grpc.aio.EOF:
            raise LostError("the server ended a session in good order")
        return message

    async def _write(self, call: Any, request: batch_pb2.OperateRequest) -> None:
        """Send a message; if the stream has ended, reading tells why."""
        with suppress(asyncio.InvalidStateError):
            await call.write(request)

    def _told(self, sent: _Sent, response: batch_pb2.OperateResponse) -> None:
        if response.HasField("answers"):
            first, answers = (
                response.answers.first_operation,
                wire.answers(response.answers.answers),
            )
        else:
            first, answers = response.columns.first_operation, column_answers(response.columns)
        if first != self._received + 1:
            raise LostError(f"operation {self._received + 1} was due, {first} was answered")
        self._received += len(sent.operations)
        self._spawning = self._spawning and sent.operations[0].call != Call.SPAWN
        self.told(sent.operations, answers)

    def _next(self) -> _Sent:
        first = self._next_operation
        if not self.process:
            self._spawning = True
            operations = [SPAWN]
            lifetime = operation_pb2.Lifetime(stream=True)
            request = batch_pb2.OperateRequest(batch=batch_of(operations, lifetime))
            request.batch.first_operation = first
        else:
            chains = self.random.randrange(1, 4)
            args = self.random.choice((MMAP, CONTIG))
            operations = [
                operation
                for chain in range(chains)
                for operation in chain_of(self.process, args, first=3 * chain)
            ]
            if self.random.random() < 0.5:
                request = batch_pb2.OperateRequest(columns=columns_of(operations))
                request.columns.first_operation = first
            else:
                request = batch_pb2.OperateRequest(batch=batch_of(operations))
                request.batch.first_operation = first
        self._next_operation += len(operations)
        return _Sent(request, operations)
