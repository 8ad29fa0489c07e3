"""Eight threads on one machine: no operation is seen half done, and all invariants hold after."""

import contextlib
import sys
import threading
import time

import numpy as np
import pytest

from contigmm import abi
from contigmm.errors import SyscallError
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm.sim.operation import Call, Operation

RW = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS
PAGE = 4096
PFN = (1 << 55) - 1
NR_THREADS = 8
LIMITS = {"MEMLOCK": (1 << 40, 1 << 40)}


@pytest.fixture(autouse=True)
def eager_switching():
    """Let threads take turns as often as Python can, so that races have their chance."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def machine():
    return Machine.boot(describe("spec:small"), seed=1)


def run_threads(*bodies):
    failures = []

    def guarded(body, number):
        try:
            body(number)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the test must hear of it
            failures.append(failure)

    threads = [
        threading.Thread(target=guarded, args=(body, number)) for number, body in enumerate(bodies)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def worker(machine, stop_at):
    """A thread's work: map, touch, fork, unmap, in single operations and in batches."""

    def body(number):
        rng = np.random.default_rng(number)
        process = machine.spawn(f"thread-{number}", rlimits=LIMITS)
        mine = []
        while time.monotonic() < stop_at:
            nr = int(rng.choice([1, 16, 300, 600]))
            kind = abi.MAP_CONTIG if rng.random() < 0.5 else 0
            with contextlib.suppress(SyscallError):  # no memory, now and then
                addr = process.mmap(0, nr * PAGE, RW, PRIVATE | kind)
                process.touch(addr, nr * PAGE)
                process.write(addr, bytes([number]) * 8)
                mine.append((addr, nr))
            if rng.random() < 0.2:
                child = process.fork()
                child.exit()
            if len(mine) > 4:
                addr, nr = mine.pop(0)
                assert process.read(addr, 8) == bytes([number]) * 8
                unmap = Operation(Call.MUNMAP, process.id, (addr, nr * PAGE))
                assert machine.execute([unmap, unmap])[0].ok

    return body


def observer(machine, stop_at, seen):
    """Look at everybody's pages at one moment: no frame has two owners that are not kin."""

    def body(_):
        while time.monotonic() < stop_at:
            with machine.held():
                owners = {}
                seq = machine.seq
                for process in machine.processes():
                    entry = machine.entry(process.id)
                    kin = entry.parent or entry.id
                    for vma in entry.task.mm.all_vmas():
                        words = process.pagemap(vma.vm_start, vma.vm_end - vma.vm_start)
                        for pfn in (words & PFN)[words >> 63 == 1].tolist():
                            assert owners.setdefault(pfn, kin) == kin, f"frame {pfn} owned twice"
                assert machine.seq == seq, "the machine moved on although it was held"
            seen.append(seq)
            time.sleep(0.002)

    return body


def test_eight_threads_share_a_machine(machine):
    stop_at = time.monotonic() + 2.0
    seen = []
    workers = [worker(machine, stop_at) for _ in range(NR_THREADS)]
    run_threads(*workers, observer(machine, stop_at, seen))
    machine.check()
    assert len(set(seen)) > 5, "the observer saw the machine move"
    for process in machine.processes():
        process.exit()
    machine.check()
    free = sum(zone.free + sum(pcp.count for pcp in zone.pagesets) for zone in machine.zones())
    assert free == sum(zone.managed for zone in machine.zones())


def test_the_order_has_no_gap_and_no_operation_twice(machine):
    told = []
    machine.journal = lambda seq, operation, answer: told.append(seq)

    def body(_):
        process = machine.spawn("one")
        for _ in range(50):
            machine.execute([Operation(Call.MMAP, process.id, (0, PAGE, RW, PRIVATE, -1, 0))] * 4)

    run_threads(*[body] * NR_THREADS)
    assert told == list(range(1, NR_THREADS * (1 + 200) + 1))
    assert machine.seq == told[-1]


def test_a_batch_is_not_interrupted(machine):
    """Between the operations of one batch no other thread's operation is carried out."""
    told = []
    machine.journal = lambda seq, operation, answer: told.append(operation.process)

    def body(_):
        process = machine.spawn("one")
        for _ in range(20):
            machine.execute([Operation(Call.MUNMAP, process.id, (0, PAGE))] * 25)

    run_threads(*[body] * NR_THREADS)
    unmaps = [process for process in told if process]
    for first in range(0, len(unmaps), 25):
        assert len(set(unmaps[first : first + 25])) == 1


def test_long_calls_let_other_threads_run(machine):
    """While one thread faults in 64 MiB in one call, another gets to run Python.

    It may be slow to be scheduled, so the call is made until it was, or 40 times.
    """
    process = machine.spawn("one", rlimits=LIMITS)
    length = 64 << 20
    ticks, done, gained = [0], threading.Event(), []

    def counter(_):
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0)  # give the GIL back

    def toucher(_):
        sys.setswitchinterval(60)  # from here on only a call that releases the GIL lets others run
        time.sleep(0.01)  # a request to give it up that was made before has been met
        while not (done.is_set() or len(gained) == 40):
            addr = process.mmap(0, length, RW, PRIVATE)
            before = ticks[0]
            process.touch(addr, length)
            gained.append(ticks[0] - before)
            process.munmap(addr, length)
            if gained[-1]:
                break
        done.set()

    run_threads(counter, toucher)
    assert gained[-1] > 0, "a long call held the GIL"
