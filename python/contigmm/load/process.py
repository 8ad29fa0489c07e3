"""One simulated process of the load: maps, touches, holds and unmaps, over a stream of its own."""

import heapq
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic_ns
from typing import Final

from contigmm.abi import MAP_ANONYMOUS, MAP_CONTIG, MAP_PRIVATE, PROT_READ, PROT_WRITE, SIGKILL
from contigmm.client.aio import Stream
from contigmm.errors import ContigmmError, Reason
from contigmm.load.samples import Kind, Recorder
from contigmm.load.sizes import Request, Script
from contigmm.sim.operation import Answer, Call, ExitCause, Operation

_UID: Final = 1000
"""Nobody special: root would pass some limits unasked."""

_MAP_FLAGS: Final = {
    "contig": MAP_PRIVATE | MAP_ANONYMOUS | MAP_CONTIG,
    "ordinary": MAP_PRIVATE | MAP_ANONYMOUS,
}


class LoadError(ContigmmError):
    """The load cannot go on."""


@dataclass(frozen=True)
class Birth:
    """How a simulated process is started, and started again when it was killed."""

    index: int
    """In the whole load."""
    group: str
    cpu: int
    node: int
    memlock_bytes: int
    memory: str
    """``contig`` or ``ordinary``: what it maps."""


@dataclass(order=True)
class _Held:
    """A mapping, or a child where ``size_index`` is -1, and the request before which it goes."""

    until: int
    address: int
    size_index: int


