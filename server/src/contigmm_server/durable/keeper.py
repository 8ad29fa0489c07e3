"""Keeps machines on the disk: begins their journals, brings them back, takes snapshots beside them.

A snapshot of a running machine is made by another process, from the last snapshot and the segments
since: the machine is held for no longer than it takes to begin a new segment, and every snapshot
proves that the journal leads where the machine is.
"""

import asyncio
import logging
import sys
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Final

from contigmm.errors import ContigmmError
from contigmm.sim.machine import Machine
from contigmm.sim.snapshot import ENGINE
from contigmm_server.doors.access import Access
from contigmm_server.durable.checkpoint import lasting
from contigmm_server.durable.journal import Durability, Journal, unavailable
from contigmm_server.durable.replay import Replayer, service_state
from contigmm_server.durable.segment import Header, JournalError
from contigmm_server.durable.store import MachineStore, Store
from contigmm_server.failures import ServiceError
from contigmm_server.hosted import HostedMachine, Standing
from contigmm_server.registry import Registry

log = logging.getLogger("contigmm_server")

SEGMENT_BYTES: Final = 64 << 20
"""A segment of this many bytes is followed by a snapshot."""
SNAPSHOT_S: Final = 600.0
"""So is one that has had commands for this long."""
_LOOK_S: Final = 0.5


def _access(store: MachineStore) -> Access:
    """Whose a machine is.

    Raises:
        JournalError: It cannot be read.
    """
    data = store.load_access()
    try:
        return Access() if data is None else Access.decode(data)
    except ValueError as error:
        raise JournalError(f"whose {store.path} is cannot be read: {error}") from error


@dataclass(slots=True)
class _Kept:
    store: MachineStore
    index: int
    """Number of the segment that is being written."""
    watch: asyncio.Task[None] | None = None


