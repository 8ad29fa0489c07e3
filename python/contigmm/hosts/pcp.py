"""Pages on per-CPU lists: /proc/zoneinfo tells how many; which frames they are is drawn.

Such pages show no flag at all, like other kernel pages without a type, so they are drawn from the
blank ones: a part of those in pageblocks of the kernel's types, the others from Movable ones, where
the kernel's own pages seldom lie. A run of neighbours was mostly freed together, so runs are drawn,
not frames. Long ones are the kernel's buffers rather than pages that were freed one by one, and
come last; a single one is more often a page of the kernel's than one of a run is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    UNKNOWN_MIGRATETYPE,
    MigrateType,
    PcpPages,
    ZoneDescription,
)
from contigmm.hosts.kpageflags import UsedRuns
from contigmm.hosts.rle import I64

#: Lists exist for these types; pages of other types go to the Movable list: include/linux/mmzone.h
#: (``MIGRATE_PCPTYPES``) and mm/page_alloc.c:free_unref_page(), v6.12.
_PCP_TYPES = (MigrateType.UNMOVABLE, MigrateType.MOVABLE, MigrateType.RECLAIMABLE)
_PINNED = (MigrateType.UNMOVABLE, MigrateType.RECLAIMABLE)
#: Runs of so many blank frames are taken for buffers as long as others are left.
_LONG_RUN = 64
#: The part of the blank frames in pageblocks of a kernel type that are on lists, and the most that
#: they make up of what lists hold: medians of what left the lists of recorded machines that were
#: drained later (docs/supply.md).
_PART_LISTED = {MigrateType.UNMOVABLE: 0.4, MigrateType.RECLAIMABLE: 0.9}
_MOST_OF_LISTS = {MigrateType.UNMOVABLE: 0.5, MigrateType.RECLAIMABLE: 0.25}
#: How likely a single blank frame is drawn beside a run.
_WEIGHT_OF_SINGLES = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """Blocks drawn for one zone's lists, all CPUs, in list order."""

    pfn: I64
    order: npt.NDArray[np.uint8]
    cpu: I64


def draw_pcp(
    used: UsedRuns,
    zones: tuple[ZoneDescription, ...],
    types: npt.NDArray[np.uint8],
    rng: np.random.Generator,
) -> tuple[PcpPages, int]:
    """Return the pages on per-CPU lists, and how many of those told no blank frame was left for."""
    drawn, short = [], 0
    blank = used.take(used.blank)
    for zone in zones:
        wanted = [pcp.count for pcp in zone.pcp]
        found = _draw_zone(_frames(blank, zone, types), types, zone, rng)
        short += sum(wanted) - int((1 << found.order.astype(np.int64)).sum())
        drawn.append(found)
    pfn = np.concatenate([one.pfn for one in drawn])
    told = types[pfn >> PAGEBLOCK_ORDER]
    listed = np.where(np.isin(told, _PCP_TYPES), told, MigrateType.MOVABLE)
    return (
        PcpPages(
            pfn=pfn.astype(np.uint32),
            cpu=np.concatenate([one.cpu for one in drawn]).astype(np.uint16),
            order=np.concatenate([one.order for one in drawn]),
            migratetype=listed.astype(np.uint8),
        ),
        short,
    )


def _frames(blank: UsedRuns, zone: ZoneDescription, types: npt.NDArray[np.uint8]) -> I64:
    """Return the zone's blank frames that lie in a pageblock with a type."""
    rows = blank.take((blank.start >= zone.start_pfn) & (blank.start < zone.end_pfn))
    before = np.cumsum(rows.nr) - rows.nr
    pfn = np.repeat(rows.start - before, rows.nr) + np.arange(int(rows.nr.sum()))
    kept: I64 = pfn[types[pfn >> PAGEBLOCK_ORDER] != UNKNOWN_MIGRATETYPE]
    return kept


