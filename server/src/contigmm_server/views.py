"""ViewService: what a machine looks like at one moment. Nothing here changes it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, TypeVar

from contigmm.v1 import view_pb2 as pb
from contigmm.v1 import view_pb2_grpc
from contigmm_server import pictures
from contigmm_server.failures import ErrorReason, invalid
from contigmm_server.hosted import HostedMachine
from contigmm_server.limits import CHUNK_BYTES
from contigmm_server.registry import Registry

_SMALL_US: Final = 200.0
_LONG_US: Final = 1e9  # never on the event loop
_LEAST_INTERVAL_S: Final = 0.01
_USUAL_INTERVAL_S: Final = 0.1

T = TypeVar("T")


class ViewService(view_pb2_grpc.ViewServiceServicer):
    """Shows machines of a registry; every view takes its turn in the machine's queue."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    # ---- texts ----

    async def ReadProcessFile(
        self, request: pb.ReadProcessFileRequest, context: object
    ) -> AsyncIterator[pb.ReadProcessFileResponse]:
        """A file of /proc/PID."""
        hosted, process = self._registry.process(request.process)
        write = pictures.PROCESS_FILES.get(request.file)
        if write is None:
            raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, "no such file")
        seq, text = await _seen(hosted, lambda: write(hosted.entry(process).task))
        for chunk in _chunks(text.encode()):
            yield pb.ReadProcessFileResponse(machine_seq=seq, chunk=chunk)

    async def ReadMachineFile(
        self, request: pb.ReadMachineFileRequest, context: object
    ) -> AsyncIterator[pb.ReadMachineFileResponse]:
        """A file of /proc."""
        hosted = self._registry.machine(request.machine)
        write = pictures.MACHINE_FILES.get(request.file)
        if write is None:
            raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, "no such file")
        seq, text = await _seen(hosted, lambda: write(hosted.machine))
        for chunk in _chunks(text.encode()):
            yield pb.ReadMachineFileResponse(machine_seq=seq, chunk=chunk)

    # ---- frames ----

    async def ReadPagemaps(
        self, request: pb.ReadPagemapsRequest, context: object
    ) -> AsyncIterator[pb.ReadPagemapsResponse]:
        """Pagemaps of several processes at one moment."""
        hosted = self._registry.machine(request.machine)
        seq, stretches = await _seen(
            hosted,
            lambda: pictures.pagemaps(
                hosted.machine, tuple(request.processes), request.address, request.length
            ),
        )
        yield pb.ReadPagemapsResponse(machine_seq=seq)
        for stretch in stretches:
            for first, chunk in zip(
                range(0, len(stretch.entries), CHUNK_BYTES), _chunks(stretch.entries), strict=True
            ):
                yield pb.ReadPagemapsResponse(
                    machine_seq=seq,
                    process=stretch.process,
                    address=stretch.address + first // pictures.ENTRY_BYTES * pictures.PAGE_BYTES,
                    entries=chunk,
                )

    async def ReadFrames(
        self, request: pb.ReadFramesRequest, context: object
    ) -> AsyncIterator[pb.ReadFramesResponse]:
        """What every frame is."""
        hosted = self._registry.machine(request.machine)
        seq, runs = await _seen(hosted, lambda: pictures.frame_runs(hosted.machine))
        yield pb.ReadFramesResponse(machine_seq=seq, class_names=pictures.CLASS_NAMES)
        for rows in _rows(len(runs.first), pictures.RUN_BYTES):
            yield pb.ReadFramesResponse(
                machine_seq=seq,
                first=runs.first[rows].tobytes(),
                count=runs.count[rows].tobytes(),
                frame_class=runs.frame_class[rows].tobytes(),
                file=runs.file[rows].tobytes(),
            )

    async def ReadFreeBlocks(
        self, request: pb.ReadFreeBlocksRequest, context: object
    ) -> AsyncIterator[pb.ReadFreeBlocksResponse]:
        """The free lists."""
        hosted = self._registry.machine(request.machine)
        seq, blocks = await _seen(hosted, lambda: pictures.free_blocks(hosted.machine))
        pfn, order, migratetype = blocks
        yield pb.ReadFreeBlocksResponse(machine_seq=seq)
        for rows in _rows(len(pfn), pictures.BLOCK_BYTES):
            yield pb.ReadFreeBlocksResponse(
                machine_seq=seq,
                pfn=pfn[rows].tobytes(),
                order=order[rows].tobytes(),
                migratetype=migratetype[rows].tobytes(),
            )

    # ---- numbers ----

    async def GetBuddyinfo(
        self, request: pb.GetBuddyinfoRequest, context: object
    ) -> pb.GetBuddyinfoResponse:
        """Free blocks by zone and order."""
        hosted = self._registry.machine(request.machine)

        def work() -> pb.GetBuddyinfoResponse:
            return pb.GetBuddyinfoResponse(
                zones=pictures.buddyinfo(hosted.machine), machine_seq=hosted.machine.seq
            )

        return await hosted.look(work, cost_us=_SMALL_US)

    async def GetCounters(
        self, request: pb.GetCountersRequest, context: object
    ) -> pb.GetCountersResponse:
        """Counters of the machine and of its zones."""
        hosted = self._registry.machine(request.machine)

        def work() -> pb.GetCountersResponse:
            return pb.GetCountersResponse(
                vmstat=hosted.machine.vmstat(),
                zones=pictures.zone_counters(hosted.machine),
                machine_seq=hosted.machine.seq,
            )

        return await hosted.look(work, cost_us=_SMALL_US)

    async def WatchMachine(
        self, request: pb.WatchMachineRequest, context: object
    ) -> AsyncIterator[pb.WatchMachineResponse]:
        """The machine's state whenever it has changed, not more often than asked."""
        interval = _interval(request)
        watched = _Watched(self._registry.machine(request.machine))
        while True:
            if watched.has_changed:
                yield await watched.state()
            with self._registry.idle_stream():
                await asyncio.sleep(interval)
            self._registry.machine(request.machine)  # it may be gone


