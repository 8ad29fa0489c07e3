"""Replays a log of strace: each memory call on the simulated space of its process.

Calls are taken in the order in which they ended. Where calls of threads that share a space
overlapped, the kernel may have done them in another order, and the addresses that it chose tell:
the first whose address fits goes first. After a difference the space is put where the log says it
went, so that one difference is one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_MASK,
    PMD_SIZE,
)
from contigmm.errors import SyscallError
from contigmm.hosts.maps_blocks import MapsBlock
from contigmm.hosts.strace_log import LoggedCall, ProcessEnd, Remark, StraceLog
from contigmm.hosts.strace_words import clone_flags
from contigmm.phys import VmaIndex
from contigmm.syscalls.brk import brk
from contigmm.syscalls.exit import exit as exit_task
from contigmm.syscalls.fork import fork
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.munmap import munmap
from contigmm.validate.strace_calls import (
    FILE_ERRORS,
    NEEDS_MAPPED,
    SIMULATED,
    MemoryCall,
    Outcome,
    bind_descriptor,
    carry_out,
    predicted_address,
    read_call,
)
from contigmm.validate.strace_compare import BlockVerdict, FileNames, compare_block
from contigmm.validate.strace_space import (
    Files,
    Space,
    assume_mapped,
    maps_of,
    space_from_maps,
    unknown_space,
)

if TYPE_CHECKING:
    from contigmm.mm.config import MmConfig

_BIRTHS: Final = frozenset({"clone", "clone3", "fork", "vfork"})
_EXECS: Final = frozenset({"execve", "execveat"})
#: Calls of processes that change no mapping.
_HARMLESS: Final = frozenset(
    "exit exit_group wait4 waitid waitpid kill tgkill tkill rt_sigqueueinfo rt_tgsigqueueinfo "
    "pidfd_open pidfd_send_signal arch_prctl get_mempolicy set_mempolicy mbind move_pages "
    "migrate_pages getpid gettid set_tid_address set_robust_list rseq close openat open read "
    "fstat newfstatat prctl".split()
)
# arch/x86/kernel/sys_x86_64.c:find_start_end(), v6.12
_RANDOM_START: Final = 0x200_0000
_CLONE_VM: Final = 0x100
#: How far ahead to look for calls that overlapped.
_LOOK_AHEAD: Final = 256
#: How many unknown mappings one address may teach.
_MAX_LEARNED: Final = 64


@dataclass(slots=True, frozen=True)
class Mismatch:
    """A call that returned something else than in the log."""

    line: int
    pid: int
    call: str
    logged: str
    simulated: str
    sharing: int  # tasks that shared the address space: calls of others may have come between

    def __str__(self) -> str:
        return f"line {self.line}: {self.call} = {self.logged}, simulated {self.simulated}"


@dataclass(slots=True, frozen=True)
class Forecast:
    """What the simulator says where the log or its blocks say nothing."""

    line: int
    pid: int
    what: str  # a call, or "exit" or "fork" for mappings
    result: str | list[str]


@dataclass(slots=True)
class ReplayReport:
    """What came of one log."""

    calls: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    unchecked: int = 0
    reordered: int = 0
    verdicts: list[BlockVerdict] = field(default_factory=list)
    forecasts: list[Forecast] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


class Replay:
    """One log on one machine. ``blocks`` may be empty: spaces are learned then."""

    def __init__(self, config: "MmConfig", log: StraceLog, blocks: list[MapsBlock]) -> None:
        self.config = config
        self.log = log
        self.report = ReplayReport(remarks=list(log.remarks))
        self.files = Files()
        self.names = FileNames(self.files)
        self.spaces: dict[int, Space] = {}
        self.done = [False] * len(log.events)
        self.births: dict[int, list[int]] = {}
        self.unknown_calls: dict[str, list[int]] = {}
        self._read_ahead()
        self.execs: dict[int, list[MapsBlock]] = {}
        self.blocks: list[MapsBlock] = []
        for block in blocks:
            if block.event == "exec":
                self.execs.setdefault(block.pid, []).append(block)
            else:
                self.blocks.append(block)
        self.forecasts_ends = not any(block.event == "exit" for block in blocks)

    def _read_ahead(self) -> None:
        for position, event in enumerate(self.log.events):
            if isinstance(event, LoggedCall) and event.name in _BIRTHS and event.value:
                self.births.setdefault(event.value, []).append(position)

    def run(self) -> ReplayReport:
        """Replay the whole log."""
        blocks = iter(self.blocks)
        block = next(blocks, None)
        for position, event in enumerate(self.log.events):
            while block is not None and block.log_lines < event.line:
                self._check(block, position)
                block = next(blocks, None)
            if not self.done[position]:
                self._step(position, event)
        while block is not None:
            self._check(block, len(self.log.events))
            block = next(blocks, None)
        for name, lines in self.unknown_calls.items():
            times = f"{len(lines)} times" if len(lines) > 1 else "once"
            sentence = f"{name} is not simulated ({times} from here on)"
            self.report.remarks.append(Remark(lines[0], sentence))
        self.report.remarks.sort(key=lambda remark: remark.line)
        return self.report

    # -- events -------------------------------------------------------------------------
    def _step(self, position: int, event: LoggedCall | ProcessEnd) -> None:
        self.done[position] = True
        if isinstance(event, ProcessEnd):
            self._end(event)
        elif event.name in _EXECS:
            self._exec(position, event)
        elif event.name in _BIRTHS:
            self._birth(event)
        elif event.name in SIMULATED:
            self._memory_call(position, event)
        elif event.name not in _HARMLESS:
            self.unknown_calls.setdefault(event.name, []).append(event.line)

    def _space(self, pid: int, position: int) -> Space:
        """Return the space of ``pid``, born now if its parent's call is logged later."""
        space = self.spaces.get(pid)
        if space is not None:
            return space
        for birth in [*self.births.get(pid, []), *self._untold_births(position)]:
            if not self.done[birth]:
                self.done[birth] = True
                call = self.log.events[birth]
                assert isinstance(call, LoggedCall), "only calls give birth"
                self._space(call.pid, birth)
                self._birth(replace(call, value=pid))
                return self.spaces[pid]
        line = self.log.events[min(position, len(self.log.events) - 1)].line
        sentence = f"pid {pid} is met in mid-life: its mappings are learned from what it does"
        self.report.remarks.append(Remark(line, sentence))
        space = self.spaces[pid] = unknown_space(self.config, pid, in_mid_life=True)
        return space

    def _untold_births(self, position: int) -> Iterator[int]:
        """Yield the calls from ``position`` on that make a process and have no result."""
        for later in range(position, min(position + _LOOK_AHEAD, len(self.log.events))):
            event = self.log.events[later]
            if isinstance(event, ProcessEnd) or event.name not in _BIRTHS:
                continue
            if event.value is None and not event.error:
                yield later

    def _leave(self, pid: int) -> None:
        space = self.spaces.pop(pid, None)
        if space is None:
            return
        space.pids.discard(pid)
        if not space.pids:
            exit_task(space.task)

    def _end(self, event: ProcessEnd) -> None:
        space = self.spaces.get(event.pid)
        if self.forecasts_ends and space is not None and len(space.pids) == 1:
            self._forecast("exit", event.line, event.pid, space)
        self._leave(event.pid)

    def _exec(self, position: int, event: LoggedCall) -> None:
        waiting = self.execs.get(event.pid)
        if event.error:
            return
        if event.value is None and not (waiting and waiting[0].log_lines < event.line):
            return  # no result, and no block says that it succeeded here
        self._leave(event.pid)
        if not waiting:
            sentence = f"what pid {event.pid} maps after its execve is learned from what it does"
            self.report.remarks.append(Remark(event.line, sentence))
            self.spaces[event.pid] = unknown_space(self.config, event.pid, in_mid_life=False)
            return
        block = waiting.pop(0)
        start_brk = self._first_brk(event.pid, position)
        self.spaces[event.pid] = space_from_maps(
            self.config, event.pid, block.maps, self.files, start_brk
        )

    def _first_brk(self, pid: int, position: int) -> int | None:
        """Find where the heap begins: what the first brk(NULL) after an execve returned."""
        for event in self.log.events[position + 1 :]:
            if isinstance(event, LoggedCall) and event.pid == pid:
                if event.name == "brk":
                    return event.value
                if event.name in _EXECS and not event.error:
                    return None
        return None

    def _birth(self, event: LoggedCall) -> None:
        if event.error:
            return
        child = event.value or self._next_unseen(event)
        if not child:
            return
        parent = self._space(event.pid, 0)
        self._leave(child)
        shares = event.name == "vfork" or bool(clone_flags(event.text) & _CLONE_VM)
        if shares:
            parent.pids.add(child)
            self.spaces[child] = parent
            return
        parent.writes.all(parent.task.mm)
        try:
            task = fork(parent.task, pid=child, index=VmaIndex())
        except SyscallError as refusal:
            self._differs(event, parent, str(child), f"-1 ({refusal})")
            return
        self.spaces[child] = Space(
            task,
            is_complete=parent.is_complete,
            knows_base=parent.knows_base,
            knows_brk=parent.knows_brk,
            in_mid_life=parent.in_mid_life,
            pids={child},
            files=dict(parent.files),
        )

    def _next_unseen(self, birth: LoggedCall) -> int:
        """Return the child of a call without result: the next pid that nobody has met; 0: none."""
        for event in self.log.events:
            if event.line > birth.line and event.pid not in self.spaces and event.pid:
                return event.pid
        return 0

    # -- memory calls -------------------------------------------------------------------
    def _memory_call(self, position: int, event: LoggedCall) -> None:
        try:
            call = read_call(event)
        except ValueError as error:
            self.report.remarks.append(Remark(event.line, str(error)))
            return
        space = self._space(event.pid, position)
        if len(space.pids) > 1:
            self._run_earlier_ones(space, call, position)
        self._run(space, call)

    def _in_flight(
        self, space: Space, call: MemoryCall, position: int
    ) -> list[tuple[int, MemoryCall]]:
        """Find calls of other threads that overlapped ``call`` and ended later."""
        found = []
        seen = {call.logged.pid}
        stop = min(position + _LOOK_AHEAD, len(self.log.events))
        for later in range(position + 1, stop):
            event = self.log.events[later]
            if self.done[later] or isinstance(event, ProcessEnd) or event.pid in seen:
                continue
            seen.add(event.pid)
            if event.name not in SIMULATED or event.began >= call.logged.ended:
                continue
            if self.spaces.get(event.pid) is space:
                try:
                    found.append((later, read_call(event)))
                except ValueError:
                    continue  # said when its turn comes
        return found

    def _fits(self, space: Space, call: MemoryCall) -> bool:
        """Would the kernel choose the logged address now?"""
        return (
            call.chooses_address
            and call.logged.value is not None
            and predicted_address(space, call, self.files) == call.logged.value
        )

    def _run_earlier_ones(self, space: Space, call: MemoryCall, position: int) -> None:
        """Run the overlapping calls that the kernel did before ``call``, as addresses tell."""
        while not self._fits(space, call):
            others = self._in_flight(space, call, position)
            first = next((other for other in others if self._fits(space, other[1])), None)
            if first is None and call.chooses_address:
                first = _makes_room(call, others)
            if first is None:
                return
            later, other = first
            self.done[later] = True
            self.report.reordered += 1
            self._run(space, other)

    def _run(self, space: Space, call: MemoryCall) -> None:
        self.report.calls += 1
        result = call.result
        bind_descriptor(space, call, self.files)
        if not space.is_complete:
            self._learn(space, call)
        if result.error in FILE_ERRORS and call.logged.name == "mmap" and not call.is_anonymous:
            self.report.unchecked += 1  # the file refused
            return
        space.writes.before(space.task.mm, call)
        outcome = carry_out(space.task, call)
        if not result.is_told:
            what = f"{call.logged.name}({call.logged.text})"
            self.report.forecasts.append(
                Forecast(call.logged.line, call.logged.pid, what, str(outcome))
            )
        elif outcome == result:
            pass
        elif _cannot_be_known(space, call, outcome):
            self.report.unchecked += 1
            _follow(space, call, outcome)
        else:
            self._differs(call.logged, space, str(result), str(outcome))
            _follow(space, call, outcome)
        space.writes.after(space.task.mm, call, result if result.is_told else outcome)

    def _differs(self, event: LoggedCall, space: Space, logged: str, simulated: str) -> None:
        call = f"{event.name}({event.text})"
        mismatch = Mismatch(event.line, event.pid, call, logged, simulated, len(space.pids))
        self.report.mismatches.append(mismatch)

    # -- spaces that are not known whole ----------------------------------------------------
    def _learn(self, space: Space, call: MemoryCall) -> None:
        """Take from a call that succeeded what must have been mapped before it."""
        mm, value = space.task.mm, call.logged.value
        name = call.logged.name
        if value is None:
            return
        if name == "brk":
            if not space.knows_brk:
                mm.start_brk = mm.brk = value
                space.knows_brk = True
            return
        if name in NEEDS_MAPPED:
            assume_mapped(mm, *call.span)
        elif name == "mmap" and call.chooses_address:
            self._learn_from_address(space, call, value)

    def _learn_from_address(self, space: Space, call: MemoryCall, value: int) -> None:
        mm = space.task.mm
        length = (call.words[1] + 0xFFF) & PAGE_MASK
        if not space.knows_base and not call.words[0] and length < PMD_SIZE:
            mm.mmap_base = value + length
            space.knows_base = True
        for _ in range(_MAX_LEARNED):
            address = predicted_address(space, call, self.files)
            if address is None or address <= value:
                return
            assume_mapped(mm, address, address + length)

    # -- blocks -------------------------------------------------------------------------
    def _forecast(self, what: str, line: int, pid: int, space: Space) -> None:
        lines = [str(line_) for line_, _ in maps_of(space.task.mm)]
        self.report.forecasts.append(Forecast(line, pid, what, lines))

    def _check(self, block: MapsBlock, position: int) -> None:
        space = self._space(block.pid, position)
        if not block.maps:
            self._forecast(block.event, block.log_lines, block.pid, space)
            return
        self.report.verdicts.append(compare_block(block, space, self.names))


