"""Processes that the service ends on its own: when their lease runs out, when their stream closes.

The end is an ``exit`` in the machine's order, like any other. Real time decides when it is asked
for; what it does depends on its place in that order only.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from contigmm.sim.operation import Answer, Call, ExitCause, Operation
from contigmm.v1 import operation_pb2 as pb
from contigmm_server.failures import ErrorReason, invalid, precondition

MAX_LEASE_S: Final = 7 * 24 * 3600


@dataclass(slots=True, frozen=True)
class Stream:
    """One Operate stream, as the owner of processes."""

    number: int


@dataclass(slots=True, frozen=True)
class Lease:
    """Real time that a process lives on unless renewed."""

    seconds: float


Lifetime = Stream | Lease | None
"""``None``: until a client ends the process."""


@dataclass(slots=True)
class _Running:
    lease: Lease
    timer: asyncio.TimerHandle | None

    def cancel(self) -> None:
        """Let it not run out."""
        if self.timer is not None:
            self.timer.cancel()


def decode(lifetime: pb.Lifetime, stream: Stream | None) -> Lifetime:
    """What a client asked for; ``stream`` is the stream on which it asked.

    Raises:
        ServiceError: INVALID_ARGUMENT, no stream to live with, or no usable lease.
    """
    until = lifetime.WhichOneof("until")
    if until == "stream":
        if stream is None:
            raise invalid(
                ErrorReason.ERROR_REASON_INVALID_FIELD,
                "lifetime.stream: only on an Operate stream",
            )
        return stream
    if until == "lease":
        seconds = lifetime.lease.seconds + lifetime.lease.nanos / 1e9
        if not 0 < seconds <= MAX_LEASE_S:
            raise invalid(
                ErrorReason.ERROR_REASON_INVALID_FIELD,
                f"lifetime.lease: {seconds} s is not within 0 < s <= {MAX_LEASE_S}",
            )
        return Lease(seconds)
    return None


class Lifetimes:
    """Who lives until when, on one machine. Used on the event loop only."""

    def __init__(self, end: Callable[[Sequence[int], ExitCause], None]) -> None:
        """Make it empty; ``end`` puts exits into the machine's order."""
        self._end = end
        self._leases: dict[int, _Running] = {}
        self._streams: dict[Stream, dict[int, None]] = {}  # insertion order: oldest exits first
        self._stream_of: dict[int, Stream] = {}
        self._last_stream = 0
        self._held = False

    def hold(self) -> None:
        """Let no lease run until :meth:`resume`: what happened is being repeated."""
        self._held = True

    def resume(self) -> None:
        """Let all leases run from now."""
        self._held = False
        for process, running in tuple(self._leases.items()):
            self._start(process, running.lease)

    def all(self) -> Iterator[tuple[int, Stream | Lease]]:
        """Every process that the service would end, and when."""
        for process, running in self._leases.items():
            yield process, running.lease
        yield from self._stream_of.items()

    def adopt(self, process: int, lifetime: Lifetime) -> None:
        """Give a process that lives already its lifetime back."""
        self._born(process, lifetime)

    def open_stream(self) -> Stream:
        """A stream begins."""
        self._last_stream += 1
        stream = Stream(self._last_stream)
        self._streams[stream] = {}
        return stream

    def close_stream(self, stream: Stream) -> None:
        """A stream has ended: so do its processes, in the order in which they started."""
        processes = self._streams.pop(stream)
        for process in processes:
            del self._stream_of[process]
        if processes:
            self._end(tuple(processes), ExitCause.STREAM_CLOSED)

    def of(self, process: int) -> Lifetime:
        """The lifetime of a process."""
        running = self._leases.get(process)
        return running.lease if running else self._stream_of.get(process)

    def renew(self, process: int) -> Lease:
        """The lease of ``process`` runs again from now.

        Raises:
            ServiceError: FAILED_PRECONDITION, it has none.
        """
        running = self._leases.get(process)
        if running is None:
            raise precondition(ErrorReason.ERROR_REASON_NO_LEASE, f"process {process} has no lease")
        self._start(process, running.lease)
        return running.lease

    def note(
        self, operations: Sequence[Operation], answers: Sequence[Answer], asked: dict[int, Lifetime]
    ) -> None:
        """Follow what a command did: births with the lifetime ``asked`` by index, forks, exits."""
        for index, (operation, answer) in enumerate(zip(operations, answers, strict=True)):
            if not answer.ok:
                continue
            if operation.call == Call.SPAWN:
                self._born(answer.value, asked.get(index))
            elif operation.call == Call.FORK:
                self._born(answer.value, self.of(operation.process))
            elif operation.call == Call.EXIT:
                self._gone(operation.process)

    def _born(self, process: int, lifetime: Lifetime) -> None:
        if isinstance(lifetime, Lease):
            self._start(process, lifetime)
        elif isinstance(lifetime, Stream):
            if lifetime in self._streams:
                self._streams[lifetime][process] = None
                self._stream_of[process] = lifetime
            else:  # the stream closed while the command ran
                self._end((process,), ExitCause.STREAM_CLOSED)

    def _start(self, process: int, lease: Lease) -> None:
        running = self._leases.pop(process, None)
        if running is not None:
            running.cancel()
        timer = None
        if not self._held:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(lease.seconds, self._expire, process)
        self._leases[process] = _Running(lease, timer)

    def _expire(self, process: int) -> None:
        del self._leases[process]
        self._end((process,), ExitCause.LEASE_EXPIRED)

    def _gone(self, process: int) -> None:
        running = self._leases.pop(process, None)
        if running is not None:
            running.cancel()
        stream = self._stream_of.pop(process, None)
        if stream is not None:
            del self._streams[stream][process]

    def stop(self) -> None:
        """Let no lease run out any more: the machine is going away."""
        for running in self._leases.values():
            running.cancel()
        self._leases.clear()
