"""How long an allocation takes when many CPUs want one zone's lock, in simulated time.

The published curve is that of Wrenger et al., *LLFree* (USENIX ATC 2023): a kernel module on
Linux 6.0 and one socket of 26 cores allocates movable blocks as fast as it can and keeps them.
Four physical costs come from its times of 1 and 8 threads at both orders; everything else, 26
threads included, is simulated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from contigmm.phys import contention_study, default_costs

SCHEMA: Final = "study-contention/1"
CPUS: Final = (1, 2, 4, 8, 16, 26, 32, 64, 128, 256)
ORDERS: Final = (0, 9)

#: ns per allocation by order and threads: the paper's text for 1, 8 and 26; the others are means of
#: its artifact's raw data (luhsra/llfree-bench, tag atc23-artifact-eval, module/latest-bu-c/bulk).
PUBLISHED: Final = {
    0: {1: 94, 2: 104, 4: 149, 8: 298, 16: 598, 26: 984},
    9: {1: 2615, 2: 5394, 4: 11_141, 8: 22_445, 16: 44_860, 26: 73_003},
}
#: Threads whose times the costs are derived from.
KNOWN: Final = (1, 8)

#: Another machine (24 cores of 2.1 GHz), whose kernel did not look at descriptors when it refilled
#: a per-CPU list: A. Halbuer, "mm: reduce lock contention of pcp buffer refill", linux-mm, February
#: 2023, column NoCheck (the headings of its two tables are interchanged).
UNCHECKED_24: Final = {9: 7061, 0: 982}

#: Frames of a refill of single frames in Linux 6.0, and blocks of one of huge pages:
#: zone_batchsize() and rmqueue_pcplist(), mm/page_alloc.c v6.0.
BATCH: Final = {0: 63, 9: 2}
CORES_A_SOCKET: Final = 26
_FRAMES: Final = 1 << 26
_BLOCKS: Final = {0: 20_160, 9: 2_520}


class ContentionError(ValueError):
    """The study cannot be made with these arguments; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What differs between kernels: how much a refill takes, and what it does under the lock."""

    name: str
    batch: int | None
    """Frames of a refill, fixed; None for the tuning since 6.7."""
    checks: bool
    """Whether each frame's descriptor is looked at under the lock: until 6.2."""


#: The kernel of the paper, and the one that machines here follow.
KERNELS: Final = (Kernel("6.0", BATCH[0], checks=True), Kernel("6.12", None, checks=False))


def derived_costs(times: dict[int, dict[int, float]]) -> dict[str, int]:
    """Derive costs from ns per allocation of orders 0 and 9, by one thread and by many.

    Four unknowns, four equations. A thread alone waits for nobody, and the lock never leaves it;
    many threads keep the lock always busy, and each hold begins with a hand-over, so that an
    allocation takes as long as all threads need under the lock::

        t(order, 1) = outside + block + 2^order check + lock / held
        t(order, n) = n (block + 2^order check + (lock + handover) / held)

    ``held`` is the blocks of one hold: :data:`BATCH`. The uncontended ``lock`` keeps its default.

    Raises:
        ContentionError: no such costs explain the times.
    """
    lock = default_costs()["lock_ns"]
    many = max(times[0])
    outside_and = {order: times[order][1] - times[order][many] / many for order in ORDERS}
    handover = (outside_and[0] - outside_and[9]) / (1 / BATCH[9] - 1 / BATCH[0])
    outside = outside_and[0] + handover / BATCH[0]
    inside = {order: times[order][1] - outside - lock / BATCH[order] for order in ORDERS}
    check = (inside[9] - inside[0]) / 511
    block = inside[0] - check
    if min(handover, outside - default_costs()["pcp_ns"], check, block) < 0:
        raise ContentionError(
            f"Times of 1 and {many} threads that give a negative cost describe no queue at a lock."
        )
    costs = default_costs()
    costs["alloc_ns"] = round(outside) - costs["pcp_ns"]
    costs["buddy_ns"] = round(block)
    costs["refill_check_ps"] = round(1000 * check)
    costs["handover_ns"] = round(handover)
    costs["handover_far_ns"] = 2 * costs["handover_ns"]
    return costs


def paper_costs() -> dict[str, int]:
    """Return the costs of the paper's machine, from its times of 1 and 8 threads."""
    return derived_costs(
        {order: {cpus: PUBLISHED[order][cpus] for cpus in KNOWN} for order in ORDERS}
    )


