"""The service as blocking objects, with the method names of ``contigmm.sim``."""

import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from contigmm.client import channel, exchanges, views, wire
from contigmm.client.door import Door
from contigmm.client.exchanges import Check, Exchange, MachineInfo, ProcessInfo, ProcessSpec
from contigmm.client.failures import from_rpc
from contigmm.description import MachineDescription
from contigmm.sim.operation import Answer, Operation
from contigmm.v1 import batch_pb2, machine_pb2, operation_pb2, view_pb2

T = TypeVar("T")


class Client:
    """A connection to one server. Safe to share between threads; close it, or use ``with``."""

    def __init__(
        self, address: str, *, timeout_s: float = channel.TIMEOUT_S, door: Door = channel.NO_DOOR
    ) -> None:
        """Connect to HOST:PORT or unix:PATH; nothing is sent yet."""
        self._channel = channel.opened(grpc, address, door)
        self._methods = channel.methods(self._channel, door)
        self._timeout_s = timeout_s
        self.new_request_id = exchanges.RequestIds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and every stream on it."""
        self._channel.close()

    def call(self, exchange: Exchange[T]) -> T:
        """Ask and read the answer.

        Raises:
            ServiceError: The service turned the call down, or could not be reached.
            SyscallError: The simulated kernel refused.
            MemoryFault: An access ended in a signal.
        """
        try:
            response = self._methods[exchange.method](exchange.request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return exchange.read(response)

    def receive(self, method: str, request: Any) -> Iterator[Any]:
        """The messages of a bulk answer."""
        try:
            yield from self._methods[method](request)
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    def operate(self, requests: Iterator[batch_pb2.OperateRequest]) -> Any:
        """Open a stream of batches: see ``Machine.stream``."""
        return self._methods["Operate"](requests)

    def _send(self, method: str, requests: Iterator[Any]) -> "Machine":
        try:
            response = self._methods[method](requests)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return Machine(self, response.machine.name)

    # ---- machines ----

    def create_machine(
        self,
        description: MachineDescription,
        *,
        name: str = "",
        profile: str = "contig",
        seed: int = 0,
        clock: str = "per_op",
        cpus: int | None = None,
    ) -> "Machine":
        """Boot a machine, as ``Machine.boot`` does; ``name`` may be left to the server.

        Raises:
            ServiceError: The name is taken, the description cannot be booted, or is too large.
        """
        parameters = machine_pb2.BootParameters(
            machine_id=name.removeprefix("machines/"),
            profile=exchanges.PROFILES[profile],
            seed=seed,
            clock=exchanges.CLOCKS[clock],
            cpus=cpus or 0,
        )
        packed = description.to_bytes()
        return self._send(
            "UploadMachine", exchanges.upload(packed, parameters, self.new_request_id())
        )

    def restore_machine(self, snapshot: bytes, *, name: str = "") -> "Machine":
        """Make the machine of which ``snapshot`` was taken.

        Raises:
            ServiceError: The name is taken, or these bytes are no snapshot.
        """
        machine_id = name.removeprefix("machines/")
        return self._send(
            "RestoreMachine", exchanges.restore(snapshot, machine_id, self.new_request_id())
        )

    def machine(self, name: str) -> "Machine":
        """A handle on a machine; whether it exists is not asked."""
        return Machine(self, channel.machine_name(name))

    def machines(self) -> list["Machine"]:
        """All machines, by name."""
        infos = self.pages(exchanges.list_machines)
        return [Machine(self, info.name) for info in infos]

    def pages(self, listing: Callable[[str], Exchange[tuple[list[T], str]]]) -> list[T]:
        """All entries of a listing."""
        entries, token = self.call(listing(""))
        while token:
            more, token = self.call(listing(token))
            entries += more
        return entries


class Machine:
    """A machine on a server."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    def __repr__(self) -> str:
        return f"Machine({self.name!r})"

    # ---- the one way in ----

    def execute(
        self, operations: Sequence[Operation], *, stop_on_refusal: bool = False
    ) -> list[Answer]:
        """Carry out operations in order under one hold of the machine; one answer each.

        Raises:
            ServiceError: The batch is malformed, or the machine's queue is full; nothing was done.
        """
        ops = exchanges.batch(operations, stop_on_refusal=stop_on_refusal)
        return self.client.call(exchanges.run_batch(self.name, self.client.new_request_id(), ops))

    def execute_columns(self, columns: batch_pb2.Columns) -> batch_pb2.ColumnAnswers:
        """Carry out operations given as columns: see ``Columns`` of the protos.

        Raises:
            ServiceError: As :meth:`execute`.
        """
        exchange = exchanges.run_columns(self.name, self.client.new_request_id(), columns)
        return self.client.call(exchange)

    def run(self, operation: Operation) -> Answer:
        """Carry out one operation."""
        return self.execute([operation])[0]

    def stream(self, *, session: str = "", received: int = 0) -> "Stream":
        """Open a stream of batches: the fast lane, and a life for processes to hang on.

        Args:
            session: Session to go on with after a broken stream; empty: a new one.
            received: Number of the last operation of it whose answer has arrived.
        """
        return Stream(self, session, received)

    # ---- what there is ----

    def info(self) -> MachineInfo:
        """All that the service tells of the machine."""
        return self.client.call(exchanges.get_machine(self.name))

    @property
    def profile(self) -> str:
        """Which kernel's rules hold."""
        return self.info().profile

    @property
    def seed(self) -> int:
        """What the machine was booted with."""
        return self.info().seed

    @property
    def seq(self) -> int:
        """Number of the last operation."""
        return self.info().seq

    @property
    def clock_ns(self) -> int:
        """Simulated time since boot."""
        return self.info().clock_ns

    @property
    def known(self) -> tuple[str, ...]:
        """What the source of the machine told, as sentences."""
        return self.info().known

    @property
    def drawn(self) -> tuple[str, ...]:
        """What was inferred or drawn from the seed, as sentences."""
        return self.info().drawn

    # ---- processes ----

    def spawn(
        self,
        name: str = "",
        *,
        uid: int = 0,
        caps: frozenset[str] = frozenset(),
        rlimits: Mapping[str, tuple[int, int]] | None = None,
        cpu: int = 0,
        node: int = 0,
        lease_s: float | None = None,
    ) -> "Process":
        """Start a process; with ``lease_s`` it lives that much real time unless renewed.

        Raises:
            SyscallError: As in the library.
        """
        spec = ProcessSpec(name, uid, caps, rlimits, cpu, node, lease_s)
        exchange = exchanges.spawn(self.name, self.client.new_request_id(), spec)
        return self._process(self.client.call(exchange))

    def process(self, process: int) -> "Process":
        """Give a handle on a live process.

        Raises:
            ServiceError: It is not alive, or never was.
        """
        return self._process(
            self.client.call(exchanges.get_process(f"{self.name}/processes/{process}"))
        )

    def processes(self) -> list["Process"]:
        """Give handles on all live processes, the oldest first.

        Raises:
            ServiceError: ABORTED, the machine moved on between two pages of a long list.
        """
        infos = self.client.pages(lambda token: exchanges.list_processes(self.name, token))
        return [self._process(info) for info in infos]

    def _process(self, info: ProcessInfo) -> "Process":
        return Process(self, info)

    def advance_clock(self, ns: int) -> int:
        """Let simulated time pass and return the clock afterwards, in ns."""
        return self.client.call(
            exchanges.advance_clock(self.name, self.client.new_request_id(), ns)
        )

    # ---- views ----

    def buddyinfo(self) -> dict[str, list[int]]:
        """Free blocks by ``NODE/ZONE`` and order."""
        return self.client.call(exchanges.buddyinfo(self.name))

    def unusable_index(self) -> dict[str, list[float]]:
        """Share of free memory that is in blocks too small, by ``NODE/ZONE`` and order."""
        return self.client.call(exchanges.unusable_index(self.name))

    def vmstat(self) -> dict[str, int]:
        """Event counters by their names in /proc/vmstat."""
        return self.client.call(exchanges.vmstat(self.name))

    def zone_counters(self) -> dict[str, dict[str, int]]:
        """Counters by ``NODE/ZONE`` and their names in /proc/zoneinfo."""
        return self.client.call(exchanges.zone_counters(self.name))

    def pagemaps(self, processes: Iterable[int] = ()) -> views.Pagemaps:
        """Pagemaps of processes, of all spawned ones if none is named, at one moment."""
        request = view_pb2.ReadPagemapsRequest(machine=self.name, processes=processes)
        return self._put_together("ReadPagemaps", request, views.PagemapsReader())

    def frames(self) -> views.FrameRuns:
        """What every frame is, at one moment."""
        request = view_pb2.ReadFramesRequest(machine=self.name)
        return self._put_together("ReadFrames", request, views.FramesReader())

    def free_blocks(self) -> views.FreeBlocks:
        """The free lists at one moment."""
        request = view_pb2.ReadFreeBlocksRequest(machine=self.name)
        return self._put_together("ReadFreeBlocks", request, views.FreeBlocksReader())

    def _put_together(self, method: str, request: Any, reader: views.Reader[T]) -> T:
        for part in self.client.receive(method, request):
            reader.add(part)
        return reader.result()

    def watch(self, interval_s: float = 0.1) -> Iterator[views.WatchedState]:
        """The machine's state whenever it has changed, at most once an interval."""
        request = view_pb2.WatchMachineRequest(machine=self.name)
        request.interval.FromNanoseconds(round(interval_s * 1e9))
        for state in self.client.receive("WatchMachine", request):
            yield views.watched(state)

    def proc_text(self, file: str) -> str:
        """A file of /proc: buddyinfo, pagetypeinfo, zoneinfo, vmstat or meminfo."""
        request = view_pb2.ReadMachineFileRequest(
            machine=self.name, file=view_pb2.MachineFile.Value(f"MACHINE_FILE_{file.upper()}")
        )
        return views.joined(self.client.receive("ReadMachineFile", request))

    # ---- the whole ----

    def examine(self) -> Check:
        """Run the invariant checker and compute the digest, both at one moment."""
        return self.client.call(exchanges.check_machine(self.name))

    def check(self) -> None:
        """Hold every invariant of the machine against its state.

        Raises:
            InvariantError: One is broken; the message says which.
        """
        views.raise_violation(self.examine().violation)

    def digest(self) -> str:
        """Hash the machine's canonical encoding before compression."""
        return self.examine().digest

    def snapshot(self) -> bytes:
        """Encode the machine: one versioned, canonical encoding, compressed."""
        request = machine_pb2.SnapshotMachineRequest(machine=self.name)
        return b"".join(part.chunk for part in self.client.receive("SnapshotMachine", request))

    def delete(self) -> None:
        """Throw the machine and its processes away."""
        self.client.call(exchanges.delete_machine(self.name, self.client.new_request_id()))


