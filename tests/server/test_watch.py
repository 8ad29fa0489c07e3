"""The dashboard's looks at a machine: who comes, goes, is slow, listens, and what ends them."""

import asyncio
import base64
import json
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from asking import ANON, RW

from contigmm.abi import MAP_POPULATE
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm_server.service import Service
from contigmm_server.sight.dashboard.watch import Watch
from contigmm_server.sight.refusals import Refusals

# A watch that never waits holds the event loop, so that nothing within could end the test.
pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]
POPULATED = ANON | MAP_POPULATE


async def _watch() -> Watch:
    registry = Service().registry
    hosted = await registry.boot("default", lambda: Machine.boot(describe("spec:small")))
    return Watch(hosted, Refusals(), is_there=lambda: hosted in registry.machines())


async def _told(watch: Watch, count: int = 1) -> list[bytes]:
    async with aclosing(watch.messages()) as messages:
        return [await anext(messages) for _ in range(count)]


def _read(message: bytes) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The line of JSON, which pageblocks have changed (all: every one) and their cells."""
    lines = [line[6:] for line in message.splitlines() if line.startswith(b"data: ")]
    state = json.loads(lines[0])
    cells = np.frombuffer(base64.b64decode(lines[2]), np.uint8).reshape(-1, 3)
    which = np.frombuffer(base64.b64decode(lines[1]), "<u4")
    return state, np.arange(len(cells)) if state["all"] else which, cells


async def test_who_comes_after_the_last_has_gone_is_told_of_the_machine():
    watch = await _watch()
    for _ in range(2):
        for message in await _told(watch, 2):  # one that was there, and one that was waited for
            assert b"event: look" in message


async def test_two_watchers_are_told_the_same():
    watch = await _watch()
    one, other = await asyncio.gather(_told(watch), _told(watch))
    assert one == other


async def test_a_watch_that_is_stopped_ends_for_those_who_wait():
    watch = await _watch()
    told = []

    async def follow() -> None:
        async for message in watch.messages():
            told.append(message)
            watch.stop("enough")

    await follow()
    assert len(told) == 2
    assert told[1] == b'event: end\ndata: {"reason": "enough", "again": true}\n\n'


async def test_a_look_that_fails_is_logged_and_ends_the_watch(monkeypatch, caplog):
    watch = await _watch()

    def fail(*_: object) -> None:
        raise OverflowError("a look that fails")

    monkeypatch.setattr(watch._survey, "take", fail)
    (end,) = [message async for message in watch.messages()]
    assert b"machines/default cannot be looked at" in end
    assert "machines/default cannot be looked at" in caplog.text


async def test_a_deleted_machine_ends_its_watch_with_a_reason():
    registry = Service().registry
    hosted = await registry.boot("default", lambda: Machine.boot(describe("spec:small")))
    watch = Watch(hosted, Refusals(), is_there=lambda: hosted in registry.machines())
    told = []
    async for message in watch.messages():
        told.append(message)
        if len(told) == 1:
            await registry.remove(hosted.name)
    assert told[-1] == (
        b'event: end\ndata: {"reason": "machines/default was deleted.", "again": false}\n\n'
    )


async def test_one_encoding_serves_all_who_are_equally_far():
    watch = await _watch()
    process = watch.hosted.machine.spawn("x")
    looks = 6

    async def follow() -> list[bytes]:
        told = []
        async for message in watch.messages():
            told.append(message)
            process.mmap(0, 4096, RW, POPULATED)
            if len(told) == looks:
                return told
        raise AssertionError("the stream ended")

    first, *others = await asyncio.gather(*(follow() for _ in range(5)))
    assert all(other == first for other in others)
    assert watch.encodings == looks


async def test_a_slow_watcher_skips_looks_is_told_how_many_and_misses_no_change():
    watch = await _watch()
    process = watch.hosted.machine.spawn("x")
    shown: dict[str, np.ndarray] = {}

    def draw(name: str, message: bytes) -> dict[str, Any]:
        state, which, cells = _read(message)
        shown.setdefault(name, np.zeros((state["pageblocks"], 3), np.uint8))[which] = cells
        return state

    async with aclosing(watch.messages()) as quick, aclosing(watch.messages()) as slow:
        draw("slow", await anext(slow))
        draw("quick", await anext(quick))
        for _ in range(5):
            process.mmap(0, 4 << 20, RW, POPULATED)
            assert draw("quick", await anext(quick))["missed"] == 0
        assert draw("slow", await anext(slow))["missed"] == 4
    np.testing.assert_array_equal(shown["slow"], shown["quick"])
    assert shown["slow"][:, 2].any()


async def test_who_listens_is_told_of_tracepoints_and_others_are_not():
    watch = await _watch()
    machine = watch.hosted.machine
    process = machine.spawn("x")
    async with aclosing(watch.messages()) as deaf:
        async with aclosing(watch.messages(traced=True)) as listening:
            await anext(listening)
            await anext(deaf)
            process.mmap(0, 2 << 20, RW, POPULATED)
            heard, _, _ = _read(await anext(listening))
            unheard, _, _ = _read(await anext(deaf))
        assert unheard["trace"] is None
        assert any("mm_page_alloc: page=" in line for line in heard["trace"]["lines"])
        assert heard["trace"]["more"] > 0
        process.mmap(0, 4096, RW, POPULATED)
        await anext(deaf)
    with machine.trace():  # nobody listens any more
        pass


async def test_who_cannot_listen_is_told_why():
    watch = await _watch()
    with watch.hosted.machine.trace():
        async with aclosing(watch.messages(traced=True)) as listening:
            told, _, _ = _read(await anext(listening))
    assert told["trace"]["error"] == "The machine is being traced already."