class SimulatedProcess:
    """Drives one process of the machine, one call at a time.

    The process and its children live as long as its stream, so that nothing is left behind
    whatever happens here.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        birth: Birth,
        script: Script,
        sizes_bytes: tuple[int, ...],
        recorder: Recorder,
    ) -> None:
        self._stream = stream
        self._birth = birth
        self._script = script
        self._sizes_bytes = sizes_bytes
        self._recorder = recorder
        self._process = 0
        self._gone = False
        self._held: list[_Held] = []  # a heap
        self._children: list[tuple[int, int]] = []  # a heap of (until request, process)

    async def spawn(self) -> None:
        """Start the process.

        Raises:
            LoadError: The machine refuses.
        """
        birth = self._birth
        limit = birth.memlock_bytes
        spec = {
            "name": f"{birth.group}-{birth.index}"[:15],  # TASK_COMM_LEN less the end
            "caps": [],
            "rlimits": {"MEMLOCK": (limit, limit)},
        }
        data = json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()
        answer = await self._execute(
            Operation(Call.SPAWN, args=(_UID, birth.cpu, birth.node), data=data)
        )
        if not answer.ok:
            raise LoadError(f"the machine would not start a process: {answer.reason}")
        self._process, self._gone = answer.value, False
        self._recorder.born(answer.value, birth.index)
        self._held.clear()

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
            await self._let_go(number)
            due_ns = await due()
            if not going_on():
                return
            await self._request(self._script.next_request(), number, due_ns)
            number += 1
            if number == warm_after:
                warm()
            if self._gone:
                await self.spawn()

    async def exit(self) -> None:
        """Let the process and its children exit, with everything that they still hold."""
        for _, child in self._children:
            await self._execute(_exit_of(child, ExitCause.EXITED))
        await self._execute(_exit_of(self._process, ExitCause.EXITED))

    # ---- one request ----

    async def _let_go(self, number: int) -> None:
        """Unmap what has been held long enough, and let children end."""
        while self._held and self._held[0].until <= number and not self._gone:
            held = heapq.heappop(self._held)
            await self._on_mapping(Kind.UNMAP, held.size_index, Call.MUNMAP, held.address)
        while self._children and self._children[0][0] <= number:
            _, child = heapq.heappop(self._children)
            await self._measured(Kind.EXIT, 0, _exit_of(child, ExitCause.EXITED))

    async def _request(self, request: Request, number: int, due_ns: int | None) -> None:
        size_index, until = request.size_index, number + request.hold_requests
        mapped = await self._map(size_index, due_ns)
        if mapped.ok:
            heapq.heappush(self._held, _Held(until, mapped.value, size_index))
            await self._on_mapping(Kind.TOUCH, size_index, Call.TOUCH, mapped.value, 1)
            if request.pin and not self._gone:
                await self._on_mapping(Kind.PIN, size_index, Call.MLOCK, mapped.value)
        if request.fork and not self._gone:
            await self._fork(until)
        if request.kill and not self._gone:
            await self._measured(Kind.EXIT, 0, _exit_of(self._process, ExitCause.KILLED))
            self._gone = True

    async def _fork(self, until: int) -> None:
        """Fork a child that writes to the mappings that it has inherited; it ends at ``until``."""
        forked = await self._measured(Kind.FORK, 0, Operation(Call.FORK, self._process))
        if not forked.ok:
            return
        self._recorder.born(forked.value, self._birth.index)
        heapq.heappush(self._children, (until, forked.value))
        if self._birth.memory == "contig":
            return  # VM_DONTCOPY: the child has none of it
        for held in tuple(self._held):
            length = self._sizes_bytes[held.size_index]
            touch = Operation(Call.TOUCH, forked.value, (held.address, length, 1))
            await self._measured(Kind.TOUCH, held.size_index, touch)

    async def _map(self, size_index: int, due_ns: int | None) -> Answer:
        length = self._sizes_bytes[size_index]
        flags = _MAP_FLAGS[self._birth.memory]
        arguments = (0, length, PROT_READ | PROT_WRITE, flags, -1, 0)
        return await self._measured(
            Kind.MAP, size_index, Operation(Call.MMAP, self._process, arguments), due_ns
        )

    async def _on_mapping(
        self, kind: Kind, size_index: int, call: Call, address: int, *more: int
    ) -> Answer:
        """Make a call on the range of a mapping."""
        arguments = (address, self._sizes_bytes[size_index], *more)
        return await self._measured(kind, size_index, Operation(call, self._process, arguments))

    # ---- one call ----

    async def _measured(
        self, kind: Kind, size_index: int, operation: Operation, due_ns: int | None = None
    ) -> Answer:
        begin_ns = monotonic_ns()
        answer = await self._execute(operation)
        end_ns = monotonic_ns()
        await self._note_end(operation, answer)
        if answer.seq:
            self._recorder.record(
                seq=answer.seq,
                begin_ns=begin_ns,
                end_ns=end_ns,
                process=self._birth.index,
                errno=answer.errno,
                reason=answer.reason,
                kind=kind,
                size_index=size_index,
                late_ns=0 if due_ns is None else begin_ns - due_ns,
            )
        return answer

    async def _note_end(self, operation: Operation, answer: Answer) -> None:
        """Follow what the machine did to a process that had done nothing wrong.

        Raises:
            LoadError: Its own mapping was not there.
        """
        if answer.signal and answer.signal != SIGKILL:
            raise LoadError(
                f"a process that touched its own mapping got signal {answer.signal}"
                f" at {answer.address:#x}"
            )
        # There was no memory for its fault, or the out-of-memory killer had chosen it at another's.
        if answer.signal:
            await self._execute(_exit_of(operation.process, ExitCause.OOM))
        if answer.signal or answer.reason == Reason.NO_SUCH_PROCESS:
            self._gone |= operation.process == self._process
            self._children = [
                (until, child) for until, child in self._children if child != operation.process
            ]
            heapq.heapify(self._children)

    async def _execute(self, operation: Operation) -> Answer:
        answer = (await self._stream.execute([operation]))[0]
        self._recorder.carried_out(operation, answer)
        return answer


def _exit_of(process: int, cause: ExitCause) -> Operation:
    return Operation(Call.EXIT, process, (0, cause))
