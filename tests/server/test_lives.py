"""Streams, sessions and leases: who lives until when, and what a lost client leaves behind."""

import asyncio

import grpc
import grpc.aio
import pytest
from asking import ANON, PAGE, RW, raw, refused

from contigmm.client.aio import Machine, connect
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import Call, Operation
from contigmm.v1 import batch_pb2

pytestmark = pytest.mark.asyncio

SPAWN = Operation(Call.SPAWN, 0, (0, 0, 0), SpawnSpec("s").encode())


def mmap(process: int, length: int = PAGE) -> Operation:
    return Operation(Call.MMAP, process, (0, length, RW, ANON, -1, 0))


async def until_alone(machine: Machine) -> None:
    """Wait until the machine has no process."""
    async with asyncio.timeout(10):
        while await machine.processes():
            await asyncio.sleep(0.01)


async def test_processes_of_a_stream_live_as_long_as_it(machine):
    buddies = await machine.buddyinfo()
    async with machine.stream() as stream:
        answers = await stream.execute([SPAWN, SPAWN, mmap(1), Operation(Call.FORK, 1)])
        assert all(answer.ok for answer in answers)
        assert len(await machine.processes()) == 3, "a child lives as its parent does"
        (shown, *_) = await machine.processes()
        assert shown.born.lease_s is None
    await until_alone(machine)
    assert (await machine.info()).seq == 4 + 3, "each end is an operation in the machine's order"
    assert await machine.buddyinfo() == buddies


async def test_a_process_that_exits_itself_is_not_ended_again(machine):
    async with machine.stream() as stream:
        await stream.execute([SPAWN, SPAWN, Operation(Call.EXIT, 1, (0, 0))])
    await until_alone(machine)
    assert (await machine.info()).seq == 4


@pytest.mark.parametrize("batch_size", [1, 50, 400])
async def test_of_a_lost_clients_stream_a_prefix_is_applied_and_its_processes_are_gone(
    service, machine, address, batch_size
):
    keeper = await machine.spawn("keeper")
    journal: list[Operation] = []
    hosted = service.registry.machine(machine.name)
    hosted.machine.journal = lambda seq, operation, answer: journal.append(operation)
    lost = connect(address)
    stream = lost.machine("m").stream(session="lost")
    await stream.__aenter__()
    (born,) = await stream.execute([SPAWN])
    sent = [mmap(born.value, PAGE * (n + 1)) for n in range(20 * batch_size)]
    for first in range(0, len(sent), batch_size):
        await stream.send(sent[first : first + batch_size])
    await lost.close()  # with most of it on its way
    async with asyncio.timeout(20):
        while len(await machine.processes()) > 1:
            await asyncio.sleep(0.01)
    applied = [o.args[1] for o in journal if o.call == Call.MMAP]
    assert applied == [o.args[1] for o in sent][: len(applied)]
    assert len(applied) % batch_size == 0, "a batch is one command: all of it or nothing"
    assert [o.call for o in journal].count(Call.EXIT) == 1
    assert [p.id for p in await machine.processes()] == [keeper.id]
    await machine.check()


async def test_a_session_goes_on_where_it_broke(client, machine):
    process = await machine.spawn()
    async with machine.stream(session="s") as stream:
        first = await stream.execute([mmap(process.id)] * 3)
        second = await stream.execute([mmap(process.id)] * 2)
    seq = (await machine.info()).seq
    call = raw(client)["Operate"]()
    await call.write(_open("s", received=3))
    opened = (await call.read()).opened
    assert (opened.session, opened.last_applied, opened.first_kept) == ("s", 5, 4)
    await call.write(_batch(4, [mmap(process.id)] * 2))  # its answer was lost: ask again
    again = (await call.read()).answers
    assert [a.seq for a in again.answers] == [a.seq for a in second]
    assert (await machine.info()).seq == seq, "nothing was applied twice"
    await call.write(_batch(6, [mmap(process.id)]))
    assert (await call.read()).answers.answers[0].seq == seq + 1
    assert first[0].seq == seq - 4


