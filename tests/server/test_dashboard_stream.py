"""The dashboard's stream over HTTP: a watcher that does not read, a machine that goes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asking import ANON, RW

from contigmm.abi import MAP_POPULATE
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm_server.hosted import HostedMachine
from contigmm_server.registry import Registry
from contigmm_server.service import Service
from contigmm_server.sight.calls import CallWatch
from contigmm_server.sight.dashboard import pages, watch
from contigmm_server.sight.web import Site

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]
GIB = 1 << 30


@pytest_asyncio.fixture
async def hosted() -> AsyncIterator[HostedMachine]:
    """A machine of 4 GiB."""
    service = Service()
    yield await service.registry.boot("m", lambda: Machine.boot(describe("spec:medium")))
    await service.registry.close()


async def _site(hosted: HostedMachine) -> tuple[Site, int, Registry]:
    registry = Service().registry
    registry._machines[hosted.name] = hosted
    site = Site(registry, CallWatch(), {})
    url = await site.show_dashboard("127.0.0.1", 0)
    return site, int(url.rstrip("/").rpartition(":")[2]), registry


async def _states(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The line of JSON of each event, the head of the answer and chunk sizes left out."""
    async for line in reader:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


async def test_who_does_not_read_is_told_later_how_many_looks_passed(hosted, monkeypatch):
    monkeypatch.setattr(pages, "SEND_BYTES", 4096)
    monkeypatch.setattr(watch, "INTERVAL_S", 0.01)
    site, port, _ = await _site(hosted)
    process = hosted.machine.spawn("x")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    client.send(b"GET /api/machines/m/looks HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    while not site._pages._watches:
        await asyncio.sleep(0.01)
    (watched,) = site._pages._watches.values()
    address, look = 0, 0
    while watched.look - watched.encodings < 5:  # until it is clogged, and some looks more
        if address:
            process.munmap(address, GIB)
        address = 0 if address else process.mmap(0, GIB, RW, ANON | MAP_POPULATE)
        while watched.look == look:
            await asyncio.sleep(0.005)
        look = watched.look
    reader, writer = await asyncio.open_connection(sock=client, limit=1 << 22)
    missed = [state["missed"] async for state in _until_missed(reader)]
    assert missed[-1] >= 4
    assert not any(missed[:-1])
    await _leave(writer, site)


async def _leave(writer: asyncio.StreamWriter, site: Site) -> None:
    writer.close()
    await writer.wait_closed()
    await site.close()


async def _until_missed(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    async for state in _states(reader):
        yield state
        if state["missed"]:
            return


async def test_the_stream_of_a_deleted_machine_says_so_and_ends(hosted):
    site, port, registry = await _site(hosted)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(b"GET /api/machines/m/looks HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    told = []
    async for state in _states(reader):
        told.append(state)
        if len(told) == 1:
            del registry._machines[hosted.name]
        if "reason" in state:
            break
    assert told[0]["machines"] == ["m"]
    assert told[-1] == {"reason": "machines/m was deleted.", "again": False}
    assert await reader.readuntil(b"0\r\n\r\n")  # the answer is over
    while site._pages._watches:
        await asyncio.sleep(0.01)  # nothing is kept of it
    await _leave(writer, site)
