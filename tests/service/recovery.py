"""How fast a server recovers: commands of its journal a second of its CPU time, and the same state.

``python recovery.py --commands N``: makes the journal of one machine (``spec:medium``, 16
processes, no snapshot but the first) by the server's own methods, without a network, as a crash
would leave it. Each hundred commands are, in an order drawn from the seed, 35 Mmap (64 KiB, half of
them MAP_CONTIG), 35 Munmap of one of those, 20 Touch of a page, and 10 RunBatch of map, touch and
unmap; all have request ids. Then ``contigmm-server`` starts on that directory. Its CPU time (all
threads, the kernel's account) until it listens, less that of a start on an empty directory, is
what recovery costs; position and digest must be those of before.
"""

import argparse
import asyncio
import gc
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from clients import CONTIG, MACHINE, MMAP, PAGE, batch_of, chain_of

from contigmm.bench.rpc import cpu_ns, serving
from contigmm.client import exchanges
from contigmm.client.aio import connect
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm.v1 import batch_pb2, memory_pb2, operation_pb2
from contigmm_server.batches import BatchService
from contigmm_server.durable.journal import Durability
from contigmm_server.durable.keeper import Keeper
from contigmm_server.durable.store import Store
from contigmm_server.memory import MemoryService
from contigmm_server.processes import ProcessService
from contigmm_server.service import Service

SOURCE: Final = "spec:medium"
PROCESSES: Final = 16
LENGTH: Final = 64 * 1024
SERVER: Final = "contigmm_server.main"
NEVER: Final = 1 << 60
MEMLOCK: Final = {"MEMLOCK": (2**64 - 1, 2**64 - 1)}


class Maker:
    """Asks a service by its methods, as the network would."""

    def __init__(self, service: Service, seed: int) -> None:
        self._random = random.Random(seed)
        self._memory = MemoryService(service.registry)
        self._processes = ProcessService(service.registry)
        self._batches = BatchService(service.registry)
        self._mapped: list[tuple[int, int]] = []
        self._asked = 0

    async def begin(self) -> None:
        """Start the processes."""
        for number in range(PROCESSES):
            spec = exchanges.ProcessSpec(f"p{number}", rlimits=MEMLOCK)
            request = exchanges.spawn(MACHINE, f"spawn-{number}", spec).request
            await self._processes.SpawnProcess(request, None)

    async def hundred(self) -> None:
        """A hundred commands of the mix."""
        kinds = [self._mmap] * 35 + [self._munmap] * 35 + [self._touch] * 20 + [self._batch] * 10
        self._random.shuffle(kinds)
        for ask in kinds:
            self._asked += 1
            await ask(f"c-{self._asked}")

    async def _mmap(self, request_id: str) -> None:
        process = self._random.randrange(PROCESSES) + 1
        plain = (0, LENGTH, *MMAP[2:])
        name = f"{MACHINE}/processes/{process}"
        args: Any = self._random.choice((plain, CONTIG))
        response = await self._memory.Mmap(exchanges.mmap(name, request_id, args).request, None)
        if not response.HasField("failure"):
            self._mapped.append((process, response.address))

    async def _munmap(self, request_id: str) -> None:
        if not self._mapped:
            return await self._mmap(request_id)
        last = len(self._mapped) - 1
        at = self._random.randint(0, last)
        self._mapped[at], self._mapped[last] = self._mapped[last], self._mapped[at]
        process, address = self._mapped.pop()
        name = f"{MACHINE}/processes/{process}"
        request = exchanges.munmap(name, request_id, address, LENGTH).request
        await self._memory.Munmap(request, None)
        return None

    async def _touch(self, request_id: str) -> None:
        if not self._mapped:
            return await self._mmap(request_id)
        process, address = self._random.choice(self._mapped)
        request = memory_pb2.TouchRequest(
            process=f"{MACHINE}/processes/{process}",
            call=operation_pb2.TouchCall(address=address, length=PAGE, write=True),
            request_id=request_id,
        )
        await self._memory.Touch(request, None)
        return None

    async def _batch(self, request_id: str) -> None:
        process = self._random.randrange(PROCESSES) + 1
        batch = batch_of(chain_of(process, self._random.choice((MMAP, CONTIG))))
        request = batch_pb2.RunBatchRequest(machine=MACHINE, batch=batch, request_id=request_id)
        await self._batches.RunBatch(request, None)


async def make(path: Path, commands: int, seed: int) -> tuple[int, str]:
    """Make the journal; give position and digest of the machine at its end."""
    service = Service()
    registry = service.registry
    registry.keeper = keeper = Keeper(
        Store(path), Durability.NONE, registry.executor, segment_bytes=NEVER, snapshot_s=NEVER
    )
    hosted = await registry.boot("m", lambda: Machine.boot(describe(SOURCE), seed=seed))
    maker = Maker(service, seed)
    await maker.begin()
    for _ in range(commands // 100):
        await maker.hundred()
        await asyncio.sleep(0)  # the journal is written by callbacks
    end = hosted.machine.seq, hosted.machine.digest()
    await keeper.abandon(hosted)
    registry.executor.shutdown()
    return end


async def state(address: str) -> tuple[int, str]:
    """Position and digest of the machine that a server recovered."""
    async with connect(address) as client:
        check = await client.machine("m").examine()
        return check.seq, check.digest


def start(path: Path) -> tuple[float, tuple[int, str] | None]:
    """Start a server on a directory; give its CPU seconds until it listened, and the machine."""
    with serving(SERVER, "--listen", "127.0.0.1:0", "--data", str(path)) as (pid, address):
        cpu_s = cpu_ns(pid) / 1e9
        return cpu_s, asyncio.run(state(address)) if (path / "m").exists() else None


def main() -> int:
    """Run it; the status says whether the state was the same."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--commands", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="contigmm-recovery-") as folder:
        empty, full = Path(folder) / "empty", Path(folder) / "full"
        before = asyncio.run(make(full, args.commands, args.seed))
        gc.collect()
        size = sum(log.stat().st_size for log in (full / "m").glob("*.log"))
        idle_s, _ = start(empty)
        cpu_s, after = start(full)
    used_s = cpu_s - idle_s
    print(
        f"{args.commands + PROCESSES} commands, {before[0]} operations, {size} bytes of journal "
        f"recovered in {used_s:.1f} s of CPU: {(args.commands + PROCESSES) / used_s:.0f} commands/s"
    )
    if after != before:
        print(f"recovery: it was {before} and is {after}", file=sys.stderr)
        return 1
    print(f"position {before[0]}, digest {before[1]}, as before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
