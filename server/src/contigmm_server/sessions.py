"""Sessions: what a client that was cut off needs to go on where it stopped."""

import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from contigmm.v1 import batch_pb2 as pb
from contigmm_server.failures import ErrorReason, aborted, invalid, precondition
from contigmm_server.lifetimes import Stream
from contigmm_server.limits import Limits

MAX_ID_BYTES: Final = 64


@dataclass(slots=True)
class _Kept:
    first: int
    last: int
    response: pb.OperateResponse
    size: int
    """Bytes on the wire."""


@dataclass(slots=True)
class Room:
    """What the sessions of a machine keep together."""

    bytes: int = 0


@dataclass(slots=True)
class Session:
    """Operation numbers of one client, and the last answers that it was sent."""

    id: str
    tenant: str
    """Whose it is; no other tenant can take it over."""
    stream: Stream | None
    room: Room
    last_applied: int = 0
    kept: deque[_Kept] = field(default_factory=deque)
    kept_operations: int = 0
    kept_bytes: int = 0

    @property
    def first_kept(self) -> int:
        """Number of the first operation whose answer is still here."""
        return self.kept[0].first if self.kept else self.last_applied + 1

    def check_stream(self, stream: Stream) -> None:
        """Let only the newest stream go on.

        Raises:
            ServiceError: ABORTED, another stream has the session now.
        """
        if self.stream != stream:
            raise aborted(
                ErrorReason.ERROR_REASON_SESSION_TAKEN_OVER,
                f"session {self.id!r} went on in another stream",
            )

    def recall(self, first: int, count: int) -> pb.OperateResponse | None:
        """The answer to operations ``first`` and following if they were applied, else nothing.

        Raises:
            ServiceError: the numbers leave a gap, cut a batch, or their answer is not kept.
        """
        if first == self.last_applied + 1:
            return None
        if first > self.last_applied or first == 0:
            raise invalid(
                ErrorReason.ERROR_REASON_OPERATION_NUMBER,
                f"first_operation is {first}, the next one is {self.last_applied + 1}",
            )
        if first < self.first_kept:
            raise precondition(
                ErrorReason.ERROR_REASON_ANSWERS_DROPPED,
                f"answers before operation {self.first_kept} are no longer kept",
            )
        for kept in self.kept:
            if kept.first == first and kept.last == first + count - 1:
                return kept.response
        raise invalid(
            ErrorReason.ERROR_REASON_OPERATION_NUMBER,
            f"operations {first} to {first + count - 1} were applied in other batches",
        )

    def keep(self, count: int, response: pb.OperateResponse, limits: Limits) -> None:
        """Note that the next ``count`` operations are applied; keep the last answers."""
        if count == 0:
            return
        first = self.last_applied + 1
        self.last_applied += count
        size = response.ByteSize()
        self.kept.append(_Kept(first, self.last_applied, response, size))
        self.kept_operations += count
        self.kept_bytes += size
        self.room.bytes += size
        while len(self.kept) > 1 and (
            self.kept_operations > limits.session_kept_operations
            or self.kept_bytes > limits.session_kept_bytes
            or self.room.bytes > limits.sessions_bytes
        ):
            self._drop()

    def forget(self, received: int) -> None:
        """Drop answers up to operation ``received``: the client has them."""
        while self.kept and self.kept[0].last <= received:
            self._drop()

    def make_room(self, limits: Limits) -> None:
        """Drop answers, the oldest first, until all sessions together keep few enough."""
        while self.kept and self.room.bytes > limits.sessions_bytes:
            self._drop()

    def _drop(self) -> None:
        """Drop the oldest answer."""
        dropped = self.kept.popleft()
        self.kept_operations -= dropped.last - dropped.first + 1
        self.kept_bytes -= dropped.size
        self.room.bytes -= dropped.size


class Sessions:
    """The sessions of one machine; those that no stream has are bounded in number.

    Answers are bounded in bytes: when there are too many of all sessions together, one that goes on
    keeps its last answer only, and those without a stream keep none, from the oldest on.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._attached: dict[tuple[str, str], Session] = {}
        self._detached: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._room = Room()

    def all(self) -> list[Session]:
        """Every session that is remembered, those without a stream first."""
        return [*self._detached.values(), *self._attached.values()]

    def attach(self, session_id: str, stream: Stream, received: int, tenant: str = "") -> Session:
        """Give a stream the session that it asks for, which may be a new one.

        Raises:
            ServiceError: INVALID_ARGUMENT, the id is too long.
        """
        if len(session_id.encode()) > MAX_ID_BYTES:
            raise invalid(
                ErrorReason.ERROR_REASON_INVALID_FIELD, f"session: more than {MAX_ID_BYTES} bytes"
            )
        session_id = session_id or secrets.token_hex(16)
        key = tenant, session_id
        session = self._attached.get(key) or self._detached.pop(key, None)
        if session is None:
            session = Session(session_id, tenant, stream, self._room)
        session.stream = stream
        session.forget(received)
        self._attached[key] = session
        return session

    def detach(self, session: Session, stream: Stream) -> None:
        """The stream has ended; the session waits for another, unless one has taken it over."""
        if session.stream != stream:
            return
        session.stream = None
        key = session.tenant, session.id
        del self._attached[key]
        self._detached[key] = session
        while len(self._detached) > self._limits.sessions:
            _, forgotten = self._detached.popitem(last=False)
            forgotten.forget(forgotten.last_applied)
        for waiting in self._detached.values():
            if self._room.bytes <= self._limits.sessions_bytes:
                break
            waiting.make_room(self._limits)
