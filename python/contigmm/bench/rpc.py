"""What a call costs the server: CPU microseconds an operation, by way of calling.

One operation is ``mmap(MAP_CONTIG, 64 KiB)`` in the unary case, and alternately that and the munmap
of the same range in all others. ``mmap_unary_group`` is ``mmap_unary`` with a journal that is
synced in groups, on the disk of the temporary directory; ``mmap_unary_full`` and
``mmap_unary_none`` are those durabilities. One of ``kmem_columns`` is a recorded event of a
kernel's page allocator: refills of 63 frames, their use, their return and the drain. Start:
``spec:medium``, nothing mapped, a channel for every client. Each round runs every way once, so that
what else the computer does falls on all alike. CPU time is the kernel's account of the server's
threads, those that have ended included.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, Self, TypeVar

import grpc.aio
import numpy as np

from contigmm.abi import MAP_ANONYMOUS, MAP_CONTIG, MAP_PRIVATE, PROT_READ, PROT_WRITE
from contigmm.client import channel, exchanges
from contigmm.client.aio import Client, Machine, Process, Stream
from contigmm.hosts import describe
from contigmm.sim.machine import Machine as LibraryMachine
from contigmm.sim.operation import Call, Operation
from contigmm.v1 import batch_pb2, machine_pb2, machine_pb2_grpc, replay_pb2

SCHEMA: Final = "bench-rpc/1"
MACHINE: Final = "spec:medium"
LENGTH: Final = 64 * 1024
PROT: Final = PROT_READ | PROT_WRITE
FLAGS: Final = MAP_PRIVATE | MAP_ANONYMOUS | MAP_CONTIG
MEMLOCK: Final = {"MEMLOCK": (2**64 - 1, 2**64 - 1)}

T = TypeVar("T")

DURABILITIES: Final = ("none", "group", "full")
CLIENTS: Final = 16
ROUNDS: Final = 9
UNARY_CALLS: Final = 2_048
HELD: Final = 8
STREAM_MESSAGES: Final = 3_000
BATCH: Final = 256
BATCHES: Final = 60
PACKED: Final = 1_024
PACKED_BATCHES: Final = 20
EVENTS: Final = 1 << 18
EVENT_BATCHES: Final = 4
_REFILL: Final = 63
_CPUCLOCK_SCHED: Final = 2
_CPUS: Final = 4
_FIRST_FRAME: Final = 1 << 20  # of ZONE_NORMAL, the third zone
_HANDLES: Final = 1 << 17


def cpu_ns(pid: int) -> int:
    """CPU time that a process has used, all threads together, up to this moment.

    The clock is that of clock_getcpuclockid(3), which Python does not have: make_process_cpuclock()
    of include/linux/posix-timers.h, v6.12, with ``CPUCLOCK_SCHED``.

    Raises:
        OSError: There is no such process.
    """
    return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)


@contextmanager
def serving(*command: str) -> Iterator[tuple[int, str]]:
    """Run a server process; give its pid and its address."""
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "asked for a pipe"
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        yield process.pid, line.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@dataclass(slots=True)
class Measured:
    """One way of calling, over all rounds."""

    name: str
    clients: int
    cpu_us: list[float] = field(default_factory=list)
    ops_per_s: list[float] = field(default_factory=list)
    latencies_us: list[float] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        """A member of ``results`` of bench-rpc/1."""
        p50, p99 = np.percentile(self.latencies_us or [0.0], (50, 99))
        return {
            "name": self.name,
            "clients": self.clients,
            "ops_per_s": round(median(self.ops_per_s)),
            "p50_us": round(float(p50), 1),
            "p99_us": round(float(p99), 1),
            "server_cpu_us_per_op": round(median(self.cpu_us), 3),
            "server_cpu_us_per_op_min": round(min(self.cpu_us), 3),
            "rounds": len(self.cpu_us),
        }


class _Meter:
    """Measures one way in one round: the operations done, the server's CPU time, each message."""

    def __init__(self, measured: Measured, pid: int) -> None:
        self._measured = measured
        self._pid = pid
        self._operations = 0
        self._used_us = 0.0
        self._elapsed_s = 0.0

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._measured.cpu_us.append(self._used_us / self._operations)
        self._measured.ops_per_s.append(self._operations / self._elapsed_s)

    def _start(self) -> None:
        self._cpu_ns = cpu_ns(self._pid)
        self._start_ns = time.perf_counter_ns()

    def _stop(self) -> None:
        self._elapsed_s += (time.perf_counter_ns() - self._start_ns) / 1e9
        self._used_us += (cpu_ns(self._pid) - self._cpu_ns) / 1e3

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is done within: clearing up."""
        self._stop()
        yield
        self._start()

    async def timed(self, call: Awaitable[T], operations: int) -> T:
        """Wait for one message's answer and note how long it took."""
        begin_ns = time.perf_counter_ns()
        answer = await call
        self._measured.latencies_us.append((time.perf_counter_ns() - begin_ns) / 1e3)
        self._operations += operations
        return answer


