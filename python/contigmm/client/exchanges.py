"""What is asked and how the answer is read: the half of the client that sync and async share."""

import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration

from contigmm.client import wire
from contigmm.sim.operation import Answer, Operation
from contigmm.v1 import (
    batch_pb2,
    machine_pb2,
    memory_pb2,
    operation_pb2,
    process_pb2,
    replay_pb2,
    view_pb2,
)

T = TypeVar("T")

CHUNK_BYTES: Final = 1 << 20

PROFILES: Final = {
    "contig": machine_pb2.PROFILE_CONTIG,
    "rfc2017": machine_pb2.PROFILE_RFC2017,
    "linux": machine_pb2.PROFILE_LINUX,
}
CLOCKS: Final = {
    "per_op": machine_pb2.CLOCK_MODE_PER_OP,
    "manual": machine_pb2.CLOCK_MODE_MANUAL,
}
PROFILE_NAMES: Final = {number: name for name, number in PROFILES.items()}
CLOCK_NAMES: Final = {number: name for name, number in CLOCKS.items()}


@dataclass(slots=True, frozen=True)
class Exchange(Generic[T]):
    """One call with one answer: the method's name, the request, how the answer is read."""

    method: str
    request: Any
    read: Callable[[Any], T]


class RequestIds:
    """Ids of mutating requests: a random prefix and a count."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._count = itertools.count(1)

    def __call__(self) -> str:
        """A new id."""
        return f"{self._prefix}-{next(self._count)}"


def _done(response: Any) -> None:
    wire.check(response)


# ---- memory ----


def _address(response: memory_pb2.MmapResponse) -> int:
    wire.check(response)
    return response.address


def mmap(process: str, request_id: str, args: tuple[int, int, int, int, int, int]) -> Exchange[int]:
    """mmap(2)."""
    request = memory_pb2.MmapRequest(process=process, call=wire.mmap(args), request_id=request_id)
    return Exchange("Mmap", request, _address)


def munmap(process: str, request_id: str, addr: int, length: int) -> Exchange[None]:
    """munmap(2)."""
    request = memory_pb2.MunmapRequest(
        process=process, call=wire.munmap((addr, length)), request_id=request_id
    )
    return Exchange("Munmap", request, _done)


def mprotect(process: str, request_id: str, args: tuple[int, int, int]) -> Exchange[None]:
    """mprotect(2)."""
    request = memory_pb2.MprotectRequest(
        process=process, call=wire.mprotect(args), request_id=request_id
    )
    return Exchange("Mprotect", request, _done)


def mlock(process: str, request_id: str, addr: int, length: int) -> Exchange[None]:
    """mlock(2)."""
    request = memory_pb2.MlockRequest(
        process=process, call=wire.mlock((addr, length)), request_id=request_id
    )
    return Exchange("Mlock", request, _done)


def munlock(process: str, request_id: str, addr: int, length: int) -> Exchange[None]:
    """munlock(2)."""
    request = memory_pb2.MunlockRequest(
        process=process, call=wire.munlock((addr, length)), request_id=request_id
    )
    return Exchange("Munlock", request, _done)


def _pages(response: memory_pb2.TouchResponse) -> int:
    wire.check(response)
    return response.pages


def touch(process: str, request_id: str, args: tuple[int, int, int]) -> Exchange[int]:
    """Accesses to every page of a range."""
    request = memory_pb2.TouchRequest(process=process, call=wire.touch(args), request_id=request_id)
    return Exchange("Touch", request, _pages)


def _data(response: memory_pb2.ReadResponse) -> bytes:
    wire.check(response)
    return response.data


def read(process: str, request_id: str, addr: int, length: int) -> Exchange[bytes]:
    """A load."""
    request = memory_pb2.ReadRequest(
        process=process, call=wire.read((addr, length)), request_id=request_id
    )
    return Exchange("Read", request, _data)


def write(process: str, request_id: str, addr: int, data: bytes) -> Exchange[int]:
    """A store."""

    def stored(response: memory_pb2.WriteResponse) -> int:
        wire.check(response)
        return len(data)

    call = operation_pb2.WriteCall(address=addr & (2**64 - 1), data=data)
    request = memory_pb2.WriteRequest(process=process, call=call, request_id=request_id)
    return Exchange("Write", request, stored)


# ---- processes ----


@dataclass(slots=True, frozen=True)
class ProcessInfo:
    """A process as the service shows it."""

    name: str
    id: int
    pid: int
    comm: str
    uid: int
    caps: frozenset[str]
    rlimits: Mapping[str, tuple[int, int]]
    cpu: int
    node: int
    vma_count: int
    rss_anon_bytes: int
    rss_file_bytes: int
    rss_shmem_bytes: int
    background: bool
    lease_s: float | None
    """Real time that it lives unless renewed; ``None``: it has no lease."""


def process_info(process: process_pb2.Process) -> ProcessInfo:
    """Read a process."""
    spec = process.spec
    lease = spec.lifetime.lease if spec.lifetime.WhichOneof("until") == "lease" else None
    return ProcessInfo(
        name=process.name,
        id=process.id,
        pid=process.pid,
        comm=spec.name,
        uid=spec.uid,
        caps=frozenset(spec.capabilities),
        rlimits={name: (limit.soft, limit.hard) for name, limit in spec.rlimits.items()},
        cpu=spec.cpu,
        node=spec.node,
        vma_count=process.vma_count,
        rss_anon_bytes=process.rss_anon_bytes,
        rss_file_bytes=process.rss_file_bytes,
        rss_shmem_bytes=process.rss_shmem_bytes,
        background=process.background,
        lease_s=None if lease is None else lease.seconds + lease.nanos / 1e9,
    )


@dataclass(slots=True, frozen=True)
class ProcessSpec:
    """What a process is started with; defaults are Linux's for an ordinary user."""

    name: str = ""
    uid: int = 0
    caps: frozenset[str] = frozenset()
    rlimits: Mapping[str, tuple[int, int]] | None = None
    cpu: int = 0
    node: int = 0
    lease_s: float | None = None