class _Watched:
    """A machine as one watcher has seen it."""

    def __init__(self, hosted: HostedMachine) -> None:
        self._hosted = hosted
        self._seen: int | None = None

    @property
    def has_changed(self) -> bool:
        """Whether the machine has moved on since it was last seen."""
        return self._seen != self._hosted.machine.seq

    async def state(self) -> pb.WatchMachineResponse:
        """What it is like now."""
        state = await self._hosted.look(self._look, cost_us=_SMALL_US)
        state.passed = 0 if self._seen is None else state.machine_seq - self._seen
        self._seen = state.machine_seq
        return state

    def _look(self) -> pb.WatchMachineResponse:
        machine = self._hosted.machine
        return pb.WatchMachineResponse(
            machine_seq=machine.seq,
            clock_ns=machine.clock_ns,
            process_count=len(machine.processes()),
            zones=pictures.buddyinfo(machine),
            queue_depth=self._hosted.queue.depth,
        )


def _interval(request: pb.WatchMachineRequest) -> float:
    if not request.HasField("interval"):
        return _USUAL_INTERVAL_S
    seconds: float = request.interval.seconds + request.interval.nanos / 1e9
    if not _LEAST_INTERVAL_S <= seconds <= 3600:
        raise invalid(
            ErrorReason.ERROR_REASON_INVALID_FIELD, f"interval: {seconds} s is not in 0.01 … 3600"
        )
    return seconds


async def _seen(hosted: HostedMachine, look: Callable[[], T]) -> tuple[int, T]:
    """What ``look`` sees when the machine's turn comes, in a thread, and the position it shows."""
    return await hosted.look(lambda: (hosted.machine.seq, look()), cost_us=_LONG_US)


def _chunks(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces that fit in messages."""
    return (data[first : first + CHUNK_BYTES] for first in range(0, len(data), CHUNK_BYTES))


def _rows(count: int, row_bytes: int) -> Iterator[slice]:
    """Rows in pieces that fit in messages."""
    rows = CHUNK_BYTES // row_bytes
    return (slice(first, first + rows) for first in range(0, count, rows))
