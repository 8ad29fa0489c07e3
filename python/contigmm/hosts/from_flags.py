"""A draft from the flags of every frame: blocks and classes are told, pageblock types inferred."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    NR_PAGE_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    UNKNOWN_MIGRATETYPE,
    MigrateType,
    ZoneDescription,
)
from contigmm.hosts import kpageflags
from contigmm.hosts.draft import Draft, Subject, stream
from contigmm.hosts.evidence import Evidence
from contigmm.hosts.pageblocks import BlockContent, block_content, infer_types
from contigmm.hosts.proc_text import PageTypeInfo, ZoneKey
from contigmm.hosts.rle import I64
from contigmm.hosts.source_error import SourceError

#: Frames of a section, the grain of the kernel's memory map: include/linux/mmzone.h v6.12 (x86-64).
_SECTION_NR_PAGES = 1 << 15

ToldFree = dict[MigrateType, tuple[I64, I64]]


@dataclass(frozen=True, slots=True, eq=False)
class FlagsRead:
    """What the flags tell, whatever is drawn: free blocks, used frames, content of pageblocks."""

    evidence: Evidence
    pfn: I64
    order: npt.NDArray[np.uint8]
    used: kpageflags.UsedRuns
    content: BlockContent

    def draft(self, seed: int) -> Draft:
        """Infer the types of pageblocks; ties are broken by ``seed``."""
        evidence, nr_blocks = self.evidence, len(self.content.movable)
        rng = stream(seed, Subject.TYPES)
        types, residual = _types(evidence, self.content, nr_blocks, rng)
        known = tuple(_known(evidence))
        return Draft(evidence, self.pfn, self.order, self.used, types, known, (residual,))


def read_flags(evidence: Evidence) -> FlagsRead:
    """Read blocks and classes off the flags.

    Raises:
        SourceError: flags and zones contradict each other.
    """
    flags = evidence.page_flags
    if flags is None or not evidence.zones_told:
        raise SourceError("frames are told, but no zoneinfo.", name=evidence.origin)
    zones = tuple(with_holes(zone, evidence.system_ram) for zone in evidence.zones)
    bounds = _edges(zones)
    pfn, order = kpageflags.cover(*kpageflags.free_runs(flags, bounds))
    used = kpageflags.used_runs(flags, bounds)
    nr_frames = max(zone.end_pfn for zone in zones)
    _hold_in_zones(evidence, pfn, flags.total, nr_frames)
    used = used.take(used.start < nr_frames)
    nr_blocks = -(-nr_frames // PAGEBLOCK_NR_PAGES)
    content = block_content(used, pfn, order, nr_blocks)
    return FlagsRead(replace(evidence, zones=zones), pfn, order, used, content)


def _known(evidence: Evidence) -> list[str]:
    outside = sum(nr for zone in evidence.zones for _, nr in zone.holes)
    known = [
        "zones with their watermarks and reserves (zoneinfo)",
        "every free block, and the class of every used frame (kpageflags)",
        "the number of pages on each per-CPU list (zoneinfo)",
    ]
    if evidence.types:
        known.append("the number of pageblocks of each migratetype (pagetypeinfo)")
    if outside:
        known.append(f"{outside} frames of zones are no memory (iomem); their flags say kernel's")
    return known


def _edges(zones: tuple[ZoneDescription, ...]) -> I64:
    """Return where zones and their holes begin and end, ascending."""
    edges = {edge for zone in zones for edge in (zone.start_pfn, zone.end_pfn)}
    edges |= {edge for zone in zones for start, nr in zone.holes for edge in (start, start + nr)}
    return np.array(sorted(edges), np.int64)


def with_holes(zone: ZoneDescription, system_ram: tuple[tuple[int, int], ...]) -> ZoneDescription:
    """Return the zone with what System RAM leaves out of it as holes, if that is as much as told.

    A zone that was told otherwise counts as present wherever it spans.
    """
    holes, at = [], zone.start_pfn
    for begin, end in system_ram:
        low, high = max(begin, zone.start_pfn), min(end, zone.end_pfn)
        if low < high:
            if at < low:
                holes.append((at, low - at))
            at = high
    if at < zone.end_pfn:
        holes.append((at, zone.end_pfn - at))
    if zone.spanned - sum(nr for _, nr in holes) == zone.present:
        return replace(zone, holes=tuple(holes))
    return replace(zone, present=zone.spanned)


def _hold_in_zones(evidence: Evidence, pfn: I64, nr_words: int, nr_frames: int) -> None:
    inside = np.zeros(len(pfn), bool)
    for zone in evidence.zones:
        inside |= (pfn >= zone.start_pfn) & (pfn < zone.end_pfn)
    if not inside.all():
        lost = int(pfn[~inside][0])
        raise SourceError(f"free frame {lost} lies in no zone.", name=evidence.origin)
    if nr_words < nr_frames - _SECTION_NR_PAGES:
        raise SourceError(
            f"flags of {nr_words} frames are told, but zones span {nr_frames}.",
            name=evidence.origin,
        )


def _types(
    evidence: Evidence, content: BlockContent, nr_blocks: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the type of every pageblock, and a sentence on how well they match what was told."""
    types = np.full(nr_blocks, UNKNOWN_MIGRATETYPE, np.uint8)
    off = told_pages = 0
    for zone in evidence.zones:
        key = (zone.node, zone.name)
        blocks = _online_blocks(evidence, zone, content, nr_blocks)
        types[blocks] = MigrateType.MOVABLE
        if not evidence.types or key not in evidence.types[0].blocks:
            continue
        told = _told_free(evidence.types, key)
        types[blocks] = infer_types(
            content,
            blocks,
            evidence.types[0].blocks[key],
            told,
            nr_pcp=sum(pcp.count for pcp in zone.pcp),
            rng=rng,
        )
        off += _pages_off(content.free[blocks], types[blocks], told)
        told_pages += sum(int((low << np.arange(NR_PAGE_ORDERS)).sum()) for low, _ in told.values())
    if not evidence.types:
        return types, "all pageblocks are taken as Movable: pagetypeinfo was not readable"
    return types, (
        "which pageblock has which migratetype is inferred from its content (their numbers by zone "
        f"and type are as told); free frames of types other than Movable told: {told_pages}, "
        f"of another number at their order here: {off}"
    )