def allocation_ns(
    kernel: Kernel, *, order: int, cpus: int, costs: dict[str, int]
) -> tuple[float, float]:
    """Simulate ``cpus`` CPUs, 26 a socket: ns per allocation, blocks per hold of the lock.

    Raises:
        ContentionError: the machine cannot be simulated.
    """
    blocks = max(1, min(_BLOCKS.get(order, 2_520), (_FRAMES >> order) * 9 // 10 // cpus))
    charged = costs if kernel.checks else {**costs, "refill_check_ps": 0}
    try:
        total_ns, done, holds = contention_study(
            frames=_FRAMES,
            cpu_nodes=_sockets(cpus),
            order=order,
            blocks=blocks,
            batch=kernel.batch,
            costs=json.dumps(charged),
        )
    except ValueError as error:
        raise ContentionError(f"Such a machine cannot be simulated: {error}.") from error
    return total_ns / done, done / max(holds, 1)


def _sockets(cpus: int) -> list[int]:
    """Return the node of each CPU in the order of their first arrival, which is drawn."""
    nodes = [cpu // CORES_A_SOCKET for cpu in range(cpus)]
    Random(cpus).shuffle(nodes)
    return nodes


def contention(
    *, cpus: tuple[int, ...], orders: tuple[int, ...], costs: dict[str, int] | None
) -> dict[str, Any]:
    """Run the study; ``costs`` None for the paper's machine.

    Raises:
        ContentionError: arguments that no machine can have.
    """
    used = paper_costs() if costs is None else costs
    report: dict[str, Any] = {"costs": used, "curve": []}
    for kernel in KERNELS:
        for order in orders:
            for nr in cpus:
                ns, per_hold = allocation_ns(kernel, order=order, cpus=nr, costs=used)
                row = {"kernel": kernel.name, "order": order, "cpus": nr}
                row |= {"ns": round(ns, 1), "blocks_per_hold": round(per_hold, 1)}
                report["curve"].append(row)
    if costs is None:
        report["derived_from"] = {"threads": list(KNOWN), "orders": list(ORDERS)}
        report["predictions"] = _predictions(used)
    return report


def _predictions(costs: dict[str, int]) -> list[dict[str, Any]]:
    """Hold simulated times against published ones that the costs were not derived from."""
    rows = []
    unchecked = Kernel("6.0 without checks", BATCH[0], checks=False)
    published = [
        (KERNELS[0], order, cpus, ns) for order in ORDERS for cpus, ns in PUBLISHED[order].items()
    ]
    published += [(unchecked, order, 24, ns) for order, ns in UNCHECKED_24.items()]
    for kernel, order, cpus, published_ns in published:
        ns, _ = allocation_ns(kernel, order=order, cpus=cpus, costs=costs)
        row = {"kernel": kernel.name, "order": order, "cpus": cpus, "published_ns": published_ns}
        row |= {"ns": round(ns, 1), "error": round(ns / published_ns - 1, 4)}
        row["known"] = kernel.checks and cpus in KNOWN
        rows.append(row)
    return rows


def dumps(report: dict[str, Any], *, version: str) -> str:
    """Return the report as one JSON object."""
    return json.dumps({"schema": SCHEMA, "contigmm": version, **report})


def summary_lines(report: dict[str, Any]) -> list[str]:
    """Return what people read: costs, published times, and the curve."""
    costs = report["costs"]
    lines = [
        f"costs in ns: outside the lock {costs['alloc_ns'] + costs['pcp_ns']}; under it "
        f"{costs['buddy_ns']} a block and {costs['refill_check_ps'] / 1000:.2f} a frame looked at; "
        f"hand-over {costs['handover_ns']}, from another socket {costs['handover_far_ns']}"
    ]
    for row in report.get("predictions", []):
        told = "known" if row["known"] else f"{100 * row['error']:+.1f} %"
        lines.append(
            f"Linux {row['kernel']}, order {row['order']}, {row['cpus']:2} threads: published "
            f"{row['published_ns']:6} ns, simulated {row['ns']:8.0f} ns ({told})"
        )
    lines.append("ns per allocation    " + "".join(f"{name:>22}" for name in _columns(report)))
    by_cpus: dict[int, list[str]] = {}
    for row in report["curve"]:
        cell = f"{row['ns']:.0f} ({row['blocks_per_hold']:.0f} a hold)"
        by_cpus.setdefault(row["cpus"], []).append(cell)
    lines += [
        f"{cpus:4} CPUs            " + "".join(f"{cell:>22}" for cell in cells)
        for cpus, cells in by_cpus.items()
    ]
    return lines


def _columns(report: dict[str, Any]) -> list[str]:
    named = dict.fromkeys((row["kernel"], row["order"]) for row in report["curve"])
    return [f"{kernel}, order {order}" for kernel, order in named]