class Keeper:
    """The machines of a server on the disk. Used on the event loop only."""

    def __init__(
        self,
        store: Store,
        durability: Durability,
        executor: Executor,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        snapshot_s: float = SNAPSHOT_S,
    ) -> None:
        self._store = store
        self.durability = durability
        self._executor = executor
        self._segment_bytes = segment_bytes
        self._snapshot_s = snapshot_s
        self._kept: dict[str, _Kept] = {}

    # ---- coming ----

    async def keep(self, hosted: HostedMachine) -> None:
        """Keep a new machine, before anybody is told of it.

        Raises:
            ServiceError: UNAVAILABLE, it cannot be kept.
        """
        state = service_state(hosted, 0)
        loop = asyncio.get_running_loop()
        try:
            store = await loop.run_in_executor(
                self._executor,
                lambda: self._store.create(
                    hosted.machine_id, hosted.machine.snapshot(), state, hosted.access.encode()
                ),
            )
            try:
                await self._begin(hosted, store, 0, 0)
            except (OSError, ServiceError):
                self._store.remove(store)
                raise
        except OSError as error:
            raise unavailable(f"the machine cannot be kept: {error.strerror}") from error

    async def recover(self, registry: Registry) -> None:
        """Bring all machines back, before the server listens.

        Raises:
            JournalError: A journal is damaged, of another engine, or leads elsewhere.
            SnapshotError: A snapshot cannot be read.
            OSError: The disk fails.
        """
        for store in self._store.machines():
            base, snapshot, service = store.load()
            machine = await asyncio.get_running_loop().run_in_executor(
                self._executor, partial(Machine.restore, snapshot)
            )
            hosted = registry.enter(store.machine_id, machine, _access(store))
            replayer = Replayer(registry, hosted)
            replayer.load(service)
            for segment in store.segments(base):
                await replayer.segment(segment)
            index = store.next
            if replayer.commands:
                log.info("%s: %d commands replayed", hosted.name, replayer.commands)
            if index != base:  # a segment, if only of what a crash tore, is not to be followed
                store.save(index, machine.snapshot(), service_state(hosted, replayer.chain))
                store.prune()
            await self._begin(hosted, store, index, replayer.chain)
            replayer.finish()

    async def _begin(
        self, hosted: HostedMachine, store: MachineStore, index: int, chain: int
    ) -> None:
        header = Header(ENGINE, hosted.name, hosted.machine.seq, chain)
        file = store.disk.create(store.file(index, "log"))
        hosted.journal = Journal(file, header, self.durability, self._executor)
        kept = self._kept[hosted.name] = _Kept(store, index)
        kept.watch = asyncio.get_running_loop().create_task(self._watch(hosted, kept))

    async def keep_access(self, hosted: HostedMachine, access: Access) -> None:
        """Keep whose a machine is and who else may use it.

        Raises:
            ServiceError: UNAVAILABLE, what was kept is.
        """
        store = self._kept[hosted.name].store
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, store.save_access, access.encode())
        except OSError as error:
            raise unavailable(f"the grant cannot be kept: {error.strerror}") from error

    # ---- snapshots ----

    async def _watch(self, hosted: HostedMachine, kept: _Kept) -> None:
        """Take a snapshot whenever it is time."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            await asyncio.sleep(_LOOK_S)
            journal = hosted.journal
            if journal is None or journal.failed is not None:
                return
            old = loop.time() - began_s >= self._snapshot_s
            if journal.slow and journal.alone:
                await self._let_it_stand(hosted, kept, journal)
                continue
            hosted.standing = None
            if journal.appended >= self._segment_bytes or (old and journal.commands):
                began_s = loop.time()
                try:
                    await self.snapshot(hosted)
                except OSError as error:
                    log.error("%s: no snapshot: %s", hosted.name, error)

    async def _let_it_stand(self, hosted: HostedMachine, kept: _Kept, journal: Journal) -> None:
        """Make the machine as it lasts, for whoever looks while the disk is slow."""
        synced = journal.synced
        if self.durability is Durability.NONE or hosted.stands:
            return
        begun = asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: asyncio.run(lasting(kept.store, kept.index, synced))
        )
        try:
            hosted.standing = Standing(journal, synced, await begun)
        except (ContigmmError, OSError) as error:
            log.error("%s: views wait for the disk: %s", hosted.name, error)

    async def snapshot(self, hosted: HostedMachine) -> None:
        """Begin a new segment and make a snapshot of where it begins.

        Raises:
            OSError: The new segment cannot be created; the old one goes on.
        """
        kept = self._kept[hosted.name]
        loop = asyncio.get_running_loop()
        index = kept.index + 1
        path = kept.store.file(index, "log")
        file = await loop.run_in_executor(self._executor, kept.store.disk.create, path)

        def begin() -> Journal:
            old = hosted.journal
            assert old is not None, "a kept machine has a journal"
            header = Header(ENGINE, hosted.name, hosted.machine.seq, old.chain)
            hosted.journal = Journal(file, header, self.durability, self._executor, after=old)
            return old

        try:
            old = await hosted.queue.run_ordered(begin, cost_us=0)
        except ServiceError as error:  # no room: the old segment goes on
            file.close()
            path.unlink()
            raise OSError(error.message) from error
        kept.index = index
        await old.close()
        assert hosted.journal is not None, "it was given one just now"
        hosted.journal.begin_after(old)
        await self._make_snapshot(kept.store, index)

    async def _make_snapshot(self, store: MachineStore, index: int) -> None:
        """Let another process make the snapshot at the start of segment ``index``."""
        command = (sys.executable, "-m", "contigmm_server.durable.checkpoint")
        pipe = asyncio.subprocess.PIPE  # its standard input ends with this server: so does it
        process = await asyncio.create_subprocess_exec(
            *command, str(store.path), str(index), stdin=pipe, stderr=pipe
        )
        assert process.stderr is not None, "asked for a pipe"
        try:
            errors = await process.stderr.read()
            await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            log.error("%s: no snapshot: %s", store.path, errors.decode(errors="replace").strip())
        else:
            store.prune()

    # ---- going ----

    async def remove(self, hosted: HostedMachine) -> None:
        """Keep a machine no longer; its commands so far end first.

        Raises:
            ServiceError: UNAVAILABLE, it may still be kept.
        """
        store = self._kept[hosted.name].store
        await self.abandon(hosted)
        try:
            self._store.remove(store)
        except OSError as error:
            raise unavailable(f"the machine may still be kept: {error.strerror}") from error

    async def close(self, hosted: HostedMachine) -> None:
        """Leave a snapshot that any later version reads, for the server ends."""
        kept = self._kept.pop(hosted.name, None)
        if kept is None or hosted.journal is None:
            return
        await self._stop_watching(kept)
        journal = hosted.journal
        await journal.close()
        if journal.failed is not None:
            return
        try:
            state = service_state(hosted, journal.chain)
            kept.store.save(kept.index + 1, hosted.machine.snapshot(), state)
            kept.store.prune()
        except OSError as error:
            log.error("%s: no snapshot at the end: %s", hosted.name, error)

    async def abandon(self, hosted: HostedMachine) -> None:
        """Write the journal to its end and leave it so, without a snapshot: to be recovered."""
        kept = self._kept.pop(hosted.name)
        await self._stop_watching(kept)
        if hosted.journal is not None:
            await hosted.journal.close()

    async def _stop_watching(self, kept: _Kept) -> None:
        if kept.watch is not None:
            kept.watch.cancel()
            await asyncio.gather(kept.watch, return_exceptions=True)
