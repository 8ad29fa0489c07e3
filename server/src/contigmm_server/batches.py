"""BatchService: many operations in one message, and sessions of such messages on a stream."""

from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc.aio

from contigmm.sim.operation import Call
from contigmm.v1 import batch_pb2 as pb
from contigmm.v1 import batch_pb2_grpc
from contigmm_server import codec, columns, lifetimes
from contigmm_server.commands import SHORT_US, Soon
from contigmm_server.doors import privileges
from contigmm_server.doors.caller import CURRENT
from contigmm_server.durable import kinds
from contigmm_server.failures import ErrorReason, invalid
from contigmm_server.hosted import DIGEST_US, Command, HostedMachine
from contigmm_server.lifetimes import Lifetime, Stream
from contigmm_server.limits import Limits
from contigmm_server.registry import Registry
from contigmm_server.sessions import Session

OperateContext = grpc.aio.ServicerContext[pb.OperateRequest, pb.OperateResponse]


class BatchService(batch_pb2_grpc.BatchServiceServicer):
    """Runs batches in machines of a registry, each under one hold of its machine."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def RunBatch(self, request: pb.RunBatchRequest, context: object) -> Soon[pb.RunBatchResponse]:
        """One batch."""
        hosted = self._registry.machine(request.machine)
        operations = request.batch.operations
        privileges.check_batch(hosted, operations)
        digest = request.batch.state_digest
        asked = _Asked(partial(_command, request.batch, None), len(operations), digest=digest)

        def work() -> pb.RunBatchResponse:
            response = pb.RunBatchResponse()
            _run_batch(hosted, asked, response.answers)
            return response

        return hosted.answer_once(
            request,
            pb.RunBatchResponse,
            work,
            cost_us=asked.cost_us,
            operations=asked.count,
            asked=lambda: asked.command.operations,
        )

    def RunColumns(
        self, request: pb.RunColumnsRequest, context: object
    ) -> Soon[pb.RunColumnsResponse]:
        """One batch in columns."""
        hosted = self._registry.machine(request.machine)
        asked = _asked_in_columns(request.columns)

        def work() -> pb.RunColumnsResponse:
            response = pb.RunColumnsResponse()
            _run_columns(hosted, asked, response.answers)
            return response

        return hosted.answer_once(
            request,
            pb.RunColumnsResponse,
            work,
            cost_us=asked.cost_us,
            operations=asked.count,
            asked=lambda: asked.command.operations,
        )

    async def Operate(
        self, request_iterator: AsyncIterator[pb.OperateRequest], context: OperateContext
    ) -> AsyncIterator[pb.OperateResponse]:
        """A session: batches one after the other."""
        with self._registry.idle_stream():
            first = await anext(request_iterator, None)
        if first is None:
            return
        if first.WhichOneof("part") != "open":
            raise invalid(
                ErrorReason.ERROR_REASON_INVALID_FIELD, "the first message opens a session"
            )
        hosted = self._registry.machine(first.open.machine)
        stream = hosted.lifetimes.open_stream()
        try:
            session = hosted.sessions.attach(
                first.open.session, stream, first.open.received, CURRENT.get().tenant
            )
            try:
                opened = _opened(hosted, session)
                await hosted.lasting()
                yield opened
                talk = Talk(hosted, session, stream, self._registry.limits)
                while True:
                    with self._registry.idle_stream():
                        request = await anext(request_iterator, None)
                    if request is None:
                        return
                    if not CURRENT.get().everywhere:
                        self._registry.machine(hosted.name)  # it may be granted no longer
                    yield await talk.answer(request)
            finally:
                hosted.sessions.detach(session, stream)
        finally:
            hosted.lifetimes.close_stream(stream)


def _opened(hosted: HostedMachine, session: Session) -> pb.OperateResponse:
    return pb.OperateResponse(
        opened=pb.SessionOpened(
            session=session.id,
            last_applied=session.last_applied,
            first_kept=session.first_kept,
            machine_seq=hosted.machine.seq,
        )
    )


class Talk:
    """One stream's part of a session."""

    def __init__(
        self, hosted: HostedMachine, session: Session, stream: Stream, limits: Limits
    ) -> None:
        self._hosted = hosted
        self._session = session
        self._stream = stream
        self._limits = limits

    async def answer(self, request: pb.OperateRequest) -> pb.OperateResponse:
        """Run a batch, or recall its answer if the session has it behind it."""
        part = request.WhichOneof("part")
        response = pb.OperateResponse()
        run: Callable[[], None]
        if part == "batch":
            batch = request.batch
            privileges.check_batch(self._hosted, batch.operations)
            first = batch.first_operation
            decode = partial(_command, batch, self._stream)
            asked = _Asked(decode, len(batch.operations), digest=batch.state_digest)

            def run() -> None:
                _run_batch(self._hosted, asked, response.answers)
                response.answers.first_operation = first

        elif part == "columns":
            first = request.columns.first_operation
            asked = _asked_in_columns(request.columns)

            def run() -> None:
                _run_columns(self._hosted, asked, response.columns)
                response.columns.first_operation = first

        else:
            raise invalid(
                ErrorReason.ERROR_REASON_INVALID_FIELD, "neither a batch nor columns in a message"
            )
        return await self._once(request, first, asked, run, response)

    async def _once(
        self,
        request: pb.OperateRequest,
        first: int,
        asked: "_Asked",
        run: Callable[[], None],
        response: pb.OperateResponse,
    ) -> pb.OperateResponse:
        count = asked.count
        session, hosted = self._session, self._hosted

        def work() -> pb.OperateResponse:
            session.check_stream(self._stream)
            known = session.recall(first, count)
            if known is not None:
                return known
            if hosted.admit is not None:
                hosted.admit(asked.command.operations)
            if hosted.journal is None:
                run()
            else:
                body = kinds.operate(session.id, request)
                hosted.write_down(kinds.OPERATE, body, ran, session.tenant)
            session.keep(count, response, self._limits)
            return response

        def ran() -> pb.OperateResponse:
            run()
            return response

        answer = await hosted.queue.run_in_turn(work, cost_us=asked.cost_us, operations=asked.count)
        await hosted.lasting()
        return answer


