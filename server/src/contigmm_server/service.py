"""The server: servicers, health, reflection, limits, and how it stops."""

from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]  # the stubs lack it
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from contigmm.v1 import (
    batch_pb2,
    batch_pb2_grpc,
    machine_pb2,
    machine_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    process_pb2,
    process_pb2_grpc,
    replay_pb2,
    replay_pb2_grpc,
    view_pb2,
    view_pb2_grpc,
)
from contigmm_server.batches import BatchService
from contigmm_server.doors.guard import Guard
from contigmm_server.doors.tls import Tls
from contigmm_server.limits import Limits
from contigmm_server.machines import MachineService
from contigmm_server.memory import MemoryService
from contigmm_server.methods import Methods, Wrapper, fail_clearly
from contigmm_server.processes import ProcessService
from contigmm_server.registry import Registry
from contigmm_server.replays import ReplayService
from contigmm_server.views import ViewService

SERVICES = tuple(
    service.full_name
    for module in (machine_pb2, process_pb2, memory_pb2, batch_pb2, view_pb2, replay_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
GRACE_S = 5.0


class CannotListenError(OSError):
    """The address is taken, or none."""


@dataclass(slots=True)
class Service:
    """A gRPC server for the machines of one registry. Made and used within one event loop."""

    limits: Limits = field(default_factory=Limits)
    guard: Guard | None = None
    """Asks who calls; absent: nobody has to say."""
    wrappers: tuple[Wrapper, ...] = ()
    """What else concerns every method, the innermost first: see ``Methods``."""
    registry: Registry = field(init=False)
    health: health_aio.HealthServicer = field(init=False)
    methods: Methods = field(init=False)
    server: grpc.aio.Server = field(init=False)

    def __post_init__(self) -> None:
        self.registry = Registry(self.limits)
        self.health = health_aio.HealthServicer()
        self.server = _grpc_server(self.limits)
        self.methods = self._methods()
        self.server.add_generic_rpc_handlers((self.methods,))

    def _methods(self) -> Methods:
        registry = self.registry
        # Generated code wants a server and uses two methods of it, which Methods has.
        guards = () if self.guard is None else (self.guard,)
        methods: Any = Methods(*guards, fail_clearly, *self.wrappers)
        machine_pb2_grpc.add_MachineServiceServicer_to_server(MachineService(registry), methods)
        process_pb2_grpc.add_ProcessServiceServicer_to_server(ProcessService(registry), methods)
        memory_pb2_grpc.add_MemoryServiceServicer_to_server(MemoryService(registry), methods)
        batch_pb2_grpc.add_BatchServiceServicer_to_server(BatchService(registry), methods)
        view_pb2_grpc.add_ViewServiceServicer_to_server(ViewService(registry), methods)
        replay_pb2_grpc.add_ReplayServiceServicer_to_server(ReplayService(registry), methods)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, methods)
        names = (
            *SERVICES,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        )
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names),  # type: ignore[attr-defined]  # as above
            methods,
        )
        return cast(Methods, methods)

    async def start(self, address: str, tls: Tls | None = None) -> str:
        """Listen on ``address`` and give the address with the port that was bound.

        Raises:
            CannotListenError: The address is taken, or none.
            DoorError: TLS cannot be served with these files.
        """
        credentials = None if tls is None else tls.credentials()
        try:
            if credentials is None:
                port = self.server.add_insecure_port(address)
            else:
                port = self.server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise CannotListenError(f"cannot listen on {address}: {error}") from error
        await self.server.start()
        for name in ("", *SERVICES):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{port}"

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Take nothing more on, let what runs end for ``grace_s`` seconds, then end it."""
        await self.health.enter_graceful_shutdown()
        self.registry.drain()
        await self.server.stop(grace_s)
        await self.registry.close()


def _grpc_server(limits: Limits) -> grpc.aio.Server:
    return grpc.aio.server(
        maximum_concurrent_rpcs=limits.rpcs,
        options=(
            ("grpc.max_receive_message_length", limits.message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.metadata_bytes),
            ("grpc.absolute_max_metadata_size", 2 * limits.metadata_bytes),
            ("grpc.max_concurrent_streams", limits.streams_per_connection),
            ("grpc.so_reuseport", 0),
        ),
    )
