"""The crash test: servers die under load, and nothing that was acknowledged may be lost.

``python crash.py --kills N [--seed S] [--lie]``: 16 clients, each a connection of its own, ask for
a mix of unary calls, batches, batches in columns, and batches of sessions sent ahead on streams;
processes live on leases and with their streams. The server dies at random moments, at each named
point of ``broken_disk``, and while it takes snapshots. After each death the journal is held against
what clients were told.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from broken_disk import KEPT, POINTS, keep_segment
from clients import MACHINE, Asker, SessionClient, UnaryClient
from history import History, LostError

from contigmm.client import channel, exchanges
from contigmm.hosts import describe
from contigmm.sim.machine import Machine

CLIENTS = 16
SESSIONS = 6
"""Clients of those that send batches of a session."""
TOLD_EVERY = 100
"""Deaths."""
SHORT_S = 0.5
"""Most that a life lasts."""
LONG_S = 4.0
"""Most that one with snapshots does."""
SNAPSHOTS_EVERY = 8
"""Of so many lives one takes snapshots, and lasts long enough for one to be in place."""


class Launcher:
    """Starts servers on one directory, one after the other."""

    def __init__(self, data: Path) -> None:
        program = Path(__file__).with_name("broken_disk.py")
        self.snapshots = 0
        """Taken by running servers, and in place."""
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, order: dict[str, Any]) -> tuple[int, str]:
        """Start a server; give its pid, and its address unless it died before it listened."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid, address, lines = 0, "", Counter[str]()
        while True:
            what, _, rest = self._line().partition(" ")
            lines[what] += 1
            if what == "pid":
                pid = int(rest)
            elif what == "listening":
                address = rest
            elif what == "failed":
                raise LostError(f"the server does not start: {rest}")
            if lines["pid"] and (address or lines["ended"]):
                return pid, "" if lines["ended"] else address

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def wait(self) -> bool:
        """Wait for its end; tell whether it died by itself."""
        by_itself = False
        while (line := self._line()) != "ended":
            by_itself |= line == "died"
            self.snapshots += line == "snapshot"
        return by_itself

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)


class Test:
    """Rounds of start, load, death and comparison."""

    def __init__(self, data: Path, *, seed: int, lie: bool) -> None:
        self._data = data
        self._random = random.Random(seed)
        self._lie = lie
        self.history = History(Machine.boot(describe("spec:small"), seed=1))
        self.clients: list[Asker] = [
            (SessionClient if number < SESSIONS else UnaryClient)(number, seed, self.history)
            for number in range(CLIENTS)
        ]
        self.deaths: Counter[str] = Counter()
        self.launcher = Launcher(data)
        self._lives = 0

    async def round(self, fault: str | None) -> None:
        """One life of a server."""
        draw = self._random
        self._lives += 1
        snapshots = self._lives % SNAPSHOTS_EVERY == 0
        often = ("write", "write-torn", "sync", "sync-torn", "synced")
        after = 1 + draw.randrange(20 if fault in often else 1 + (fault or "").startswith("repl"))
        order = {"fault": fault, "after": after, "seed": draw.random(), "lie": self._lie}
        pid, address = self.launcher.start({**order, "snapshots": snapshots})
        if not address:
            self.deaths[fault or "start"] += 1
            return
        loads = [asyncio.create_task(client.run(address)) for client in self.clients]
        looks = asyncio.create_task(self._look(address))
        longest_s = LONG_S if snapshots else SHORT_S
        ended, _ = await asyncio.wait(loads, timeout=draw.uniform(0.05, longest_s))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        by_itself = await asyncio.to_thread(self.launcher.wait)
        if ended and not by_itself:
            raise LostError(f"{len(ended)} clients lost the connection to a server that lived")
        self.deaths[fault if by_itself and fault else "killed"] += 1
        await asyncio.gather(*loads, looks)
        for log in (self._data / "m").glob("*.log"):
            keep_segment(log)
        if (self._data / KEPT).is_dir():
            self.history.follow(self._data / KEPT)

    def every_point_was_hit(self, kills: int) -> bool:
        """Whether servers died at each named point, five times in 200 deaths."""
        return all(self.deaths[point] * 40 >= min(kills, 200) for point in POINTS)

    async def _look(self, address: str) -> None:
        """Ask for digests now and then."""
        async with grpc.aio.insecure_channel(address) as connection:
            check = channel.methods(connection)["CheckMachine"]
            try:
                while True:
                    told = await check(exchanges.check_machine(MACHINE).request, timeout=10)
                    if told.violation:
                        raise LostError(told.violation)
                    self.history.digests[told.machine_seq] = told.digest
                    await asyncio.sleep(0.1)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise

    def close(self) -> None:
        self.launcher.close()


async def run(kills: int, *, seed: int, lie: bool, tell: Callable[[str], object]) -> int:
    """Run the test; give the number of acknowledgements that were compared."""
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="contigmm-crash-") as folder:
        test = Test(Path(folder), seed=seed, lie=lie)
        try:
            done = 0
            while done < kills or (done < 2 * kills and not test.every_point_was_hit(kills)):
                # every second life is to end at the point that was hit least, the others anywhere
                least = min(POINTS, key=lambda point: (test.deaths[point], point))
                await test.round(least if done % 2 == 0 else None)
                done += 1
                if done % TOLD_EVERY == 0:
                    tell(f"{done} deaths, {test.history.compared} answers compared")
        finally:
            test.close()
        if not test.every_point_was_hit(kills):
            raise LostError(f"some point was not hit often enough: {dict(test.deaths)}")
    history = test.history
    tell(
        f"{done} deaths {dict(sorted(test.deaths.items()))}; "
        f"{sum(client.answered for client in test.clients)} acknowledged, "
        f"{sum(client.retried for client in test.clients)} asked again, {history.compared} answers "
        f"and {history.digests_compared} digests equal the library's, {history.library.seq} "
        f"positions, {test.launcher.snapshots} snapshots, {time.perf_counter() - began_s:.0f} s"
    )
    return history.compared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lie", action="store_true", help="syncs do nothing: the test must fail")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    try:
        asyncio.run(run(args.kills, seed=args.seed, lie=args.lie, tell=partial(print, flush=True)))
    except LostError as error:
        print(f"crash test: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
