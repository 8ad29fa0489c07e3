"""The crash test: servers die under load, and nothing that was acknowledged may be lost.

``python crash.py --kills N [--seed S] [--lie]``: 16 clients, each a connection of its own, ask for
a mix of unary calls, batches and session batches. The server dies at random moments and at each
named point of ``broken_disk``. After each death the journal is held against what clients were told.
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
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from broken_disk import POINTS
from history import History, LostError

from contigmm.client import channel, exchanges, wire
from contigmm.hosts import describe
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.machine import Machine
from contigmm.sim.operation import Answer, Call, Operation
from contigmm.v1 import batch_pb2, memory_pb2, operation_pb2

CLIENTS = 16
PAGE = 4096
MACHINE = "machines/m"
MMAP = (0, 4 * PAGE, 3, 0x22, -1, 0)
CONTIG = (0, 64 * 1024, 3, 0x80022, -1, 0)


class Client:
    """One client: what it asked last and was not answered it asks again after a restart."""

    def __init__(self, number: int, seed: int, history: History) -> None:
        self._random = random.Random(seed * 1000 + number)
        self._number = number
        self._history = history
        self._asked = 0
        self._process = 0
        self._mapped: list[int] = []
        self._open: tuple[str, Any, list[Operation]] | None = None
        self.answered = 0
        self.retried = 0

    async def run(self, address: str) -> None:
        """Ask until the connection is gone."""
        async with grpc.aio.insecure_channel(
            address, options=(("grpc.use_local_subchannel_pool", 1),)
        ) as connection:
            methods = channel.methods(connection)
            try:
                while True:
                    if self._open is None:
                        self._open = self._next()
                    else:
                        self.retried += 1
                    name, request, operations = self._open
                    response = await methods[name](request, timeout=10)
                    self._open = None
                    self._told(operations, response)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return
                raise

    def _next(self) -> tuple[str, Any, list[Operation]]:
        self._asked += 1
        request_id = f"{self._number}-{self._asked}"
        if not self._process:
            spec = exchanges.ProcessSpec("crash")
            call = exchanges.spawn(MACHINE, request_id, spec)
            return "SpawnProcess", call.request, [Operation(Call.SPAWN, 0, (0, 0, 0), SPEC)]
        process = self._process
        name = f"{MACHINE}/processes/{process}"
        draw = self._random.random()
        if draw < 0.15:
            operations = [Operation(Call.MMAP, process, self._random.choice((MMAP, CONTIG)))]
            operations.append(Operation(Call.TOUCH, process, (0, PAGE, 1), addr_from=0))
            operations.append(Operation(Call.MUNMAP, process, (0, PAGE), addr_from=0))
            batch = batch_pb2.Batch()
            for operation in operations:
                wire.add(operation, batch, None)
            run = batch_pb2.RunBatchRequest(machine=MACHINE, batch=batch, request_id=request_id)
            return "RunBatch", run, operations
        if draw < 0.5 or not self._mapped:
            args = self._random.choice((MMAP, CONTIG))
            call = exchanges.mmap(name, request_id, args)
            return "Mmap", call.request, [Operation(Call.MMAP, process, args)]
        address = self._random.choice(self._mapped)
        if draw < 0.7:
            touch = memory_pb2.TouchRequest(
                process=name,
                call=operation_pb2.TouchCall(address=address, length=PAGE, write=True),
                request_id=request_id,
            )
            return "Touch", touch, [Operation(Call.TOUCH, process, (address, PAGE, 1))]
        self._mapped.remove(address)
        call = exchanges.munmap(name, request_id, address, 4 * PAGE)
        return "Munmap", call.request, [Operation(Call.MUNMAP, process, (address, 4 * PAGE))]

    def _told(self, operations: list[Operation], response: Any) -> None:
        self.answered += 1
        if isinstance(response, batch_pb2.RunBatchResponse):
            for operation, answer in zip(
                operations, wire.answers(response.answers.answers), strict=True
            ):
                if answer.seq:
                    self._history.told(operation, answer)
            return
        (operation,) = operations
        answer = unary_answer(response)
        if operation.call == Call.SPAWN:
            self._process = answer.value
        elif operation.call == Call.MMAP and answer.ok:
            self._mapped.append(answer.value)
        self._history.told(operation, answer)


SPEC = SpawnSpec("crash").encode()


def unary_answer(response: Any) -> Answer:
    """A unary response as the library's answer."""
    seq = response.machine_seq
    if response.HasField("failure"):
        failure = response.failure
        return Answer(seq, errno=failure.errno, reason=wire.reason(failure.reason))
    for name in ("address", "pages"):
        if name in response.DESCRIPTOR.fields_by_name:
            return Answer(seq, getattr(response, name))
    if "process" in response.DESCRIPTOR.fields_by_name:
        return Answer(seq, response.process.id)
    return Answer(seq)


class Launcher:
    """Starts servers on one directory, one after the other."""

    def __init__(self, data: Path) -> None:
        program = Path(__file__).with_name("broken_disk.py")
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
        self.clients = [Client(number, seed, self.history) for number in range(CLIENTS)]
        self.deaths: Counter[str] = Counter()
        self._launcher = Launcher(data)

    async def round(self, fault: str | None) -> None:
        """One life of a server."""
        draw = self._random
        often = ("write", "write-torn", "sync", "sync-torn", "synced")
        after = 1 + draw.randrange(20 if fault in often else 1 + (fault or "").startswith("repl"))
        order = {"fault": fault, "after": after, "seed": draw.random(), "lie": self._lie}
        pid, address = self._launcher.start(order)
        if not address:
            self.deaths[fault or "start"] += 1
            return
        loads = [asyncio.create_task(client.run(address)) for client in self.clients]
        looks = asyncio.create_task(self._look(address))
        await asyncio.wait(loads, timeout=draw.uniform(0.05, 0.5))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        by_itself = await asyncio.to_thread(self._launcher.wait)
        self.deaths[fault if by_itself and fault else "killed"] += 1
        await asyncio.gather(*loads, looks)
        if (self._data / "m").is_dir():
            self.history.follow(self._data / "m")

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
        self._launcher.close()


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
        f"positions, {time.perf_counter() - began_s:.0f} s"
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
        asyncio.run(run(args.kills, seed=args.seed, lie=args.lie, tell=print))
    except LostError as error:
        print(f"crash test: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
