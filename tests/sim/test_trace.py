"""A trace tells what the allocator did, as the kernel's tracepoints do, and changes nothing."""

import re

import numpy as np
import pytest

from contigmm.hosts import describe
from contigmm.phys import gfp
from contigmm.sim.machine import Machine
from contigmm.sim.trace import NO_PFN, TRACEPOINTS, TraceError, gfp_text

PAGE = 4096
RW = 3
PRIVATE_ANON = 0x22


@pytest.fixture
def machine():
    return Machine.boot(describe("spec:small"))


def _churn(machine):
    """Map, fill, unmap; then fragment, fall back, and compact."""
    process = machine.spawn()
    address = process.mmap(0, 3000 * PAGE, RW, PRIVATE_ANON)
    process.touch(address, 3000 * PAGE, write=True)
    for page in range(0, 3000, 2):
        process.munmap(address + page * PAGE, PAGE)
    with machine.held() as memory:
        taken = memory.alloc_batch(
            1 << 20, order=0, gfp=gfp.GFP["GFP_KERNEL"] & ~gfp.DIRECT_RECLAIM
        )
        memory.free_batch(taken[::-1][::2].copy(), order=0)
        memory.compact_memory()
    process.exit(0)


def test_each_fault_and_each_free_is_told(machine):
    process = machine.spawn()
    address = process.mmap(0, 64 * PAGE, RW, PRIVATE_ANON)
    process.touch(address, PAGE, write=True)  # page tables
    with machine.trace() as trace:
        process.touch(address, 64 * PAGE, write=True)
        given = trace.read().of("mm_page_alloc")
        frames = [entry & (1 << 55) - 1 for entry in process.pagemap(address, 64 * PAGE)][1:]
        process.munmap(address, 64 * PAGE)
        events = trace.read()
    assert given["pfn"].tolist() == frames
    assert set(given["migratetype"].tolist()) == {1}
    assert set(given["order"].tolist()) == {0}
    assert np.all(given["gfp_flags"] & gfp.MOVABLE)
    assert set(frames) <= set(events.of("mm_page_free")["pfn"].tolist())


def test_to_listen_changes_nothing(machine):
    other = Machine.boot(describe("spec:small"))
    with machine.trace(capacity=16) as trace:
        _churn(machine)
        assert trace.read().dropped > 10_000
    _churn(other)
    assert machine.digest() == other.digest()


def test_what_left_the_lists_and_what_came_back_is_what_is_missing(machine):
    """Blocks that left the free lists, those drained, and those freed past per-CPU lists."""

    def free_pages():
        with machine.held() as memory:
            return int(np.sum(memory.buddyinfo() @ (1 << np.arange(11))))

    before = free_pages()
    with machine.trace(1 << 22) as trace:
        process = machine.spawn()
        address = process.mmap(0, 3000 * PAGE, RW, PRIVATE_ANON)
        process.touch(address, 3000 * PAGE, write=True)
        process.munmap(address, 3000 * PAGE)
        events = trace.read()
    assert events.dropped == 0
    left = events.of("mm_page_alloc_zone_locked")["order"].astype(np.int64)
    back = events.of("mm_page_pcpu_drain")["order"].astype(np.int64)
    fallback = events.of("mm_page_alloc_extfrag")
    # __rmqueue_claim() of a whole pageblock and __rmqueue_steal() tell this only, v6.12.
    silent = (fallback["fallback_order"] >= 9) | (fallback["change_ownership"] == 0)
    alone = fallback["alloc_order"][silent].astype(np.int64)
    taken = np.sum(1 << left) + np.sum(1 << alone) - np.sum(1 << back)
    assert before - free_pages() == taken > 3000


def test_falling_back_and_compacting_is_told(machine):
    with machine.trace(1 << 22) as trace:
        _churn(machine)
        events = trace.read()
    with machine.held() as memory:
        vmstat = dict(memory.vmstat())
    fallbacks = events.of("mm_page_alloc_extfrag")
    assert len(fallbacks["pfn"]) == vmstat["pageblock_claim"] + vmstat["page_steal"] > 0
    assert set(fallbacks["alloc_migratetype"].tolist()) == {0}
    assert events.count("mm_compaction_begin") == events.count("mm_compaction_end") > 0
    migrated = events.of("mm_compaction_migratepages")["nr_migrated"]
    assert migrated.sum() == vmstat["pgmigrate_success"]


