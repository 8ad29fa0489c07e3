"""The machine: one memory, its processes, one order of operations."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from contigmm import procfs
from contigmm.abi import ESRCH
from contigmm.description import MachineDescription
from contigmm.errors import ContigmmError, MemoryFault, Reason, SyscallError
from contigmm.phys import Memory
from contigmm.sim import oom
from contigmm.sim.background import BackgroundFile
from contigmm.sim.calls import CALLS, CallRow, Result
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import MAX_OPERATIONS, Answer, Call, Operation
from contigmm.sim.process import Process, unwrap
from contigmm.sim.snapshot import MAX_SNAPSHOT_BYTES, decode, digest, encode
from contigmm.sim.state import ClockMode, MachineState
from contigmm.sim.table import Entry
from contigmm.sim.trace import DEFAULT_CAPACITY, Trace

Journal = Callable[[int, Operation, Answer], None]
"""Called with each operation's number, the operation as it was carried out, and its answer."""


class MachineStoppedError(ContigmmError):
    """An operation was left half done, by a bug or an interrupt: the machine serves no more."""


class NoSuchProcessError(ContigmmError, LookupError):
    """No live process of the machine has this id."""


class Machine:
    """One simulated machine, which any number of threads may share.

    Everything that changes it is an :class:`Operation` and goes through :meth:`execute`, one at a
    time: a whole operation runs under the machine's lock. The same seed and the same operations
    in the same order give the same machine, bit for bit.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._lock = threading.RLock()
        self._stopped_in: Operation | None = None
        self.journal: Journal | None = None

    @classmethod
    def boot(
        cls,
        description: MachineDescription,
        *,
        profile: str = "contig",
        seed: int = 0,
        clock: str = "per_op",
        cpus: int | None = None,
    ) -> Self:
        """Boot the machine that ``description`` describes.

        Args:
            description: What it has and what is in use; ``contigmm.hosts`` makes one.
            profile: Which kernel's rules hold: ``contig``, ``rfc2017`` or ``linux``.
            seed: Of the machine's one generator of random numbers.
            clock: ``per_op``, every step takes its modelled time, or ``manual``.
            cpus: Number of CPUs instead of the description's.

        Raises:
            ValueError: The description contradicts itself, or there is no such profile or clock.
        """
        mode = ClockMode(clock)
        return cls(
            MachineState.boot(description, profile=profile, seed=seed, clock=mode, cpus=cpus)
        )

    @classmethod
    def restore(cls, snapshot: bytes, *, max_bytes: int = MAX_SNAPSHOT_BYTES) -> Self:
        """Make the machine of which ``snapshot`` was taken.

        Raises:
            SnapshotError: These bytes are no snapshot, of another version, or unpack to more
                than ``max_bytes``.
        """
        return cls(decode(snapshot, max_bytes=max_bytes))

    # ---- the one way in ----

    def execute(
        self, operations: Sequence[Operation], *, stop_on_refusal: bool = False
    ) -> list[Answer]:
        """Carry out operations in order under one hold of the machine; one answer each.

        A refusal is an answer and the rest goes on, unless ``stop_on_refusal``: then the rest is
        skipped. A batch that is malformed raises before anything of it is applied.

        Raises:
            ValueError: Too many operations, an unknown call, a wrong number of arguments, or an
                ``addr_from`` that does not name an earlier operation.
        """
        _check_batch(operations)
        answers: list[Answer] = []
        stopped = False
        with self._lock:
            for operation in operations:
                if stopped:
                    answers.append(Answer(0, skipped=True))
                    continue
                if operation.addr_from >= 0:
                    source = answers[operation.addr_from]
                    if not source.ok:
                        answers.append(Answer(0, skipped=True))
                        continue
                    operation = _with_address(operation, source.value)
                answer = self._apply(operation)
                answers.append(answer)
                stopped = stop_on_refusal and not answer.ok
        return answers

    def run(self, operation: Operation) -> Answer:
        """Carry out one operation: :meth:`execute` of a batch of one.

        Raises:
            ValueError: As :meth:`execute`.
        """
        _check_operation(operation)
        if operation.addr_from >= 0:
            raise ValueError("addr_from names an earlier operation of a batch; there is none")
        with self._lock:
            return self._apply(operation)

    def _apply(self, operation: Operation) -> Answer:
        """Carry out one operation whose form has been checked, under the lock."""
        state = self._state
        if self._stopped_in is not None:
            raise MachineStoppedError(f"the machine stopped within {self._stopped_in}")
        row = CALLS[operation.call]
        entry = None
        if row.of_process:
            entry = state.table.get(operation.process)
            if entry is None:
                return Answer(0, errno=ESRCH, reason=Reason.NO_SUCH_PROCESS)
            if row.enters_kernel:
                state.memory.enter_syscall(cpu=entry.task.cpu)
        seq = state.seq + 1
        self._stopped_in = operation
        try:
            result = self._handle(row, entry, operation)
            if isinstance(result, int):
                answer = Answer(seq, result)
            elif isinstance(result, tuple):
                answer = Answer(seq, result[0], data=result[1])
            else:
                answer = Answer(seq, len(result), data=result)
        except SyscallError as refusal:
            answer = Answer(seq, errno=refusal.errno, reason=refusal.reason, detail=refusal.detail)
        except MemoryFault as fault:
            signal, code, address = fault.signal, fault.code, fault.address
            answer = Answer(
                seq, fault.done, reason=fault.reason, signal=signal, code=code, address=address
            )
        self._stopped_in = None
        state.seq = seq
        if self.journal is not None:
            self.journal(seq, operation, answer)
        return answer

    def _handle(self, row: CallRow, entry: Entry | None, operation: Operation) -> Result:
        """Run a handler; where a fault finds no memory, kill a process and run it once more.

        A fault begins anew when the victim is gone, as the access in user space does. If the caller
        is the victim, the fault is its answer.
        """
        state = self._state
        while True:
            try:
                return row.handler(state, entry, operation)
            except MemoryFault as fault:
                if not oom.calls_for_victim(fault) or not oom.kill_one(state):
                    raise
                if state.table.get(operation.process) is None:
                    raise

    # ---- what there is ----

    @property
    def profile(self) -> str:
        """Which kernel's rules hold."""
        return self._state.profile

    @property
    def seed(self) -> int:
        """What the machine was booted with."""
        return self._state.seed

    @property
    def clock(self) -> str:
        """``per_op`` or ``manual``."""
        return self._state.clock

    @property
    def description(self) -> str:
        """Where the machine came from, in a sentence."""
        return self._state.origin

    @property
    def known(self) -> tuple[str, ...]:
        """What the source of the machine told, as sentences."""
        return self._state.known

    @property
    def drawn(self) -> tuple[str, ...]:
        """What it did not tell and was inferred or drawn from the seed, as sentences."""
        return self._state.drawn

    @property
    def background_files(self) -> tuple[BackgroundFile, ...]:
        """Files that came with the description: they own page cache from the start."""
        return self._state.files

    @property
    def seq(self) -> int:
        """Number of the last operation."""
        return self._state.seq

    @property
    def clock_ns(self) -> int:
        """Simulated time: the latest of the CPUs' clocks."""
        with self._lock:
            return self._state.memory.clock_ns()

    @property
    def cpus(self) -> int:
        """Number of CPUs."""
        return self._state.memory.nr_cpus()

    @property
    def nr_frames(self) -> int:
        """One past the highest frame."""
        return self._state.memory.nr_frames()

    @contextmanager
    def held(self) -> Iterator[Memory]:
        """Hold the machine, so that several views show one moment of it (:attr:`seq`)."""
        with self._lock:
            yield self._state.memory

    def trace(self, capacity: int = DEFAULT_CAPACITY) -> Trace:
        """Listen to the allocator: ``with machine.trace() as trace: ...; trace.read()``.

        Args:
            capacity: Events to keep; of more the oldest are dropped, and counted.

        Raises:
            TraceError: ``capacity`` is out of range; on entry, that somebody else listens.
        """
        return Trace(self, capacity)

    def is_alive(self, process: int) -> bool:
        """Tell whether a live process has this id."""
        return self._state.table.get(process) is not None

    def entry(self, process: int) -> Entry:
        """Find a live process as the machine keeps it: for views, under :meth:`held`.

        Raises:
            NoSuchProcessError: It is not alive, or never was.
        """
        entry = self._state.table.get(process)
        if entry is None:
            raise NoSuchProcessError(f"no live process has the id {process}")
        return entry

    def process(self, process: int) -> Process:
        """Give a handle on a live process.

        Raises:
            NoSuchProcessError: It is not alive, or never was.
        """
        with self._lock:
            entry = self.entry(process)
            return Process(self, entry.id, entry.task.pid)

    def processes(self) -> list[Process]:
        """Give handles on all live processes, the oldest first."""
        with self._lock:
            return [Process(self, entry.id, entry.task.pid) for entry in self._state.table]

    # ---- operations of the machine itself ----

    def spawn(
        self,
        name: str = "",
        *,
        uid: int = 0,
        caps: frozenset[str] = frozenset(),
        rlimits: Mapping[str, tuple[int, int]] | None = None,
        cpu: int = 0,
        node: int = 0,
    ) -> Process:
        """Start a process with an empty address space.

        ``rlimits`` maps names such as ``MEMLOCK`` to (soft, hard); others are Linux's defaults.

        Raises:
            SyscallError: EINVAL, no such CPU, node, capability or limit; ENOMEM, no frame for its
                page tables.
        """
        data = SpawnSpec(name, frozenset(caps), rlimits or {}).encode()
        answer = self.run(Operation(Call.SPAWN, 0, (uid, cpu, node), data))
        return self.process(unwrap(answer))

    def advance_clock(self, ns: int) -> int:
        """Let simulated time pass and return the clock afterwards, in ns."""
        return unwrap(self.run(Operation(Call.ADVANCE_CLOCK, 0, (ns,))))

    # ---- views ----

    def zones(self) -> list[procfs.ZoneView]:
        """What /proc tells of each zone."""
        with self._lock:
            return procfs.zone_views(self._state.memory)

    def buddyinfo(self) -> dict[str, list[int]]:
        """Free blocks by ``NODE/ZONE`` and order."""
        with self._lock:
            memory = self._state.memory
            rows = memory.buddyinfo().tolist()
            return dict(zip(procfs.zone_keys(memory), rows, strict=True))

    def unusable_index(self) -> dict[str, list[float]]:
        """Share of free memory that is in blocks too small, by ``NODE/ZONE`` and order.

        mm/vmstat.c:unusable_free_index(), v6.12, of which this is the thousandth part.
        """
        return {key: procfs.unusable_index(row) for key, row in self.buddyinfo().items()}

    def meminfo(self) -> str:
        """Text of /proc/meminfo."""
        with self._lock:
            state = self._state
            return procfs.meminfo(state.memory, state.config.overcommit)

    def vmstat(self) -> dict[str, int]:
        """Event counters by their names in /proc/vmstat."""
        with self._lock:
            return self._state.memory.vmstat()

    def check(self) -> None:
        """Hold every invariant of the machine against its state.

        Raises:
            InvariantError: One is broken; the message says which.
        """
        with self._lock:
            self._state.check()

    # ---- the whole ----

    def snapshot(self) -> bytes:
        """Encode the machine: one versioned, canonical encoding, compressed."""
        with self._lock:
            return encode(self._state)

    def digest(self) -> str:
        """Hash the machine's canonical encoding before compression."""
        with self._lock:
            return digest(self._state)


def _check_operation(operation: Operation) -> None:
    row = CALLS.get(operation.call)
    if row is None:
        raise ValueError(f"no call has the number {operation.call}")
    if len(operation.args) != row.nr_args:
        raise ValueError(
            f"{Call(operation.call).name} takes {row.nr_args} arguments, not {len(operation.args)}"
        )


def _check_batch(operations: Sequence[Operation]) -> None:
    if len(operations) > MAX_OPERATIONS:
        raise ValueError(f"a batch holds at most {MAX_OPERATIONS} operations")
    for index, operation in enumerate(operations):
        _check_operation(operation)
        if operation.addr_from >= 0 and not (operation.addr_from < index and operation.args):
            raise ValueError(f"operation {index}: addr_from must name an earlier one")


def _with_address(operation: Operation, address: int) -> Operation:
    args = (address, *operation.args[1:])
    return Operation(operation.call, operation.process, args, operation.data)
