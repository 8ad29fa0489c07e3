"""What a connection is made with, and which method belongs to which service."""

import json
from functools import partial
from typing import Any, Final

import grpc

from contigmm.client.door import Door
from contigmm.v1 import (
    batch_pb2_grpc,
    machine_pb2_grpc,
    memory_pb2_grpc,
    process_pb2_grpc,
    replay_pb2_grpc,
    view_pb2_grpc,
)

TIMEOUT_S: Final = 60.0
"""How long a call may take unless the client is told otherwise."""

NO_DOOR: Final = Door()
"""Plain and nameless."""

# Every mutating request has an id, so that a second try cannot act twice.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for every client
    ("grpc.service_config", _SERVICE_CONFIG),
)


def opened(maker: Any, address: str, door: Door) -> Any:
    """A channel to ``address`` by ``grpc`` or ``grpc.aio``; nothing is sent yet."""
    if door.tls_ca is None:
        return maker.insecure_channel(address, options=OPTIONS)
    credentials = grpc.ssl_channel_credentials(door.tls_ca, door.tls_key, door.tls_cert)
    return maker.secure_channel(address, credentials, options=OPTIONS)


def methods(channel: Any, door: Door = NO_DOOR) -> dict[str, Any]:
    """All methods of the service on a channel, by name; no two services share one."""
    stubs = (
        machine_pb2_grpc.MachineServiceStub(channel),
        process_pb2_grpc.ProcessServiceStub(channel),
        memory_pb2_grpc.MemoryServiceStub(channel),
        batch_pb2_grpc.BatchServiceStub(channel),
        view_pb2_grpc.ViewServiceStub(channel),
        replay_pb2_grpc.ReplayServiceStub(channel),
    )
    found = {name: method for stub in stubs for name, method in vars(stub).items()}
    metadata = door.metadata
    if metadata is None:
        return found
    return {name: partial(method, metadata=metadata) for name, method in found.items()}


def machine_name(machine: str) -> str:
    """``machines/M``, also of a bare M."""
    return machine if machine.startswith("machines/") else f"machines/{machine}"
