"""When memory is out and reclaim frees none, the process with the most goes; others go on."""

import pytest

from contigmm import abi
from contigmm.errors import MemoryFault, SyscallError
from contigmm.hosts import describe
from contigmm.sim.machine import Machine, NoSuchProcessError
from contigmm.sim.oom import badness

RW = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_NORESERVE
PAGE = 4096
GIB = 1 << 30


@pytest.fixture
def machine():
    machine = Machine.boot(describe("spec:small"), profile="linux", seed=3)
    yield machine
    machine.check()


def hold(machine, name, nr_bytes):
    """A process that has touched so much memory, and where."""
    process = machine.spawn(name)
    addr = process.mmap(0, GIB, RW, PRIVATE)
    process.touch(addr, nr_bytes)
    return process, addr


def managed(machine):
    return sum(zone.managed for zone in machine.zones()) * PAGE


def test_a_hog_is_its_own_victim_with_a_reason(machine):
    process = machine.spawn("hog")
    addr = process.mmap(0, GIB, RW, PRIVATE)
    with pytest.raises(MemoryFault) as fault:
        process.touch(addr, GIB)
    assert (fault.value.signal, fault.value.reason) == (abi.SIGKILL, "no_room_after_reclaim")
    assert not machine.is_alive(process.id)
    assert machine.vmstat()["oom_kill"] == 1
    with pytest.raises((SyscallError, NoSuchProcessError)):
        process.touch(addr, PAGE)


def test_the_largest_goes_and_the_caller_goes_on(machine):
    large, _ = hold(machine, "large", managed(machine) // 2)
    small, addr = hold(machine, "small", managed(machine) // 8)
    other, _ = hold(machine, "other", managed(machine) // 16)
    assert small.touch(addr, managed(machine) * 5 // 8) == managed(machine) * 5 // 8 // PAGE
    assert [machine.is_alive(process.id) for process in (large, small, other)] == [
        False,
        True,
        True,
    ]
    assert machine.vmstat()["oom_kill"] == 1


def test_points_are_resident_pages_and_page_tables(machine):
    process, _ = hold(machine, "one", 3 * PAGE)
    mm = machine.entry(process.id).task.mm
    anon, file, shmem, table_bytes = mm.memory.rss(mm.id)
    assert (anon, file, shmem) == (3, 0, 0)
    assert badness(mm) == 3 + table_bytes // PAGE > 3


def test_whoever_shares_the_address_space_goes_too(machine):
    large, _ = hold(machine, "large", managed(machine) // 2)
    twin = large.clone(abi.CLONE_VM)
    small, addr = hold(machine, "small", managed(machine) // 8)
    small.touch(addr, managed(machine) * 5 // 8)
    assert [machine.is_alive(process.id) for process in (large, twin, small)] == [
        False,
        False,
        True,
    ]
    assert machine.vmstat()["oom_kill"] == 1


def test_the_same_operations_kill_the_same(machine):
    def after():
        twin = Machine.boot(describe("spec:small"), profile="linux", seed=3)
        for name in ("a", "b", "c"):
            hold(twin, name, managed(twin) * 2 // 5)
        return [process.id for process in twin.processes()], twin.digest()

    (alive, digest), again = after(), after()
    assert (alive, digest) == again
    assert len(alive) < 3