def lease(seconds: float | None) -> operation_pb2.Lifetime | None:
    """The lifetime that a lease is."""
    if seconds is None:
        return None
    nanos = round(seconds * 1e9)
    duration = Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
    return operation_pb2.Lifetime(lease=duration)


def spawn(machine: str, request_id: str, spec: ProcessSpec) -> Exchange[ProcessInfo]:
    """A process starts."""

    def born(response: process_pb2.SpawnProcessResponse) -> ProcessInfo:
        wire.check(response)
        return process_info(response.process)

    limits = spec.rlimits or {}
    request = process_pb2.SpawnProcessRequest(
        machine=machine,
        spec=operation_pb2.ProcessSpec(
            name=spec.name,
            uid=spec.uid,
            capabilities=sorted(spec.caps),
            rlimits={n: operation_pb2.Rlimit(soft=s, hard=h) for n, (s, h) in limits.items()},
            cpu=spec.cpu,
            node=spec.node,
            lifetime=lease(spec.lease_s),
        ),
        request_id=request_id,
    )
    return Exchange("SpawnProcess", request, born)


def fork(process: str, request_id: str) -> Exchange[ProcessInfo]:
    """fork(2)."""

    def born(response: process_pb2.ForkProcessResponse) -> ProcessInfo:
        wire.check(response)
        return process_info(response.child)

    request = process_pb2.ForkProcessRequest(process=process, request_id=request_id)
    return Exchange("ForkProcess", request, born)


def leave(process: str, request_id: str, status: int) -> Exchange[None]:
    """exit_group(2)."""
    request = process_pb2.ExitProcessRequest(
        process=process,
        call=operation_pb2.ExitCall(status=wire.int32(status)),
        request_id=request_id,
    )
    return Exchange("ExitProcess", request, lambda response: None)


def get_process(process: str) -> Exchange[ProcessInfo]:
    """One process."""
    request = process_pb2.GetProcessRequest(process=process)
    return Exchange("GetProcess", request, lambda response: process_info(response.process))


def list_processes(machine: str, token: str) -> Exchange[tuple[list[ProcessInfo], str]]:
    """A page of processes and the token of the next."""
    request = process_pb2.ListProcessesRequest(machine=machine, page_token=token)
    return Exchange(
        "ListProcesses",
        request,
        lambda page: ([process_info(one) for one in page.processes], page.next_page_token),
    )


def renew_lease(process: str) -> Exchange[None]:
    """A lease runs again."""
    request = process_pb2.RenewLeaseRequest(process=process)
    return Exchange("RenewLease", request, lambda response: None)


# ---- batches ----


def batch(
    operations: Sequence[Operation],
    *,
    first_operation: int = 0,
    stop_on_refusal: bool = False,
    lifetime: operation_pb2.Lifetime | None = None,
) -> batch_pb2.Batch:
    """Operations as a batch; processes spawned in it live for ``lifetime``."""
    out = batch_pb2.Batch(first_operation=first_operation, stop_on_refusal=stop_on_refusal)
    for operation in operations:
        wire.add(operation, out, lifetime)
    return out


def run_batch(machine: str, request_id: str, ops: batch_pb2.Batch) -> Exchange[list[Answer]]:
    """One batch."""
    request = batch_pb2.RunBatchRequest(machine=machine, batch=ops, request_id=request_id)
    return Exchange("RunBatch", request, lambda response: wire.answers(response.answers.answers))


def run_columns(
    machine: str, request_id: str, ops: batch_pb2.Columns
) -> Exchange[batch_pb2.ColumnAnswers]:
    """One batch in columns."""
    request = batch_pb2.RunColumnsRequest(machine=machine, columns=ops, request_id=request_id)
    return Exchange("RunColumns", request, lambda response: response.answers)


# ---- machines ----


@dataclass(slots=True, frozen=True)
class MachineInfo:
    """A machine as the service shows it."""

    name: str
    profile: str
    seed: int
    clock: str
    clock_ns: int
    cpus: int
    nodes: tuple[int, ...]
    frames: int
    seq: int
    process_count: int
    known: tuple[str, ...]
    drawn: tuple[str, ...]
    queue_depth: int
    queue_depth_max: int


