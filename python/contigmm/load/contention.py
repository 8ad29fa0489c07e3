"""What a load's own requests would wait for one zone's lock, in simulated time, by number of CPUs.

The measured latency is that of a server, which carries out one command at a time. A kernel serves
many CPUs at once, and what they share is the zone's lock. Here each simulated CPU makes the
scenario's requests as fast as it can, and the CPU that is furthest behind goes on next, so that the
lock is had first come, first served. Nothing is measured: each figure follows from the costs of the
machine's steps (``rust/core/src/cost.rs``) and the allocator.
"""

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import Final

import numpy as np

from contigmm.description import MachineDescription
from contigmm.hosts import describe
from contigmm.load.fragmentation import PAGE_BYTES
from contigmm.load.scenario import Scenario
from contigmm.sim.boot import boot_memory
from contigmm.sim.costs import costs_of

CPUS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LARGEST_BYTES: Final = 4 << 20
"""A block of the allocator: what is larger empties a range, under many holds of the lock."""

_MACHINE: Final = "spec:large"
_HELD: Final = 2
_WARM: Final = 2
_REQUESTS_A_CPU: Final = 24
_LEAST_REQUESTS: Final = 640

Pages = tuple[int, ...]


@dataclass(frozen=True)
class Contended:
    """Simulated time of an allocation while so many CPUs allocate and free."""

    cpus: int
    mean_ns: float
    p99_ns: float


@dataclass(frozen=True)
class Contention:
    """The curve, and what it was made from."""

    rows: tuple[Contended, ...]
    costs: Mapping[str, int]
    """Of the steps that it consists of, by name."""

    def as_json(self) -> dict[str, object]:
        """Return what load/1 tells of it."""
        return {
            "costs": dict(self.costs),
            "machine": _MACHINE,
            "by_cpus": [
                {"cpus": row.cpus, "mean_ns": round(row.mean_ns), "p99_ns": round(row.p99_ns)}
                for row in self.rows
            ],
        }


def contention(scenario: Scenario, settings: Mapping[str, int | str]) -> Contention | None:
    """Simulate the contiguous requests of a scenario on 1 to 256 CPUs of one socket.

    ``settings``: of the machine that is loaded; they may say what a step costs. None: the scenario
    asks for nothing contiguous of up to 4 MiB.
    """
    weights: dict[int, float] = {}
    for group in scenario.groups:
        if group.memory != "contig":
            continue
        total = sum(group.sizes.weights)
        for size, weight in zip(group.sizes.sizes_bytes, group.sizes.weights, strict=True):
            if size <= LARGEST_BYTES:
                share = group.processes * weight / total
                weights[size] = weights.get(size, 0.0) + share
    if not weights:
        return None
    costs = costs_of(settings)
    empty = describe(_MACHINE, seed=scenario.seed)
    told: dict[str, int | str] = {f"cost_{name}": value for name, value in costs.items()}
    machine = replace(empty, settings=empty.settings | told)
    rows = tuple(_simulated(machine, weights, nr_cpus, scenario.seed) for nr_cpus in CPUS)
    return Contention(rows, costs)


def _simulated(
    machine: MachineDescription, weights: Mapping[int, float], nr_cpus: int, seed: int
) -> Contended:
    memory = boot_memory(machine, seed=seed, cpus=nr_cpus, costs=True)
    each = max(_REQUESTS_A_CPU, _LEAST_REQUESTS // nr_cpus)
    requests = [_requests(weights, each, f"{seed} {cpu}") for cpu in range(nr_cpus)]
    held: list[deque[tuple[int, int]]] = [deque() for _ in range(nr_cpus)]
    took_ns: list[int] = []
    order = [(memory.clock_ns(cpu), cpu, 0) for cpu in range(nr_cpus)]
    heapq.heapify(order)
    while order:
        # One call a turn: the lock is wanted at its beginning, so turns by clock are turns at it.
        began_ns, cpu, number = heapq.heappop(order)
        if len(held[cpu]) > _HELD:
            run, nr = held[cpu].popleft()
            memory.run_release(run=run, offset=0, nr=nr, cpu=cpu)
        elif number < each:
            nr = requests[cpu][number]
            held[cpu].append((memory.run_alloc(nr=nr, cpu=cpu)[0], nr))
            if number >= _WARM:
                took_ns.append(memory.clock_ns(cpu) - began_ns)
            number += 1
        else:
            continue
        heapq.heappush(order, (memory.clock_ns(cpu), cpu, number))
    return Contended(nr_cpus, float(np.mean(took_ns)), float(np.percentile(took_ns, 99)))


def _requests(weights: Mapping[int, float], times: int, seed: str) -> Pages:
    """Draw the pages of so many requests."""
    random = Random(f"contigmm load contention {seed}")
    pages = [-(-size // PAGE_BYTES) for size in weights]
    bounds = list(accumulate(weights.values()))
    return tuple(
        pages[min(bisect_right(bounds, random.random() * bounds[-1]), len(pages) - 1)]
        for _ in range(times)
    )
