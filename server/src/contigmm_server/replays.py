"""ReplayService: events of a real kernel, asked again of a memory that ends with the call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from contigmm import procfs
from contigmm.description import MachineDescription
from contigmm.phys import KmemReplay
from contigmm.sim.boot import boot_memory
from contigmm.v1 import replay_pb2 as pb
from contigmm.v1 import replay_pb2_grpc, view_pb2
from contigmm_server import described, uploads
from contigmm_server.failures import ErrorReason, invalid
from contigmm_server.registry import Registry

MAX_EVENTS: Final = 1 << 18
"""Events of one message."""
AT_ONCE: Final = 2
"""Replays that run at once: the threads are the machines', whose journals need them too."""

T = TypeVar("T")


class ReplayService(replay_pb2_grpc.ReplayServiceServicer):
    """Replays recordings; what it lends memory to counts as a machine of the caller's tenant."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def ReplayKmem(
        self, request_iterator: AsyncIterator[pb.ReplayKmemRequest], context: object
    ) -> AsyncIterator[pb.ReplayKmemResponse]:
        """One recording."""
        with self._registry.idle_stream():
            header: pb.ReplayHeader = await uploads.first_message(request_iterator)
        limits = self._registry.limits
        chunks: list[bytes] = []
        request = await self._next(request_iterator)
        while request is not None and request.WhichOneof("part") == "chunk":
            chunks.append(request.chunk)
            if sum(map(len, chunks)) > limits.upload_packed_bytes:
                raise invalid(
                    ErrorReason.ERROR_REASON_TOO_LARGE,
                    f"an upload has at most {limits.upload_packed_bytes} bytes",
                )
            request = await self._next(request_iterator)
        description = await self._in_thread(lambda: self._described(header, chunks))
        with self._registry.lent(description.nr_frames):
            replay = await self._in_thread(lambda: _Replay(description))
            while request is not None:
                events = _events(request)
                yield await self._in_thread(lambda: replay.run(events))  # noqa: B023 - awaited
                request = await self._next(request_iterator)

    def _described(self, header: pb.ReplayHeader, chunks: list[bytes]) -> MachineDescription:
        limits = self._registry.limits
        if header.HasField("description") == bool(chunks):
            raise invalid(
                ErrorReason.ERROR_REASON_INVALID_FIELD,
                "the memory is described by the header or by chunks, by one of them",
            )
        if chunks:
            description = described.unpack(b"".join(chunks), limits.upload_unpacked_bytes)
        else:
            description = described.decode(header.description)
        described.check_size(description, 0, limits.replay_frames)
        return description

    async def _next(
        self, requests: AsyncIterator[pb.ReplayKmemRequest]
    ) -> pb.ReplayKmemRequest | None:
        with self._registry.idle_stream():
            return await anext(requests, None)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run ``work`` when it is its turn, which lasts until it ends, whoever waits for it."""
        await self._turns.acquire()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._registry.executor, work)
        running.add_done_callback(lambda _: self._turns.release())
        return await asyncio.shield(running)


def _events(request: pb.ReplayKmemRequest) -> pb.KmemEvents:
    if request.WhichOneof("part") != "events":
        raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, "events were expected")
    if len(request.events.steps) > MAX_EVENTS:
        raise invalid(
            ErrorReason.ERROR_REASON_TOO_LARGE,
            f"{len(request.events.steps)} events in one message, at most {MAX_EVENTS}",
        )
    return request.events


class _Replay:
    """A memory, and the replay that has it to itself."""

    def __init__(self, description: MachineDescription) -> None:
        """Boot the memory, with what was in use standing for itself.

        Raises:
            ServiceError: INVALID_ARGUMENT, the description contradicts itself.
        """
        try:
            self._memory = boot_memory(description, seed=0, cpus=None, costs=False)
            self._memory.set_direct_reclaim(False)  # what the kernel moved is in the recording
            self._replay = KmemReplay(self._memory)
        except ValueError as error:
            raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, str(error)) from error
        self._events = 0

    def run(self, events: pb.KmemEvents) -> pb.ReplayKmemResponse:
        """Apply events, and tell what was come upon so far.

        Raises:
            ServiceError: INVALID_ARGUMENT, one cannot be.
        """
        count = len(events.steps)
        try:
            found = self._replay.run(
                step=np.frombuffer(events.steps, np.uint8),
                cpu=_column(events.cpus, np.uint8, count, "cpus"),
                zone=_column(events.zones, np.uint8, count, "zones"),
                order=_column(events.orders, np.uint8, count, "orders"),
                migratetype=_column(events.migratetypes, np.uint8, count, "migratetypes"),
                handle=_column(events.handles, np.dtype("<u4"), count, "handles"),
            )
        except ValueError as error:
            raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, str(error)) from error
        self._events += count
        rows = self._memory.buddyinfo().tolist()
        keys = procfs.zone_keys(self._memory)
        return pb.ReplayKmemResponse(
            events=self._events,
            zones=[
                view_pb2.ZoneBuddyinfo(
                    zone=key, free_blocks=row, unusable_index=procfs.unusable_index(row)
                )
                for key, row in zip(keys, rows, strict=True)
            ],
            **found,
        )


def _column(data: bytes, dtype: Any, count: int, name: str) -> npt.NDArray[Any]:
    """The numbers of a column; an empty one is all 0."""
    if not data:
        return np.zeros(count, dtype)
    width = np.dtype(dtype).itemsize
    if len(data) != count * width:
        raise invalid(
            ErrorReason.ERROR_REASON_INVALID_FIELD,
            f"events.{name}: {len(data)} bytes, not {count} numbers of {width}",
        )
    return np.frombuffer(data, dtype)