def pairs(process: int, count: int) -> list[Operation]:
    """``count`` operations: map a contiguous run, unmap it, and again."""
    operations = []
    for index in range(0, count, 2):
        operations.append(Operation(Call.MMAP, process, (0, LENGTH, PROT, FLAGS, -1, 0)))
        operations.append(Operation(Call.MUNMAP, process, (0, LENGTH), addr_from=index))
    return operations


def columns(process: int, count: int) -> batch_pb2.Columns:
    """The same in columns."""
    maps = np.arange(count) % 2 == 0
    return batch_pb2.Columns(
        calls=np.where(maps, Call.MMAP, Call.MUNMAP).astype("u1").tobytes(),
        processes=np.full(count, process, "<u8").tobytes(),
        addr_from=np.where(maps, -1, np.arange(count) - 1).astype("<i4").tobytes(),
        second=np.full(count, LENGTH, "<u8").tobytes(),
        third=np.where(maps, PROT, 0).astype("<u8").tobytes(),
        fourth=np.where(maps, FLAGS, 0).astype("<u8").tobytes(),
    )


def kmem_events(count: int) -> replay_pb2.KmemEvents:
    """``count`` events of order 0: a refill on each CPU in turn, allocs, frees, drains, again."""
    number = np.arange(count)
    cycle, place = np.divmod(number, 4 * _REFILL)
    phase, index = np.divmod(place, _REFILL)
    refill, drain, alloc, free = 0, 2, 4, 5
    steps = np.array([refill, alloc, free, drain], "u1")[phase]
    handles = _FIRST_FRAME + (cycle * _REFILL + index) % _HANDLES
    return replay_pb2.KmemEvents(
        steps=steps.tobytes(),
        cpus=(cycle % _CPUS).astype("u1").tobytes(),
        zones=np.full(count, 2, "u1").tobytes(),
        migratetypes=np.full(count, 1, "u1").tobytes(),
        handles=handles.astype("<u4").tobytes(),
    )


@dataclass(slots=True)
class _Caller:
    """One client of the deployed server: a process of the machine, and a stream."""

    process: Process
    stream: Stream


class Bench:
    """All ways of calling, measured in turn."""

    def __init__(self, pid: int, echo_pid: int, journal_pids: Mapping[str, int]) -> None:
        """Measure the server, the echo, and the servers with a journal, by their durability."""
        self._pid = pid
        self._echo_pid = echo_pid
        self._journal_pids = journal_pids
        self._callers: list[_Caller] = []
        self._journal_callers: dict[str, list[_Caller]] = {mode: [] for mode in journal_pids}
        self._echoes: list[Any] = []
        self._library = LibraryMachine.boot(describe(MACHINE))
        self._library_process = self._library.spawn(rlimits=MEMLOCK).id
        self.empty_unary = Measured("empty_unary", CLIENTS)
        self.mmap_unary = Measured("mmap_unary", CLIENTS)
        self.mmap_unary_journal = {
            mode: Measured(f"mmap_unary_{mode}", CLIENTS) for mode in journal_pids
        }
        self.stream_1 = Measured("stream_1", CLIENTS)
        self.stream_256 = Measured("stream_256", 1)
        self.columnar = Measured("columnar", 1)
        self.kmem_columns = Measured("kmem_columns", 1)
        self.in_process = Measured("in_process", 1)
        self._ways = (
            self.empty_unary,
            self.mmap_unary,
            *self.mmap_unary_journal.values(),
            self.stream_1,
            self.stream_256,
            self.columnar,
            self.kmem_columns,
            self.in_process,
        )

    async def connect(
        self,
        address: str,
        echo_address: str,
        journal_addresses: Mapping[str, str],
        stack: AsyncExitStack,
    ) -> None:
        """Open a channel, a process and a stream for every client."""
        for _ in range(CLIENTS):
            self._callers.append(await _caller(address, stack))
            for mode, callers in self._journal_callers.items():
                callers.append(await _caller(journal_addresses[mode], stack))
            echo = grpc.aio.insecure_channel(echo_address, options=channel.OPTIONS)
            await stack.enter_async_context(echo)
            self._echoes.append(machine_pb2_grpc.MachineServiceStub(echo))

    def forget(self) -> None:
        """Begin again with the figures: what came before was warming up."""
        for way in self._ways:
            way.cpu_us.clear()
            way.ops_per_s.clear()
            way.latencies_us.clear()

    async def round(self) -> None:
        """Every way once."""
        with _Meter(self.empty_unary, self._echo_pid) as meter:
            await asyncio.gather(*(_call_echo(echo, meter) for echo in self._echoes))
        with _Meter(self.mmap_unary, self._pid) as meter:
            await _map_in_turns(self._callers, meter)
        for mode, measured in self.mmap_unary_journal.items():
            with _Meter(measured, self._journal_pids[mode]) as meter:
                await _map_in_turns(self._journal_callers[mode], meter)
        with _Meter(self.stream_1, self._pid) as meter:
            await asyncio.gather(*(_map_and_unmap(caller, meter) for caller in self._callers))
        with _Meter(self.stream_256, self._pid) as meter:
            await _send_batches(self._callers[0], meter)
        with _Meter(self.columnar, self._pid) as meter:
            await _send_columns(self._callers[0].process, meter)
        with _Meter(self.kmem_columns, self._pid) as meter:
            await _replay(self._callers[0].process.machine.client, meter)
        with _Meter(self.in_process, os.getpid()) as meter:
            await self._execute_in_process(meter)

    async def _execute_in_process(self, meter: _Meter) -> None:
        operations = pairs(self._library_process, BATCH)

        async def execute() -> None:
            self._library.execute(operations)

        for _ in range(BATCHES):
            await meter.timed(execute(), BATCH)

    def rows(self) -> list[dict[str, object]]:
        """``results`` of bench-rpc/1."""
        return [way.row() for way in self._ways]