class _Asked:
    """A batch as it came. One that is long by its length alone is decoded where it runs."""

    def __init__(self, decode: Callable[[], Command], count: int, *, digest: bool) -> None:
        """Take it; with ``digest`` its answer tells the state's digest.

        Raises:
            ServiceError: INVALID_ARGUMENT, it is no batch; a long one tells when it runs.
        """
        self.count = count
        self.digest = digest
        self._decode = decode
        self._command: Command | None = None
        length_us = codec.CALL_US * count
        self.cost_us = length_us if length_us >= SHORT_US else self.command.cost_us
        if digest:
            self.cost_us += DIGEST_US

    @property
    def command(self) -> Command:
        """The operations."""
        if self._command is None:
            self._command = self._decode()
        return self._command


def _command(batch: pb.Batch, stream: Stream | None) -> Command:
    operations = codec.decode(batch.operations)
    asked: dict[int, Lifetime] = {}
    for index, operation in enumerate(operations):
        if operation.call == Call.SPAWN and batch.operations[index].spawn.HasField("lifetime"):
            asked[index] = lifetimes.decode(batch.operations[index].spawn.lifetime, stream)
    return Command(operations, batch.stop_on_refusal, asked)


def _asked_in_columns(batch: pb.Columns) -> _Asked:
    return _Asked(
        lambda: Command(columns.decode(batch), batch.stop_on_refusal),
        len(batch.calls),
        digest=batch.state_digest,
    )


def _run_batch(hosted: HostedMachine, asked: _Asked, out: pb.BatchAnswers) -> None:
    command = asked.command
    answers = hosted.execute(command)
    codec.encode(command.operations, answers, out.answers)
    _tell_state(hosted, asked, out)


def _run_columns(hosted: HostedMachine, asked: _Asked, out: pb.ColumnAnswers) -> None:
    command = asked.command
    answers = hosted.execute(command)
    columns.encode(command.operations, answers, out)
    _tell_state(hosted, asked, out)


def _tell_state(
    hosted: HostedMachine, asked: _Asked, out: pb.BatchAnswers | pb.ColumnAnswers
) -> None:
    """Position and, if asked for, digest of the machine as the batch left it."""
    out.machine_seq = hosted.machine.seq
    if asked.digest:
        out.state_digest = hosted.machine.digest()
