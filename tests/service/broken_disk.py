"""Servers on a disk that loses what was not synced, and dies at named points.

``python broken_disk.py DATA`` reads one JSON object a line: ``fault`` (a point, or null), ``after``
(die at its n-th passing), ``seed``, ``lie`` (sync tells what is not so), ``snapshots`` (take one
after the other). For each it forks a server and prints its pid; the server prints its address when
it listens, and ``snapshot`` whenever one is in place. Segments stay in ``DATA/.segments``.
"""

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm_server.durable.disk import File, OsDisk, OsFile
from contigmm_server.durable.journal import Durability
from contigmm_server.durable.keeper import Keeper
from contigmm_server.durable.store import Store
from contigmm_server.hosted import HostedMachine
from contigmm_server.service import Service

POINTS = (
    "create", "created", "allocate", "write", "write-torn", "sync", "sync-torn", "synced",
    "replace", "replaced",
)  # fmt: skip
SECTOR = 512
SEGMENT_BYTES = 64 << 10
SNAPSHOT_S = 3600.0
KEPT = ".segments"
"""Where every segment is found, also one that a snapshot has made superfluous."""


class Fate:
    """Where and when the server dies, and what it loses."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._point = order["fault"]
        self._left = order["after"]
        self.lie = order["lie"]
        self.random = random.Random(order["seed"])

    def passes(self, point: str) -> bool:
        """Whether the server dies at this point, now."""
        if point != self._point:
            return False
        self._left -= 1
        return self._left <= 0

    def die(self) -> None:
        tell("died")
        os.kill(os.getpid(), signal.SIGKILL)

    def at(self, point: str) -> None:
        if self.passes(point):
            self.die()


class BrokenFile:
    """A file whose unsynced writes are held back: they are lost unless a sync comes first."""

    def __init__(self, file: OsFile, fate: Fate) -> None:
        self._file = file
        self._fate = fate
        self._held: list[tuple[bytes, int]] = []

    def allocate(self, size: int) -> None:
        self._fate.at("allocate")
        self._file.allocate(size)

    def write(self, data: bytes, offset: int) -> None:
        self._fate.at("write")
        self._held.append((data, offset))
        if self._fate.passes("write-torn"):
            self._tear()

    def sync(self) -> None:
        self._fate.at("sync")
        if self._fate.passes("sync-torn"):
            self._tear()
        if self._fate.lie:
            return
        for data, offset in self._held:
            self._file.write(data, offset)
        self._held.clear()
        self._file.sync()
        self._fate.at("synced")

    def _tear(self) -> None:
        """Let any sectors of what is held back reach the disk, and die."""
        for data, offset in self._held:
            cut = SECTOR - offset % SECTOR
            edges = [0, *range(cut, len(data), SECTOR), len(data)]
            for first, last in pairwise(edges):
                if self._fate.random.random() < 0.5:
                    self._file.write(data[first:last], offset + first)
        self._fate.die()

    def close(self) -> None:
        self._file.close()


def keep_segment(log: Path) -> None:
    """Give a segment a second name that outlasts it."""
    kept = log.parent.with_name(KEPT)
    kept.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        os.link(log, kept / log.name)


class BrokenDisk(OsDisk):
    def __init__(self, fate: Fate) -> None:
        self._fate = fate

    def create(self, path: Path) -> File:
        self._fate.at("create")
        super().create(path).close()
        self._fate.at("created")
        path.unlink()
        return BrokenFile(OsFile(path), self._fate)

    def remove(self, path: Path) -> None:
        if path.suffix == ".log":
            keep_segment(path)
        super().remove(path)

    def write_whole(self, path: Path, data: bytes) -> None:
        if self._fate.passes("replace"):
            path.with_name(f"{path.name}.new").write_bytes(data[: len(data) // 2])
            self._fate.die()
        super().write_whole(path, data)
        self._fate.at("replaced")


async def take_snapshots(keeper: Keeper, hosted: HostedMachine, machine: Path) -> None:
    """Take one after the other, and tell of each that is in place."""
    while True:
        before = max(machine.glob("*.snapshot"))
        await keeper.snapshot(hosted)
        if max(machine.glob("*.snapshot")) != before:
            tell("snapshot")


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def serve(data: Path, order: dict[str, Any]) -> None:
    service = Service()
    registry = service.registry
    keeper = Keeper(
        Store(data, BrokenDisk(Fate(order))),
        Durability.GROUP,
        registry.executor,
        segment_bytes=SEGMENT_BYTES,
        snapshot_s=SNAPSHOT_S,
    )
    await keeper.recover(registry)
    registry.keeper = keeper
    if not registry.has("m"):
        await registry.boot("m", lambda: Machine.boot(describe("spec:small"), seed=1))
    tell(f"listening {await service.start('127.0.0.1:0')}")
    if order["snapshots"]:
        await take_snapshots(keeper, registry.machine("machines/m"), data / "m")
    await asyncio.Event().wait()


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            try:
                asyncio.run(serve(Path(sys.argv[1]), order))
            except BaseException as error:  # noqa: BLE001 - a forked child must not return
                tell(f"failed {error!r}".replace("\n", " "))
                os._exit(1)
        tell(f"pid {pid}")
        os.waitpid(pid, 0)
        tell("ended")


if __name__ == "__main__":
    main()
