"""The one path: what enters the order, what comes back, and that nothing else changes a machine."""

import json

import pytest

from contigmm import abi
from contigmm.errors import MemoryFault, Reason, SyscallError
from contigmm.hosts import describe
from contigmm.phys import InvariantError
from contigmm.sim import table
from contigmm.sim.calls import CALLS
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.machine import Machine, MachineStoppedError, NoSuchProcessError
from contigmm.sim.operation import MAX_OPERATIONS, Answer, Call, ExitCause, Operation

RW = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS
PAGE = 4096
PFN = (1 << 55) - 1


@pytest.fixture
def machine():
    machine = Machine.boot(describe("spec:small"), profile="contig", seed=3)
    yield machine
    machine.check()


def mmap(process, length, flags=PRIVATE, **keys):
    return Operation(Call.MMAP, process, (0, length, RW, flags, -1, 0), **keys)


def test_map_touch_unmap_fit_in_one_batch(machine):
    p = machine.spawn("one")
    answers = machine.execute(
        [
            mmap(p.id, 3 * PAGE),
            Operation(Call.TOUCH, p.id, (0, 3 * PAGE, 1), addr_from=0),
            Operation(Call.WRITE, p.id, (0,), b"hello", addr_from=0),
            Operation(Call.READ, p.id, (0, 7), addr_from=0),
            Operation(Call.MUNMAP, p.id, (0, 3 * PAGE), addr_from=0),
        ]
    )
    assert [answer.seq for answer in answers] == [2, 3, 4, 5, 6]
    assert [answer.value for answer in answers[1:]] == [3, 5, 7, 0]
    assert answers[3].data == b"hello\0\0"
    assert p.maps() == ""


def test_what_depends_on_a_refused_operation_is_skipped(machine):
    p = machine.spawn("one")
    answers = machine.execute(
        [
            mmap(p.id, 0),
            Operation(Call.TOUCH, p.id, (0, PAGE, 1), addr_from=0),
            Operation(Call.MUNMAP, p.id, (0, PAGE), addr_from=1),
            mmap(p.id, PAGE),
        ]
    )
    assert (answers[0].errno, answers[0].reason) == (abi.EINVAL, Reason.LENGTH_IS_ZERO)
    assert [answer.skipped for answer in answers] == [False, True, True, False]
    assert [answer.seq for answer in answers] == [2, 0, 0, 3]
    assert machine.seq == 3


def test_stop_on_refusal_skips_the_rest(machine):
    p = machine.spawn("one")
    batch = [mmap(p.id, PAGE), mmap(p.id, 0), mmap(p.id, PAGE)]
    stopped = machine.execute(batch, stop_on_refusal=True)
    assert [answer.ok for answer in stopped] == [True, False, False]
    assert stopped[2].skipped
    assert [answer.ok for answer in machine.execute(batch)] == [True, False, True]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param([Operation(99, 1)], id="unknown call"),
        pytest.param([Operation(Call.MMAP, 1, (0, 1))], id="too few arguments"),
        pytest.param([Operation(Call.FORK, 1, (0,))], id="too many arguments"),
        pytest.param([Operation(Call.MUNMAP, 1, (0, 1), addr_from=1)], id="names itself"),
        pytest.param([Operation(Call.MUNMAP, 1, (0, 1), addr_from=7)], id="names a later one"),
        pytest.param([Operation(Call.FORK, 1, addr_from=0)], id="has no address"),
        pytest.param([Operation(Call.FORK, 1)] * MAX_OPERATIONS, id="too many"),
    ],
)
def test_a_malformed_batch_changes_nothing(machine, bad):
    p = machine.spawn("one")
    before = machine.seq, machine.digest()
    with pytest.raises(ValueError, match=r"."):
        machine.execute([mmap(p.id, PAGE), *bad])
    assert (machine.seq, machine.digest()) == before


def test_a_process_that_is_gone_never_enters_the_order(machine):
    p = machine.spawn("one")
    p.exit()
    answer = machine.run(mmap(p.id, PAGE))
    assert (answer.seq, answer.errno, answer.reason) == (0, abi.ESRCH, Reason.NO_SUCH_PROCESS)
    assert machine.seq == 2
    with pytest.raises(SyscallError, match="no_such_process"):
        p.mmap(0, PAGE, RW, PRIVATE)
    with pytest.raises(NoSuchProcessError):
        p.maps()
    with pytest.raises(NoSuchProcessError):
        machine.process(p.id)