def _draw_zone(
    frames: I64,
    types: npt.NDArray[np.uint8],
    zone: ZoneDescription,
    rng: np.random.Generator,
) -> _Drawn:
    """Draw one zone's lists; whole blank pageblocks are taken as blocks of order 9 if they fit."""
    block = frames >> PAGEBLOCK_ORDER
    movable = types[block] == MigrateType.MOVABLE
    number, count = np.unique(block[movable], return_counts=True)
    whole = number[count == PAGEBLOCK_NR_PAGES]
    wanted = [pcp.count for pcp in zone.pcp]
    room = sum(count // PAGEBLOCK_NR_PAGES for count in wanted)
    whole = rng.permutation(whole)[: room if len(whole) <= room else 0]
    single = frames[~np.isin(block, whole)]
    length = _run_lengths(single)
    drawn = _run_by_run(single, rng)
    single, is_long = single[drawn], length[drawn] >= _LONG_RUN
    kinds = types[single >> PAGEBLOCK_ORDER]
    piles = [single[(kinds == kind) & ~is_long] for kind in _PCP_TYPES]
    piles[MigrateType.MOVABLE] = single[~np.isin(kinds, _PINNED) & ~is_long]
    piles.append(single[is_long])
    parts = _kernel_parts(piles, sum(wanted))
    big = whole.tolist()
    pfn, order, cpu = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
    for number_of_cpu, pcp in enumerate(zone.pcp):
        left = pcp.count
        heads = [big.pop() for _ in range(min(len(big), left // PAGEBLOCK_NR_PAGES))]
        left -= len(heads) * PAGEBLOCK_NR_PAGES
        mine = _take(piles, left, {kind: int(part * left) for kind, part in parts.items()})
        pfn += [np.array(heads, np.int64) << PAGEBLOCK_ORDER, mine]
        order += [np.full(len(heads), PAGEBLOCK_ORDER, np.uint8), np.zeros(len(mine), np.uint8)]
        cpu.append(np.full(len(heads) + len(mine), number_of_cpu))
    return _Drawn(np.concatenate(pfn), np.concatenate(order), np.concatenate(cpu))


def _run_by_run(frames: I64, rng: np.random.Generator) -> I64:
    """Return an order of these ascending frames in which runs follow each other at random.

    Neighbours were mostly freed together, the lowest first, so that it stands last on its list.
    """
    run = np.cumsum(np.append(True, np.diff(frames) != 1)[: len(frames)]) - 1
    length = np.bincount(run)
    place = rng.random(len(length)) / np.where(length == 1, _WEIGHT_OF_SINGLES, 1.0)
    drawn: I64 = np.lexsort((-frames, place[run]))
    return drawn


def _run_lengths(frames: I64) -> I64:
    """Return for each of these ascending frames how long the run is that it is part of."""
    first = np.flatnonzero(np.append(True, np.diff(frames) != 1)[: len(frames)])
    length = np.diff(np.append(first, len(frames)))
    lengths: I64 = np.repeat(length, length)
    return lengths


def _kernel_parts(piles: list[I64], wanted: int) -> dict[int, float]:
    """Return what part of all that lists hold comes from pageblocks of each kernel type."""
    parts: dict[int, float] = {}
    for kind, part in _PART_LISTED.items():
        listed = min(part * len(piles[kind]), _MOST_OF_LISTS[kind] * wanted)
        parts[kind] = listed / wanted if wanted else 0.0
    return parts


def _take(piles: list[I64], wanted: int, shares: dict[int, int]) -> I64:
    """Take one CPU's pages off the piles: its shares of the kernel's types, the rest Movable.

    What Movable ones lack comes from the kernel's, and from long runs last.
    """
    got: list[I64] = []
    left = wanted
    kernel = [MigrateType.UNMOVABLE, MigrateType.RECLAIMABLE]
    for kind in (*kernel, MigrateType.MOVABLE, *kernel, len(_PCP_TYPES)):
        most = shares.get(kind, wanted) if len(got) < len(kernel) else left
        taken = piles[kind][: min(most, left)]
        piles[kind] = piles[kind][len(taken) :]
        got.append(taken)
        left -= len(taken)
    return np.concatenate(got)


def without(used: UsedRuns, pcp: PcpPages) -> UsedRuns:
    """Return the used rows less the pages on per-CPU lists, which are all blank."""
    if not len(pcp.pfn):
        return used
    blank = used.take(used.blank)
    by_pfn = np.argsort(pcp.pfn, kind="stable")
    cut = pcp.pfn[by_pfn].astype(np.int64)
    nr = np.int64(1) << pcp.order[by_pfn].astype(np.int64)
    edges = np.concatenate([blank.start, blank.start + blank.nr, cut, cut + nr])
    step = np.repeat(np.array([1, -1, -1, 1]), [len(blank.nr), len(blank.nr), len(cut), len(cut)])
    by_edge = np.argsort(edges, kind="stable")
    edges, level = edges[by_edge], np.cumsum(step[by_edge])
    last = np.append(edges[1:] != edges[:-1], True)
    edges, level = edges[last], level[last]
    inside = np.flatnonzero(level[:-1] > 0)
    start, nr = edges[inside], edges[inside + 1] - edges[inside]
    row = np.searchsorted(blank.start, start, side="right") - 1
    rest = blank.take(row)
    kept = UsedRuns(start, nr, rest.page_class, rest.order, rest.flags, rest.blank)
    return UsedRuns.sorted(used.take(~used.blank), kept)