@pytest.mark.parametrize(
    ("first_operation", "count", "code", "reason"),
    [
        (0, 1, "INVALID_ARGUMENT", "OPERATION_NUMBER"),
        (12, 1, "INVALID_ARGUMENT", "OPERATION_NUMBER"),
        (9, 1, "INVALID_ARGUMENT", "OPERATION_NUMBER"),
        (8, 4, "INVALID_ARGUMENT", "OPERATION_NUMBER"),
        (1, 5, "FAILED_PRECONDITION", "ANSWERS_DROPPED"),
    ],
)
async def test_operation_numbers_that_do_not_fit(
    client, machine, first_operation, count, code, reason
):
    process = await machine.spawn()
    stream = machine.stream(session="s")
    async with stream:
        await stream.execute([mmap(process.id)] * 7)
        await stream.execute([mmap(process.id)] * 3)  # 8 are kept: the first batch is dropped
        seq = (await machine.info()).seq
        stream._next_operation = first_operation
        failure = await refused(stream.execute([mmap(process.id)] * count))
        assert (failure.code.name, failure.reason) == (code, reason)
    assert (await machine.info()).seq == seq


async def test_a_newer_stream_takes_a_session_over(machine):
    process = await machine.spawn()
    async with machine.stream(session="s") as old:
        await old.execute([SPAWN])
        async with machine.stream(session="s") as new:
            assert new.last_applied == 1
            await new.execute([mmap(process.id)])
            failure = await refused(old.execute([mmap(process.id)]))
            assert (failure.code.name, failure.reason) == ("ABORTED", "SESSION_TAKEN_OVER")
            await new.execute([mmap(process.id)])


async def test_only_the_last_sessions_are_remembered(machine):
    process = await machine.spawn()
    for name in ("one", "two", "three"):
        async with machine.stream(session=name) as stream:
            await stream.execute([mmap(process.id)])
    async with machine.stream(session="three") as stream:
        assert stream.last_applied == 1
    async with machine.stream(session="one") as stream:
        assert stream.last_applied == 0


async def test_a_stream_that_does_not_open_a_session_is_refused(client, machine):
    call = raw(client)["Operate"](iter([_batch(1, [mmap(1)])]))
    with pytest.raises(grpc.RpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_closed_before_it_says_anything_ends_quietly(client):
    call = raw(client)["Operate"](iter([]))
    assert [message async for message in call] == []


async def test_a_lease_runs_out_unless_renewed(machine):
    short = await machine.spawn("short", lease_s=0.2)
    held = await machine.spawn("held", lease_s=0.2)
    assert held.born.lease_s == 0.2
    child = await held.fork()
    assert child.born.lease_s == 0.2
    for _ in range(4):
        await asyncio.sleep(0.1)
        await held.renew_lease()
    alive = [process.id for process in await machine.processes()]
    assert held.id in alive
    assert short.id not in alive
    assert child.id not in alive, "its lease is its own"
    await until_alone(machine)


async def test_a_lease_ends_with_its_process(machine):
    process = await machine.spawn(lease_s=0.05)
    await process.exit()
    failure = await refused(process.renew_lease())
    assert (failure.code.name, failure.reason) == ("FAILED_PRECONDITION", "NO_LEASE")
    await asyncio.sleep(0.1)
    assert (await machine.info()).seq == 2


async def test_ends_that_the_service_orders_are_journalled_with_their_cause(service, machine):
    ends: list[int] = []

    def journal(_seq: int, operation: Operation, _answer: object) -> None:
        if operation.call == Call.EXIT:
            ends.append(operation.args[1])

    service.registry.machine(machine.name).machine.journal = journal
    await machine.spawn(lease_s=0.01)
    await until_alone(machine)
    async with machine.stream() as stream:
        await stream.execute([SPAWN])
    await until_alone(machine)
    assert ends == [2, 3]


def _open(session: str, received: int = 0) -> batch_pb2.OperateRequest:
    opening = batch_pb2.OpenSession(machine="machines/m", session=session, received=received)
    return batch_pb2.OperateRequest(open=opening)


def _batch(first: int, operations: list[Operation]) -> batch_pb2.OperateRequest:
    from contigmm.client import exchanges

    return batch_pb2.OperateRequest(batch=exchanges.batch(operations, first_operation=first))
