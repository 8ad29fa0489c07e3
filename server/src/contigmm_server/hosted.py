"""A machine and what the service keeps beside it: its queue, request ids, lifetimes, sessions."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import Message

from contigmm.sim.machine import Machine, NoSuchProcessError
from contigmm.sim.operation import Answer, Call, ExitCause, Operation
from contigmm.sim.table import Entry
from contigmm_server import codec
from contigmm_server.commands import CommandQueue, Soon
from contigmm_server.doors.access import Access
from contigmm_server.doors.caller import CURRENT
from contigmm_server.durable import kinds
from contigmm_server.durable.journal import Journal
from contigmm_server.failures import ErrorReason, ServiceError, not_found
from contigmm_server.lifetimes import Lifetime, Lifetimes
from contigmm_server.limits import Limits
from contigmm_server.names import process_name
from contigmm_server.replies import Replies
from contigmm_server.sessions import Sessions

log = logging.getLogger("contigmm_server")

DIGEST_US: Final = 1e9
"""Judged cost of a digest, a walk through the machine: never on the event loop."""
NO_LIFETIMES: Final[dict[int, Lifetime]] = {}

R = TypeVar("R", bound=Message)
T = TypeVar("T")


@dataclass(slots=True)
class Command:
    """Operations that run under one hold of the machine."""

    operations: list[Operation]
    stop_on_refusal: bool = False
    lifetimes: dict[int, Lifetime] = field(default_factory=dict)
    """What processes started by ``operations[index]`` live until."""

    @property
    def cost_us(self) -> float:
        """How long it is judged to take."""
        return codec.cost_us(self.operations)


@dataclass(slots=True, frozen=True)
class Standing:
    """A machine where the journal lasts, beside the one that has gone on."""

    journal: Journal
    synced: int
    """Bytes of the journal that led to it."""
    machine: Machine


class HostedMachine:
    """One machine of the registry. Its commands have one order, its queue's."""

    def __init__(self, name: str, machine: Machine, limits: Limits, executor: Executor) -> None:
        self.name = name
        self.machine = machine
        self.access = Access()
        self.granting = asyncio.Lock()
        """Whoever changes ``access`` has it."""
        self.admit: Callable[[Sequence[Operation]], None] | None = None
        """Holds what a command will do against the owner's quotas."""
        self.queue = CommandQueue(executor, limit=limits.queue, settle=self._settle)
        self.lifetimes = Lifetimes(self._order_exits)
        self.sessions = Sessions(limits)
        self.replies = Replies(limits)
        self.journal: Journal | None = None
        """Absent: the machine is in memory only."""
        self.standing: Standing | None = None
        """The machine as it lasts, made while the disk is slow."""
        self._done: list[tuple[Command, list[Answer]]] = []
        self._ordered: set[asyncio.Task[None]] = set()

    # ---- commands ----

    def execute(self, command: Command) -> list[Answer]:
        """Carry a command out, within a turn of the queue."""
        answers = self.machine.execute(command.operations, stop_on_refusal=command.stop_on_refusal)
        if not _OF_LIVES.isdisjoint([operation.call for operation in command.operations]):
            self._done.append((command, answers))
        return answers

    def execute_one(self, operation: Operation, lifetime: Lifetime = None) -> Answer:
        """Carry one operation out, within a turn of the queue.

        Raises:
            ServiceError: NOT_FOUND, its process is gone.
        """
        answer = self.machine.run(operation)
        if not answer.seq:
            raise self.no_such_process(operation.process)
        if operation.call in _OF_LIVES:
            self._done.append((Command([operation], lifetimes={0: lifetime}), [answer]))
        return answer

    def answer_once(
        self,
        request: Any,
        kind: type[R],
        work: Callable[[], R],
        *,
        cost_us: float,
        operations: int = 1,
        asked: Callable[[], Sequence[Operation]] | None = None,
        digest: bool = False,
    ) -> Soon[R]:
        """Give the answer of ``work``, or, for a request id seen before, the first answer again.

        Args:
            request: The message; it has a request id.
            kind: Of its answer.
            work: Carries it out, within a turn.
            cost_us: How long that is judged to take.
            operations: How many those are.
            asked: Gives them, to be held against quotas; absent: they need none.
            digest: The answer also tells the digest of the state that ``work`` leaves.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, INVALID_ARGUMENT, or what ``work`` raises.
        """
        tenant = CURRENT.get().tenant
        if digest:
            work, cost_us = partial(self._telling_state, work), cost_us + DIGEST_US

        def once() -> R:
            key = tenant, request.request_id
            if key[1]:
                known = self.replies.recall(key, request, kind)
                if known is not None:
                    return known
            if self.admit is not None and asked is not None:
                self.admit(asked())
            nr_bytes = None
            if self.journal is None:
                response = work()
            else:
                body = request.SerializeToString()
                response, nr_bytes = self.write_down(
                    kinds.NUMBERS[type(request)], body, work, tenant
                )
                nr_bytes += len(body)
            if key[1]:
                self.replies.keep(key, request, response, nr_bytes)
            return response

        if self.journal is None:
            return self.queue.answer(once, cost_us=cost_us, operations=operations)
        return self._answer_lasting(once, cost_us, operations)

    def _telling_state(self, work: Callable[[], R]) -> R:
        response: Any = work()
        response.state_digest = self.machine.digest()
        return cast(R, response)

    async def _answer_lasting(self, once: Callable[[], R], cost_us: float, operations: int) -> R:
        """Give an answer, or a refusal, once all that it rests on lasts."""
        try:
            soon = self.queue.answer(once, cost_us=cost_us, operations=operations)
            response = soon if isinstance(soon, Message) else await soon
        except ServiceError as error:
            if error.reason != ErrorReason.ERROR_REASON_NOT_DURABLE:  # that rests on nothing
                await self.lasting()
            raise
        journal = self.journal  # now: another segment may have begun meanwhile
        pending = None if journal is None else journal.pending()
        if pending is not None:
            await pending
        return response

    def write_down(
        self, kind: int, body: bytes, work: Callable[[], R], tenant: str = ""
    ) -> tuple[R, int]:
        """Append a command to the journal, then carry it out by ``work``; also the answer's bytes.

        Raises:
            ServiceError: UNAVAILABLE, it cannot be made to last; or what ``work`` raises.
        """
        journal = self.journal
        assert journal is not None, "the caller has asked"
        journal.append(*kinds.of_tenant(tenant, kind, body), seq=self.machine.seq)
        response = work()
        answer = kinds.answer_bytes(response)
        journal.answered(answer)
        return response, len(answer)

    async def lasting(self) -> None:
        """Wait until everything that was carried out so far lasts.

        Raises:
            ServiceError: UNAVAILABLE, it may not.
        """
        if self.journal is not None:
            await self.journal.lasting()

    async def look(self, view: Callable[[], T], *, cost_us: float) -> T:
        """Give what ``view`` shows in a turn of the machine, once what it shows lasts.

        Raises:
            ServiceError: As ``CommandQueue.run``, or UNAVAILABLE: it may not last.
        """
        if self.stands:
            shown = await self.queue.run(partial(self._look_at_standing, view), cost_us=cost_us)
            if shown is not None:
                return shown[0]
        seen = await self.queue.run(view, cost_us=cost_us)
        await self.lasting()
        return seen

    @property
    def stands(self) -> bool:
        """Whether the disk is slow, and the machine as it lasts is there to be looked at."""
        standing = self.standing
        if standing is None or standing.journal is not self.journal:
            return False
        return standing.journal.slow and standing.journal.synced == standing.synced

    def _look_at_standing(self, view: Callable[[], T]) -> tuple[T] | None:
        """Show the machine as it lasts, within a turn; nothing: more lasts by now."""
        standing, machine = self.standing, self.machine
        if standing is None or not self.stands:
            return None
        self.machine = standing.machine
        try:
            return (view(),)
        finally:
            self.machine = machine

    # ---- what follows from commands ----

    def _settle(self) -> None:
        """After each command, on the event loop: follow births and deaths."""
        if self._done:
            done, self._done = self._done, []
            for command, answers in done:
                self.lifetimes.note(command.operations, answers, command.lifetimes)

    def _order_exits(self, processes: Sequence[int], cause: ExitCause) -> None:
        """Put the ends of processes into the machine's order."""
        task = asyncio.get_running_loop().create_task(self._run_exits(processes, cause))
        self._ordered.add(task)
        task.add_done_callback(self._ordered.discard)

    async def _run_exits(self, processes: Sequence[int], cause: ExitCause) -> None:
        for first in range(0, len(processes), _EXITS_AT_ONCE):
            some = list(processes[first : first + _EXITS_AT_ONCE])
            command = Command([Operation(Call.EXIT, process, (0, cause)) for process in some])
            try:
                await self.queue.run_ordered(
                    partial(self._exit, command, some, cause),
                    cost_us=command.cost_us,
                    operations=len(some),
                )
            except ServiceError as error:
                log.error("%s: processes %s go on: %s", self.name, some, error)

    def _exit(self, command: Command, processes: list[int], cause: ExitCause) -> None:
        if self.journal is not None:
            body = kinds.exits(cause, processes)
            self.journal.append(kinds.EXITS, body, seq=self.machine.seq)
        self.execute(command)

    async def settled(self) -> None:
        """Wait until the exits that the service has ordered so far are carried out."""
        while self._ordered:
            await asyncio.wait(tuple(self._ordered))

    # ---- names ----

    @property
    def machine_id(self) -> str:
        """M of machines/M."""
        return self.name.removeprefix("machines/")

    def entry(self, process: int) -> Entry:
        """A live process as the machine keeps it, within a turn of the queue.

        Raises:
            ServiceError: NOT_FOUND.
        """
        try:
            return self.machine.entry(process)
        except NoSuchProcessError:
            raise self.no_such_process(process) from None

    def process_name(self, process: int) -> str:
        """The name of a process of this machine."""
        return process_name(self.name, process)

    def no_such_process(self, process: int) -> ServiceError:
        """The process does not exist."""
        return not_found(
            ErrorReason.ERROR_REASON_NO_SUCH_PROCESS,
            f"{self.process_name(process)} does not exist, or has ended",
        )


_OF_LIVES: Final = frozenset({Call.SPAWN, Call.FORK, Call.EXIT})
_EXITS_AT_ONCE: Final = 256