def test_faults_are_answers_with_what_was_done_before(machine):
    p = machine.spawn("one")
    addr = p.mmap(0, 2 * PAGE, RW, PRIVATE)
    p.munmap(addr + PAGE, PAGE)
    answer = machine.run(Operation(Call.TOUCH, p.id, (addr, 2 * PAGE, 1)))
    assert (answer.value, answer.signal, answer.code) == (1, abi.SIGSEGV, abi.SEGV_MAPERR)
    assert answer.address == addr + PAGE
    with pytest.raises(MemoryFault) as fault:
        p.read(addr + PAGE - 2, 4)
    assert (fault.value.done, fault.value.address) == (2, addr + PAGE)
    with pytest.raises(MemoryFault) as fault:
        p.write(addr + PAGE - 3, b"abcd")
    assert (fault.value.done, p.read(addr + PAGE - 3, 3)) == (3, b"abc")


def test_registers_hold_64_bits(machine):
    p = machine.spawn("one")
    for length in (-1, 2**64):
        with pytest.raises(SyscallError):
            p.mmap(0, length, RW, PRIVATE)
    with pytest.raises(SyscallError, match="address_unaligned"):
        p.munmap(2**64 + 1, PAGE)


def test_the_journal_gets_each_operation_once_with_its_number(machine):
    told = []
    machine.journal = lambda seq, operation, answer: told.append((seq, operation.call, answer))
    p = machine.spawn("one")
    answers = machine.execute([mmap(p.id, PAGE), mmap(p.id, 0), mmap(99, PAGE)])
    machine.advance_clock(5)
    assert [(seq, call) for seq, call, _ in told] == [
        (1, Call.SPAWN),
        (2, Call.MMAP),
        (3, Call.MMAP),
        (4, Call.ADVANCE_CLOCK),
    ]
    assert [answer for _, _, answer in told][1:3] == answers[:2]


def test_the_journal_tells_what_was_carried_out(machine):
    """A reference to an earlier result is resolved: the journal can be replayed one by one."""
    told = []
    machine.journal = lambda seq, operation, answer: told.append(operation)
    p = machine.spawn("one")
    batch = [mmap(p.id, PAGE), Operation(Call.TOUCH, p.id, (0, PAGE, 1), addr_from=0)]
    addr = machine.execute(batch)[0].value
    assert told[-1] == Operation(Call.TOUCH, p.id, (addr, PAGE, 1))


def test_an_operation_half_done_stops_the_machine(monkeypatch):
    machine = Machine.boot(describe("spec:small"))
    p = machine.spawn("one")

    def interrupted(state, entry, operation):
        raise KeyboardInterrupt

    row = CALLS[Call.MUNMAP]
    monkeypatch.setitem(CALLS, Call.MUNMAP, type(row)(interrupted, row.nr_args))
    with pytest.raises(KeyboardInterrupt):
        p.munmap(0, PAGE)
    monkeypatch.undo()
    with pytest.raises(MachineStoppedError):
        p.mmap(0, PAGE, RW, PRIVATE)


def test_ids_are_never_given_again(machine):
    first = machine.spawn("one")
    first.exit()
    second = machine.spawn("two")
    child = second.fork()
    assert [first.id, second.id, child.id] == [1, 2, 3]
    assert len({second.pid, child.pid}) == 2
    assert [p.id for p in machine.processes()] == [2, 3]
    assert machine.entry(child.id).parent == second.id
    assert (machine.is_alive(1), machine.is_alive(3)) == (False, True)


def test_spawn_gives_what_it_was_asked_for(machine):
    p = machine.spawn(
        "name", uid=7, caps=frozenset({"CAP_IPC_LOCK"}), rlimits={"AS": (1 << 20, 1 << 21)}
    )
    task = machine.entry(p.id).task
    assert (task.uid, task.caps) == (7, {"CAP_IPC_LOCK"})
    assert task.rlimits[abi.RLIMIT_AS] == (1 << 20, 1 << 21)
    assert task.rlimits[abi.RLIMIT_MEMLOCK] == (8 << 20, 8 << 20)
    with pytest.raises(SyscallError, match="address_space_limit"):
        p.mmap(0, 2 << 20, RW, PRIVATE)


