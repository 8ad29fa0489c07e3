"""One machine's journal: intents appended in the machine's order, synced in groups.

A command is appended before it is applied and acknowledged after its bytes last. Appending makes
room first, so that a full disk refuses a command that has not touched the machine. A write or a
sync that fails stops the machine until the server is started again, for nobody knows what lasts.
"""

import asyncio
import logging
import threading
import time
import zlib
from concurrent.futures import Executor, Future
from enum import StrEnum
from typing import Final

import grpc

from contigmm_server.durable.disk import File
from contigmm_server.durable.segment import HEADER, Header, frame
from contigmm_server.durations import Durations
from contigmm_server.failures import ErrorReason, ServiceError

log = logging.getLogger("contigmm_server")

GROUP_S: Final = 0.004
"""How long the first command of a group waits for others."""
SLOW_S: Final = 5.0
"""A sync that takes longer makes the journal unavailable for commands until it is done."""
ROOM_BYTES: Final = 4 << 20
"""Room is made in pieces of this many bytes."""


class Durability(StrEnum):
    """When a command is acknowledged."""

    FULL = "full"  # once it lasts; a sync begins as soon as the one before is done
    GROUP = "group"  # once it lasts; a sync waits GROUP_S for others to share it
    NONE = "none"  # at once; what was written lately is lost with the computer


def unavailable(message: str) -> ServiceError:
    """Commands cannot be made to last."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_NOT_DURABLE, message)


class Kept:
    """What a machine's journal has done since the server began, over all segments."""

    def __init__(self) -> None:
        self.commands = 0
        self.bytes = 0
        self.sync_durations = Durations()


