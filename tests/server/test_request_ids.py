"""A request id seen before: the same body gives the first answer again, another body fails."""

import asyncio

import grpc
import pytest
from asking import ANON, PAGE, RW, raw, refused

from contigmm.client import exchanges
from contigmm.sim.operation import Call, Operation
from contigmm.v1 import machine_pb2, operation_pb2
from contigmm_server.failures import ServiceError as ServerSideError
from contigmm_server.limits import Limits
from contigmm_server.replies import Replies

MMAP = (0, PAGE, RW, ANON, -1, 0)


@pytest.mark.asyncio
async def test_a_retry_gets_the_first_answer_and_acts_once(client, machine):
    process = await machine.spawn()
    exchange = exchanges.mmap(process.name, "once", MMAP)
    first = await client.call(exchange)
    seq = (await machine.info()).seq
    await process.munmap(first, PAGE)
    assert await client.call(exchange) == first
    assert (await machine.info()).seq == seq + 1
    assert await process.mmap(*MMAP) == first, "the address was free: the retry mapped nothing"


@pytest.mark.asyncio
async def test_a_refusal_is_an_answer_too(client, machine):
    process = await machine.spawn()
    request = exchanges.mmap(process.name, "refused", (0, 0, RW, ANON, -1, 0)).request
    first = await raw(client)["Mmap"](request)
    assert await raw(client)["Mmap"](request) == first


@pytest.mark.asyncio
async def test_another_body_or_another_call_under_one_id_is_refused(client, machine):
    process = await machine.spawn()
    await client.call(exchanges.mmap(process.name, "id", MMAP))
    for other in (
        exchanges.mmap(process.name, "id", (0, 2 * PAGE, RW, ANON, -1, 0)),
        exchanges.munmap(process.name, "id", 0, PAGE),
        exchanges.run_batch(machine.name, "id", exchanges.batch([])),
    ):
        failure = await refused(client.call(other))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.reason == "REQUEST_ID_REUSED"


@pytest.mark.asyncio
async def test_twins_in_flight_act_once(client, machine):
    process = await machine.spawn()
    seq = (await machine.info()).seq
    # 64 MiB of touched memory: long enough to be in a thread while its twin arrives
    address = await process.mmap(0, 64 << 20, RW, ANON)
    touches = [exchanges.touch(process.name, "twin", (address, 64 << 20, 1)) for _ in range(4)]
    answers = await asyncio.gather(*(client.call(touch) for touch in touches))
    assert len(set(answers)) == 1
    assert (await machine.info()).seq == seq + 2


@pytest.mark.asyncio
async def test_batches_and_births_are_remembered(client, machine):
    spec = exchanges.ProcessSpec("twin")
    first = await client.call(exchanges.spawn(machine.name, "birth", spec))
    assert await client.call(exchanges.spawn(machine.name, "birth", spec)) == first
    batch = exchanges.batch([Operation(Call.MMAP, first.id, MMAP)] * 3)
    answers = await client.call(exchanges.run_batch(machine.name, "batch", batch))
    assert await client.call(exchanges.run_batch(machine.name, "batch", batch)) == answers
    assert len(await machine.processes()) == 1


@pytest.mark.asyncio
async def test_machines_are_made_and_deleted_once(client, machine):
    zone = {"name": "Normal", "spanned": 1 << 16}
    request = machine_pb2.CreateMachineRequest(description={"zones": [zone]}, request_id="boot")
    made = await asyncio.gather(*(raw(client)["CreateMachine"](request) for _ in range(3)))
    assert len({answer.machine.name for answer in made}) == 1
    name = made[0].machine.name
    for _ in range(2):
        await client.call(exchanges.delete_machine(name, "gone"))
    assert [each.name for each in await client.machines()] == [machine.name]


def request(request_id: str, length: int = PAGE) -> object:
    return exchanges.munmap("machines/m/processes/1", request_id, 0, length).request


def test_only_the_last_ids_are_remembered():
    replies = Replies(Limits(replies=2))
    answer = operation_pb2.Answer(value=1)
    for name in ("a", "b", "c"):
        replies.keep(("", name), request(name), answer)
    assert replies.recall(("", "a"), request("a"), operation_pb2.Answer) is None
    assert replies.recall(("", "b"), request("b"), operation_pb2.Answer) is answer


def test_answers_are_bounded_in_bytes():
    replies = Replies(Limits(reply_bytes=1000))
    for name in map(str, range(100)):
        replies.keep(("", name), request(name), operation_pb2.Answer(data=bytes(270)))
    names = map(str, range(100))
    kept = [n for n in names if replies.recall(("", n), request(n), operation_pb2.Answer)]
    assert kept == ["97", "98", "99"]


def test_an_id_that_is_too_long_is_refused():
    with pytest.raises(ServerSideError, match="request_id"):
        Replies(Limits()).recall(("", "x" * 129), request("x" * 129), operation_pb2.Answer)
