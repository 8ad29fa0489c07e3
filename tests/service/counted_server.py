"""The server, telling what it holds at each line of standard input; with ``--leak``, a leak.

Told is one JSON object: tasks, open streams, streams of sessions, commands that wait, how often a
command began while another tenant waited, and the most operations that one tenant began while the
first command of another waited.
"""

import asyncio
import ctypes
import gc
import json
import sys
import threading
from collections import Counter
from typing import Any
from unittest.mock import patch

from contigmm_server import main
from contigmm_server.doors.guard import Guard, Identity
from contigmm_server.methods import Context
from contigmm_server.service import Service
from contigmm_server.turns import Turns

_services: list[tuple[asyncio.AbstractEventLoop, Service]] = []
_leaked: list[object] = []
_identify = Guard.identify
_start = Service.start


class CountedTurns(Turns):
    """Turns that note what others begin while the first command of a tenant waits."""

    worst = 0
    contended = 0

    def __init__(self) -> None:
        super().__init__()
        self._owners: dict[asyncio.Future[None], tuple[str, int]] = {}
        self._begun: dict[str, Counter[str]] = {}

    def add(self, tenant: str, operations: int, turn: "asyncio.Future[None]") -> None:
        """As the queue does."""
        self._owners[turn] = tenant, operations
        self._begun.setdefault(tenant, Counter())
        super().add(tenant, operations, turn)

    def next(self) -> "asyncio.Future[None] | None":
        """As the queue does."""
        turn = super().next()
        for given_up in [one for one in self._owners if one.done()]:
            del self._owners[given_up]
        if turn is None:
            self._begun.clear()
            return None
        tenant, operations = self._owners.pop(turn)
        self._begun.pop(tenant, None)
        if self.of(tenant):
            self._begun[tenant] = Counter()
        for other in [one for one in self._begun if not self.of(one)]:
            del self._begun[other]
        for waiting, begun in self._begun.items():
            if waiting != tenant:
                begun[tenant] += operations
                CountedTurns.contended += 1
                CountedTurns.worst = max(CountedTurns.worst, begun[tenant])
        return turn


async def _started(service: Service, *arguments: Any) -> str:
    _services.append((asyncio.get_running_loop(), service))
    return await _start(service, *arguments)


def _leaking(guard: Guard, context: Context) -> Identity:
    _leaked.append(bytes([len(_leaked) % 255 + 1]) * 32_768)
    return _identify(guard, context)


def _told(service: Service) -> dict[str, int]:
    registry = service.registry
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for reuse is not held
    return {
        "tasks": len(asyncio.all_tasks()),
        "streams": sum(one.streams for one in registry.allowances._all.values()),
        "sessions": sum(len(one.lifetimes._streams) for one in registry.machines()),
        "waiting": sum(one.queue.depth for one in registry.machines()),
        "contended": CountedTurns.contended,
        "worst": CountedTurns.worst,
    }


async def _tell(service: Service) -> dict[str, int]:
    return _told(service)


def _answer() -> None:
    for _ in sys.stdin:
        loop, service = _services[0]
        told = asyncio.run_coroutine_threadsafe(_tell(service), loop).result()
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def run(arguments: list[str]) -> int:
    """Serve, and tell."""
    leak = arguments[:1] == ["--leak"]
    threading.Thread(target=_answer, daemon=True).start()
    with (
        patch.object(Service, "start", _started),
        patch("contigmm_server.commands.Turns", CountedTurns),
        patch.object(Guard, "identify", _leaking if leak else _identify),
    ):
        return main.main(arguments[leak:])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
