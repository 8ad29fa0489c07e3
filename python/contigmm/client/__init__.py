"""Machines of a server as objects, with the method names of the library.

``connect`` gives blocking objects, ``contigmm.client.aio.connect`` those for asyncio. Moving code
from import to service changes the line that makes the machine.
"""

from typing import TYPE_CHECKING

from contigmm.client.door import Door

if TYPE_CHECKING:
    from contigmm.client.sync import Client

_NEEDED = ("grpc", "google")


def connect(address: str, *, timeout_s: float = 60.0, door: Door | None = None) -> "Client":
    """Connect to HOST:PORT or unix:PATH; nothing is sent yet.

    Args:
        address: Where a server listens.
        timeout_s: How long a call may take; bulk answers and streams take what they take.

        door: TLS and token; ``Door.of_environment()`` reads what the environment names.

    Raises:
        ImportError: The packages of the extra ``contigmm[grpc]`` are not installed.
    """
    try:
        from contigmm.client.sync import Client  # noqa: PLC0415 - an extra, not a must
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _NEEDED:
            raise ImportError("contigmm.client needs gRPC: pip install 'contigmm[grpc]'") from error
        raise
    return Client(address, timeout_s=timeout_s, door=door or Door())


__all__ = ["Door", "connect"]
