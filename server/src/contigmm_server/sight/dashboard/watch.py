"""One machine as its watchers see it: looked at for all of them together, and only while there are.

A watcher is sent what has changed since what it was sent last, so one that is slow misses looks,
never changes of the map. What is sent is made once for all who are equally far.

An event of the stream is a line of JSON and three lines of base64: which pageblocks have changed
(u32 each), their cells (three bytes each, see ``Survey``), and the contiguous runs (u32 pairs).
"""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, suppress
from typing import Any, Final

import numpy as np

from contigmm import procfs
from contigmm.sim.trace import Trace, TraceError
from contigmm_server.failures import ServiceError
from contigmm_server.hosted import HostedMachine
from contigmm_server.sight.dashboard.survey import Survey
from contigmm_server.sight.refusals import Refusals

INTERVAL_S: Final = 0.08
"""Between two looks."""
IDLE_S: Final = 2.0
"""A machine that does nothing is told of once in this time."""
EVENTS: Final = 40
"""Most operations told of with one look, and most of the allocator's events."""
RUNS: Final = 4096
"""Most contiguous runs told of."""
HEARD: Final = 1 << 12
"""Events that the allocator keeps from one look to the next."""
_LOOK_US: Final = 3000.0

log = logging.getLogger("contigmm_server")


