"""What a machine prints: rows gathered from processes and frames."""

import pytest

from contigmm import abi, open_machine, procfs

RW = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS
PAGE = 4096
LIMITS = {"MEMLOCK": (1 << 30, 1 << 30)}


@pytest.fixture
def machine():
    return open_machine("spec:small", seed=1)


def test_a_machine_prints_its_processes(machine):
    p = machine.spawn("one", rlimits=LIMITS)
    shared = p.mmap(0, 2 * PAGE, RW, abi.MAP_SHARED | abi.MAP_ANONYMOUS)
    private = p.mmap(shared - (8 << 20), PAGE, abi.PROT_READ, PRIVATE)
    end = shared + 2 * PAGE
    assert p.maps().splitlines() == [
        f"{private:x}-{private + PAGE:x} r--p 00000000 00:00 0 ",
        f"{shared:x}-{end:x} rw-s 00000000 00:01 1                          /dev/zero (deleted)",
    ]
    assert p.statm() == "3 0 0 0 0 0 0\n"


def test_smaps_and_status_count_what_was_touched(machine):
    p = machine.spawn("one", rlimits=LIMITS)
    addr = p.mmap(0, 8 * PAGE, RW, PRIVATE)
    p.touch(addr, 3 * PAGE)
    p.mlock(addr, 2 * PAGE)
    text = p.smaps()
    assert text.count("Rss:") == 2
    assert "Locked:                8 kB\n" in text
    assert "VmFlags: rd wr mr mw me lo ac \n" in text
    status = p.status()
    assert (status["VmSize"], status["RssAnon"], status["VmLck"]) == (32, 12, 8)
    with machine.held():
        assert "VmRSS:\t      12 kB\n" in procfs.status_lines(machine.entry(p.id).task)


def test_zone_and_node_counters_follow_the_frames(machine):
    p = machine.spawn("one", rlimits=LIMITS)
    addr = p.mmap(0, 64 * PAGE, RW, PRIVATE)
    p.touch(addr, 64 * PAGE)
    p.mlock(addr, 16 * PAGE)
    shared = p.mmap(0, 8 * PAGE, RW, abi.MAP_SHARED | abi.MAP_ANONYMOUS)
    p.touch(shared, 8 * PAGE)
    zones = machine.zones()
    with machine.held() as memory:
        nodes = procfs.node_stats(memory)
        free = memory.zones()
    assert sum(zone.stats.get("nr_mlock", 0) for zone in zones) == 16
    assert sum(zone.stats.get("nr_zone_inactive_anon", 0) for zone in zones) == 48 + 8
    assert (nodes[0]["nr_anon_pages"], nodes[0]["nr_shmem"]) == (64, 8)
    assert nodes[0]["nr_page_table_pages"] == p.status()["VmPTE"] // 4 + 1  # and the PGD
    text = procfs.zoneinfo(zones, nodes)
    assert f"  pages free     {free[0]['free']}\n" in text
    assert "      nr_shmem     8\n" in text
    assert text.count("Node 0, zone") == 5


def test_an_empty_address_space_prints_nothing(machine):
    p = machine.spawn("one")
    assert (p.maps(), p.smaps(), p.statm()) == ("", "", "0 0 0 0 0 0 0\n")
    assert len(p.pagemap(1 << 60, 10 * PAGE)) == 0
