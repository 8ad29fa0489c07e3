"""What a snapshot costs: its size, and how long the machine is held while one is taken.

``python snapshots.py [--gib G] [--snapshots N]``: a machine of G GiB whose memory is three quarters
used by 64 processes: mappings of 64 KiB to 4 MiB, every page touched, every third one unmapped
again, in an order drawn from the seed. It is served, on a disk, to callers in the same process that
map and unmap without pause; N times a segment ends and another process makes the snapshot of where
the next begins. Printed are the bytes of the last one and the longest that a turn of the machine
was taken for it (wall clock, and the thread's own CPU time, which knows nothing of other programs).
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from clients import MACHINE, MMAP
from recovery import MEMLOCK, NEVER

from contigmm.client import exchanges
from contigmm.description import MachineDescription, ZoneDescription
from contigmm.sim.machine import Machine, Process
from contigmm_server.durable.journal import Durability
from contigmm_server.durable.keeper import Keeper
from contigmm_server.durable.store import Store
from contigmm_server.hosted import HostedMachine
from contigmm_server.memory import MemoryService
from contigmm_server.service import Service

PROCESSES: Final = 64
PAGE: Final = 4096
GIB: Final = 1 << 30
SIZES: Final = tuple(1 << shift for shift in range(16, 23))
CALLERS: Final = 4


def description(gib: int) -> MachineDescription:
    """One node with one zone of so much memory, all of it free."""
    frames = gib * GIB // PAGE
    zone = ZoneDescription(
        node=0, name="Normal", start_pfn=0, spanned=frames, present=frames, managed=frames
    )
    return MachineDescription(zones=(zone,), nr_cpus=8, origin=f"{gib} GiB")


def used(gib: int, seed: int) -> Machine:
    """The machine, fragmented."""
    draw = random.Random(seed)
    machine = Machine.boot(description(gib), seed=seed)
    processes = [machine.spawn(f"p{number}", rlimits=MEMLOCK) for number in range(PROCESSES)]
    mapped: list[tuple[Process, int, int]] = []
    left = gib * GIB * 9 // 8  # of which a third is given back
    while left > 0:
        process, length = draw.choice(processes), draw.choice(SIZES)
        if mapped and draw.random() < 1 / 3:
            at = draw.randrange(len(mapped))
            mapped[at], mapped[-1] = mapped[-1], mapped[at]
            other, address, size = mapped.pop()
            other.munmap(address, size)
        address = process.mmap(0, length, *MMAP[2:])
        process.touch(address, length, write=True)
        mapped.append((process, address, length))
        left -= length
    return machine


class Held:
    """How long the turns of snapshots were, in seconds."""

    def __init__(self, hosted: HostedMachine) -> None:
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self._run: Any = hosted.queue.run_ordered
        hosted.queue.run_ordered = self._timed  # type: ignore[method-assign]  # to look on

    async def _timed(self, work: Callable[[], Any], *, cost_us: float, operations: int = 1) -> Any:
        def timed() -> Any:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return work()
            finally:
                self.wall_s.append(time.perf_counter() - wall_s)
                self.cpu_s.append(time.thread_time() - cpu_s)

        return await self._run(timed, cost_us=cost_us, operations=operations)


async def call(service: Service, process: int, ended: asyncio.Event) -> int:
    """Map and unmap until the end; give the number of commands."""
    memory = MemoryService(service.registry)
    name = f"{MACHINE}/processes/{process}"
    count = 0
    while not ended.is_set():
        request = exchanges.mmap(name, f"{process}-{count}", MMAP).request
        mapped: Any = await memory.Mmap(request, None)  # type: ignore[misc]  # it has a journal
        request = exchanges.munmap(name, f"{process}-{count + 1}", mapped.address, MMAP[1]).request
        await memory.Munmap(request, None)  # type: ignore[misc]  # as above
        count += 2
    return count


async def run(machine: Machine, path: Path, snapshots: int) -> None:
    """Serve the machine and take snapshots of it; print what they cost."""
    service = Service()
    registry = service.registry
    registry.keeper = keeper = Keeper(
        Store(path), Durability.GROUP, registry.executor, segment_bytes=NEVER, snapshot_s=NEVER
    )
    hosted = await registry.boot("m", lambda: machine)
    held = Held(hosted)
    ended = asyncio.Event()
    callers = [
        asyncio.create_task(call(service, process, ended)) for process in range(1, CALLERS + 1)
    ]
    for _ in range(snapshots):
        await keeper.snapshot(hosted)
    ended.set()
    commands = sum(await asyncio.gather(*callers))
    await keeper.abandon(hosted)
    last = max((path / "m").glob("*.snapshot"))
    if int(last.stem) != snapshots:
        raise RuntimeError(f"only {int(last.stem)} of {snapshots} snapshots are in place")
    free = sum(zone.free for zone in machine.zones())
    print(
        f"{machine.nr_frames} frames, {free} free, {len(machine.processes())} processes: "
        f"{last.stat().st_size} bytes a snapshot; {snapshots} taken amid {commands} commands held "
        f"the machine for {max(held.wall_s) * 1e3:.2f} ms at most, "
        f"{max(held.cpu_s) * 1e3:.2f} ms of CPU"
    )
    registry.executor.shutdown()


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=int, default=24)
    parser.add_argument("--snapshots", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    machine = used(args.gib, args.seed)
    with tempfile.TemporaryDirectory(prefix="contigmm-snapshots-") as folder:
        asyncio.run(run(machine, Path(folder), args.snapshots))
    return 0


if __name__ == "__main__":
    sys.exit(main())
