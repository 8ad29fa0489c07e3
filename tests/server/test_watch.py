"""The dashboard's looks at a machine: who comes, goes, comes again, and what ends them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest

from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm_server.service import Service
from contigmm_server.sight.dashboard.watch import Watch
from contigmm_server.sight.refusals import Refusals

# A watch that never waits holds the event loop, so that nothing within could end the test.
pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]


async def _watch() -> Watch:
    registry = Service().registry
    hosted = await registry.boot("default", lambda: Machine.boot(describe("spec:small")))
    return Watch(hosted, Refusals())


async def _told(watch: Watch, count: int = 1) -> list[bytes]:
    messages = cast(AsyncGenerator[bytes, None], watch.messages())
    async with aclosing(messages):
        return [await anext(messages) for _ in range(count)]


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
            watch.stop()

    await follow()
    assert len(told) == 1


async def test_a_look_that_fails_is_logged_and_ends_the_watch(monkeypatch, caplog):
    watch = await _watch()

    def fail(_memory: object) -> None:
        raise OverflowError("a look that fails")

    monkeypatch.setattr(watch._survey, "take", fail)
    assert [message async for message in watch.messages()] == []
    assert "machines/default cannot be looked at" in caplog.text
