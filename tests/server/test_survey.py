"""The map of the dashboard: what it tells of each pageblock, and how soon."""

import numpy as np
import pytest

from contigmm.abi import MAP_ANONYMOUS, MAP_POPULATE, MAP_PRIVATE, PROT_READ, PROT_WRITE
from contigmm.description import PageClass
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm_server.sight.dashboard import survey
from contigmm_server.sight.dashboard.survey import Survey

RW = PROT_READ | PROT_WRITE
POPULATED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE
GIB = 1 << 30


def _look(seen: Survey, machine: Machine) -> None:
    with machine.held() as memory:
        seen.take(memory, *memory.contig_runs())


def _complete(seen: Survey, machine: Machine) -> int:
    """Look until everything was seen; give how many looks that took."""
    looks = 0
    while not seen.is_complete or not looks:
        _look(seen, machine)
        looks += 1
    return looks


def _expected(machine: Machine) -> np.ndarray:
    """Class and share of every pageblock, by counting them all, one frame at a time."""
    with machine.held() as memory:
        counts = memory.class_counts().astype(int)
    cells = []
    for row in counts.tolist():
        present = 512 - row[PageClass.NOPAGE]
        used = list(row)
        for kind in (PageClass.FREE, PageClass.PCP, PageClass.NOPAGE):
            used[kind] = 0
        kind = int(np.argmax(used)) if any(used) else PageClass.FREE
        kind = kind if present else PageClass.NOPAGE
        cells.append((kind, -(-255 * sum(used) // max(present, 1))))
    return np.array(cells)


@pytest.fixture
def machine() -> Machine:
    return Machine.boot(describe("spec:medium"))


def test_a_change_is_seen_by_the_next_look_wherever_it_is(machine, monkeypatch):
    monkeypatch.setattr(survey, "BUDGET_S", 10.0)  # as if this computer were quick enough
    process, seen = machine.spawn("x"), Survey()
    _complete(seen, machine)
    addresses = [process.mmap(0, GIB // 4, RW, POPULATED) for _ in range(8)]
    seen.renew()
    _complete(seen, machine)
    for change in (
        lambda: process.munmap(addresses[0], GIB // 4),
        lambda: process.munmap(addresses[5] + 4096, 8192),
        lambda: process.mmap(0, 64 << 20, RW, POPULATED),
        lambda: process.mmap(0, 4096, RW, POPULATED),
    ):
        change()
        seen.renew()
        _look(seen, machine)
        np.testing.assert_array_equal(seen.cells[:, ::2], _expected(machine))


def test_what_mlock_does_is_seen_in_turn(machine, monkeypatch):
    monkeypatch.setattr(survey, "IN_TURN", 64)
    process, seen = machine.spawn("x", rlimits={"MEMLOCK": (GIB, GIB)}), Survey()
    address = process.mmap(0, 64 << 20, RW, POPULATED)
    _complete(seen, machine)
    process.mlock(address, 64 << 20)
    seen.renew()
    assert _complete(seen, machine) == len(seen.cells) // 64
    assert PageClass.MLOCKED in seen.cells[:, 0]
    np.testing.assert_array_equal(seen.cells[:, ::2], _expected(machine))


def test_a_look_counts_as_far_as_its_time_goes_and_the_next_ones_the_rest(machine, monkeypatch):
    monkeypatch.setattr(survey, "BUDGET_S", 0.0)
    monkeypatch.setattr(survey, "IN_TURN", 0)
    monkeypatch.setattr(survey, "PRINTS", 1000)
    seen = Survey()
    seen.renew()
    for _ in range(20):
        _look(seen, machine)
    np.testing.assert_array_equal(seen.cells[:, ::2], _expected(machine))
