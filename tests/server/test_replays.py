"""Recordings replayed by the server: what the core says in process, for whoever asks."""

from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from contigmm.bench.rpc import kmem_events
from contigmm.client import exchanges
from contigmm.client.aio import Client, connect
from contigmm.description import MachineDescription
from contigmm.hosts import describe
from contigmm.phys import KmemReplay
from contigmm.sim.boot import boot_memory
from contigmm.v1 import description_pb2, replay_pb2
from contigmm_server import replays
from contigmm_server.limits import Limits
from contigmm_server.service import Service

pytestmark = pytest.mark.asyncio
MEDIUM = describe("spec:medium")
FRESH = description_pb2.MachineDescription(
    zones=[description_pb2.ZoneDescription(node=0, name="Normal", spanned=1 << 16)]
)
Request = replay_pb2.ReplayKmemRequest


def in_process(description: MachineDescription, *batches: replay_pb2.KmemEvents) -> Any:
    """What the core comes upon, and the free blocks."""
    memory = boot_memory(description, seed=0, cpus=None, costs=False)
    memory.set_direct_reclaim(False)
    replay = KmemReplay(memory)
    for events in batches:
        count = len(events.steps)
        found = replay.run(
            step=np.frombuffer(events.steps, "u1"),
            cpu=np.frombuffer(events.cpus or bytes(count), "u1"),
            zone=np.frombuffer(events.zones or bytes(count), "u1"),
            order=np.frombuffer(events.orders or bytes(count), "u1"),
            migratetype=np.frombuffer(events.migratetypes or bytes(count), "u1"),
            handle=np.frombuffer(events.handles or bytes(4 * count), "<u4"),
        )
    return found, memory.buddyinfo().tolist()


async def replayed(client: Client, *requests: Request) -> list[replay_pb2.ReplayKmemResponse]:
    """The answers to ``requests``, all written before the first is read."""
    call = client.replay_kmem()
    for request in requests:
        await call.write(request)
    await call.done_writing()
    return [answer async for answer in call]


async def refused(client: Client, *requests: Request) -> tuple[grpc.StatusCode, str]:
    """Status and details of a replay that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replayed(client, *requests)
    return caught.value.code(), caught.value.details() or ""


def fresh(**columns: bytes) -> tuple[Request, Request]:
    """One batch of events on a memory of 256 MiB."""
    header = replay_pb2.ReplayHeader(description=FRESH)
    return Request(header=header), Request(events=replay_pb2.KmemEvents(**columns))


async def test_a_replay_comes_upon_what_it_does_in_process(client):
    batches = kmem_events(5000), kmem_events(333)
    requests = [*exchanges.replay_opening(MEDIUM.to_bytes()), *(Request(events=b) for b in batches)]
    first, last = await replayed(client, *requests)
    found, free = in_process(MEDIUM, *batches)
    assert (first.events, last.events) == (5000, 5333)
    assert {name: getattr(last, name) for name in found} == found
    assert [list(zone.free_blocks) for zone in last.zones] == free
    assert found["taken"] > 1000


async def test_a_column_that_is_left_out_is_all_zeros(client):
    (answer,) = await replayed(client, *fresh(steps=b"\1\1", orders=b"\3\0"))
    assert answer.taken == 2
    assert [zone.zone for zone in answer.zones] == ["0/Normal"]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"steps": b"\6"}, "event 0 is of the kind 6"),
        ({"steps": b"\1", "orders": b"\x0b"}, "order 11"),
        ({"steps": b"\1\1", "zones": b"\0\1"}, "event 1 is of zone 1"),
        ({"steps": b"\1", "cpus": b"\xff"}, "CPU 255"),
        ({"steps": b"\1", "handles": b"\xff\xff\xff\xff"}, "beyond the last"),
        ({"steps": b"\1", "migratetypes": b"\x20"}, "migratetype 32"),
        ({"steps": b"\1\1", "cpus": b"\0"}, "events.cpus: 1 bytes, not 2 numbers of 1"),
        ({"steps": b"\1", "handles": b"\0"}, "events.handles: 1 bytes, not 1 numbers of 4"),
    ],
)
async def test_events_that_cannot_be_are_named(client, columns, why):
    code, details = await refused(client, *fresh(**columns))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert why in details


async def test_any_bytes_are_answered_or_refused(client):
    draw = np.random.default_rng(20)
    for _ in range(40):
        count = int(draw.integers(1, 3000))
        columns = {
            "steps": draw.integers(0, 6, count, "u1").tobytes(),
            "orders": draw.integers(0, 11, count, "u1").tobytes(),
            "migratetypes": draw.integers(0, 4, count, "u1").tobytes(),
            "handles": draw.integers(0, (1 << 16) - 1024, count, "<u4").tobytes(),
        }
        (answer,) = await replayed(client, *fresh(**columns))
        assert answer.events == count


async def test_a_replay_begins_with_one_description(client):
    header, events = fresh(steps=b"\1")
    nothing = Request(header=replay_pb2.ReplayHeader())
    for requests in ((events,), (nothing, events), (header, Request(chunk=b"x"), events)):
        code, _ = await refused(client, *requests)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    code, details = await refused(client, header, events, Request(chunk=b"x"))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "events were expected")


async def test_memory_messages_and_replays_are_bounded(client, monkeypatch):
    big = description_pb2.MachineDescription(
        zones=[description_pb2.ZoneDescription(node=0, name="Normal", spanned=1 << 25)]
    )
    _, events = fresh(steps=b"\1")
    code, details = await refused(
        client, Request(header=replay_pb2.ReplayHeader(description=big)), events
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 16777216" in details
    monkeypatch.setattr(replays, "MAX_EVENTS", 3)
    code, details = await refused(client, *fresh(steps=bytes(4)))
    assert (code, "at most 3" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_a_replay_counts_as_a_machine_while_it_lasts():
    service = Service(Limits(machines=1))
    async with connect(await service.start("127.0.0.1:0")) as client:
        call = client.replay_kmem()
        for request in fresh(steps=b"\1"):
            await call.write(request)
        await call.read()
        code, _ = await refused(client, *fresh(steps=b"\1"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        call.cancel()
        await client.create_machine(MEDIUM, name="m")
    await service.stop(grace_s=0)