class Process:
    """One process on a server. Methods that are system calls raise ``SyscallError`` when refused.

    After its end every call raises ``ServiceError`` (NOT_FOUND).
    """

    def __init__(self, machine: Machine, info: ProcessInfo) -> None:
        self.machine = machine
        self.born = info
        """The process as it was when this handle was made."""
        self.name = info.name
        self.id = info.id
        self.pid = info.pid

    def __repr__(self) -> str:
        return f"Process({self.name!r}, pid={self.pid})"

    def _call(self, make: Callable[..., Exchange[T]], *args: Any) -> T:
        client = self.machine.client
        return client.call(make(self.name, client.new_request_id(), *args))

    # ---- system calls ----

    def mmap(
        self,
        addr: int = 0,
        length: int = 0,
        prot: int = 0,
        flags: int = 0,
        fd: int = -1,
        offset: int = 0,
    ) -> int:
        """mmap(2): return the first address of the new mapping."""
        return self._call(exchanges.mmap, (addr, length, prot, flags, fd, offset))

    def munmap(self, addr: int, length: int) -> None:
        """munmap(2)."""
        self._call(exchanges.munmap, addr, length)

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        """mprotect(2)."""
        self._call(exchanges.mprotect, (addr, length, prot))

    def mlock(self, addr: int, length: int) -> None:
        """mlock(2)."""
        self._call(exchanges.mlock, addr, length)

    def munlock(self, addr: int, length: int) -> None:
        """munlock(2)."""
        self._call(exchanges.munlock, addr, length)

    def touch(self, addr: int, length: int, *, write: bool = True) -> int:
        """Read or write one byte of every page of a range; return how many pages."""
        return self._call(exchanges.touch, (addr, length, int(write)))

    def read(self, addr: int, length: int) -> bytes:
        """Load ``length`` bytes."""
        return self._call(exchanges.read, addr, length)

    def write(self, addr: int, data: bytes) -> int:
        """Store bytes; return how many."""
        return self._call(exchanges.write, addr, data)

    def fork(self) -> "Process":
        """fork(2): return the child, which shares its parent's frames copy-on-write."""
        return Process(self.machine, self._call(exchanges.fork))

    def exit(self, status: int = 0) -> None:
        """exit_group(2): tear the address space down and end."""
        self._call(exchanges.leave, status)

    def renew_lease(self) -> None:
        """Live for the whole lease again.

        Raises:
            ServiceError: The process has none.
        """
        self.machine.client.call(exchanges.renew_lease(self.name))

    # ---- views ----

    def info(self) -> ProcessInfo:
        """All that the service tells of the process."""
        return self.machine.client.call(exchanges.get_process(self.name))

    def _text(self, file: "view_pb2.ProcessFile.ValueType") -> str:
        request = view_pb2.ReadProcessFileRequest(process=self.name, file=file)
        return views.joined(self.machine.client.receive("ReadProcessFile", request))

    def maps(self) -> str:
        """Text of /proc/PID/maps."""
        return self._text(view_pb2.PROCESS_FILE_MAPS)

    def smaps(self) -> str:
        """Text of /proc/PID/smaps."""
        return self._text(view_pb2.PROCESS_FILE_SMAPS)

    def smaps_rollup(self) -> str:
        """Text of /proc/PID/smaps_rollup."""
        return self._text(view_pb2.PROCESS_FILE_SMAPS_ROLLUP)

    def status(self) -> Mapping[str, int]:
        """The Vm*, Rss* and Hugetlb* lines of /proc/PID/status, in kB."""
        return views.status_kib(self._text(view_pb2.PROCESS_FILE_STATUS))

    def pagemap(self, addr: int, length: int) -> npt.NDArray[np.uint64]:
        """Words of /proc/PID/pagemap for the pages of a range."""
        request = view_pb2.ReadPagemapsRequest(
            machine=self.machine.name, processes=[self.id], address=addr, length=length
        )
        reader = views.PagemapsReader()
        for part in self.machine.client.receive("ReadPagemaps", request):
            reader.add(part)
        return views.dense(reader.result().by_process.get(self.id, []), addr, length)


