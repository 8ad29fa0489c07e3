"""Recovery: a machine from its snapshot, and then every command again, the way it came in.

A command goes through the same servicer as at first, so that answers, request ids, sessions and
lifetimes come back with the machine. Each record tells where the machine was before it and the
checksum of all answers until then; what differs stops recovery with a sentence.
"""

import base64
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from contigmm import foreign_json
from contigmm.sim.operation import Call, Operation
from contigmm.sim.snapshot import ENGINE
from contigmm.v1 import batch_pb2
from contigmm_server.batches import BatchService, Talk
from contigmm_server.doors.caller import CURRENT, Caller
from contigmm_server.durable import kinds
from contigmm_server.durable.segment import JournalError, Record, end_of
from contigmm_server.durable.store import Segment
from contigmm_server.failures import ServiceError
from contigmm_server.hosted import Command, HostedMachine
from contigmm_server.lifetimes import Lease, Lifetime, Stream
from contigmm_server.machines import MachineService
from contigmm_server.memory import MemoryService
from contigmm_server.processes import ProcessService
from contigmm_server.registry import Registry
from contigmm_server.sessions import Session

SERVICE_FORMAT: Final = 2
"""1 had no tenants."""
_MAX_SERVICE_BYTES: Final = 1 << 30


class Replayer:
    """Brings one machine back. Used on the event loop; the machine serves nobody meanwhile."""

    def __init__(self, registry: Registry, hosted: HostedMachine) -> None:
        self.hosted = hosted
        self.chain = 0
        """CRC-32 over all answers so far."""
        self.commands = 0
        self._limits = registry.limits
        self._services: tuple[Any, ...] = (
            MemoryService(registry),
            ProcessService(registry),
            MachineService(registry),
            BatchService(registry),
        )
        self._methods: dict[int, Callable[[Any, None], Any]] = {
            number: self._find(kind.method) for number, kind in kinds.UNARY.items()
        }
        self._talks: dict[tuple[str, str], tuple[Session, Stream, Talk]] = {}
        hosted.lifetimes.hold()

    def _find(self, method: str) -> Callable[[Any, None], Any]:
        (found,) = (
            getattr(service, method) for service in self._services if method in vars(type(service))
        )
        return found  # type: ignore[no-any-return]  # a method of a servicer

    # ---- commands ----

    async def segment(self, segment: Segment, synced: int | None = None) -> None:
        """Apply a segment's commands, those in its first ``synced`` bytes if that is given.

        Raises:
            JournalError: Another engine wrote it, it is damaged, or it leads elsewhere.
        """
        header = segment.header
        if header is None:
            return
        for record in segment.records:
            if synced is not None and end_of(record) > synced:
                return
            if header.engine != ENGINE:
                raise JournalError(
                    f"the journal of {self.hosted.name} was written by {header.engine} and has "
                    f"commands that no snapshot holds; this is {ENGINE}: stop that server cleanly "
                    "first"
                )
            await self.apply(record)

    async def apply(self, record: Record) -> None:
        """Apply one command.

        Raises:
            JournalError: It cannot be read, or the machine is not where it was before it.
        """
        machine = self.hosted.machine
        if (record.seq, record.chain) != (machine.seq, self.chain):
            raise JournalError(
                f"the journal of {self.hosted.name} does not lead to the answers that were given: "
                f"at byte {record.offset} it has position {record.seq} and checksum "
                f"{record.chain:08x}, replaying gives {machine.seq} and {self.chain:08x}"
            )
        self.commands += 1
        caller = None
        try:
            tenant, kind, body = kinds.read_tenant(record.kind, record.body)
            if tenant:
                caller = CURRENT.set(Caller(tenant, everywhere=True))
            soon = self._command(kind, body)
            response = soon if isinstance(soon, Message) else await soon
        except ServiceError:  # as at first
            return
        except (DecodeError, KeyError, IndexError, UnicodeDecodeError) as error:
            raise JournalError(f"the record at byte {record.offset} cannot be read") from error
        finally:
            if caller is not None:
                CURRENT.reset(caller)
        if response is not None:
            self.chain = zlib.crc32(kinds.answer_bytes(response), self.chain)

    def _command(self, number: int, body: bytes) -> Message | Awaitable[Message | None]:
        kind = kinds.UNARY.get(number)
        if kind is not None:
            response: Message | Awaitable[Message]
            response = self._methods[number](kind.request.FromString(body), None)
            return response
        if number == kinds.EXITS:
            return self._exits(*kinds.read_exits(body))
        if number == kinds.OPERATE:
            session, batch = kinds.read_operate(body)
            return self._talk(session, CURRENT.get().tenant)[2].answer(batch)
        raise KeyError(number)

    async def _exits(self, cause: int, processes: list[int]) -> None:
        command = Command([Operation(Call.EXIT, one, (0, cause)) for one in processes])
        await self.hosted.queue.run(lambda: self.hosted.execute(command), cost_us=0)

    def _talk(self, name: str, tenant: str) -> tuple[Session, Stream, Talk]:
        found = self._talks.get((tenant, name))
        if found is None:
            stream = self.hosted.lifetimes.open_stream()
            session = self.hosted.sessions.attach(name, stream, 0, tenant)
            talk = Talk(self.hosted, session, stream, self._limits)
            found = self._talks[tenant, name] = session, stream, talk
        return found

    def finish(self) -> None:
        """All clients are gone: end their streams, and let leases run anew."""
        self.hosted.lifetimes.resume()
        for session, stream, _ in self._talks.values():
            self.hosted.sessions.detach(session, stream)
            self.hosted.lifetimes.close_stream(stream)
        self._talks.clear()

    # ---- what the service knows beside the machine ----

    def load(self, packed: bytes) -> None:
        """Take what :func:`service_state` wrote.

        Raises:
            JournalError: It cannot be read.
        """
        try:
            state = foreign_json.loads(zlib.decompressobj().decompress(packed, _MAX_SERVICE_BYTES))
            if state["format"] not in (1, SERVICE_FORMAT):
                raise JournalError(f"the state of {self.hosted.name}'s service has another format")
            self._load(state)
        except (zlib.error, ValueError, KeyError, TypeError, DecodeError) as error:
            raise JournalError(
                f"the state of {self.hosted.name}'s service cannot be read: {error!r}"
            ) from error

    def _load(self, state: dict[str, Any]) -> None:
        self.chain = state["chain"]
        for number, body, answer, *tenant in state["replies"]:
            kind = kinds.UNARY[number]
            request: Any = kind.request.FromString(base64.b64decode(body))
            response = kind.response.FromString(base64.b64decode(answer))
            key = "".join(tenant), request.request_id
            self.hosted.replies.keep(key, request, response)
        for name, last_applied, kept, *tenant in state["sessions"]:
            session = self._talk(name, *(tenant or [""]))[0]
            for first, last, response in kept:
                session.last_applied = first - 1
                message = batch_pb2.OperateResponse.FromString(base64.b64decode(response))
                session.keep(last - first + 1, message, self._limits)
            session.last_applied = last_applied
        for process, lease_s, name, *tenant in state["lifetimes"]:
            lifetime: Lifetime = Lease(lease_s) if lease_s is not None else None
            if lease_s is None:
                lifetime = self._talk(name, *(tenant or [""]))[1]
            self.hosted.lifetimes.adopt(process, lifetime)


def service_state(hosted: HostedMachine, chain: int) -> bytes:
    """What the service knows beside the machine, within a turn of it: what replaying would give."""
    names = {session.stream: (session.id, session.tenant) for session in hosted.sessions.all()}
    lifetimes = [
        (process, lifetime.seconds, None, "")
        if isinstance(lifetime, Lease)
        else (process, None, *names[lifetime])
        for process, lifetime in hosted.lifetimes.all()
    ]
    state = {
        "format": SERVICE_FORMAT,
        "chain": chain,
        "replies": [
            (kinds.NUMBERS[type(request)], _text(request), _text(response), tenant)
            for request, response, tenant in hosted.replies.all()
        ],
        "sessions": [
            (
                session.id,
                session.last_applied,
                [(kept.first, kept.last, _text(kept.response)) for kept in session.kept],
                session.tenant,
            )
            for session in hosted.sessions.all()
        ],
        "lifetimes": lifetimes,
    }
    return zlib.compress(json.dumps(state).encode(), 1)


def _text(message: Message) -> str:
    return base64.b64encode(message.SerializeToString(deterministic=True)).decode()
