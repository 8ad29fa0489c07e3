"""Bad input over a real socket: a clear status, and nothing has changed."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from asking import ANON, PAGE, RW, raw, refused, status_of

from contigmm.client import aio, exchanges
from contigmm.client.batch import Batch
from contigmm.client.failures import ServiceError
from contigmm.errors import SyscallError
from contigmm.sim.operation import Call, Operation
from contigmm.v1 import (
    batch_pb2,
    description_pb2,
    machine_pb2,
    memory_pb2,
    operation_pb2,
    process_pb2,
    view_pb2,
)
from contigmm_server.hosted import HostedMachine

pytestmark = pytest.mark.asyncio
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("machines/nobody", NOT_FOUND, "NO_SUCH_MACHINE"),
        ("machines/", INVALID, "MALFORMED_NAME"),
        ("machines/UPPER", INVALID, "MALFORMED_NAME"),
        ("machines/m/processes/1", INVALID, "MALFORMED_NAME"),
        ("machines/" + "x" * 64, INVALID, "MALFORMED_NAME"),
        ("machines/../m", INVALID, "MALFORMED_NAME"),
        ("", INVALID, "MALFORMED_NAME"),
    ],
)
async def test_a_machine_that_is_none(client: aio.Client, name, code, reason):
    failure = await refused(client.call(exchanges.get_machine(name)))
    assert (failure.code, failure.reason) == (code, reason)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("machines/m/processes/77", NOT_FOUND, "NO_SUCH_PROCESS"),
        ("machines/nobody/processes/1", NOT_FOUND, "NO_SUCH_MACHINE"),
        ("machines/m/processes/", INVALID, "MALFORMED_NAME"),
        ("machines/m/processes/-1", INVALID, "MALFORMED_NAME"),
        ("machines/m/processes/01", INVALID, "MALFORMED_NAME"),
        ("machines/m/processes/1e3", INVALID, "MALFORMED_NAME"),
        ("machines/m/processes/٣", INVALID, "MALFORMED_NAME"),
        ("machines/m/processes/99999999999999999999", INVALID, "MALFORMED_NAME"),
        ("machines/m/processes/9999999999999999999", INVALID, "MALFORMED_NAME"),
        ("m", INVALID, "MALFORMED_NAME"),
    ],
)
async def test_a_process_that_is_none(client, machine, name, code, reason):
    before = await machine.digest()
    failure = await refused(client.call(exchanges.munmap(name, "", 0, PAGE)))
    assert (failure.code, failure.reason) == (code, reason)
    assert (await refused(client.call(exchanges.get_process(name)))).code == code
    assert await machine.digest() == before


@pytest.mark.parametrize("length", [0, 1 << 47, 2**63, 2**64 - 1])
async def test_absurd_lengths_are_the_kernels_to_refuse(machine, length):
    process = await machine.spawn()
    with pytest.raises(SyscallError):
        await process.mmap(0, length, RW, ANON)
    assert await process.maps() == ""


async def test_any_bits_reach_the_simulated_kernel(machine):
    process = await machine.spawn()
    await process.mmap(0, PAGE, RW, ANON | 1 << 25 | 1 << 62)
    assert len((await process.maps()).splitlines()) == 1


async def test_bytes_that_are_no_message_change_nothing(client, machine, address):
    before = await machine.digest()
    async with grpc.aio.insecure_channel(address) as channel:
        for method in (
            "MemoryService/Mmap",
            "BatchService/RunBatch",
            "ProcessService/SpawnProcess",
        ):
            call = channel.unary_unary(f"/contigmm.v1.{method}")
            code, _ = await status_of(call(b"\xff\xff\xff\xff"))
            assert code is INVALID
        stream = channel.stream_stream("/contigmm.v1.BatchService/Operate")
        assert (await status_of(anext(aiter(stream(iter([b"\xff"]))))))[0] is INVALID
    assert await machine.digest() == before


async def test_an_unknown_method_is_unimplemented(client, address):
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/contigmm.v1.MemoryService/Explode")
        assert (await status_of(call(b"")))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_an_oversized_message_is_refused(client, machine):
    write = operation_pb2.WriteCall(address=0, data=bytes(5 << 20))
    request = memory_pb2.WriteRequest(process=f"{machine.name}/processes/1", call=write)
    code, _ = await status_of(raw(client)["Write"](request))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("batch", "what"),
    [
        (batch_pb2.Batch(operations=[operation_pb2.Operation()] * 4097), "4097 operations"),
        (batch_pb2.Batch(operations=[operation_pb2.Operation(process=1)]), "no call"),
        (
            batch_pb2.Batch(
                operations=[
                    operation_pb2.Operation(munmap=operation_pb2.MunmapCall(), addr_from=0),
                ]
            ),
            "not an earlier operation",
        ),
        (
            batch_pb2.Batch(
                operations=[
                    operation_pb2.Operation(mmap=operation_pb2.MmapCall()),
                    operation_pb2.Operation(fork=operation_pb2.ForkCall(), addr_from=0),
                ]
            ),
            "without an address",
        ),
        (
            batch_pb2.Batch(
                operations=[operation_pb2.Operation(read=operation_pb2.ReadCall(length=65537))]
            ),
            "in one access",
        ),
        (
            batch_pb2.Batch(
                operations=[operation_pb2.Operation(read=operation_pb2.ReadCall(length=65536))] * 17
            ),
            "read in one batch",
        ),
        (
            batch_pb2.Batch(
                operations=[
                    operation_pb2.Operation(
                        spawn=operation_pb2.ProcessSpec(
                            lifetime=operation_pb2.Lifetime(stream=True)
                        )
                    )
                ]
            ),
            "only on an Operate stream",
        ),
        (
            batch_pb2.Batch(
                operations=[operation_pb2.Operation(spawn=operation_pb2.ProcessSpec(name="n" * 16))]
            ),
            "spec.name",
        ),
    ],
)
async def test_a_malformed_batch_is_refused_whole(client, machine, batch, what):
    process = await machine.spawn()
    before = await machine.digest()
    good = operation_pb2.Operation(process=process.id)
    good.mmap.length = PAGE
    batch = batch_pb2.Batch(operations=[*batch.operations, good])
    failure = await refused(client.call(exchanges.run_batch(machine.name, "", batch)))
    assert failure.code is INVALID
    assert what in str(failure) or "operations in one batch" in str(failure)
    assert await machine.digest() == before


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (batch_pb2.Columns(calls=b"\x14" * 4097), "4097 operations"),
        (batch_pb2.Columns(calls=b"\x14", processes=b"\0" * 7), "not 1 numbers of 8"),
        (batch_pb2.Columns(calls=b"\x14\x14", first=b"\0" * 8), "not 2 numbers of 8"),
        (batch_pb2.Columns(calls=b"\x0a"), "does not fit in columns"),
        (batch_pb2.Columns(calls=b"\xff"), "does not fit in columns"),
        (batch_pb2.Columns(calls=b"\x15", addr_from=b"\0\0\0\0"), "not an earlier"),
        (batch_pb2.Columns(calls=b"\x15", addr_from=b"\xfe\xff\xff\xff"), "addr_from -2"),
    ],
)
async def test_malformed_columns_are_refused_whole(machine, columns, what):
    before = await machine.digest()
    failure = await refused(machine.execute_columns(columns))
    assert failure.code is INVALID
    assert what in str(failure)
    assert await machine.digest() == before


@pytest.mark.parametrize("seconds", [0, -1, 8 * 24 * 3600])
async def test_a_lease_that_cannot_be(machine, seconds):
    failure = await refused(machine.spawn(lease_s=seconds))
    assert (failure.code, failure.reason) == (INVALID, "INVALID_FIELD")


@pytest.mark.parametrize("count", [-1, -(2**31)])
async def test_negative_page_sizes(client, machine, count):
    listing = process_pb2.ListProcessesRequest(machine=machine.name, page_size=count)
    assert (await status_of(raw(client)["ListProcesses"](listing)))[0] is INVALID
    listing = machine_pb2.ListMachinesRequest(page_size=count)
    assert (await status_of(raw(client)["ListMachines"](listing)))[0] is INVALID


async def test_a_page_of_two_billion_is_a_page_of_the_cap(client, machine):
    listing = process_pb2.ListProcessesRequest(machine=machine.name, page_size=2**31 - 1)
    assert not (await raw(client)["ListProcesses"](listing)).next_page_token


@pytest.mark.parametrize("token", ["x", "AAAA", "MTA=", "é", "x" * 10_000, "MC8wL20="])
async def test_a_page_token_of_somebody_elses(client, machine, token):
    listing = process_pb2.ListProcessesRequest(machine=machine.name, page_token=token)
    code, _ = await status_of(raw(client)["ListProcesses"](listing))
    assert code is INVALID


@pytest.mark.parametrize(
    "description",
    [
        description_pb2.MachineDescription(),
        description_pb2.MachineDescription(
            zones=[description_pb2.ZoneDescription(name="Lowmem", spanned=4096)]
        ),
        description_pb2.MachineDescription(
            zones=[description_pb2.ZoneDescription(name="Normal", spanned=2**40)]
        ),
        description_pb2.MachineDescription(
            zones=[description_pb2.ZoneDescription(name="Normal", spanned=2**31)]
        ),
        description_pb2.MachineDescription(
            cpus=2**32 - 1,
            zones=[description_pb2.ZoneDescription(name="Normal", spanned=4096)],
        ),
        description_pb2.MachineDescription(
            distances=[1, 2, 3],
            zones=[description_pb2.ZoneDescription(name="Normal", spanned=4096)],
        ),
    ],
)
async def test_a_machine_that_cannot_be(client, description):
    request = machine_pb2.CreateMachineRequest(description=description)
    assert (await status_of(raw(client)["CreateMachine"](request)))[0] is INVALID
    assert await client.machines() == []


async def test_a_file_that_is_none(client, machine):
    request = view_pb2.ReadMachineFileRequest(machine=machine.name, file=99)
    with pytest.raises(grpc.RpcError) as caught:
        async for _ in raw(client)["ReadMachineFile"](request):
            pass
    assert caught.value.code() is INVALID


async def test_a_failure_carries_error_info_and_says_what(client):
    failure = await refused(client.machine("nobody").info())
    assert str(failure) == "NOT_FOUND (NO_SUCH_MACHINE): 'machines/nobody' does not exist"


async def test_a_call_whose_deadline_has_passed_while_it_waited_is_dropped(
    service, machine, address
):
    process = await machine.spawn()
    seq = (await machine.info()).seq
    hosted = service.registry.machine(machine.name)
    async with held(hosted), aio.connect(address, timeout_s=0.2) as hasty:
        twin = aio.Process(hasty.machine("m"), process.born)
        failure = await refused(twin.mmap(0, PAGE, RW, ANON))
        while hosted.queue.depth:  # the server hears of it a little later
            await asyncio.sleep(0.01)
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await machine.info()).seq == seq


async def test_a_full_queue_is_resource_exhausted_and_loses_nothing(service, machine):
    process = await machine.spawn()
    seq = (await machine.info()).seq
    limit = service.limits.queue
    async with held(service.registry.machine(machine.name)):
        calls = [asyncio.create_task(process.mmap(0, PAGE, RW, ANON)) for _ in range(20)]
        done, _ = await asyncio.wait(calls, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        while len(done) < 20 - limit:
            done, _ = await asyncio.wait(calls, timeout=0.1)
    results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [result for result in results if isinstance(result, ServiceError)]
    assert {(one.code.name, one.reason) for one in failed} == {("RESOURCE_EXHAUSTED", "QUEUE_FULL")}
    assert len(failed) == 20 - limit
    after = await machine.info()
    assert (after.seq, after.queue_depth_max) == (seq + limit, limit)


@asynccontextmanager
async def held(hosted: HostedMachine) -> AsyncIterator[None]:
    """Keep the machine busy, as a thread at work does."""
    release = threading.Event()
    busy = asyncio.create_task(hosted.queue.run(lambda: release.wait(20), cost_us=1e9))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        release.set()
        await busy


async def test_operations_of_a_process_that_is_gone_are_answered(machine):
    process = await machine.spawn()
    await process.exit()
    (answer,) = await machine.execute([Operation(Call.FORK, process.id)])
    assert (answer.errno, answer.seq) == (3, 0)


async def test_a_batch_goes_on_after_a_refusal_or_stops_as_asked(machine):
    process = await machine.spawn()
    batch = Batch()
    bad = batch.mmap(process.id, 0, 0, RW, ANON)
    batch.munmap(process.id, bad, PAGE)
    batch.mmap(process.id, 0, PAGE, RW, ANON)
    answers = await machine.execute(batch.operations)
    assert [bool(a.errno) for a in answers] == [True, False, False]
    assert [a.skipped for a in answers] == [False, True, False]
    answers = await machine.execute(batch.operations, stop_on_refusal=True)
    assert [a.skipped for a in answers] == [False, True, True]
