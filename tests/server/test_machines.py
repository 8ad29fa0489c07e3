"""Machines boot from descriptions and snapshots, within limits, and go."""

import asyncio
import gc
import weakref
import zlib

import pytest
from asking import ANON, DESCRIPTION, PAGE, RW, raw, refused

from contigmm.abi import MAP_CONTIG
from contigmm.hosts import describe
from contigmm.v1 import machine_pb2

pytestmark = pytest.mark.asyncio


async def test_a_machine_tells_what_it_is(machine):
    info = await machine.info()
    assert (info.name, info.profile, info.seed, info.clock) == ("machines/m", "contig", 7, "manual")
    assert info.frames == sum(zone.present for zone in DESCRIPTION.zones)
    assert info.known
    await machine.check()


async def test_a_manual_clock_stands_until_it_is_advanced(machine):
    before = (await machine.info()).clock_ns
    process = await machine.spawn()
    await process.mmap(0, PAGE, RW, ANON)
    assert (await machine.info()).clock_ns == before
    assert await machine.advance_clock(1_000) == before + 1_000


async def test_a_clock_per_operation_goes_on_by_itself(client):
    machine = await client.create_machine(DESCRIPTION)
    process = await machine.spawn()
    before = (await machine.info()).clock_ns
    await process.touch(await process.mmap(0, PAGE, RW, ANON), PAGE)
    assert (await machine.info()).clock_ns > before


async def test_a_restored_machine_goes_on_as_the_first_would(client, machine):
    process = await machine.spawn(rlimits={"MEMLOCK": (1 << 30, 1 << 30)})
    await process.mmap(0, 1 << 20, RW, ANON | MAP_CONTIG)
    twin = await client.restore_machine(await machine.snapshot(), name="twin")
    assert await twin.digest() == await machine.digest()
    other = await twin.process(process.id)
    for _ in range(20):
        length = 64 * 1024
        assert await other.mmap(0, length, RW, ANON | MAP_CONTIG) == await process.mmap(
            0, length, RW, ANON | MAP_CONTIG
        )
    assert await twin.digest() == await machine.digest()


async def test_profiles_decide_what_the_bit_means(client):
    linux = await client.create_machine(DESCRIPTION, profile="linux")
    process = await linux.spawn(rlimits={"MEMLOCK": (0, 0)})
    await process.mmap(0, PAGE, RW, ANON | MAP_CONTIG)
    assert (await linux.info()).profile == "linux"


async def test_names_are_unique_and_machines_limited(client, machine):
    failure = await refused(client.create_machine(DESCRIPTION, name="m"))
    assert (failure.code.name, failure.reason) == ("ALREADY_EXISTS", "MACHINE_EXISTS")
    await client.create_machine(DESCRIPTION)
    await client.create_machine(DESCRIPTION)
    failure = await refused(client.create_machine(DESCRIPTION))
    assert (failure.code.name, failure.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_REACHED")
    await machine.delete()
    await client.create_machine(DESCRIPTION, name="m")


async def test_a_deleted_machine_is_gone(machine):
    process = await machine.spawn(lease_s=0.05)
    await machine.delete()
    assert (await refused(process.maps())).reason == "NO_SUCH_MACHINE"
    assert (await refused(machine.delete())).reason == "NO_SUCH_MACHINE"


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"not a description",
        b"CMMDESC1",
        b"CMMDESC1" + zlib.compress(b"\xff" * 100),
        b"CMMDESC1" + zlib.compress(bytes(600 << 20), 9),
    ],
    ids=["empty", "text", "cut off", "garbage", "a bomb of 600 MiB"],
)
async def test_uploads_that_are_no_description(client, packed):
    class Uploaded:
        def to_bytes(self) -> bytes:
            return packed

    failure = await refused(client.create_machine(Uploaded()))  # type: ignore[arg-type]
    assert (failure.code.name, failure.reason) == ("INVALID_ARGUMENT", "UNREADABLE_UPLOAD")
    assert await client.machines() == []


async def test_an_upload_larger_than_the_cap_is_refused_while_it_comes(client, service):
    chunks = service.limits.upload_packed_bytes // (1 << 20) + 1

    async def messages():
        yield machine_pb2.UploadMachineRequest(header=machine_pb2.UploadHeader())
        for _ in range(chunks):
            yield machine_pb2.UploadMachineRequest(chunk=bytes(1 << 20))

    with pytest.raises(Exception, match="an upload has at most") as caught:
        await raw(client)["UploadMachine"](messages())
    assert caught.value.code().name == "INVALID_ARGUMENT"


@pytest.mark.parametrize("snapshot", [b"", b"x", b"CMMSNAP1" + bytes(100)])
async def test_snapshots_that_are_none(client, snapshot):
    failure = await refused(client.restore_machine(snapshot))
    assert (failure.code.name, failure.reason) == ("INVALID_ARGUMENT", "UNREADABLE_UPLOAD")


async def test_a_corrupted_snapshot_is_refused(client, machine):
    snapshot = bytearray(await machine.snapshot())
    snapshot[len(snapshot) // 2] ^= 0x10
    failure = await refused(client.restore_machine(bytes(snapshot)))
    assert failure.reason == "UNREADABLE_UPLOAD"


async def test_an_upload_without_a_header_is_refused(client):
    async def messages():
        yield machine_pb2.UploadMachineRequest(chunk=b"x")

    with pytest.raises(Exception, match="begins with its header"):
        await raw(client)["UploadMachine"](messages())


async def test_a_terabyte_boots(client):
    huge = await client.create_machine(describe("spec:huge"))
    assert (await huge.info()).frames > 1 << 27


@pytest.mark.asyncio
async def test_a_deleted_machine_gives_its_memory_back_unasked(service, machine):
    held = weakref.ref(service.registry.machine(machine.name))
    gc.disable()  # as good as, in a server
    try:
        await machine.delete()
        async with asyncio.timeout(20):
            while held() is not None:
                await asyncio.sleep(0.1)
    finally:
        gc.enable()
