"""The service as asyncio objects: the same names as the blocking ones, awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from contigmm.client import channel, exchanges, views, wire
from contigmm.client.door import Door
from contigmm.client.exchanges import Check, Exchange, MachineInfo, ProcessInfo, ProcessSpec
from contigmm.client.failures import ServiceError, from_rpc
from contigmm.description import MachineDescription
from contigmm.sim.operation import Answer, Operation
from contigmm.v1 import batch_pb2, machine_pb2, operation_pb2, view_pb2

T = TypeVar("T")

_EOF: Final = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it


def connect(
    address: str, *, timeout_s: float = channel.TIMEOUT_S, door: Door = channel.NO_DOOR
) -> "Client":
    """Connect to HOST:PORT or unix:PATH, through ``door``; nothing is sent yet."""
    return Client(address, timeout_s=timeout_s, door=door)


class Client:
    """A connection to one server, for one event loop; close it, or use ``async with``."""

    def __init__(
        self, address: str, *, timeout_s: float = channel.TIMEOUT_S, door: Door = channel.NO_DOOR
    ) -> None:
        """Connect; see :func:`connect`."""
        self._channel = channel.opened(grpc.aio, address, door)
        self._methods = channel.methods(self._channel, door)
        self._timeout_s = timeout_s
        self.new_request_id = exchanges.RequestIds()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection and every stream on it."""
        await self._channel.close(None)

    async def call(self, exchange: Exchange[T]) -> T:
        """Ask and read the answer.

        Raises:
            ServiceError: The service turned the call down, or could not be reached.
            SyscallError: The simulated kernel refused.
            MemoryFault: An access ended in a signal.
        """
        method = self._methods[exchange.method]
        try:
            response = await method(exchange.request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return exchange.read(response)

    async def receive(self, method: str, request: Any) -> AsyncIterator[Any]:
        """The messages of a bulk answer."""
        try:
            async for part in self._methods[method](request):
                yield part
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    def operate(self) -> Any:
        """Open a stream of batches: see ``Machine.stream``."""
        return self._methods["Operate"]()

    def replay_kmem(self) -> Any:
        """Open a replay of a recording, to which messages of replay.proto are written."""
        return self._methods["ReplayKmem"]()

    async def _send(self, method: str, requests: Iterator[Any]) -> "Machine":
        try:
            response = await self._methods[method](requests)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return Machine(self, response.machine.name)

    # ---- machines ----

    async def create_machine(
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
        return await self._send(
            "UploadMachine", exchanges.upload(packed, parameters, self.new_request_id())
        )

    async def restore_machine(self, snapshot: bytes, *, name: str = "") -> "Machine":
        """Make the machine of which ``snapshot`` was taken.

        Raises:
            ServiceError: The name is taken, or these bytes are no snapshot.
        """
        machine_id = name.removeprefix("machines/")
        return await self._send(
            "RestoreMachine", exchanges.restore(snapshot, machine_id, self.new_request_id())
        )

    def machine(self, name: str) -> "Machine":
        """A handle on a machine; whether it exists is not asked."""
        return Machine(self, channel.machine_name(name))

    async def machines(self) -> list["Machine"]:
        """All machines, by name."""
        infos = await self.pages(exchanges.list_machines)
        return [Machine(self, info.name) for info in infos]

    async def pages(self, listing: Callable[[str], Exchange[tuple[list[T], str]]]) -> list[T]:
        """All entries of a listing."""
        entries, token = await self.call(listing(""))
        while token:
            more, token = await self.call(listing(token))
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

    async def execute(
        self, operations: Sequence[Operation], *, stop_on_refusal: bool = False
    ) -> list[Answer]:
        """Carry out operations in order under one hold of the machine; one answer each.

        Raises:
            ServiceError: The batch is malformed, or the machine's queue is full; nothing was done.
        """
        ops = exchanges.batch(operations, stop_on_refusal=stop_on_refusal)
        exchange = exchanges.run_batch(self.name, self.client.new_request_id(), ops)
        return await self.client.call(exchange)

    async def execute_columns(self, columns: batch_pb2.Columns) -> batch_pb2.ColumnAnswers:
        """Carry out operations given as columns: see ``Columns`` of the protos.

        Raises:
            ServiceError: As :meth:`execute`.
        """
        exchange = exchanges.run_columns(self.name, self.client.new_request_id(), columns)
        return await self.client.call(exchange)

    async def run(self, operation: Operation) -> Answer:
        """Carry out one operation."""
        return (await self.execute([operation]))[0]

    def stream(self, *, session: str = "", received: int = 0) -> "Stream":
        """A stream of batches, opened by ``async with``: the fast lane.

        Args:
            session: Session to go on with after a broken stream; empty: a new one.
            received: Number of the last operation of it whose answer has arrived.
        """
        return Stream(self, session, received)

    # ---- what there is ----

    async def info(self) -> MachineInfo:
        """All that the service tells of the machine: profile, seed, seq, clock, what was drawn."""
        return await self.client.call(exchanges.get_machine(self.name))

    # ---- processes ----

    async def spawn(
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
        return Process(self, await self.client.call(exchange))

    async def process(self, process: int) -> "Process":
        """Give a handle on a live process.

        Raises:
            ServiceError: It is not alive, or never was.
        """
        exchange = exchanges.get_process(f"{self.name}/processes/{process}")
        return Process(self, await self.client.call(exchange))

    async def processes(self) -> list["Process"]:
        """Give handles on all live processes, the oldest first.

        Raises:
            ServiceError: ABORTED, the machine moved on between two pages of a long list.
        """
        infos = await self.client.pages(lambda token: exchanges.list_processes(self.name, token))
        return [Process(self, info) for info in infos]

    async def advance_clock(self, ns: int) -> int:
        """Let simulated time pass and return the clock afterwards, in ns."""
        exchange = exchanges.advance_clock(self.name, self.client.new_request_id(), ns)
        return await self.client.call(exchange)

    # ---- views ----

    async def buddyinfo(self) -> dict[str, list[int]]:
        """Free blocks by ``NODE/ZONE`` and order."""
        return await self.client.call(exchanges.buddyinfo(self.name))

    async def unusable_index(self) -> dict[str, list[float]]:
        """Share of free memory that is in blocks too small, by ``NODE/ZONE`` and order."""
        return await self.client.call(exchanges.unusable_index(self.name))

    async def vmstat(self) -> dict[str, int]:
        """Event counters by their names in /proc/vmstat."""
        return await self.client.call(exchanges.vmstat(self.name))

    async def zone_counters(self) -> dict[str, dict[str, int]]:
        """Counters by ``NODE/ZONE`` and their names in /proc/zoneinfo."""
        return await self.client.call(exchanges.zone_counters(self.name))

    async def pagemaps(self, processes: Iterable[int] = ()) -> views.Pagemaps:
        """Pagemaps of processes, of all spawned ones if none is named, at one moment."""
        request = view_pb2.ReadPagemapsRequest(machine=self.name, processes=processes)
        return await self._put_together("ReadPagemaps", request, views.PagemapsReader())

    async def frames(self) -> views.FrameRuns:
        """What every frame is, at one moment."""
        request = view_pb2.ReadFramesRequest(machine=self.name)
        return await self._put_together("ReadFrames", request, views.FramesReader())

    async def free_blocks(self) -> views.FreeBlocks:
        """The free lists at one moment."""
        request = view_pb2.ReadFreeBlocksRequest(machine=self.name)
        return await self._put_together("ReadFreeBlocks", request, views.FreeBlocksReader())

    async def _put_together(self, method: str, request: Any, reader: views.Reader[T]) -> T:
        async for part in self.client.receive(method, request):
            reader.add(part)
        return reader.result()

    async def watch(self, interval_s: float = 0.1) -> AsyncIterator[views.WatchedState]:
        """The machine's state whenever it has changed, at most once an interval."""
        request = view_pb2.WatchMachineRequest(machine=self.name)
        request.interval.FromNanoseconds(round(interval_s * 1e9))
        async for state in self.client.receive("WatchMachine", request):
            yield views.watched(state)

    async def proc_text(self, file: str) -> str:
        """A file of /proc: buddyinfo, pagetypeinfo, zoneinfo, vmstat or meminfo."""
        request = view_pb2.ReadMachineFileRequest(
            machine=self.name, file=view_pb2.MachineFile.Value(f"MACHINE_FILE_{file.upper()}")
        )
        return views.joined(
            [part async for part in self.client.receive("ReadMachineFile", request)]
        )

    # ---- the whole ----

    async def examine(self) -> Check:
        """Run the invariant checker and compute the digest, both at one moment."""
        return await self.client.call(exchanges.check_machine(self.name))

    async def check(self) -> None:
        """Hold every invariant of the machine against its state.

        Raises:
            InvariantError: One is broken; the message says which.
        """
        views.raise_violation((await self.examine()).violation)

    async def digest(self) -> str:
        """Hash the machine's canonical encoding before compression."""
        return (await self.examine()).digest

    async def snapshot(self) -> bytes:
        """Encode the machine: one versioned, canonical encoding, compressed."""
        request = machine_pb2.SnapshotMachineRequest(machine=self.name)
        parts = [part.chunk async for part in self.client.receive("SnapshotMachine", request)]
        return b"".join(parts)

    async def delete(self) -> None:
        """Throw the machine and its processes away."""
        await self.client.call(exchanges.delete_machine(self.name, self.client.new_request_id()))


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

    async def _call(self, make: Callable[..., Exchange[T]], *args: Any) -> T:
        client = self.machine.client
        return await client.call(make(self.name, client.new_request_id(), *args))

    # ---- system calls ----

    async def mmap(
        self,
        addr: int = 0,
        length: int = 0,
        prot: int = 0,
        flags: int = 0,
        fd: int = -1,
        offset: int = 0,
    ) -> int:
        """mmap(2): return the first address of the new mapping."""
        return await self._call(exchanges.mmap, (addr, length, prot, flags, fd, offset))

    async def munmap(self, addr: int, length: int) -> None:
        """munmap(2)."""
        await self._call(exchanges.munmap, addr, length)

    async def mprotect(self, addr: int, length: int, prot: int) -> None:
        """mprotect(2)."""
        await self._call(exchanges.mprotect, (addr, length, prot))

    async def mlock(self, addr: int, length: int) -> None:
        """mlock(2)."""
        await self._call(exchanges.mlock, addr, length)

    async def munlock(self, addr: int, length: int) -> None:
        """munlock(2)."""
        await self._call(exchanges.munlock, addr, length)

    async def touch(self, addr: int, length: int, *, write: bool = True) -> int:
        """Read or write one byte of every page of a range; return how many pages."""
        return await self._call(exchanges.touch, (addr, length, int(write)))

    async def read(self, addr: int, length: int) -> bytes:
        """Load ``length`` bytes."""
        return await self._call(exchanges.read, addr, length)

    async def write(self, addr: int, data: bytes) -> int:
        """Store bytes; return how many."""
        return await self._call(exchanges.write, addr, data)

    async def fork(self) -> "Process":
        """fork(2): return the child, which shares its parent's frames copy-on-write."""
        return Process(self.machine, await self._call(exchanges.fork))

    async def exit(self, status: int = 0) -> None:
        """exit_group(2): tear the address space down and end."""
        await self._call(exchanges.leave, status)

    async def renew_lease(self) -> None:
        """Live for the whole lease again.

        Raises:
            ServiceError: The process has none.
        """
        await self.machine.client.call(exchanges.renew_lease(self.name))

    # ---- views ----

    async def info(self) -> ProcessInfo:
        """All that the service tells of the process."""
        return await self.machine.client.call(exchanges.get_process(self.name))

    async def _text(self, file: "view_pb2.ProcessFile.ValueType") -> str:
        request = view_pb2.ReadProcessFileRequest(process=self.name, file=file)
        parts = self.machine.client.receive("ReadProcessFile", request)
        return views.joined([part async for part in parts])

    async def maps(self) -> str:
        """Text of /proc/PID/maps."""
        return await self._text(view_pb2.PROCESS_FILE_MAPS)

    async def smaps(self) -> str:
        """Text of /proc/PID/smaps."""
        return await self._text(view_pb2.PROCESS_FILE_SMAPS)

    async def smaps_rollup(self) -> str:
        """Text of /proc/PID/smaps_rollup."""
        return await self._text(view_pb2.PROCESS_FILE_SMAPS_ROLLUP)

    async def status(self) -> Mapping[str, int]:
        """The Vm*, Rss* and Hugetlb* lines of /proc/PID/status, in kB."""
        return views.status_kib(await self._text(view_pb2.PROCESS_FILE_STATUS))

    async def pagemap(self, addr: int, length: int) -> npt.NDArray[np.uint64]:
        """Words of /proc/PID/pagemap for the pages of a range."""
        request = view_pb2.ReadPagemapsRequest(
            machine=self.machine.name, processes=[self.id], address=addr, length=length
        )
        reader = views.PagemapsReader()
        async for part in self.machine.client.receive("ReadPagemaps", request):
            reader.add(part)
        return views.dense(reader.result().by_process.get(self.id, []), addr, length)


class Stream:
    """Batches of one session, one after the other, several on their way at once if wanted.

    Processes spawned with :meth:`execute` live until the stream ends. Use ``async with``.
    """

    def __init__(self, machine: Machine, session: str, received: int) -> None:
        self._opening = batch_pb2.OpenSession(
            machine=machine.name, session=session, received=received
        )
        self._call = machine.client.operate()
        self.session = session
        """Session id, to go on with after a broken stream."""
        self.last_applied = 0
        """Number of the last operation that was applied when the stream was opened."""
        self._next_operation = 1

    async def __aenter__(self) -> Self:
        await self._write(batch_pb2.OperateRequest(open=self._opening))
        opened = (await self._next()).opened
        self.session = opened.session
        self.last_applied = opened.last_applied
        self._next_operation = self.last_applied + 1
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def execute(
        self, operations: Sequence[Operation], *, stop_on_refusal: bool = False
    ) -> list[Answer]:
        """Carry a batch out and give its answers; nothing else may be on its way.

        Raises:
            ServiceError: The batch is malformed, or the stream has broken.
        """
        await self.send(operations, stop_on_refusal=stop_on_refusal)
        return await self.receive()

    async def send(self, operations: Sequence[Operation], *, stop_on_refusal: bool = False) -> int:
        """Send a batch without waiting for its answers; give the number of its first operation.

        That the stream has broken is for :meth:`receive` to say.
        """
        first = self._next_operation
        ops = exchanges.batch(
            operations,
            first_operation=first,
            stop_on_refusal=stop_on_refusal,
            lifetime=operation_pb2.Lifetime(stream=True),
        )
        self._next_operation += len(operations)
        await self._write(batch_pb2.OperateRequest(batch=ops))
        return first

    async def receive(self) -> list[Answer]:
        """The answers of the oldest batch that has none yet.

        Raises:
            ServiceError: The batch is malformed, or the stream has broken.
        """
        return wire.answers((await self._next()).answers.answers)

    async def _write(self, request: batch_pb2.OperateRequest) -> None:
        # Why a stream broke is its status, and that comes by reading, behind answers on their way.
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.write(request)

    async def _next(self) -> batch_pb2.OperateResponse:
        try:
            response = await self._call.read()
        except grpc.RpcError as error:
            failure = from_rpc(error)
            if failure.code is grpc.StatusCode.INTERNAL and not failure.reason:
                # grpc's own word for a write that met a stream already ended, its status unread
                failure = ServiceError(grpc.StatusCode.UNAVAILABLE, "", "the stream has ended")
            raise failure from None
        if response is _EOF:
            raise ServiceError(grpc.StatusCode.UNAVAILABLE, "", "the stream has ended")
        answer: batch_pb2.OperateResponse = response
        return answer

    async def close(self) -> None:
        """End the stream; its processes exit. A stream that has broken has ended already."""
        if self._call.done():
            return
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # it may break at any moment
            await self._call.done_writing()
            while await self._call.read() is not _EOF:
                pass
