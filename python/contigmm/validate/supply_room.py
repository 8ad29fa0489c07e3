"""Steps of a record that make room: faults that compact, huge-page pools, compaction of all memory.

The steps are run in their order on one machine a draw, booted from the last snapshot before them;
what is told of a step is its request only. A folio that is refused leaves a single page in its
place, as the fault does.

Who records writes the snapshot to a file before the first step. Its pages are in no snapshot, and
they matter: a large folio that is not on disk yet cannot be split, and one without a target ends a
run of compaction (docs/compaction.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from contigmm.hosts import Builder, Evidence
from contigmm.hosts.draft import Subject, stream
from contigmm.phys import CoreError, Memory
from contigmm.phys.gfp import GFP
from contigmm.sim.boot import boot_memory
from contigmm.validate.gigantic import fill_gigantic
from contigmm.validate.khugepaged import PMD_ORDER, enable_size
from contigmm.validate.supply import TABLE_GFP, Ask, probe
from contigmm.validate.supply_gap import (
    RECORDER,
    code_snapshot,
    draw_cpus,
    draw_move,
    recorders_cpu,
)

#: A fault in advised memory with ``defrag`` at always: mm/huge_memory.c:vma_thp_gfp_mask(), v6.12.
ALWAYS_GFP: Final = GFP["GFP_TRANSHUGE"]
#: What is tried first at the PMD's size: mm/mempolicy.c:alloc_pages_mpol(), v6.12.
LOCAL_GFP: Final = ALWAYS_GFP | GFP["__GFP_THISNODE"] | GFP["__GFP_NORETRY"]
#: A page of the pool: mm/hugetlb.c:htlb_alloc_mask(), alloc_buddy_hugetlb_folio(), v6.12.
POOL_GFP: Final = (
    GFP["GFP_HIGHUSER_MOVABLE"]
    | GFP["__GFP_COMP"]
    | GFP["__GFP_NOWARN"]
    | GFP["__GFP_THISNODE"]
    | GFP["__GFP_RETRY_MAYFAIL"]
)
PAGE_GFP: Final = GFP["GFP_HIGHUSER_MOVABLE"]
_PMD_KIB: Final = 2048
_COUNTERS: Final = (
    "compact_migrate_scanned",
    "compact_free_scanned",
    "pgmigrate_success",
    "pgmigrate_fail",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one step came to: folios or pages delivered, pageblocks free before and after."""

    delivered: int
    blocks9_before: int
    blocks9_after: int
    counters: Mapping[str, int]


def makes_room(step: Mapping[str, Any]) -> bool:
    """Tell whether a step may compact or reclaim."""
    return not (step.get("step") == "fault" and step.get("defrag") == "never")


def forecast_steps(
    snapshot: Evidence,
    steps: Sequence[Mapping[str, Any]],
    *,
    written: int,
    draws: int,
    seed: int,
) -> list[list[Outcome]]:
    """Run all steps once a draw; return the outcomes of each draw, step by step.

    ``written`` is the size in bytes of the file that the snapshot was written to.
    """
    builder = Builder(snapshot)
    return [
        list(_run(builder, snapshot, steps, written=written, seed=seed + n)) for n in range(draws)
    ]


def _run(
    builder: Builder,
    snapshot: Evidence,
    steps: Sequence[Mapping[str, Any]],
    *,
    written: int,
    seed: int,
) -> Iterator[Outcome]:
    memory = boot_memory(builder.build(seed=seed), seed=seed, cpus=None, costs=False)
    rng = stream(seed, Subject.BETWEEN)
    recorder = recorders_cpu(snapshot, memory.nr_cpus(), rng)
    clock = code_snapshot(memory, snapshot, rng, cpu=recorder, written=written)
    cpus = draw_cpus(len(steps), memory.nr_cpus(), rng, first=recorder)
    for step, cpu in zip(steps, cpus, strict=True):
        before, counted = free_pageblocks(memory), memory.vmstat()
        delivered = run_step(memory, step, cpu, rng)
        now = memory.vmstat()
        clock.pass_by(RECORDER.seconds_a_step)
        yield Outcome(
            delivered,
            before,
            free_pageblocks(memory),
            {name: now[name] - counted[name] for name in _COUNTERS},
        )


def run_step(memory: Memory, step: Mapping[str, Any], cpu: int, rng: np.random.Generator) -> int:
    """Run one step's requests, at first on a CPU; return how many folios or pages it got."""
    kind = step.get("step")
    if kind == "compact_memory":
        memory.compact_memory(cpu=cpu)
        return 0
    if kind == "hugetlb" and int(step["kib"]) == _PMD_KIB:
        return _fill_pool(memory, int(step["requested"]), cpu)
    if kind == "hugetlb":
        return fill_gigantic(memory, int(step["kib"]), int(step["requested"]), cpu)
    if kind != "fault":
        return 0
    enable_size(memory, int(step["order"]))
    if makes_room(step):
        asked = int(step["max"])
        return _fault_always(
            memory, int(step["order"]), draw_move(cpu, asked, memory.nr_cpus(), rng)
        )
    memory.set_direct_reclaim(False)
    got = probe(memory, Ask(int(step["order"]), int(step["max"])), cpu=cpu)
    memory.set_direct_reclaim(True)
    return got


def _fault_always(memory: Memory, order: int, cpus: Sequence[int]) -> int:
    """Fault in a folio on each of these CPUs, which may compact; give everything back."""
    folios: list[int] = []
    pages: list[int] = []
    a_table = 1 << (PMD_ORDER - order)
    for number, cpu in enumerate(cpus):
        if number % a_table == 0:
            pages += _one(memory, 0, TABLE_GFP, cpu)
        got = _one(memory, order, LOCAL_GFP, cpu) if order == PMD_ORDER else []
        got = got or _one(memory, order, ALWAYS_GFP, cpu)
        folios += got
        if not got:
            pages += _one(memory, 0, PAGE_GFP, cpu)
    memory.free_batch(np.array(folios, np.uint32), order=order, cpu=cpus[-1])
    memory.free_batch(np.array(pages, np.uint32), order=0, cpu=cpus[-1])
    return len(folios)


def _fill_pool(memory: Memory, asked: int, cpu: int) -> int:
    """Grow the pool of 2 MiB pages until one is refused; empty it again."""
    pool: list[int] = []
    while len(pool) < asked:
        got = _one(memory, PMD_ORDER, POOL_GFP, cpu)
        if not got:
            break
        pool += got
    memory.free_batch(np.array(pool, np.uint32), order=PMD_ORDER, cpu=cpu)
    return len(pool)


def _one(memory: Memory, order: int, gfp: int, cpu: int) -> list[int]:
    try:
        return [memory.alloc_pages(order=order, gfp=gfp, cpu=cpu)]
    except CoreError:
        return []


def free_pageblocks(memory: Memory) -> int:
    """Return how many blocks of order 9 are free."""
    rows = memory.buddyinfo()
    return int(rows[:, 9].sum() + 2 * rows[:, 10].sum())
