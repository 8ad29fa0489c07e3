"""MachineService: machines boot, are saved, restored, timed and thrown away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.metadata import version
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from contigmm.description import MachineDescription
from contigmm.phys import InvariantError
from contigmm.sim.machine import Machine
from contigmm.sim.operation import MAX_OPERATIONS, Operation
from contigmm.sim.snapshot import SnapshotError
from contigmm.v1 import machine_pb2 as pb
from contigmm.v1 import machine_pb2_grpc, operation_pb2
from contigmm_server import codec, described, paging, uploads
from contigmm_server.commands import Soon
from contigmm_server.doors import privileges
from contigmm_server.doors.caller import CURRENT, Caller, Role
from contigmm_server.doors.tokens import TENANT
from contigmm_server.failures import ErrorReason, invalid
from contigmm_server.hosted import HostedMachine
from contigmm_server.limits import CHUNK_BYTES, Limits
from contigmm_server.registry import Registry

_VERSION: Final = version("contigmm")
_LONG_US: Final = 1e9  # never on the event loop
_VIEW_US: Final = 50.0
_PROFILES: Final = {
    pb.PROFILE_UNSPECIFIED: "contig",
    pb.PROFILE_CONTIG: "contig",
    pb.PROFILE_RFC2017: "rfc2017",
    pb.PROFILE_LINUX: "linux",
}
_CLOCKS: Final = {
    pb.CLOCK_MODE_UNSPECIFIED: "per_op",
    pb.CLOCK_MODE_PER_OP: "per_op",
    pb.CLOCK_MODE_MANUAL: "manual",
}
_ROLES: Final = {
    Role.READER: pb.ROLE_READER,
    Role.USER: pb.ROLE_USER,
    Role.ADMIN: pb.ROLE_ADMIN,
}
_PROFILE_NUMBERS: Final = {name: number for number, name in _PROFILES.items()}
_CLOCK_NUMBERS: Final = {name: number for number, name in _CLOCKS.items()}

R = TypeVar("R", bound=Message)


class MachineService(machine_pb2_grpc.MachineServiceServicer):
    """Boots and keeps the machines of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def GetServer(
        self, request: pb.GetServerRequest, context: object
    ) -> pb.GetServerResponse:
        """Version, limits, load."""
        limits, keeper = self._registry.limits, self._registry.keeper
        return pb.GetServerResponse(
            version=_VERSION,
            machines=len(self._registry.seen()),
            machines_max=limits.machines,
            frames_max=limits.frames,
            batch_operations_max=MAX_OPERATIONS,
            message_bytes_max=limits.message_bytes,
            upload_packed_bytes_max=limits.upload_packed_bytes,
            upload_unpacked_bytes_max=limits.upload_unpacked_bytes,
            queue_depth_limit=limits.queue,
            durability="memory" if keeper is None else keeper.durability,
        )

    # ---- coming ----

    async def CreateMachine(
        self, request: pb.CreateMachineRequest, context: object
    ) -> pb.CreateMachineResponse:
        """A fresh machine."""
        description = described.decode(request.description)

        async def make() -> pb.CreateMachineResponse:
            hosted = await self._boot(request.parameters, description)
            return pb.CreateMachineResponse(machine=shown(hosted))

        return await self._answer_once(request, pb.CreateMachineResponse, make)

    async def UploadMachine(
        self, request_iterator: AsyncIterator[pb.UploadMachineRequest], context: object
    ) -> pb.UploadMachineResponse:
        """A machine in use, from its description's bytes."""
        header: pb.UploadHeader = await uploads.first_message(request_iterator)
        limits = self._registry.limits
        packed = await uploads.joined(request_iterator, limits.upload_packed_bytes)

        async def make() -> pb.UploadMachineResponse:
            description = await self._in_thread(
                lambda: described.unpack(packed, limits.upload_unpacked_bytes)
            )
            hosted = await self._boot(header.parameters, description)
            return pb.UploadMachineResponse(machine=shown(hosted))

        return await self._answer_once(header, pb.UploadMachineResponse, make)

    async def RestoreMachine(
        self, request_iterator: AsyncIterator[pb.RestoreMachineRequest], context: object
    ) -> pb.RestoreMachineResponse:
        """A machine from a snapshot."""
        header: pb.RestoreHeader = await uploads.first_message(request_iterator)
        limits, caller = self._registry.limits, CURRENT.get()
        snapshot = await uploads.joined(request_iterator, limits.upload_packed_bytes)

        async def make() -> pb.RestoreMachineResponse:
            hosted = await self._registry.boot(
                header.machine_id, lambda: _restored(snapshot, limits, caller)
            )
            return pb.RestoreMachineResponse(machine=shown(hosted))

        return await self._answer_once(header, pb.RestoreMachineResponse, make)

    async def _boot(
        self, parameters: pb.BootParameters, description: MachineDescription
    ) -> HostedMachine:
        described.check_size(description, parameters.cpus, self._registry.limits.frames)
        profile = _PROFILES.get(parameters.profile)
        clock = _CLOCKS.get(parameters.clock)
        if profile is None or clock is None:
            raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, "no such profile or clock mode")

        caller = CURRENT.get()

        def boot() -> Machine:
            try:
                machine = Machine.boot(
                    description,
                    profile=profile,
                    seed=parameters.seed,
                    clock=clock,
                    cpus=parameters.cpus or None,
                )
            except ValueError as error:
                raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, str(error)) from error
            privileges.check_machine(caller, machine)
            return machine

        frames = sum(zone.present for zone in description.zones)
        return await self._registry.boot(parameters.machine_id, boot, frames=frames)

    async def _in_thread(self, work: Callable[[], MachineDescription]) -> MachineDescription:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._registry.executor, work)

    async def _answer_once(
        self, request: Any, kind: type[R], make: Callable[[], Awaitable[R]]
    ) -> R:
        """As ``HostedMachine.answer_once``, for what concerns no one machine."""
        async with self._registry.answering(request):
            known = self._registry.recall(request, kind)
            if known is not None:
                return known
            response = await make()
            self._registry.keep(request, response)
            return response

    # ---- being there ----

    async def GetMachine(
        self, request: pb.GetMachineRequest, context: object
    ) -> pb.GetMachineResponse:
        """One machine."""
        hosted = self._registry.machine(request.machine)
        return await hosted.look(
            lambda: pb.GetMachineResponse(machine=shown(hosted)), cost_us=_VIEW_US
        )

    async def ListMachines(
        self, request: pb.ListMachinesRequest, context: object
    ) -> pb.ListMachinesResponse:
        """A page of machines, by name; each as it is when its turn comes."""
        moment = self._registry.generation
        size = paging.page_size(request.page_size, self._registry.limits.page_of_machines)
        after = paging.cursor(request.page_token, moment, "machines")
        listed = [hosted for hosted in self._registry.seen() if hosted.machine_id > after]
        page = listed[:size]
        machines = [await hosted.look(partial(shown, hosted), cost_us=_VIEW_US) for hosted in page]
        more = len(listed) > size
        return pb.ListMachinesResponse(
            machines=machines,
            next_page_token=paging.token(moment, page[-1].machine_id, "machines") if more else "",
        )

    def AdvanceClock(
        self, request: pb.AdvanceClockRequest, context: object
    ) -> Soon[pb.AdvanceClockResponse]:
        """Time passes."""
        hosted = self._registry.machine(request.machine)
        call = operation_pb2.AdvanceClockCall(duration_ns=request.duration_ns)
        operation: Operation = codec.advance_clock(0, call)

        def work() -> pb.AdvanceClockResponse:
            answer = hosted.execute_one(operation)
            return pb.AdvanceClockResponse(clock_ns=answer.value, machine_seq=answer.seq)

        return hosted.answer_once(
            request,
            pb.AdvanceClockResponse,
            work,
            cost_us=_VIEW_US,
            digest=request.state_digest,
        )

    async def CheckMachine(
        self, request: pb.CheckMachineRequest, context: object
    ) -> pb.CheckMachineResponse:
        """Invariants and digest."""
        hosted = self._registry.machine(request.machine)

        def work() -> pb.CheckMachineResponse:
            return pb.CheckMachineResponse(
                violation=_violation(hosted.machine),
                digest=hosted.machine.digest(),
                machine_seq=hosted.machine.seq,
            )

        return await hosted.look(work, cost_us=_LONG_US)

    async def SnapshotMachine(
        self, request: pb.SnapshotMachineRequest, context: object
    ) -> AsyncIterator[pb.SnapshotMachineResponse]:
        """The whole state of one moment."""
        hosted = self._registry.machine(request.machine)
        seq, snapshot = await hosted.look(
            lambda: (hosted.machine.seq, hosted.machine.snapshot()), cost_us=_LONG_US
        )
        for first in range(0, len(snapshot), CHUNK_BYTES):
            yield pb.SnapshotMachineResponse(
                machine_seq=seq, chunk=snapshot[first : first + CHUNK_BYTES]
            )

    # ---- going ----

    async def DeleteMachine(
        self, request: pb.DeleteMachineRequest, context: object
    ) -> pb.DeleteMachineResponse:
        """A machine goes, and its processes with it."""

        async def make() -> pb.DeleteMachineResponse:
            hosted = await self._registry.remove(request.machine)
            return pb.DeleteMachineResponse(machine_seq=hosted.machine.seq)

        return await self._answer_once(request, pb.DeleteMachineResponse, make)

    # ---- being shared ----

    async def GrantMachine(
        self, request: pb.GrantMachineRequest, context: object
    ) -> pb.GrantMachineResponse:
        """Another tenant comes in."""
        hosted = self._registry.owned(request.machine)
        tenant, role = request.grant.tenant, request.grant.role
        if TENANT.fullmatch(tenant) is None or role not in Role._value2member_map_:
            raise invalid(
                ErrorReason.ERROR_REASON_INVALID_FIELD, "grant: no name of a tenant, or no role"
            )
        await self._registry.change_grant(hosted, tenant, Role(role))
        return pb.GrantMachineResponse(grant=_granted(tenant, Role(role)))

    async def ListGrants(
        self, request: pb.ListGrantsRequest, context: object
    ) -> pb.ListGrantsResponse:
        """Who was let in."""
        grants = self._registry.machine(request.machine).access.grants
        return pb.ListGrantsResponse(grants=[_granted(*grant) for grant in sorted(grants.items())])

    async def RevokeGrant(
        self, request: pb.RevokeGrantRequest, context: object
    ) -> pb.RevokeGrantResponse:
        """Another tenant goes out."""
        hosted = self._registry.owned(request.machine)
        await self._registry.change_grant(hosted, request.tenant, None)
        return pb.RevokeGrantResponse()


