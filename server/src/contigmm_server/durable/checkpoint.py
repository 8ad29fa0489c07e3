"""Makes the snapshot at the start of a segment: ``python -m contigmm_server.durable.checkpoint``.

Arguments are the machine's directory and the segment's number. It runs beside the server, which
goes on, and reads only what the server writes no more. When its standard input ends, so does it:
the next server on the directory must not find it at work.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contigmm.errors import ContigmmError
from contigmm.sim.machine import Machine
from contigmm_server.durable.disk import OsDisk
from contigmm_server.durable.replay import Replayer, service_state
from contigmm_server.durable.store import MachineStore
from contigmm_server.limits import Limits
from contigmm_server.registry import Registry

_NICENESS: Final = 10
ORPHANED: Final = 3
"""Exit status: the server ended first."""


async def replayed(store: MachineStore, until: int | None = None) -> tuple[Registry, Replayer]:
    """The machine of a directory with its journal up to segment ``until``, not included.

    Raises:
        JournalError: The journal is damaged, of another engine, or leads elsewhere.
        SnapshotError: The snapshot cannot be read.
        OSError: The disk fails.
    """
    base, snapshot, service = store.load()
    registry = Registry(Limits())
    hosted = registry.enter(store.machine_id, Machine.restore(snapshot))
    replayer = Replayer(registry, hosted)
    replayer.load(service)
    for segment in store.segments(base, until):
        await replayer.segment(segment)
    return registry, replayer


async def lasting(store: MachineStore, index: int, synced: int) -> Machine:
    """The machine where the first ``synced`` bytes of segment ``index`` lead.

    Raises:
        JournalError: As :func:`replayed`; so with the others.
    """
    registry, replayer = await replayed(store, index)
    for segment in store.segments(index):
        await replayer.segment(segment, synced)
    registry.executor.shutdown()
    return replayer.hosted.machine


async def _checkpoint(store: MachineStore, index: int) -> None:
    _, replayer = await replayed(store, index)
    hosted = replayer.hosted
    store.save(index, hosted.machine.snapshot(), service_state(hosted, replayer.chain))


def _end_with_the_server() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(ORPHANED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one snapshot; give the exit status."""
    path, index = sys.argv[1:] if arguments is None else arguments
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    try:
        asyncio.run(_checkpoint(MachineStore(Path(path), OsDisk()), int(index)))
    except (ContigmmError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