class Journal:
    """The segment that is being written. ``append`` belongs to the machine's turn, any thread."""

    def __init__(
        self,
        file: File,
        header: Header,
        durability: Durability,
        executor: Executor,
        *,
        after: "Journal | None" = None,
    ) -> None:
        """Begin a segment with its header, which is written with the first command.

        If it comes ``after`` another, nothing is written until :meth:`begin_after`: what was
        appended first must last first.

        Raises:
            ServiceError: UNAVAILABLE, there is no room on the disk.
        """
        self._file = file
        self._durability = durability
        self._executor = executor
        self._lock = threading.Lock()  # of _buffer and appended: commands and syncs are threads
        self._buffer: list[bytes] = []
        self._room = 0
        self.chain = header.chain
        self.commands = -1  # the header is none
        """Commands appended."""
        self.appended = 0
        """Bytes up to the last command's end."""
        self.synced = 0
        """Bytes that last."""
        self.syncs = 0
        self.kept: Kept = Kept() if after is None else after.kept
        self.failed: ServiceError | None = None
        self._written = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: Future[int] | None = None
        self._flushing_since_s = 0.0
        self._slow = False
        self._after = after
        """The segment before, as long as it is not closed: nothing is written until then."""
        self.append(HEADER, header.encode(), seq=header.seq)

    # ---- within a turn of the machine ----

    def append(self, kind: int, body: bytes, *, seq: int) -> None:
        """Append a command that is about to be applied at position ``seq``.

        Raises:
            ServiceError: UNAVAILABLE, it cannot be made to last; the machine is as it was.
        """
        if self.failed is not None:
            raise self.failed
        if (self._flushing is not None or self._after is not None) and self.slow:
            raise self._too_slow()
        record = frame(kind, body, seq=seq, chain=self.chain, durable=self.synced)
        end = self.appended + len(record)
        if end > self._room:
            self._make_room(end)
        with self._lock:
            self._buffer.append(record)
            self.appended = end
        self.commands += 1
        kept = self.kept
        kept.commands += kind != HEADER
        kept.bytes += len(record)

    @property
    def slow(self) -> bool:
        """Whether a sync has taken over ``SLOW_S`` by now, also one of the segment before."""
        if self._after is not None:
            return self._after.slow
        since_s = self._flushing_since_s
        return self._flushing is not None and time.monotonic() - since_s > SLOW_S

    @property
    def alone(self) -> bool:
        """Whether all that lasts of the segments before has come to last."""
        return self._after is None

    def _too_slow(self) -> ServiceError:
        sentence = f"the disk has not finished a sync for over {SLOW_S:.0f} s"
        if not self._slow:
            self._slow = True
            log.warning("%s; commands are turned down until it has", sentence)
        return unavailable(sentence)

    def _make_room(self, end: int) -> None:
        room = end + ROOM_BYTES
        try:
            self._file.allocate(room)
        except OSError as error:
            raise unavailable(f"the journal cannot grow: {error.strerror}") from error
        self._room = room

    def answered(self, answer: bytes) -> None:
        """Note what the command that was appended last was answered."""
        self.chain = zlib.crc32(answer, self.chain)

    # ---- on the event loop ----

    async def lasting(self) -> None:
        """Wait until everything appended so far lasts.

        Raises:
            ServiceError: UNAVAILABLE, it may not.
        """
        pending = self.pending()
        if pending is not None:
            await pending

    def pending(self) -> "asyncio.Future[None] | None":
        """What is done when everything appended so far lasts; nothing, if it does now.

        Raises:
            ServiceError: UNAVAILABLE, it may not; so may the future.
        """
        if self.failed is not None:
            raise self.failed
        if self._durability is Durability.NONE:
            self._begin_soon()
            return None
        if self.appended <= self.synced:
            return None
        lasts: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.appended, lasts))
        self._begin_soon()
        return lasts

    def begin_after(self, old: "Journal") -> None:
        """Begin to write: the segment before this one is closed."""
        self._after = None
        if old.failed is not None:
            self._stop(old.failed)
        elif self._waiting or self._durability is Durability.NONE:
            self._begin_soon()

    def _begin_soon(self) -> None:
        if self._after is not None or self._timer is not None or self._flushing is not None:
            return
        loop = asyncio.get_running_loop()
        wait_s = 0.0 if self._durability is Durability.FULL else GROUP_S
        self._timer = loop.call_later(wait_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        self._flushing_since_s = time.monotonic()
        # Not loop.run_in_executor(): its chain of two futures costs as much again, for each group.
        self._flushing = self._executor.submit(self._flush)
        self._flushing.add_done_callback(lambda done: loop.call_soon_threadsafe(self._ended, done))

    def _flush(self) -> int:
        """Write what is buffered and sync it, in a thread; give the bytes that last then."""
        with self._lock:
            data, self._buffer = b"".join(self._buffer), []
        if data:
            self._file.write(data, self._written)
            self._written += len(data)
        if self._durability is not Durability.NONE:
            began_ns = time.perf_counter_ns()
            self._file.sync()
            self.kept.sync_durations.add((time.perf_counter_ns() - began_ns) / 1e9)
        self.syncs += 1
        return self._written

    def _ended(self, flush: "Future[int]") -> None:
        self._flushing = None
        self._slow = False
        error = flush.exception()
        if isinstance(error, OSError):
            self._fail(error)
            return
        self.synced = flush.result()
        left = []
        for end, lasts in self._waiting:
            if end > self.synced:
                left.append((end, lasts))
            elif not lasts.done():
                lasts.set_result(None)
        self._waiting = left
        if left:
            self._begin_soon()

    def _fail(self, error: OSError) -> None:
        log.error("a sync of the journal failed: %s", error)
        self._stop(
            unavailable(
                f"the journal failed ({error.strerror}); the machine has stopped until the server "
                "is started again"
            )
        )

    def _stop(self, failure: ServiceError) -> None:
        self.failed = failure
        for _, lasts in self._waiting:
            if not lasts.done():
                lasts.set_exception(failure)
        self._waiting.clear()

    async def close(self) -> None:
        """Write and sync the rest, then let go of the file; no command may come any more."""
        while self._flushing is not None:
            await asyncio.wait((asyncio.wrap_future(self._flushing),))
            await asyncio.sleep(0)  # what follows from it has been done
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.failed is None:
            self._flushing_since_s = time.monotonic()
            self._flushing = last = self._executor.submit(self._flush)
            await asyncio.wait((asyncio.wrap_future(last),))
            self._ended(last)
        self._file.close()
