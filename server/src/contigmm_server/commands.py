"""One machine's queue of commands: one at a time, fair between tenants, bounded for each.

A command is a function that runs on the machine and returns when it is done. A short one runs on
the event loop; one that is judged to take over 4 ms runs in a thread, and the machine
belongs to that thread until it ends, whether or not its caller is still there. What has begun is
completed; what has not begun when its caller goes away (cancelled, deadline passed) is dropped.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final, TypeAlias, TypeVar

from contigmm_server.doors.caller import CURRENT
from contigmm_server.durations import Durations
from contigmm_server.failures import ErrorReason, exhausted
from contigmm_server.turns import Turns

SHORT_US: Final = 4000
"""Work judged to take longer leaves the event loop.

Less than Python's switch interval (5 ms): a thread would hold the interpreter, and so the loop, as
long, and cost the change of threads besides.
"""

T = TypeVar("T")

Soon: TypeAlias = T | Awaitable[T]
"""What is there already, or comes when awaited."""


class CommandQueue:
    """Commands of one machine, a tenant's in the order in which they came: see ``Turns``."""

    def __init__(self, executor: Executor, *, limit: int, settle: Callable[[], None]) -> None:
        """Make an empty queue.

        Args:
            executor: Threads for what is long.
            limit: Most commands of one tenant waiting; one more is RESOURCE_EXHAUSTED.
            settle: Called on the event loop when a command has ended, before the next begins.
        """
        self._executor = executor
        self._limit = limit
        self._settle = settle
        self._waiting = Turns()
        self._busy = False
        self.depth_max = 0
        """Most commands that ever waited at once."""
        self.waits = Durations()
        """How long commands waited that could not begin at once."""

    @property
    def depth(self) -> int:
        """Commands that wait for their turn."""
        return len(self._waiting)

    def answer(self, work: Callable[[], T], *, cost_us: float, operations: int = 1) -> Soon[T]:
        """Do as :meth:`run`, but give the result itself if the machine is idle and ``work`` short.

        Raises:
            ServiceError: As :meth:`run`.
        """
        if self._busy or cost_us >= SHORT_US:
            return self.run(work, cost_us=cost_us, operations=operations)
        self._busy = True
        try:
            return work()
        finally:
            self._settle()
            self._busy = False  # nobody has come to wait meanwhile: the loop was taken

    async def run(self, work: Callable[[], T], *, cost_us: float, operations: int = 1) -> T:
        """Run ``work`` of so many operations when its turn comes, at once if the machine is idle.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, too many are waiting; or what ``work`` raises.
        """
        if self._busy:
            self._check_room()
            await self._turn(operations)
        else:
            self._busy = True
        return await self._run(work, cost_us)

    async def run_in_turn(self, work: Callable[[], T], *, cost_us: float, operations: int = 1) -> T:
        """Run ``work`` behind everything that has arrived by now, so that ``depth`` counts it all.

        Raises:
            ServiceError: As :meth:`run`.
        """
        self._check_room()
        await self._turn(operations)
        return await self._run(work, cost_us)

    async def run_ordered(self, work: Callable[[], T], *, cost_us: float, operations: int = 1) -> T:
        """Run ``work`` past the limit if need be: for what the service itself orders."""
        await self._turn(operations)
        return await self._run(work, cost_us)

    def _check_room(self) -> None:
        if self._waiting.of(CURRENT.get().tenant) >= self._limit:
            raise exhausted(
                ErrorReason.ERROR_REASON_QUEUE_FULL,
                f"{self._limit} commands are waiting for this machine",
            )

    async def _turn(self, operations: int) -> None:
        """Wait until the machine is this caller's."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        tenant = CURRENT.get().tenant
        self._waiting.add(tenant, operations, turn)
        self.depth_max = max(self.depth_max, self.depth)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._grant)
        began_ns = time.perf_counter_ns()
        try:
            await turn
            self.waits.add((time.perf_counter_ns() - began_ns) / 1e9)
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.leave(tenant, operations, turn)
            else:  # it was granted in the same moment
                self._release()
            raise

    async def _run(self, work: Callable[[], T], cost_us: float) -> T:
        if cost_us < SHORT_US:
            try:
                return work()
            finally:
                self._release()
        running = asyncio.get_running_loop().run_in_executor(self._executor, work)
        running.add_done_callback(lambda _: self._release())
        return await asyncio.shield(running)

    def _release(self) -> None:
        self._settle()
        self._grant()

    def _grant(self) -> None:
        """Give the machine to the next who still waits for it."""
        turn = self._waiting.next()
        if turn is None:
            self._busy = False
        else:
            turn.set_result(None)