def machine_info(machine: machine_pb2.Machine) -> MachineInfo:
    """Read a machine."""
    return MachineInfo(
        name=machine.name,
        profile=PROFILE_NAMES.get(machine.profile, ""),
        seed=machine.seed,
        clock=CLOCK_NAMES.get(machine.clock, ""),
        clock_ns=machine.clock_ns,
        cpus=machine.cpus,
        nodes=tuple(machine.nodes),
        frames=machine.frames,
        seq=machine.machine_seq,
        process_count=machine.process_count,
        known=tuple(machine.known),
        drawn=tuple(machine.drawn),
        queue_depth=machine.queue_depth,
        queue_depth_max=machine.queue_depth_max,
    )


def get_machine(machine: str) -> Exchange[MachineInfo]:
    """One machine."""
    request = machine_pb2.GetMachineRequest(machine=machine)
    return Exchange("GetMachine", request, lambda response: machine_info(response.machine))


def list_machines(token: str) -> Exchange[tuple[list[MachineInfo], str]]:
    """A page of machines and the token of the next."""
    request = machine_pb2.ListMachinesRequest(page_token=token)
    return Exchange(
        "ListMachines",
        request,
        lambda page: ([machine_info(one) for one in page.machines], page.next_page_token),
    )


def delete_machine(machine: str, request_id: str) -> Exchange[None]:
    """A machine goes."""
    request = machine_pb2.DeleteMachineRequest(machine=machine, request_id=request_id)
    return Exchange("DeleteMachine", request, lambda response: None)


def advance_clock(machine: str, request_id: str, ns: int) -> Exchange[int]:
    """Time passes; the clock afterwards."""
    request = machine_pb2.AdvanceClockRequest(
        machine=machine, duration_ns=ns, request_id=request_id
    )
    return Exchange("AdvanceClock", request, lambda response: response.clock_ns)


@dataclass(slots=True, frozen=True)
class Check:
    """What the invariant checker found."""

    seq: int
    violation: str
    """Empty: every invariant holds."""
    digest: str


def check_machine(machine: str) -> Exchange[Check]:
    """Invariants and digest."""
    request = machine_pb2.CheckMachineRequest(machine=machine)
    return Exchange(
        "CheckMachine",
        request,
        lambda found: Check(found.machine_seq, found.violation, found.digest),
    )


def upload(
    packed: bytes, parameters: machine_pb2.BootParameters, request_id: str
) -> Iterator[machine_pb2.UploadMachineRequest]:
    """The messages of an upload."""
    header = machine_pb2.UploadHeader(parameters=parameters, request_id=request_id)
    yield machine_pb2.UploadMachineRequest(header=header)
    for chunk in chunks(packed):
        yield machine_pb2.UploadMachineRequest(chunk=chunk)


def replay_opening(packed: bytes) -> Iterator[replay_pb2.ReplayKmemRequest]:
    """The messages before the first events of a replay: what the memory was, packed."""
    yield replay_pb2.ReplayKmemRequest(header=replay_pb2.ReplayHeader())
    for chunk in chunks(packed):
        yield replay_pb2.ReplayKmemRequest(chunk=chunk)


def restore(
    snapshot: bytes, machine_id: str, request_id: str
) -> Iterator[machine_pb2.RestoreMachineRequest]:
    """The messages of a restore."""
    header = machine_pb2.RestoreHeader(machine_id=machine_id, request_id=request_id)
    yield machine_pb2.RestoreMachineRequest(header=header)
    for chunk in chunks(snapshot):
        yield machine_pb2.RestoreMachineRequest(chunk=chunk)


def chunks(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces that fit in messages."""
    return (data[first : first + CHUNK_BYTES] for first in range(0, len(data), CHUNK_BYTES))


# ---- views ----


def buddyinfo(machine: str) -> Exchange[dict[str, list[int]]]:
    """Free blocks by zone and order."""
    request = view_pb2.GetBuddyinfoRequest(machine=machine)
    return Exchange(
        "GetBuddyinfo",
        request,
        lambda response: {zone.zone: list(zone.free_blocks) for zone in response.zones},
    )


def unusable_index(machine: str) -> Exchange[dict[str, list[float]]]:
    """Unusable free space index by zone and order."""
    request = view_pb2.GetBuddyinfoRequest(machine=machine)
    return Exchange(
        "GetBuddyinfo",
        request,
        lambda response: {zone.zone: list(zone.unusable_index) for zone in response.zones},
    )


def vmstat(machine: str) -> Exchange[dict[str, int]]:
    """Event counters."""
    request = view_pb2.GetCountersRequest(machine=machine)
    return Exchange("GetCounters", request, lambda response: dict(response.vmstat))


def zone_counters(machine: str) -> Exchange[dict[str, dict[str, int]]]:
    """Counters by zone."""
    request = view_pb2.GetCountersRequest(machine=machine)
    return Exchange(
        "GetCounters",
        request,
        lambda response: {zone.zone: dict(zone.counters) for zone in response.zones},
    )