def _granted(tenant: str, role: Role) -> pb.Grant:
    return pb.Grant(tenant=tenant, role=_ROLES[role])


def _restored(snapshot: bytes, limits: Limits, caller: Caller) -> Machine:
    try:
        machine = Machine.restore(snapshot, max_bytes=limits.upload_unpacked_bytes)
    except SnapshotError as error:
        raise invalid(ErrorReason.ERROR_REASON_UNREADABLE_UPLOAD, str(error)) from error
    described.check_numbers(machine.nr_frames, machine.cpus, limits.frames)
    privileges.check_machine(caller, machine)
    return machine


def _violation(machine: Machine) -> str:
    try:
        machine.check()
    except InvariantError as error:
        return str(error) or "an invariant does not hold"
    return ""


def shown(hosted: HostedMachine) -> pb.Machine:
    """A machine as clients see it, within a turn of it."""
    machine = hosted.machine
    zones = machine.zones()
    return pb.Machine(
        name=hosted.name,
        profile=_PROFILE_NUMBERS[machine.profile],
        seed=machine.seed,
        clock=_CLOCK_NUMBERS[machine.clock],
        clock_ns=machine.clock_ns,
        cpus=machine.cpus,
        nodes=sorted({zone.node for zone in zones}),
        frames=sum(zone.present for zone in zones),
        machine_seq=machine.seq,
        process_count=len(machine.processes()),
        known=machine.known,
        drawn=machine.drawn,
        queue_depth=hosted.queue.depth,
        queue_depth_max=hosted.queue.depth_max,
        owner=hosted.access.owner,
    )
