"""One machine as its watchers see it: looked at for all of them together, and only while there are.

A watcher is sent what has changed since what it was sent last, so one that is slow misses looks,
never changes.
"""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import numpy as np

from contigmm import procfs
from contigmm_server.failures import ServiceError
from contigmm_server.hosted import HostedMachine
from contigmm_server.sight.dashboard.survey import Survey
from contigmm_server.sight.refusals import Refusals

INTERVAL_S: Final = 0.08
"""Between two looks."""
IDLE_S: Final = 2.0
"""A machine that does nothing is told of once in this time."""
EVENTS: Final = 40
"""Most operations told of with one look."""
RUNS: Final = 4096
"""Most contiguous runs told of."""
_LOOK_US: Final = 3000.0

log = logging.getLogger("contigmm_server")


class Watch:
    """The looks at one machine."""

    def __init__(self, hosted: HostedMachine, refusals: Refusals) -> None:
        self.hosted = hosted
        self._refusals = refusals
        self._survey = Survey()
        self._state: dict[str, Any] = {}
        self._seq = -1
        self._told_seq = 0
        self._watchers = 0
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._made: tuple[int, bytes] = (-1, b"")
        self._events: list[dict[str, Any]] = []

    async def messages(self) -> AsyncIterator[bytes]:
        """What one watcher is told, an event of a stream at a time; ends with the machine."""
        self._begin()
        seen = 0
        try:
            while self._task is not None and not self._task.done():
                if self._survey.look > seen:
                    message = self._message(seen)
                    seen = self._survey.look
                    yield message
                else:
                    await self._looked.wait()
        finally:
            self._end()

    def _begin(self) -> None:
        self._watchers += 1
        if self._watchers == 1:
            self._refusals.watched = True
            self._told_seq = self.hosted.machine.seq
            self._seq = -1
            self._survey.renew()
            self._looked = asyncio.Event()  # the last one is set for good: `stop`
            self._task = asyncio.create_task(self._look_on())
            self._task.add_done_callback(self._ended)

    def _end(self) -> None:
        self._watchers -= 1
        if self._watchers == 0:
            self._refusals.watched = False
            self.stop()

    def stop(self) -> None:
        """Look no more: nobody watches, or there is nothing to see."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._looked.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let the watchers of a look that failed go: they come again."""
        if not task.cancelled() and task.exception() is not None:
            log.error("%s cannot be looked at", self.hosted.name, exc_info=task.exception())
            self._looked.set()

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = told_s = loop.time()
        while True:
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

    def _tell(self) -> None:
        self._events = self._refusals.latest(self._told_seq, EVENTS)
        self._told_seq = self._seq
        self._looked.set()
        self._looked = asyncio.Event()

    def _look(self) -> None:
        """See the machine, within a turn of it."""
        machine = self.hosted.machine
        with machine.held() as memory:
            self._seq = machine.seq
            self._survey.take(memory)
            zones = procfs.zone_keys(memory)
            by_type = memory.free_by_type()
            pfn, nr = memory.contig_runs()
        free = by_type.sum(axis=1).tolist()
        self._state = {
            "seq": self._seq,
            "clock_ns": machine.clock_ns,
            "processes": len(machine.processes()),
            "queue": self.hosted.queue.depth,
            "refusals": sum(self._refusals.counts.values()),
            "nr_runs": len(pfn),
            "runs": np.stack([pfn, nr], axis=1)[:RUNS].ravel().tolist(),
            "zones": [
                {"zone": zone, "free": counts, "unusable": procfs.unusable_index(counts)}
                for zone, counts in zip(zones, free, strict=True)
            ],
        }

    def _message(self, seen: int) -> bytes:
        """The state and what has changed after look ``seen``, made once for all who ask alike."""
        if self._made[0] == seen and self._made[1].startswith(b"id: %d\n" % self._survey.look):
            return self._made[1]
        which, cells = self._survey.since(seen)
        look = self._survey.look
        body = self._state | {
            "missed": look - seen - 1 if seen else 0,
            "pageblocks": len(self._survey.cells),
            "which": "all" if len(which) == len(self._survey.cells) else _base64(which),
            "cells": _base64(cells),
            "events": self._events,
        }
        data = json.dumps(body, separators=(",", ":")).encode()
        message = b"id: %d\nevent: look\ndata: %s\n\n" % (look, data)
        self._made = (seen, message)
        return message


def _base64(array: "np.ndarray[Any, Any]") -> str:
    return base64.b64encode(array.tobytes()).decode()
