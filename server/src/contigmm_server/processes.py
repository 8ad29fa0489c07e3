"""ProcessService: births, deaths and leases of simulated processes."""

from collections.abc import Callable
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from contigmm import procfs
from contigmm.abi import RLIMIT_NUMBERS
from contigmm.sim.operation import Answer, Operation
from contigmm.sim.table import Entry
from contigmm.v1 import operation_pb2, process_pb2_grpc
from contigmm.v1 import process_pb2 as pb
from contigmm_server import codec, lifetimes, paging
from contigmm_server.commands import Soon
from contigmm_server.doors import privileges
from contigmm_server.hosted import HostedMachine
from contigmm_server.lifetimes import Lease, Lifetime, Stream
from contigmm_server.limits import KIB
from contigmm_server.registry import Registry

_RLIMIT_NAMES: Final = {number: name for name, number in RLIMIT_NUMBERS.items()}
_VIEW_US: Final = 50.0
_LISTED_US: Final = 30.0

R = TypeVar("R", bound=Message)


class ProcessService(process_pb2_grpc.ProcessServiceServicer):
    """Starts and ends processes in machines of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def SpawnProcess(
        self, request: pb.SpawnProcessRequest, context: object
    ) -> Soon[pb.SpawnProcessResponse]:
        """A process starts."""
        hosted = self._registry.machine(request.machine)
        privileges.check(hosted, request.spec)
        operation = codec.spawn(request.spec)
        lifetime = lifetimes.decode(request.spec.lifetime, None)

        def work() -> pb.SpawnProcessResponse:
            answer = hosted.execute_one(operation, lifetime)
            if answer.errno:
                return _refused(pb.SpawnProcessResponse, answer)
            return pb.SpawnProcessResponse(
                process=shown(hosted, answer.value, lifetime), machine_seq=answer.seq
            )

        return hosted.answer_once(
            request,
            pb.SpawnProcessResponse,
            work,
            cost_us=codec.cost_us((operation,)),
            asked=lambda: (operation,),
            digest=request.state_digest,
        )

    def ForkProcess(
        self, request: pb.ForkProcessRequest, context: object
    ) -> Soon[pb.ForkProcessResponse]:
        """fork(2)."""
        hosted, process = self._registry.process(request.process)
        operation = codec.fork(process, operation_pb2.ForkCall())

        def work() -> pb.ForkProcessResponse:
            answer = hosted.execute_one(operation)
            if answer.errno:
                return _refused(pb.ForkProcessResponse, answer)
            child = shown(hosted, answer.value, hosted.lifetimes.of(process))
            return pb.ForkProcessResponse(child=child, machine_seq=answer.seq)

        return hosted.answer_once(
            request,
            pb.ForkProcessResponse,
            work,
            cost_us=codec.cost_us((operation,)),
            asked=lambda: (operation,),
            digest=request.state_digest,
        )

    def ExitProcess(
        self, request: pb.ExitProcessRequest, context: object
    ) -> Soon[pb.ExitProcessResponse]:
        """exit_group(2)."""
        hosted, process = self._registry.process(request.process)
        operation: Operation = codec.leave(process, request.call)

        def work() -> pb.ExitProcessResponse:
            return pb.ExitProcessResponse(machine_seq=hosted.execute_one(operation).seq)

        return hosted.answer_once(
            request,
            pb.ExitProcessResponse,
            work,
            cost_us=codec.cost_us((operation,)),
            digest=request.state_digest,
        )

    async def GetProcess(
        self, request: pb.GetProcessRequest, context: object
    ) -> pb.GetProcessResponse:
        """One process."""
        hosted, process = self._registry.process(request.process)

        def work() -> pb.GetProcessResponse:
            lifetime = hosted.lifetimes.of(process)
            return pb.GetProcessResponse(
                process=shown(hosted, process, lifetime), machine_seq=hosted.machine.seq
            )

        return await hosted.look(work, cost_us=_VIEW_US)

    async def ListProcesses(
        self, request: pb.ListProcessesRequest, context: object
    ) -> pb.ListProcessesResponse:
        """A page of processes, by number."""
        hosted = self._registry.machine(request.machine)
        size = paging.page_size(request.page_size, self._registry.limits.page_of_processes)

        def work() -> pb.ListProcessesResponse:
            seq = hosted.machine.seq
            after = int(paging.cursor(request.page_token, seq, hosted.name) or 0)
            numbers = sorted(p.id for p in hosted.machine.processes() if p.id > after)
            page = numbers[:size]
            more = len(numbers) > size
            return pb.ListProcessesResponse(
                processes=[shown(hosted, n, hosted.lifetimes.of(n)) for n in page],
                next_page_token=paging.token(seq, str(page[-1]), hosted.name) if more else "",
                machine_seq=seq,
            )

        return await hosted.look(work, cost_us=_LISTED_US * size)

    async def RenewLease(
        self, request: pb.RenewLeaseRequest, context: object
    ) -> pb.RenewLeaseResponse:
        """A lease runs again."""
        hosted, process = self._registry.process(request.process)
        lease = hosted.lifetimes.renew(process)
        return pb.RenewLeaseResponse(lease=_duration(lease))


def _refused(kind: Callable[..., R], answer: Answer) -> R:
    failure = codec.failure(answer)
    return kind(failure=failure, machine_seq=answer.seq)


def _duration(lease: Lease) -> Duration:
    return Duration(seconds=int(lease.seconds), nanos=round(lease.seconds % 1 * 1e9))


def shown(hosted: HostedMachine, process: int, lifetime: Lifetime) -> pb.Process:
    """A process as clients see it, within a turn of the machine.

    Raises:
        ServiceError: NOT_FOUND, it does not exist.
    """
    entry = hosted.entry(process)
    status = procfs.status(entry.task)
    return pb.Process(
        name=hosted.process_name(process),
        id=process,
        pid=entry.task.pid,
        spec=_spec(entry, lifetime),
        vma_count=entry.task.mm.map_count,
        rss_anon_bytes=status["RssAnon"] * KIB,
        rss_file_bytes=status["RssFile"] * KIB,
        rss_shmem_bytes=status["RssShmem"] * KIB,
        background=entry.background,
    )


def _spec(entry: Entry, lifetime: Lifetime) -> operation_pb2.ProcessSpec:
    task = entry.task
    spec = operation_pb2.ProcessSpec(
        name=entry.name,
        uid=task.uid,
        capabilities=sorted(task.caps),
        cpu=task.cpu,
        node=task.node,
    )
    for number, (soft, hard) in task.rlimits.items():
        limit = spec.rlimits[_RLIMIT_NAMES[number]]
        limit.soft, limit.hard = soft, hard
    if isinstance(lifetime, Lease):
        spec.lifetime.lease.CopyFrom(_duration(lifetime))
    elif isinstance(lifetime, Stream):
        spec.lifetime.stream = True
    return spec