class Stream:
    """Batches of one session, one after the other, several on their way at once if wanted.

    Processes spawned with :meth:`execute` live until the stream ends.
    """

    def __init__(self, machine: Machine, session: str, received: int) -> None:
        self._requests: queue.SimpleQueue[batch_pb2.OperateRequest | None] = queue.SimpleQueue()
        opening = batch_pb2.OpenSession(machine=machine.name, session=session, received=received)
        self._requests.put(batch_pb2.OperateRequest(open=opening))
        self._call = machine.client.operate(iter(self._requests.get, None))
        opened = self._next().opened
        self.session: str = opened.session
        """Session id, to go on with after a broken stream."""
        self.last_applied: int = opened.last_applied
        """Number of the last operation that was applied when the stream was opened."""
        self._next_operation = self.last_applied + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(
        self, operations: Sequence[Operation], *, stop_on_refusal: bool = False
    ) -> list[Answer]:
        """Carry a batch out and give its answers; nothing else may be on its way.

        Raises:
            ServiceError: The batch is malformed, or the stream has broken.
        """
        self.send(operations, stop_on_refusal=stop_on_refusal)
        return self.receive()

    def send(self, operations: Sequence[Operation], *, stop_on_refusal: bool = False) -> int:
        """Send a batch without waiting; give the number of its first operation."""
        first = self._next_operation
        ops = exchanges.batch(
            operations,
            first_operation=first,
            stop_on_refusal=stop_on_refusal,
            lifetime=operation_pb2.Lifetime(stream=True),
        )
        self._next_operation += len(operations)
        self._requests.put(batch_pb2.OperateRequest(batch=ops))
        return first

    def receive(self) -> list[Answer]:
        """The answers of the oldest batch that has none yet.

        Raises:
            ServiceError: The batch is malformed, or the stream has broken.
        """
        return wire.answers(self._next().answers.answers)

    def _next(self) -> batch_pb2.OperateResponse:
        try:
            response: batch_pb2.OperateResponse = next(self._call)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return response

    def close(self) -> None:
        """End the stream; its processes exit."""
        self._requests.put(None)
        try:
            for _ in self._call:
                pass
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise from_rpc(error) from None
