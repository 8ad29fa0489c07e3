"""One simulated process of the load: maps, touches, holds and unmaps, over a stream of its own."""

import heapq
import json
from collections.abc import Awaitable, Callable
from time import monotonic_ns
from typing import Final

from contigmm.abi import MAP_ANONYMOUS, MAP_CONTIG, MAP_PRIVATE, PROT_READ, PROT_WRITE
from contigmm.client.aio import Stream
from contigmm.errors import ContigmmError
from contigmm.load.samples import Kind, Recorder
from contigmm.load.sizes import Script, SizeMix
from contigmm.sim.operation import Answer, Call, ExitCause, Operation

RLIM_INFINITY: Final = 2**64 - 1  # include/uapi/asm-generic/resource.h, v6.12

_UID: Final = 1000
"""Nobody special: root would pass some limits unasked."""

_MAP_FLAGS: Final = MAP_PRIVATE | MAP_ANONYMOUS | MAP_CONTIG


class LoadError(ContigmmError):
    """The load cannot go on."""


class SimulatedProcess:
    """Drives one process of the machine, one call at a time.

    The process lives as long as its stream, so that nothing is left behind whatever happens here.
    """

    def __init__(
        self, stream: Stream, *, index: int, script: Script, mix: SizeMix, recorder: Recorder
    ) -> None:
        self._stream = stream
        self._index = index
        self._script = script
        self._sizes_bytes = mix.sizes_bytes
        self._recorder = recorder
        self._process = 0
        self._held: list[tuple[int, int, int]] = []  # a heap of (due request, address, size index)

    async def spawn(self, *, cpu: int, node: int, memlock_bytes: int) -> None:
        """Start the process."""
        rlimits = {"MEMLOCK": (memlock_bytes, memlock_bytes)}
        spec = {"name": f"load-{self._index}", "caps": [], "rlimits": rlimits}
        data = json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()
        answer = await self._execute(Operation(Call.SPAWN, args=(_UID, cpu, node), data=data))
        if not answer.ok:
            raise LoadError(f"the machine would not start a process: {answer.reason}")
        self._process = answer.value

    async def run(
        self,
        *,
        warm_after: int,
        warm: Callable[[], None],
        going_on: Callable[[], bool],
        due: Callable[[], Awaitable[int | None]],
    ) -> None:
        """Make requests while ``going_on()``; call ``warm`` after the first ``warm_after``.

        ``due()`` waits until the next request is due and returns when that was, on the monotonic
        clock; None: it is due when the one before has been answered.
        """
        number = 0
        while going_on():
            while self._held and self._held[0][0] <= number:
                _, address, size_index = heapq.heappop(self._held)
                await self._on_mapping(Kind.UNMAP, size_index, Call.MUNMAP, address)
            due_ns = await due()
            if not going_on():
                return
            request = self._script.next_request()
            mapped = await self._map(request.size_index, due_ns)
            if mapped.ok:
                until = number + request.hold_requests
                heapq.heappush(self._held, (until, mapped.value, request.size_index))
                await self._on_mapping(Kind.TOUCH, request.size_index, Call.TOUCH, mapped.value, 1)
            number += 1
            if number == warm_after:
                warm()

    async def exit(self) -> None:
        """Let the process exit, with everything that it still holds."""
        await self._execute(Operation(Call.EXIT, self._process, (0, ExitCause.EXITED)))

    async def _map(self, size_index: int, due_ns: int | None) -> Answer:
        length = self._sizes_bytes[size_index]
        arguments = (0, length, PROT_READ | PROT_WRITE, _MAP_FLAGS, -1, 0)
        return await self._measured(
            Kind.MAP, size_index, Operation(Call.MMAP, self._process, arguments), due_ns
        )

    async def _on_mapping(
        self, kind: Kind, size_index: int, call: Call, address: int, *more: int
    ) -> Answer:
        """Make a call on the range of a mapping."""
        arguments = (address, self._sizes_bytes[size_index], *more)
        return await self._measured(kind, size_index, Operation(call, self._process, arguments))

    async def _measured(
        self, kind: Kind, size_index: int, operation: Operation, due_ns: int | None = None
    ) -> Answer:
        begin_ns = monotonic_ns()
        answer = await self._execute(operation)
        end_ns = monotonic_ns()
        if answer.signal:
            raise LoadError(
                f"a process that touched its own mapping got signal {answer.signal}"
                f" at {answer.address:#x}"
            )
        self._recorder.record(
            seq=answer.seq,
            begin_ns=begin_ns,
            end_ns=end_ns,
            process=self._index,
            errno=answer.errno,
            reason=answer.reason,
            kind=kind,
            size_index=size_index,
            late_ns=0 if due_ns is None else begin_ns - due_ns,
        )
        return answer

    async def _execute(self, operation: Operation) -> Answer:
        return (await self._stream.execute([operation]))[0]
