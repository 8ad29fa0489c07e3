"""Blocks that a scan missed because page reporting held them.

A guest tells its host of free blocks (mm/page_reporting.c:page_reporting_cycle(), v6.12): up to 32
whole blocks at a time leave the free lists, are reported and come back, without a tracepoint. To a
scan they look like kernel pages without flags. How many there were is told by free lists that were
read just before or after the scan and had more; which they were is drawn from the blank blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contigmm.description import MAX_PAGE_ORDER, NR_PAGE_ORDERS, PAGEBLOCK_ORDER, ZoneDescription
from contigmm.hosts import Evidence, SourceError, kpageflags
from contigmm.hosts.draft import Subject, stream
from contigmm.hosts.kmem import U8
from contigmm.hosts.rle import I64
from contigmm.replay.recording import free_counts


@dataclass(frozen=True, slots=True, eq=False)
class Reported:
    """Blocks on their way back: first frame, order, and position of the zone."""

    pfn: I64
    order: U8
    zone: U8


def reported_blocks(
    evidence: Evidence, zones: tuple[ZoneDescription, ...], *, seed: int
) -> Reported:
    """Return the blocks that page reporting held during a capture's scan.

    Raises:
        SourceError: the capture does not tell the flags of frames.
    """
    if evidence.page_flags is None:
        raise SourceError("it does not tell the flags of frames.", name=evidence.origin)
    seen = free_counts(evidence)
    rng = stream(seed, Subject.REPORTED)
    bounds = np.array(sorted({edge for z in zones for edge in (z.start_pfn, z.end_pfn)}), np.int64)
    used = kpageflags.used_runs(evidence.page_flags, bounds)
    blank = used.take(used.blank)
    pfn, order = kpageflags.cover(blank.start, blank.start + blank.nr)
    pfns, orders, numbers = [], [], []
    for number, zone in enumerate(zones):
        inside = (pfn >= zone.start_pfn) & (pfn < zone.end_pfn)
        told = _most_told(evidence, zone)
        here = seen.get(zone.key, [0] * NR_PAGE_ORDERS)
        for size in range(PAGEBLOCK_ORDER, MAX_PAGE_ORDER + 1):
            candidates = rng.permutation(pfn[inside & (order == size)])
            chosen = candidates[: max(0, told[size] - here[size])]
            pfns.append(chosen)
            orders.append(np.full(len(chosen), size, np.uint8))
            numbers.append(np.full(len(chosen), number, np.uint8))
    none = np.zeros(0, np.uint8)
    return Reported(
        np.concatenate([none.astype(np.int64), *pfns]),
        np.concatenate([none, *orders]),
        np.concatenate([none, *numbers]),
    )


def _most_told(evidence: Evidence, zone: ZoneDescription) -> list[int]:
    """Return the larger of the readings of the free lists around the scan, by order."""
    key = (zone.node, zone.name)
    none = [0] * NR_PAGE_ORDERS
    readings = (evidence.buddyinfo.get(key, none), evidence.buddyinfo_after.get(key, none))
    return [max(pair) for pair in zip(*readings, strict=True)]