async def _caller(address: str, stack: AsyncExitStack) -> _Caller:
    client = await stack.enter_async_context(Client(address))
    machine = Machine(client, "machines/default")
    process = await machine.spawn(rlimits=MEMLOCK)
    return _Caller(process, await stack.enter_async_context(machine.stream()))


async def _map_in_turns(callers: Sequence[_Caller], meter: _Meter) -> None:
    """All clients map at once; when each has HELD mappings, they are undone, not measured."""
    for _ in range(UNARY_CALLS // CLIENTS // HELD):
        mapped = await asyncio.gather(*(_map(caller, meter) for caller in callers))
        with meter.paused():
            for caller, addresses in zip(callers, mapped, strict=True):
                await _unmap(caller.process, addresses)


async def _call_echo(echo: Any, meter: _Meter) -> None:
    request = machine_pb2.GetServerRequest()
    for _ in range(UNARY_CALLS // CLIENTS):
        await meter.timed(echo.GetServer(request), 1)


async def _map(caller: _Caller, meter: _Meter) -> list[int]:
    mmap = caller.process.mmap
    return [await meter.timed(mmap(0, LENGTH, PROT, FLAGS), 1) for _ in range(HELD)]


async def _unmap(process: Process, addresses: Sequence[int]) -> None:
    unmaps = [Operation(Call.MUNMAP, process.id, (address, LENGTH)) for address in addresses]
    await process.machine.execute(unmaps)


async def _map_and_unmap(caller: _Caller, meter: _Meter) -> None:
    process, stream = caller.process.id, caller.stream
    for _ in range(STREAM_MESSAGES // CLIENTS // 2):
        mmap = Operation(Call.MMAP, process, (0, LENGTH, PROT, FLAGS, -1, 0))
        answers = await meter.timed(stream.execute([mmap]), 1)
        munmap = Operation(Call.MUNMAP, process, (answers[0].value, LENGTH))
        await meter.timed(stream.execute([munmap]), 1)


async def _send_batches(caller: _Caller, meter: _Meter) -> None:
    operations = pairs(caller.process.id, BATCH)
    for _ in range(BATCHES):
        await meter.timed(caller.stream.execute(operations), BATCH)


async def _send_columns(process: Process, meter: _Meter) -> None:
    batch = columns(process.id, PACKED)
    for _ in range(PACKED_BATCHES):
        await meter.timed(process.machine.execute_columns(batch), PACKED)


async def _replay(client: Client, meter: _Meter) -> None:
    """One recording; its beginning, which boots a memory, is not measured."""
    events = replay_pb2.ReplayKmemRequest(events=kmem_events(EVENTS))
    with meter.paused():
        call = client.replay_kmem()
        for request in exchanges.replay_opening(describe(MACHINE).to_bytes()):
            await call.write(request)
        await call.write(replay_pb2.ReplayKmemRequest(events=kmem_events(_REFILL)))
        await call.read()
    for _ in range(EVENT_BATCHES):
        await call.write(events)
        await meter.timed(call.read(), EVENTS)
    await call.done_writing()
    if await call.code() is not grpc.StatusCode.OK:
        raise RuntimeError(f"the replay was refused: {await call.details()}")


async def _measure(rounds: int) -> list[dict[str, object]]:
    command = ("contigmm_server.main", "--listen", "127.0.0.1:0", "--machine", MACHINE)
    with ExitStack() as servers:
        pid, address = servers.enter_context(serving(*command))
        echo_pid, echo = servers.enter_context(serving("contigmm.bench.echo"))
        journal_pids, journal_addresses = {}, {}
        for mode in DURABILITIES:
            data = servers.enter_context(TemporaryDirectory(prefix="contigmm-bench-"))
            kept = serving(*command, "--data", data, "--durability", mode)
            journal_pids[mode], journal_addresses[mode] = servers.enter_context(kept)
        async with AsyncExitStack() as stack:
            bench = Bench(pid, echo_pid, journal_pids)
            await bench.connect(address, echo, journal_addresses, stack)
            await bench.round()  # code, connections and per-CPU lists get warm
            bench.forget()
            for _ in range(rounds):
                await bench.round()
            return bench.rows()


def rpc_report(*, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure every way of calling and give the report of schema bench-rpc/1.

    Raises:
        RuntimeError: A server did not start.
    """
    results = asyncio.run(_measure(rounds))
    return {"schema": SCHEMA, "contigmm": version("contigmm"), "results": results}
