"""/proc/meminfo: the kernel's text from its numbers, and the numbers of a simulated machine.

``golden/``: of a 6.18.44 x86-64 kernel, 2026-11-23.
"""

import re
from pathlib import Path

import pytest

from contigmm import abi
from contigmm.hosts import describe
from contigmm.procfs.meminfo import MEMINFO_LABELS, meminfo_text
from contigmm.sim.machine import Machine

GOLDEN = Path(__file__).parent / "golden/6.18.44-meminfo.txt"
PAGE = 4096
RW = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS
SHARED = abi.MAP_SHARED | abi.MAP_ANONYMOUS


def numbers(text):
    return {label: int(kb) for label, kb in re.findall(r"(?m)^([\w()]+): +(\d+)", text)}


@pytest.mark.parametrize("source", [GOLDEN, Path("/proc/meminfo")], ids=["golden", "running"])
def test_meminfo_is_the_kernels_byte_for_byte(source):
    if not source.exists() or tuple(numbers(source.read_text())) != MEMINFO_LABELS:
        pytest.skip("this host's kernel prints other lines")
    text = source.read_text()
    assert meminfo_text(numbers(text)) == text


def test_the_golden_text_has_all_lines():
    assert tuple(numbers(GOLDEN.read_text())) == MEMINFO_LABELS


def test_meminfo_follows_what_processes_do():
    machine = Machine.boot(describe("spec:small"), profile="linux", seed=1)
    process = machine.spawn("one", rlimits={"MEMLOCK": (1 << 30, 1 << 30)})
    before = numbers(machine.meminfo())
    assert before["MemTotal"] == 4 * sum(zone.managed for zone in machine.zones())
    assert before["MemFree"] == 4 * sum(zone.free for zone in machine.zones())
    assert before["CommitLimit"] == before["MemTotal"] // 8 * 4
    addr = process.mmap(0, 64 * PAGE, RW, PRIVATE)
    process.touch(addr, 64 * PAGE)
    shared = process.mmap(0, 16 * PAGE, RW, SHARED)
    process.touch(shared, 16 * PAGE)
    process.mmap(0, 16 * PAGE, abi.PROT_READ, PRIVATE)
    after = numbers(machine.meminfo())
    grown = {label: after[label] - before[label] for label in after}
    assert grown["AnonPages"] == 64 * 4
    assert grown["Inactive(anon)"] == (64 + 16) * 4
    assert grown["Shmem"] == grown["Cached"] == grown["Mapped"] == 16 * 4
    assert grown["Committed_AS"] == (64 + 16) * 4
    assert grown["PageTables"] > 0
    assert 0 < after["MemAvailable"] <= after["MemFree"]
    process.mlock(addr, 8 * PAGE)
    assert numbers(machine.meminfo())["Mlocked"] == 8 * 4


def test_half_of_the_cache_is_available_where_the_marks_are_high():
    machine = Machine.boot(describe("spec:small"), profile="linux", seed=1)
    process = machine.spawn("one")
    before = numbers(machine.meminfo())["MemAvailable"]
    fd = process.open("/var/data", abi.O_CREAT | abi.O_RDWR)
    process.ftruncate(fd, 32 * PAGE)
    addr = process.mmap(0, 32 * PAGE, abi.PROT_READ, abi.MAP_SHARED, fd)
    process.touch(addr, 32 * PAGE, write=False)
    after = numbers(machine.meminfo())
    assert after["Inactive(file)"] == 32 * 4
    tables = after["PageTables"]
    drained = sum(pcp.count for zone in machine.zones() for pcp in zone.pagesets) * 4
    assert before - after["MemAvailable"] == pytest.approx(16 * 4 + tables, abs=drained)


def test_smaps_rollup_sums_what_smaps_has():
    machine = Machine.boot(describe("spec:small"), profile="linux", seed=1)
    process = machine.spawn("one", rlimits={"MEMLOCK": (1 << 30, 1 << 30)})
    addr = process.mmap(0, 8 * PAGE, RW, PRIVATE)
    process.touch(addr, 8 * PAGE)
    process.mlock(addr, 2 * PAGE)
    shared = process.mmap(0, 8 * PAGE, RW, SHARED)
    process.touch(shared, 4 * PAGE)
    fd = process.open("/var/data", abi.O_CREAT | abi.O_RDWR)
    process.ftruncate(fd, 16 * PAGE)
    cached = process.mmap(0, 16 * PAGE, abi.PROT_READ, abi.MAP_SHARED, fd)
    process.touch(cached, 16 * PAGE, write=False)
    process.fork().touch(shared, 4 * PAGE)
    rollup = numbers(process.smaps_rollup())
    rows = re.findall(r"(?m)^(\w+): +(\d+) kB$", process.smaps())
    for label in rollup:
        if not label.startswith("Pss_") or label == "Pss_Dirty":
            assert rollup[label] == sum(int(kb) for name, kb in rows if name == label), label
    assert (rollup["Pss_Anon"], rollup["Pss_Shmem"], rollup["Pss_File"]) == (16, 8, 64)
    assert rollup["Locked"] == 4
    empty = machine.spawn("empty").smaps_rollup().splitlines()
    assert empty[0].split() == ["00000000-00000000", "---p", "00000000", "00:00", "0", "[rollup]"]