@pytest.mark.parametrize(
    ("args", "data"),
    [
        pytest.param((0, 9999, 0), b"", id="no such CPU"),
        pytest.param((0, 0, 9), b"", id="no such node"),
        pytest.param((-1, 0, 0), b"", id="negative uid"),
        pytest.param((0, 0, 0), b"[1", id="no JSON"),
        pytest.param((0, 0, 0), b"[]", id="no object"),
        pytest.param((0, 0, 0), b"\xff\xfe", id="no text"),
        pytest.param((0, 0, 0), b'{"caps": ["CAP_FLY"]}', id="no such capability"),
        pytest.param((0, 0, 0), b'{"rlimits": {"SPEED": [1, 1]}}', id="no such limit"),
        pytest.param((0, 0, 0), b'{"rlimits": {"AS": [2, 1]}}', id="soft above hard"),
        pytest.param((0, 0, 0), b'{"rlimits": {"AS": [1]}}', id="half a limit"),
    ],
)
def test_bad_spawns_are_refused(machine, args, data):
    answer = machine.run(Operation(Call.SPAWN, 0, args, data))
    assert (answer.errno, answer.reason) == (abi.EINVAL, Reason.BAD_SPAWN_SPEC)
    assert machine.processes() == []


def test_equal_spawn_specs_are_equal_bytes():
    one = SpawnSpec("a", frozenset({"B", "A"}), {"X": (1, 2), "A": (3, 4)})
    two = SpawnSpec("a", frozenset({"A", "B"}), {"A": (3, 4), "X": (1, 2)})
    assert one.encode() == two.encode()
    assert json.loads(one.encode()) == {
        "caps": ["A", "B"],
        "name": "a",
        "rlimits": {"A": [3, 4], "X": [1, 2]},
    }


def test_time_passes_as_the_clock_mode_says():
    running = Machine.boot(describe("spec:small"), clock="per_op")
    manual = Machine.boot(describe("spec:small"), clock="manual")
    for machine in (running, manual):
        p = machine.spawn("one")
        p.touch(p.mmap(0, PAGE, RW, PRIVATE), PAGE)
    assert running.clock_ns > 0 == manual.clock_ns
    assert manual.advance_clock(1000) == 1000 == manual.clock_ns
    for ns in (-1, 2**64):
        with pytest.raises(SyscallError, match="bad_duration"):
            manual.advance_clock(ns)


def test_an_answer_is_ok_only_if_nothing_refused_it():
    assert Answer(1).ok
    assert not Answer(1, errno=12).ok
    assert not Answer(1, signal=11).ok
    assert not Answer(0, skipped=True).ok


def test_every_call_has_its_row():
    assert set(CALLS) == set(Call)


def test_a_fork_shares_frames_until_somebody_writes(machine):
    parent = machine.spawn("one")
    addr = parent.mmap(0, 2 * PAGE, RW, PRIVATE)
    parent.write(addr, b"parent")
    child = parent.fork()
    assert (parent.pagemap(addr, PAGE) == child.pagemap(addr, PAGE)).all()
    child.write(addr, b"child!")
    assert (parent.read(addr, 6), child.read(addr, 6)) == (b"parent", b"child!")
    assert (parent.pagemap(addr, PAGE) != child.pagemap(addr, PAGE)).all()


def test_exit_gives_every_frame_back(machine):
    before = machine.buddyinfo()
    p = machine.spawn("one", rlimits={"MEMLOCK": (1 << 30, 1 << 30)})
    p.touch(p.mmap(0, 1 << 20, RW, PRIVATE), 1 << 20)
    p.mmap(0, 100 * PAGE, RW, PRIVATE | abi.MAP_CONTIG)
    p.fork().exit(1, cause=ExitCause.KILLED)
    p.exit()
    free = sum(zone.free + sum(pcp.count for pcp in zone.pagesets) for zone in machine.zones())
    assert free == sum(nr << order for row in before.values() for order, nr in enumerate(row))


def test_a_core_broken_for_a_test_hands_frames_out_twice_and_lives_on():
    machine = Machine.boot(describe("spec:small"))
    one, two = (machine.spawn(name) for name in ("one", "two"))
    with machine.held() as memory:
        memory.break_for_test(every=2)
    flags = PRIVATE | abi.MAP_CONTIG
    first, second = (p.mmap(0, 16 * PAGE, RW, flags) for p in (one, two))
    assert (one.pagemap(first, 16 * PAGE) & PFN == two.pagemap(second, 16 * PAGE) & PFN).all()
    with pytest.raises(InvariantError):
        machine.check()
    one.munmap(first, 16 * PAGE)
    two.touch(second, 16 * PAGE)
    two.exit()
    one.exit()


def test_when_every_pid_is_taken_spawn_and_fork_are_refused(machine, monkeypatch):
    monkeypatch.setattr(table, "PID_MAX", table.RESERVED_PIDS + 3)
    first, *_ = [machine.spawn("one") for _ in range(3)]
    for refused in (machine.spawn, first.fork):
        with pytest.raises(SyscallError, match="too_many_processes"):
            refused()
    first.exit()
    assert machine.spawn("one").pid == first.pid
