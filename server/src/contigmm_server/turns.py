"""Who is next: first come first served within a tenant, fair by operations between tenants.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). A tenant that comes to wait starts at
the present virtual time, or where its own last command ended, if that is later; each command of n
operations moves its tenant on by n; whoever starts first is next, and virtual time is its start.

So while the first command of a tenant waits, any other tenant begins at most 2 * ``MAX_OPERATIONS``
operations, however many it sends: the waiting tenant starts no further ahead of virtual time than
its own last command was long, and the other's last command may overshoot by its own length. What
runs when it comes may hold as many again. With one tenant, order and cost are those of a deque.
"""

import asyncio
from collections import deque


class _Line:
    __slots__ = ("start", "waiting")

    def __init__(self, start: int) -> None:
        self.start = start
        """Virtual time at which its first command starts."""
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()


class Turns:
    """Commands that wait for one machine, by tenant."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._ended: dict[str, int] = {}
        """Where tenants that do not wait have ended, until the machine is idle."""
        self._virtual = 0
        self._nr_waiting = 0

    def __len__(self) -> int:
        return self._nr_waiting

    def of(self, tenant: str) -> int:
        """Commands of one tenant that wait."""
        line = self._lines.get(tenant)
        return 0 if line is None else len(line.waiting)

    def add(self, tenant: str, operations: int, turn: "asyncio.Future[None]") -> None:
        """Let a command of so many operations wait for ``turn``."""
        line = self._lines.get(tenant)
        if line is None:
            start = max(self._virtual, self._ended.pop(tenant, 0))
            line = self._lines[tenant] = _Line(start)
        line.waiting.append((operations, turn))
        self._nr_waiting += 1

    def leave(self, tenant: str, operations: int, turn: "asyncio.Future[None]") -> None:
        """Take out a command whose caller has gone away, unless ``next`` has come upon it."""
        line = self._lines.get(tenant)
        if line is None or (operations, turn) not in line.waiting:
            return
        line.waiting.remove((operations, turn))
        self._nr_waiting -= 1
        if not line.waiting:
            self._end(tenant)

    def next(self) -> "asyncio.Future[None] | None":
        """Take out the next turn that is still waited for; none: the machine is idle."""
        lines = self._lines
        while lines:
            tenant = next(iter(lines)) if len(lines) == 1 else min(lines, key=self._start)
            line = lines[tenant]
            operations, turn = line.waiting.popleft()
            self._nr_waiting -= 1
            if not turn.done():
                self._virtual = line.start
                line.start += operations
            if not line.waiting:
                self._end(tenant)
            if not turn.done():
                return turn
        self._ended.clear()
        self._virtual = 0
        return None

    def _end(self, tenant: str) -> None:
        self._ended[tenant] = self._lines.pop(tenant).start

    def _start(self, tenant: str) -> int:
        return self._lines[tenant].start
