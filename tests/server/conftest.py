"""A server on a real socket, and a machine on it."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from contigmm.client.aio import Client, Machine, connect
from contigmm_server.limits import Limits
from contigmm_server.service import Service

sys.path.insert(0, str(Path(__file__).parent))  # for asking

from asking import DESCRIPTION


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    """A server of small limits, listening on loopback."""
    service = Service(Limits(machines=3, queue=8, sessions=2, session_kept_operations=8))
    yield service
    await service.stop(grace_s=1)


@pytest_asyncio.fixture
async def address(service: Service) -> str:
    """Where it listens."""
    return await service.start("127.0.0.1:0")


@pytest_asyncio.fixture
async def client(address: str) -> AsyncIterator[Client]:
    """A connection to it."""
    async with connect(address) as client:
        yield client


@pytest_asyncio.fixture
async def machine(client: Client) -> Machine:
    """A machine on it."""
    return await client.create_machine(DESCRIPTION, name="m", seed=7, clock="manual")
