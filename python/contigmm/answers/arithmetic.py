"""The numbers behind an answer: marks and free blocks, zone by zone, in the order asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contigmm.answers.request import Request
from contigmm.description import PAGEBLOCK_NR_PAGES, ZONE_NAMES, MachineDescription
from contigmm.phys import Memory
from contigmm.phys.free_lists import suitable_blocks

if TYPE_CHECKING:
    from contigmm.phys import ZoneCounters

_UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def zone_lines(memory: Memory, request: Request) -> list[str]:
    """Return one line for each zone that may serve the request, the preferred one first.

    The test is that of ``__zone_watermark_ok()``, mm/page_alloc.c v6.12, at the min mark: what
    stays free must be above mark and reserve, and a block of the order must be there. A range
    beyond the largest block has no such test; what counts is how many can be tried.
    """
    lines = []
    counts = memory.buddyinfo()
    zones = list(enumerate(memory.zones()))
    preferred = sorted(zones, key=lambda row: (row[1]["node"], -ZONE_NAMES.index(row[1]["name"])))
    for number, zone in preferred:
        if ZONE_NAMES.index(zone["name"]) > request.highest_zone or not zone["managed"]:
            continue
        on_lists = sum(pcp[0] for pcp in zone["pcp"])
        if request.is_range:
            lines.append(_range_line(zone, on_lists, request.nr_pages))
            continue
        protection = zone["protection"]
        reserve = protection[request.highest_zone] if protection else 0
        mark, boost = zone["watermark_min"], zone["watermark_boost"]
        spare = zone["free"] - (1 << request.order) + 1 - mark - boost - reserve
        blocks = suitable_blocks(counts[number], request.order)
        verdict = "passes" if spare > 0 else "is below its mark"
        lines.append(
            f"zone {zone['node']}/{zone['name']} {verdict}: {zone['free']:,} frames free "
            f"(and {on_lists:,} on per-CPU lists), mark {mark:,} + boost {boost:,} + reserve "
            f"{reserve:,}; it has {blocks:,} blocks of order {request.order}"
        )
    return lines


def _range_line(zone: ZoneCounters, on_lists: int, nr: int) -> str:
    """Say how many ranges of ``nr`` frames ``alloc_contig_pages()`` can try in a zone."""
    align = nr if nr & (nr - 1) == 0 else PAGEBLOCK_NR_PAGES
    start = -(-zone["start_pfn"] // align) * align
    stride = -(-nr // align) * align
    room = zone["start_pfn"] + zone["spanned"] - start - nr
    ranges = room // stride + 1 if room >= 0 else 0
    return (
        f"zone {zone['node']}/{zone['name']} spans {ranges:,} aligned ranges of {nr:,} frames; "
        f"{zone['free']:,} frames are free (and {on_lists:,} on per-CPU lists) of "
        f"{zone['managed']:,}"
    )


def unknowns(description: MachineDescription) -> tuple[str, ...]:
    """Return what the source does not tell and the answer therefore draws."""
    return description.drawn


def sizes(size_bytes: int) -> str:
    """Return a size as people write it."""
    for unit, name in _UNITS:
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit:,} {name}"
    return f"{size_bytes:,} bytes"