def _makes_room(
    call: MemoryCall, others: list[tuple[int, MemoryCall]]
) -> tuple[int, MemoryCall] | None:
    """Pick who frees what ``call`` was given: one that names the place, else anyone."""
    start = call.logged.value or 0
    end = start + call.words[2 if call.logged.name == "mremap" else 1]
    free = [other for other in others if not other[1].chooses_address]
    there = (other for other in free if other[1].span[0] < end and start < other[1].span[1])
    return next(there, free[0] if free else None)


def _cannot_be_known(space: Space, call: MemoryCall, outcome: Outcome) -> bool:
    """Does the address depend on what no log tells: old mappings, or a random start?"""
    wanted, got = call.logged.value, outcome.value
    if wanted is None or not call.chooses_address:
        return False
    if space.in_mid_life:
        return True
    return call.starts_at_random and got is not None and 0 < wanted - got < _RANDOM_START


def _follow(space: Space, call: MemoryCall, outcome: Outcome) -> None:
    """Put the space where the log says it went."""
    task, name = space.task, call.logged.name
    wanted, got = call.logged.value, outcome.value
    try:
        if name == "mmap":
            _, length, prot, flags, fd, offset = call.words
            if got is not None:
                munmap(task, got, length)
            if wanted is not None:
                flags = flags & ~MAP_FIXED_NOREPLACE | MAP_FIXED
                mmap(task, wanted, length, prot, flags, fd, offset)
        elif name == "mremap" and wanted is not None and got is not None:
            length = call.words[2]
            mremap(task, got, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, wanted)
        elif name == "brk" and wanted is not None:
            brk(task, wanted)
    except SyscallError:
        space.is_complete = False  # from here on what is there is learned