def test_a_refused_request_is_told_without_a_frame(machine):
    with machine.held() as memory:
        taken = memory.alloc_batch(1 << 20, order=10, gfp=gfp.GFP["GFP_NOWAIT"])
    with machine.trace() as trace, machine.held() as memory:
        with pytest.raises(OSError, match="the mark is"):
            memory.alloc_pages(order=10, gfp=gfp.GFP["GFP_NOWAIT"])
        memory.free_batch(taken, order=10)
        (event, *freed) = trace.read().text()
    assert event.endswith(
        "mm_page_alloc: page=0000000000000000 pfn=0x0 order=10 migratetype=0 gfp_flags=GFP_NOWAIT"
    )
    assert all("mm_page_free:" in line for line in freed)


#: What each tracepoint prints: include/trace/events/kmem.h and compaction.h, v6.12.
FORMS = {
    "mm_page_alloc": r"PAGE order=\d+ migratetype=\d gfp_flags=[A-Z_|]+",
    "mm_page_free": r"PAGE order=\d+",
    "mm_page_free_batched": r"PAGE order=0",
    "mm_page_alloc_zone_locked": r"PAGE order=\d+ migratetype=\d percpu_refill=[01]",
    "mm_page_pcpu_drain": r"PAGE order=\d+ migratetype=\d",
    "mm_page_alloc_extfrag": (
        r"PAGE alloc_order=\d+ fallback_order=\d+ pageblock_order=9 alloc_migratetype=\d "
        r"fallback_migratetype=\d fragmenting=[01] change_ownership=[01]"
    ),
    "mm_compaction_begin": (
        r"zone_start=HEX migrate_pfn=HEX free_pfn=HEX zone_end=HEX, mode=(a?)sync"
    ),
    "mm_compaction_end": (
        r"zone_start=HEX migrate_pfn=HEX free_pfn=HEX zone_end=HEX, mode=(a?)sync status=[a-z_]+"
    ),
    "mm_compaction_migratepages": r"nr_migrated=\d+ nr_failed=\d+",
}


def test_lines_are_as_trace_pipe_prints_them(machine):
    assert FORMS.keys() == {name for name, _ in TRACEPOINTS}
    with machine.trace(1 << 22) as trace:
        _churn(machine)
        events = trace.read()
    seen = set()
    for line in events.text():
        head = re.match(r" +simulated-0 +\[000\] \.\.\.\.\. +\d+\.\d{6}: (\w+): (.*)", line)
        name, told = head.groups()
        form = FORMS[name].replace("PAGE", r"page=(ffffea|000000)[0-9a-f]{10} pfn=HEX")
        assert re.fullmatch(form.replace("HEX", "0x[0-9a-f]+"), told), line
        seen.add(name)
    assert seen == FORMS.keys() - {"mm_page_free_batched"}


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (0, "none"),
        (
            gfp.GFP["GFP_HIGHUSER_MOVABLE"] | gfp.GFP["__GFP_ZERO"],
            "GFP_HIGHUSER_MOVABLE|__GFP_ZERO",
        ),
        (gfp.GFP["GFP_KERNEL"] | gfp.GFP["__GFP_COMP"], "GFP_KERNEL|__GFP_COMP"),
        (gfp.GFP["__GFP_DIRECT_RECLAIM"], "__GFP_DIRECT_RECLAIM"),
        (1 << 26, "0x4000000"),
    ],
)
def test_flags_are_named_as_the_kernel_names_them(flags, text):
    assert gfp_text(flags) == text


def test_one_listens_at_a_time_and_only_within_bounds(machine):
    with machine.trace(), pytest.raises(TraceError, match="being traced already"):
        machine.trace().__enter__()
    with machine.trace() as trace, pytest.raises(TraceError, match="is called 'mm_tea'"):
        trace.read().of("mm_tea")
    with pytest.raises(TraceError, match="keeps 1 to"):
        machine.trace(0)
    assert NO_PFN == 2**32 - 1