def _told_free(types: tuple[PageTypeInfo, ...], key: ZoneKey) -> ToldFree:
    """Return, by type other than Movable, the lowest and the highest told number of free blocks."""
    out: ToldFree = {}
    for migratetype in types[0].free.get(key, {}):
        told = [one for one in types if migratetype in one.free.get(key, {})]
        readings = [np.array(one.free[key][migratetype], np.int64) for one in told]
        low, high = np.minimum.reduce(readings), np.maximum.reduce(readings)
        for one in types:
            for order in range(NR_PAGE_ORDERS):
                if (key, migratetype, order) in one.capped:
                    high[order] = np.iinfo(np.int32).max
        if migratetype != MigrateType.MOVABLE:
            out[migratetype] = (low, high)
    return out


def _pages_off(free: npt.NDArray[np.int64], types: npt.NDArray[np.uint8], told: ToldFree) -> int:
    off = 0
    for kind, (low, high) in told.items():
        here = free[types == kind].sum(axis=0)
        outside = np.maximum(low - here, 0) + np.maximum(here - high, 0)
        off += int((outside << np.arange(NR_PAGE_ORDERS)).sum())
    return off


def _online_blocks(
    evidence: Evidence, zone: ZoneDescription, content: BlockContent, nr_blocks: int
) -> I64:
    """Return the pageblocks that /proc/pagetypeinfo counts: those with memory behind them.

    mm/vmstat.c:pagetypeinfo_showblockcount_print(), v6.12: blocks of online sections. Where it
    counts fewer (a zone not initialised to its end), the last ones without content go.
    """
    first, last = zone.start_pfn >> PAGEBLOCK_ORDER, -(-zone.end_pfn // PAGEBLOCK_NR_PAGES)
    blocks = np.arange(first, min(last, nr_blocks))
    if evidence.system_ram:
        online = np.zeros(len(blocks), bool)
        for begin, end in evidence.system_ram:
            low = begin // _SECTION_NR_PAGES * _SECTION_NR_PAGES >> PAGEBLOCK_ORDER
            high = -(-end // _SECTION_NR_PAGES) * _SECTION_NR_PAGES >> PAGEBLOCK_ORDER
            online |= (blocks >= low) & (blocks < high)
        blocks = blocks[online]
    told = evidence.types[0].blocks.get((zone.node, zone.name)) if evidence.types else None
    surplus = len(blocks) - sum(told.values()) if told else 0
    if surplus > 0:
        in_use = content.movable + content.slab + content.kernel
        empty = (in_use[blocks] == 0) & (content.free[blocks].sum(axis=1) == 0)
        # The upper half of a free block of order 10 has no free block of its own.
        upper = np.zeros(len(blocks), bool)
        upper[1:] = content.free[blocks[1:] - 1, -1] > 0
        blocks = np.setdiff1d(blocks, blocks[empty & ~upper][-surplus:])
    return blocks
