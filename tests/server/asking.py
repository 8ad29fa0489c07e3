"""How the tests of the server ask and what they compare."""

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest

from contigmm.abi import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from contigmm.client.aio import Client
from contigmm.client.failures import ServiceError
from contigmm.hosts import describe

RW = PROT_READ | PROT_WRITE
ANON = MAP_PRIVATE | MAP_ANONYMOUS
PAGE = 4096
DESCRIPTION = describe("spec:small")


async def refused(call: Awaitable[Any]) -> ServiceError:
    """The failure of a call that must fail."""
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value


def raw(client: Client) -> dict[str, Any]:
    """The methods themselves, for requests that the client would never make."""
    return client._methods


async def status_of(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status of a raw call that must fail, and its details."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    error: Any = caught.value
    return error.code(), error.details()
