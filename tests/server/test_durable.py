"""Machines that outlast their server: what was acknowledged is there again, once."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from asking import ANON, DESCRIPTION, PAGE, RW, raw, refused

from contigmm import cli
from contigmm.client import exchanges
from contigmm.client.aio import Client, Machine, connect
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import Call, Operation
from contigmm.v1 import machine_pb2, operation_pb2, process_pb2
from contigmm_server.durable import checkpoint, command, kinds, segment
from contigmm_server.durable.disk import File, OsDisk, OsFile
from contigmm_server.durable.journal import Durability
from contigmm_server.durable.keeper import Keeper
from contigmm_server.durable.segment import JournalError
from contigmm_server.durable.store import Store
from contigmm_server.service import Service

pytestmark = pytest.mark.asyncio
MMAP = (0, PAGE, RW, ANON, -1, 0)
SPAWN = Operation(Call.SPAWN, 0, (0, 0, 0), SpawnSpec().encode())


class BreakableFile(OsFile):
    """A file of a disk that fails when told to."""

    def __init__(self, path: Path, disk: "BreakableDisk") -> None:
        super().__init__(path)
        self._disk = disk

    def allocate(self, size: int) -> None:
        if self._disk.full:
            raise OSError(*self._disk.full_of)
        super().allocate(size)

    def sync(self) -> None:
        self._disk.free.wait()
        if self._disk.failing:
            raise OSError(5, "Input/output error")
        super().sync()


class BreakableDisk(OsDisk):
    full = False
    full_of = (28, "No space left on device")
    failing = False

    def __init__(self) -> None:
        self.free = threading.Event()
        """Syncs wait for it."""
        self.free.set()

    def create(self, path: Path) -> File:
        return BreakableFile(path, self)


@asynccontextmanager
async def served(
    path: Path,
    disk: OsDisk | None = None,
    durability: Durability = Durability.GROUP,
    *,
    crash: bool = False,
) -> AsyncIterator[tuple[Client, Service]]:
    """A server on ``path``; ``crash`` lets it end without a clean stop."""
    service = Service()
    keeper = Keeper(Store(path, disk), durability, service.registry.executor)
    await keeper.recover(service.registry)
    service.registry.keeper = keeper
    try:
        async with connect(await service.start("127.0.0.1:0")) as client:
            yield client, service
    finally:
        if isinstance(disk, BreakableDisk):
            disk.free.set()
        if crash:
            for hosted in service.registry.machines():
                await keeper._stop_watching(keeper._kept[hosted.name])
            service.registry.keeper = None
        await service.stop(grace_s=0)


async def make(client: Client) -> Machine:
    return await client.create_machine(DESCRIPTION, name="m", seed=7, clock="manual")


@pytest.mark.parametrize("crash", [True, False])
@pytest.mark.parametrize("durability", [Durability.FULL, Durability.GROUP])
async def test_every_way_in_is_there_again_after_a_restart(tmp_path, crash, durability):
    async with served(tmp_path, durability=durability, crash=crash) as (client, _):
        machine = await make(client)
        process = await machine.spawn("x")
        mapped = await process.mmap(*MMAP)
        await process.write(mapped, b"kept")
        child = await process.fork()
        await child.exit()
        await machine.execute([Operation(Call.MMAP, process.id, MMAP)] * 3)
        async with machine.stream(session="s") as stream:
            await stream.execute([Operation(Call.MMAP, process.id, MMAP)])
        await machine.advance_clock(5)
        before = await machine.examine()
    async with served(tmp_path, crash=crash) as (client, _):
        machine = client.machine("m")
        assert await machine.examine() == before
        process = await machine.process(process.id)
        assert await process.read(mapped, 4) == b"kept"
    async with served(tmp_path) as (client, _):
        assert (await client.machine("m").info()).seq == before.seq + 1


@pytest.mark.parametrize("crash", [True, False])
async def test_a_retry_after_the_restart_gets_the_first_answer(tmp_path, crash):
    async with served(tmp_path, crash=crash) as (client, _):
        machine = await make(client)
        process = await machine.spawn()
        mapping = exchanges.mmap(process.name, "once", MMAP)
        mapped = await client.call(mapping)
        await process.munmap(mapped, PAGE)
    async with served(tmp_path, crash=crash) as (client, _):
        before = await client.machine("m").info()
        assert await client.call(mapping) == mapped
        assert (await client.machine("m").info()).seq == before.seq
        failure = await refused(client.call(exchanges.munmap(process.name, "once", 0, PAGE)))
        assert failure.reason == "REQUEST_ID_REUSED"
    async with served(tmp_path) as (client, _):
        assert await client.call(mapping) == mapped, "it also outlasts the snapshot"


@pytest.mark.parametrize("crash", [True, False])
async def test_a_session_goes_on_and_its_processes_have_ended(tmp_path, crash):
    async with served(tmp_path, crash=crash) as (client, service):
        machine = await make(client)
        async with machine.stream(session="s") as stream:
            (born,) = await stream.execute([SPAWN])
            answers = await stream.execute([Operation(Call.MMAP, born.value, MMAP)])
            assert answers[0].ok
            seq = answers[0].seq
            if crash:  # what the end of the stream orders never reaches the journal
                service.registry.machine("machines/m").journal = None
    async with served(tmp_path) as (client, _):
        machine = client.machine("m")
        async with machine.stream(session="s") as stream:
            assert stream.last_applied == 2
        assert await machine.processes() == []
        assert (await machine.info()).seq == seq + 1


@pytest.mark.parametrize(
    "why",
    [(28, "No space left on device"), (30, "Read-only file system")],
    ids=["full", "read-only"],
)
async def test_a_full_disk_refuses_commands_before_they_touch_the_machine(tmp_path, why):
    disk = BreakableDisk()
    disk.full_of = why
    async with served(tmp_path, disk, crash=True) as (client, service):
        machine = await make(client)
        process = await machine.spawn()
        before = await machine.examine()
        disk.full = True
        service.registry.machine(machine.name).journal._room = 0
        failure = await refused(process.mmap(*MMAP))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_DURABLE")
        assert why[1] in str(failure)
        assert await machine.examine() == before, "reads go on"
        disk.full = False
        await process.mmap(*MMAP)
        after = await machine.examine()
    async with served(tmp_path) as (client, _):
        assert await client.machine("m").examine() == after


async def test_a_failed_sync_stops_the_machine_and_loses_nothing_acknowledged(tmp_path):
    disk = BreakableDisk()
    async with served(tmp_path, disk, crash=True) as (client, _):
        machine = await make(client)
        process = await machine.spawn()
        before = await machine.examine()
        disk.failing = True
        for call in (process.mmap(*MMAP), process.mmap(*MMAP), machine.examine()):
            failure = await refused(call)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_DURABLE")
        disk.failing = False
        assert (await refused(process.mmap(*MMAP))).reason == "NOT_DURABLE", "until a restart"
    async with served(tmp_path) as (client, _):
        after = await client.machine("m").examine()
        assert after.seq in (before.seq, before.seq + 1)


async def standing(service: Service, name: str) -> None:
    """Wait until the machine as it lasts can be looked at."""
    async with asyncio.timeout(20):
        while not service.registry.machine(name).stands:
            await asyncio.sleep(0.01)


async def test_a_slow_disk_refuses_commands_reads_go_on_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("contigmm_server.durable.journal.SLOW_S", 0.1)
    monkeypatch.setattr("contigmm_server.durable.keeper._LOOK_S", 0.02)
    disk = BreakableDisk()
    async with served(tmp_path, disk, crash=True) as (client, service):
        machine = await make(client)
        process = await machine.spawn()
        before = await machine.examine()
        maps = await process.maps()
        disk.free.clear()
        applied = asyncio.create_task(process.mmap(*MMAP))
        await standing(service, machine.name)
        for _ in range(2):
            failure = await refused(process.mmap(*MMAP))
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_DURABLE")
            assert await machine.examine() == before, "what does not last is not shown"
            assert await process.maps() == maps
            assert (await machine.info()).seq == before.seq
        assert not applied.done(), "what does not last is not acknowledged"
        hosted = service.registry.machine(machine.name)
        stood = hosted.standing
        disk.free.set()
        mapped = await applied
        assert (await machine.info()).seq == before.seq + 1
        disk.free.clear()
        again = asyncio.create_task(process.munmap(mapped, PAGE))
        await standing(service, machine.name)
        assert (await machine.info()).seq == before.seq + 1
        hosted.standing = stood
        assert not hosted.stands, "more lasts by now than led to it"
        disk.free.set()
        await again
        await process.mmap(*MMAP)
        after = await machine.examine()
        assert after.seq == before.seq + 3
    async with served(tmp_path) as (client, _):
        assert await client.machine("m").examine() == after


async def test_a_new_segment_waits_for_a_slow_disk_as_the_old_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr("contigmm_server.durable.journal.SLOW_S", 0.1)
    disk = BreakableDisk()
    async with served(tmp_path, disk, crash=True) as (client, service):
        machine = await make(client)
        process = await machine.spawn()
        disk.free.clear()
        applied = asyncio.create_task(process.mmap(*MMAP))
        hosted = service.registry.machine(machine.name)
        old = hosted.journal
        taking = asyncio.create_task(service.registry.keeper.snapshot(hosted))
        async with asyncio.timeout(20):
            while hosted.journal is old or not hosted.journal.slow:
                await asyncio.sleep(0.01)
        assert (await refused(process.mmap(*MMAP))).reason == "NOT_DURABLE"
        disk.free.set()
        await applied
        await taking
        await process.mmap(*MMAP)
        after = await machine.examine()
    async with served(tmp_path) as (client, _):
        assert await client.machine("m").examine() == after


async def _crashed(path: Path) -> Path:
    """A journal of five commands; its path."""
    async with served(path, crash=True) as (client, _):
        machine = await make(client)
        process = await machine.spawn()
        for _ in range(4):
            await process.mmap(*MMAP)
    return path / "m" / "00000000.log"


def _offsets(data: bytes) -> list[int]:
    header, records = segment.read(data, sealed=False)
    assert header is not None
    return [record.offset for record in records]


async def test_a_torn_tail_is_what_was_not_acknowledged(tmp_path):
    log = await _crashed(tmp_path)
    data = log.read_bytes()
    last = _offsets(data)[-1]
    log.write_bytes(data[: last + 20] + bytes(len(data) - last - 20))
    async with served(tmp_path) as (client, _):
        assert (await client.machine("m").info()).seq == 4


async def test_a_torn_first_command_is_not_followed_by_another_segment(tmp_path):
    log = await _crashed(tmp_path)
    data = log.read_bytes()
    first = _offsets(data)[0]
    log.write_bytes(data[: first + 20] + bytes(len(data) - first - 20))
    for position in (1, 2):
        async with served(tmp_path, crash=True) as (client, _):
            await client.machine("m").spawn()
            assert (await client.machine("m").info()).seq == position


async def test_the_next_segment_seals_the_one_before_when_it_has_its_header(tmp_path):
    log = await _crashed(tmp_path)
    data = log.read_bytes()
    last = _offsets(data)[-1]
    log.write_bytes(data[: last + 20] + bytes(len(data) - last - 20))
    log.with_name("00000001.log").write_bytes(bytes(4096))  # made, and nothing written yet
    async with served(tmp_path) as (client, _):
        assert (await client.machine("m").info()).seq == 4


async def test_damage_before_what_had_been_synced_is_told(tmp_path):
    log = await _crashed(tmp_path)
    data = bytearray(log.read_bytes())
    data[_offsets(bytes(data))[1] + 50] ^= 1
    log.write_bytes(data)
    with pytest.raises(JournalError, match="damaged at byte"):
        async with served(tmp_path):
            pass


async def test_a_journal_of_another_engine_is_refused_with_a_sentence(tmp_path, monkeypatch):
    await _crashed(tmp_path)
    monkeypatch.setattr("contigmm_server.durable.replay.ENGINE", "contigmm 9")
    with pytest.raises(JournalError, match="stop that server cleanly first"):
        async with served(tmp_path):
            pass


async def test_a_clean_stop_leaves_nothing_that_an_engine_must_repeat(tmp_path, monkeypatch):
    async with served(tmp_path) as (client, _):
        machine = await make(client)
        await machine.spawn()
        before = await machine.examine()
    monkeypatch.setattr("contigmm_server.durable.replay.ENGINE", "contigmm 9")
    async with served(tmp_path) as (client, _):
        assert await client.machine("m").examine() == before


async def test_answers_that_replaying_does_not_give_stop_recovery(tmp_path):
    log = await _crashed(tmp_path)
    data = log.read_bytes()
    header, records = segment.read(data, sealed=False)
    assert header is not None
    changed = segment.frame(0, header.encode(), seq=0, chain=0, durable=0)
    for record in records:
        chain = record.chain ^ (record.seq == 3)
        changed += segment.frame(record.kind, record.body, seq=record.seq, chain=chain, durable=0)
    log.write_bytes(changed)
    with pytest.raises(JournalError, match="does not lead to the answers"):
        async with served(tmp_path):
            pass


async def test_a_snapshot_is_made_beside_and_commands_go_on(tmp_path):
    async with served(tmp_path, crash=True) as (client, service):
        machine = await make(client)
        process = await machine.spawn()
        await process.mmap(*MMAP)
        hosted = service.registry.machine(machine.name)
        keeper = service.registry.keeper
        taking = asyncio.create_task(keeper.snapshot(hosted))
        while not taking.done():
            await process.mmap(*MMAP)
        await taking
        await process.mmap(*MMAP)
        before = await machine.examine()
        assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
            "00000001.log",
            "00000001.service",
            "00000001.snapshot",
            "access.json",
        ]
    async with served(tmp_path) as (client, _):
        assert await client.machine("m").examine() == before


async def test_the_maker_of_a_snapshot_ends_with_its_server(tmp_path):
    os.mkfifo(tmp_path / "00000000.snapshot")  # who reads it waits for ever
    (tmp_path / "00000000.service").touch()
    maker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "contigmm_server.durable.checkpoint", str(tmp_path), "1"),
        stdin=asyncio.subprocess.PIPE,
    )
    assert maker.stdin is not None
    maker.stdin.close()  # as the end of the server does
    async with asyncio.timeout(60):
        assert await maker.wait() == checkpoint.ORPHANED


async def test_a_deleted_machine_is_gone_for_good(tmp_path):
    async with served(tmp_path) as (client, _):
        machine = await make(client)
        await machine.delete()
        assert list(tmp_path.iterdir()) == []
    async with served(tmp_path) as (client, _):
        assert await client.machines() == []


async def test_leases_run_anew_after_a_restart(tmp_path):
    async with served(tmp_path, crash=True) as (client, _):
        machine = await make(client)
        process = await machine.spawn("leased", lease_s=0.3)
    async with served(tmp_path) as (client, _):
        machine = client.machine("m")
        assert [each.id for each in await machine.processes()] == [process.id]
        async with asyncio.timeout(10):
            while await machine.processes():
                await asyncio.sleep(0.05)


async def test_the_journal_can_be_shown_verified_replayed_and_exported(tmp_path, capsys):
    log = await _crashed(tmp_path)
    assert await asyncio.to_thread(command.main, ["show", str(log.parent), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["commands"] == {"SpawnProcess": 1, "Mmap": 4}
    assert await asyncio.to_thread(command.main, ["export", str(log.parent)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["machine_seq"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[1]["request"]["call"]["length"] == str(PAGE)
    assert await asyncio.to_thread(command.main, ["replay", str(log.parent), "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)
    async with served(tmp_path) as (client, _):
        check = await client.machine("m").examine()
        assert (replayed["machine_seq"], replayed["digest"]) == (check.seq, check.digest)


async def test_verify_tells_of_damage(tmp_path, capsys):
    log = await _crashed(tmp_path)
    assert await asyncio.to_thread(cli.main, ["journal", "verify", str(log.parent)]) == 0
    assert "commands   5" in capsys.readouterr().out
    data = bytearray(log.read_bytes())
    data[_offsets(bytes(data))[1] + 50] ^= 1
    log.write_bytes(data)
    assert await asyncio.to_thread(command.main, ["verify", str(log.parent)]) == 1
    assert "damaged at byte" in capsys.readouterr().err
    assert await asyncio.to_thread(command.main, ["verify", str(log.parent / "no")]) == 2


async def test_the_server_tells_when_it_acknowledges(tmp_path, client):
    get = machine_pb2.GetServerRequest()
    assert (await raw(client)["GetServer"](get)).durability == "memory"
    async with served(tmp_path, durability=Durability.FULL) as (keeping, _):
        assert (await raw(keeping)["GetServer"](get)).durability == "full"


async def test_no_room_for_a_machine_or_a_segment_leaves_no_trace(tmp_path):
    disk = BreakableDisk()
    disk.full = True
    async with served(tmp_path, disk, crash=True) as (client, service):
        assert (await refused(make(client))).reason == "NOT_DURABLE"
        assert list(tmp_path.iterdir()) == []
        disk.full = False
        machine = await make(client)
        await machine.spawn()
        hosted = service.registry.machine(machine.name)
        disk.full = True
        with pytest.raises(OSError, match="cannot grow"):
            await service.registry.keeper.snapshot(hosted)
        disk.full = False
        await machine.spawn()
        await service.registry.keeper.snapshot(hosted)
        before = await machine.examine()
    async with served(tmp_path) as (client, _):
        assert await client.machine("m").examine() == before


async def test_an_answer_with_a_map_has_one_encoding():
    names = [f"limit-{number}" for number in range(10, 50)]
    limits = {name: operation_pb2.Rlimit(soft=1, hard=2) for name in names}
    started = process_pb2.Process(spec=operation_pb2.ProcessSpec(rlimits=limits))
    encoded = kinds.answer_bytes(process_pb2.SpawnProcessResponse(process=started))
    found = sorted(names, key=lambda name: encoded.index(name.encode() + b"\x12"))
    assert found == sorted(names)
