"""Same seed and same order, same bytes: in the library, one by one, in batches, after a restore."""

import json
import random
import zlib

import pytest

from contigmm import abi
from contigmm.errors import MemoryFault, SyscallError
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm.sim.operation import Call, ExitCause, Operation
from contigmm.sim.snapshot import SnapshotError

RW = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS
SHARED = abi.MAP_SHARED | abi.MAP_ANONYMOUS
PAGE = 4096
SPAWN_DATA = b'{"rlimits":{"MEMLOCK":[1073741824,1073741824]}}'


class Script:
    """Operations drawn from a seed; it follows the answers, as a program would."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.processes = []
        self.mappings = []  # process, address, pages

    def next(self):
        draw = self.random
        dice = draw.random()
        if not self.processes or dice < 0.04:
            return Operation(Call.SPAWN, 0, (0, draw.randrange(2), 0), SPAWN_DATA)
        process = draw.choice(self.processes)
        if dice < 0.34:
            pages = draw.choice((1, 3, 16, 16, 100, 512))
            flags = draw.choice(
                (PRIVATE, PRIVATE, SHARED, PRIVATE | abi.MAP_POPULATE, PRIVATE | abi.MAP_CONTIG)
            )
            return Operation(Call.MMAP, process, (0, pages * PAGE, RW, flags, -1, 0))
        if dice < 0.38:
            return Operation(Call.FORK, process)
        if dice < 0.40 and len(self.processes) > 1:
            return Operation(Call.EXIT, process, (0, ExitCause.EXITED))
        if dice < 0.42:
            return Operation(Call.ADVANCE_CLOCK, 0, (draw.randrange(10**6),))
        if not self.mappings:
            return self.next()
        return self.on_mapping(*draw.choice(self.mappings))

    def on_mapping(self, process, addr, pages):
        draw = self.random
        first = draw.randrange(pages)
        at, length = addr + first * PAGE, draw.randrange(1, pages - first + 1) * PAGE
        call = draw.choice((Call.TOUCH, Call.TOUCH, Call.MUNMAP, Call.WRITE, Call.MPROTECT))
        if call == Call.TOUCH:
            return Operation(call, process, (at, length, draw.randrange(2)))
        if call == Call.WRITE:
            return Operation(call, process, (at,), draw.randbytes(draw.randrange(1, 64)))
        if call == Call.MPROTECT:
            return Operation(call, process, (at, length, draw.choice((RW, abi.PROT_READ))))
        return Operation(call, process, (at, length))

    def follow(self, operation, answer):
        if not answer.ok:
            return
        if operation.call in (Call.SPAWN, Call.FORK):
            self.processes.append(answer.value)
            inherited = [m for m in self.mappings if m[0] == operation.process]
            self.mappings += [(answer.value, addr, pages) for _, addr, pages in inherited]
        elif operation.call == Call.MMAP:
            pages = operation.args[1] // PAGE
            self.mappings.append((operation.process, answer.value, pages))
        elif operation.call == Call.EXIT:
            self.processes.remove(operation.process)
            self.mappings = [m for m in self.mappings if m[0] != operation.process]


def boot(seed=5, profile="contig"):
    return Machine.boot(describe("spec:small"), seed=seed, profile=profile, cpus=2)


def drive(machine, script, steps):
    """Carry out a script one operation at a time; give what was asked and answered."""
    told = []
    for _ in range(steps):
        operation = script.next()
        answer = machine.run(operation)
        script.follow(operation, answer)
        told.append((operation, answer))
    return told


@pytest.fixture(scope="module")
def history():
    machine = boot()
    told = drive(machine, Script(11), 1500)
    machine.check()
    return machine, told


def test_the_script_is_worth_its_name(history):
    machine, told = history
    calls = {operation.call for operation, answer in told if answer.ok}
    assert calls >= {Call.SPAWN, Call.FORK, Call.EXIT, Call.MMAP, Call.MUNMAP, Call.TOUCH}
    assert sum(not answer.ok for _, answer in told) > 20
    assert machine.seq == len(told)


@pytest.mark.parametrize("size", [1, 7, 256, 1500])
def test_batches_of_any_size_leave_the_same_machine(history, size):
    machine, told = history
    twin = boot()
    answers = []
    for first in range(0, len(told), size):
        answers += twin.execute([operation for operation, _ in told[first : first + size]])
    assert answers == [answer for _, answer in told]
    assert twin.digest() == machine.digest()
    assert twin.snapshot() == machine.snapshot()


def test_the_methods_of_a_process_leave_the_same_machine(history):
    machine, told = history
    twin = boot()
    methods = {
        Call.MMAP: "mmap",
        Call.MUNMAP: "munmap",
        Call.MPROTECT: "mprotect",
        Call.FORK: "fork",
    }
    for operation, answer in told:
        name = methods.get(operation.call)
        if name is None:
            twin.run(operation)
            continue
        call = getattr(twin.process(operation.process), name)
        if answer.ok:
            call(*operation.args)
        else:
            with pytest.raises((SyscallError, MemoryFault)):
                call(*operation.args)
    assert twin.snapshot() == machine.snapshot()


def test_another_seed_is_another_machine(history):
    machine, told = history
    other = boot(seed=6)
    other.execute([operation for operation, _ in told])
    assert other.digest() != machine.digest()


@pytest.mark.parametrize("profile", ["contig", "rfc2017", "linux"])
def test_a_restored_machine_goes_on_bit_for_bit(profile):
    machine, script = boot(profile=profile), Script(12)
    drive(machine, script, 600)
    twin = Machine.restore(machine.snapshot())
    twin.check()
    assert twin.digest() == machine.digest()
    told = drive(machine, script, 1000)
    assert twin.execute([operation for operation, _ in told]) == [a for _, a in told]
    assert twin.digest() == machine.digest()
    assert twin.snapshot() == machine.snapshot()
    twin.check()


def test_damaged_snapshots_are_refused_with_a_sentence():
    snapshot = boot().snapshot()
    version = len(b"contigmm-machine")
    for bad in (
        b"",
        snapshot[:10],
        snapshot[:-1],
        snapshot + b"x",
        b"X" + snapshot[1:],
        snapshot[:version] + b"\7" + snapshot[version + 1 :],
        snapshot[:60] + bytes([snapshot[60] ^ 1]) + snapshot[61:],
        snapshot[:-5] + bytes([snapshot[-5] ^ 1]) + snapshot[-4:],
    ):
        with pytest.raises(SnapshotError):
            Machine.restore(bad)
    with pytest.raises(SnapshotError):
        Machine.restore(snapshot, max_bytes=64)


def test_a_snapshot_from_before_huge_pages_of_shared_memory_is_read():
    machine = boot()
    drive(machine, Script(4), 200)
    snapshot = machine.snapshot()
    head = len(b"contigmm-machine") + 1
    core, rest = (int.from_bytes(snapshot[at : at + 8], "big") for at in (head, head + 8))
    section = json.loads(zlib.decompress(snapshot[-rest:]))
    del section["settings"]["thp_shmem"]
    packed = zlib.compress(json.dumps(section).encode())
    lengths = core.to_bytes(8, "big") + len(packed).to_bytes(8, "big")
    old = b"contigmm-machine\2" + lengths + snapshot[head + 16 : -rest] + packed
    assert Machine.restore(old).digest() == machine.digest()