class Watch:
    """The looks at one machine."""

    def __init__(
        self,
        hosted: HostedMachine,
        refusals: Refusals,
        *,
        is_there: Callable[[], bool] = lambda: True,
        beside: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Watch a machine.

        Args:
            hosted: The machine.
            refusals: What it answers.
            is_there: Whether it still is a machine of the server.
            beside: What a look tells of other things, by name.
        """
        self.hosted = hosted
        self.encodings = 0
        """Events that were made."""
        self._refusals = refusals
        self._is_there = is_there
        self._beside = beside
        self._survey = Survey()
        self._state: dict[str, Any] = {}
        self._runs = b""
        self._runs_at = 0
        self._seq = -1
        self._told_seq = 0
        self._watchers = 0
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._made: dict[tuple[int, bool], bytes] = {}
        """Of the last look: the event for who has seen a look, and whether it has tracepoints."""
        self._events: list[dict[str, Any]] = []
        self._listeners = 0
        self._listening = ExitStack()
        self._trace: Trace | None = None
        self._heard: dict[str, Any] = {}
        self._reason = ""

    @property
    def look(self) -> int:
        """Number of the last look."""
        return self._survey.look

    @property
    def is_watched(self) -> bool:
        """Whether anybody watches."""
        return self._watchers > 0

    async def messages(self, *, traced: bool = False) -> AsyncGenerator[bytes, None]:
        """What one watcher is told, an event of a stream at a time; the last says why it ends.

        Args:
            traced: Whether the allocator's tracepoints are told of, too.
        """
        self._begin(traced)
        seen = 0
        try:
            while self._task is not None and not self._task.done():
                if self._survey.look > seen:
                    message = self._message(seen, traced)
                    seen = self._survey.look
                    yield message
                else:
                    await self._looked.wait()
            end = {"reason": self._reason, "again": self._is_there()}
            yield b"event: end\ndata: %s\n\n" % json.dumps(end).encode()
        finally:
            self._end(traced)

    def _begin(self, traced: bool) -> None:
        self._watchers += 1
        self._listeners += traced
        if self._watchers == 1:
            self._refusals.watched = True
            self._reason = ""
            self._told_seq = self.hosted.machine.seq
            self._seq = -1
            self._survey.renew()
            self._looked = asyncio.Event()  # the last one is set for good: `stop`
            self._task = asyncio.create_task(self._look_on())
            self._task.add_done_callback(self._ended)

    def _end(self, traced: bool) -> None:
        self._watchers -= 1
        self._listeners -= traced
        if self._watchers == 0:
            self._refusals.watched = False
            self.stop("nobody watches")

    def stop(self, reason: str) -> None:
        """Look no more; those who watch are told why."""
        self._reason = self._reason or reason
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._looked.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let the watchers of a look that failed go: they come again."""
        if not task.cancelled() and task.exception() is not None:
            log.error("%s cannot be looked at", self.hosted.name, exc_info=task.exception())
            self._reason = f"{self.hosted.name} cannot be looked at: the server's log says why."
        self._looked.set()

    async def _look_on(self) -> None:
        try:
            await self._look_in_turns()
        finally:
            if self._trace is not None:
                await self.hosted.queue.run_ordered(self._hear_no_more, cost_us=_LOOK_US)

    async def _look_in_turns(self) -> None:
        """Look now and then until the machine is gone."""
        loop = asyncio.get_running_loop()
        due_s = told_s = loop.time()
        while self._is_there():
            moved = self.hosted.machine.seq != self._seq
            if moved:
                self._survey.renew()
            if moved or not self._survey.is_complete or loop.time() - told_s >= IDLE_S:
                with suppress(ServiceError):  # the queue is full: another time
                    await self.hosted.queue.run(self._look, cost_us=_LOOK_US)
                    self._tell()
                    told_s = loop.time()
            due_s = max(due_s + INTERVAL_S, loop.time())
            await asyncio.sleep(due_s - loop.time())
        self._reason = f"{self.hosted.name} was deleted."

    def _tell(self) -> None:
        self._events = self._refusals.latest(self._told_seq, EVENTS)
        self._told_seq = self._seq
        self._made.clear()
        self._looked.set()
        self._looked = asyncio.Event()

    # ---- within a turn of the machine ----

    def _look(self) -> None:
        machine = self.hosted.machine
        with machine.held() as memory:
            self._seq = machine.seq
            pfn, nr = memory.contig_runs()
            self._survey.take(memory, pfn, nr)
            zones = procfs.zone_keys(memory)
            by_type = memory.free_by_type()
        runs = np.stack([pfn, nr], axis=1)[:RUNS].astype("<u4").tobytes()
        if runs != self._runs:
            self._runs, self._runs_at = runs, self._survey.look
        free = by_type.sum(axis=1).tolist()
        self._state = {
            "seq": self._seq,
            "clock_ns": machine.clock_ns,
            "processes": len(machine.processes()),
            "queue": self.hosted.queue.depth,
            "refusals": sum(self._refusals.counts.values()),
            "nr_runs": len(pfn),
            "pageblocks": len(self._survey.cells),
            "zones": [
                {"zone": zone, "free": counts, "unusable": procfs.unusable_index(counts)}
                for zone, counts in zip(zones, free, strict=True)
            ],
        }
        if self._listeners:
            self._hear()
        elif self._trace is not None:
            self._hear_no_more()

    def _hear(self) -> None:
        """Take what the allocator has told since the last look."""
        try:
            if self._trace is None:
                self._trace = self._listening.enter_context(self.hosted.machine.trace(HEARD))
        except TraceError as error:
            self._heard = {"lines": [], "more": 0, "dropped": 0, "error": str(error)}
            return
        events = self._trace.read()
        last = events.last(EVENTS)
        self._heard = {
            "lines": list(last.text()),
            "more": len(events) - len(last),
            "dropped": events.dropped,
            "error": "",
        }

    def _hear_no_more(self) -> None:
        self._listening.close()
        self._trace = None

    # ---- what is sent ----

    def _message(self, seen: int, traced: bool) -> bytes:
        """The state and what has changed after look ``seen``, made once for all who ask alike."""
        made = self._made.get((seen, traced))
        if made is None:
            made = self._made[seen, traced] = self._encoded(seen, traced)
        return made

    def _encoded(self, seen: int, traced: bool) -> bytes:
        self.encodings += 1
        which, cells = self._survey.since(seen)
        everything = len(which) == len(self._survey.cells)
        body = (
            self._state
            | {
                "missed": self._survey.look - seen - 1 if seen else 0,
                "all": everything,
                "new_runs": self._runs_at > seen,
                "events": self._events,
                "trace": self._heard if traced and self._heard else None,
            }
            | self._beside()
        )
        lines = (
            json.dumps(body, separators=(",", ":")).encode(),
            b"" if everything else base64.b64encode(which.tobytes()),
            base64.b64encode(cells.tobytes()),
            base64.b64encode(self._runs) if self._runs_at > seen else b"",
        )
        data = b"\n".join(b"data: " + line for line in lines)
        return b"id: %d\nevent: look\n%s\n\n" % (self._survey.look, data)
