"""A draft from the counts of free blocks alone: where they lie and what fills the rest is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    PAGEBLOCK_NR_PAGES,
    UNKNOWN_MIGRATETYPE,
    MigrateType,
    PageClass,
    ZoneDescription,
)
from contigmm.hosts.draft import Draft, Subject, stream
from contigmm.hosts.evidence import Evidence
from contigmm.hosts.filling import Pieces, class_totals, fill, used_pieces
from contigmm.hosts.from_flags import with_holes
from contigmm.hosts.kpageflags import UsedRuns
from contigmm.hosts.placement import Placed, Told, hold_frames, place_zone, told_zone
from contigmm.hosts.proc_text import ZoneKey
from contigmm.hosts.source_error import SourceError

#: Zone boundaries of x86-64 and the usual hole below 4 GiB, in frames.
_DMA_END, _DMA32_END, _HOLE_AT = 4096, 1 << 20, 0xC0000
_GIB = 1 << 18
_MIB_END = 1 << 8
#: Part of pageblocks that are not Movable, in 1/1000, where pagetypeinfo is not told.
_ASSUMED_BLOCKS = {MigrateType.UNMOVABLE: 20, MigrateType.RECLAIMABLE: 15}


def draft_from_counts(evidence: Evidence, seed: int) -> Draft:
    """Draw where the told free blocks lie, and what the other frames are used for.

    Raises:
        SourceError: the told blocks cannot lie in the told zones.
    """
    rng = stream(seed, Subject.PLACEMENT)
    zones = evidence.zones or assumed_zones(evidence.buddyinfo)
    zones = tuple(_with_drawn_holes(zone, evidence.system_ram) for zone in zones)
    nr_blocks = -(-max(zone.end_pfn for zone in zones) // PAGEBLOCK_NR_PAGES)
    types = np.full(nr_blocks, UNKNOWN_MIGRATETYPE, np.uint8)
    placed: list[Placed] = []
    for zone in zones:
        counts = evidence.buddyinfo.get((zone.node, zone.name), [])
        hold_frames(zone, counts or [0], evidence.origin)
        told = _told(evidence, zone, counts)
        try:
            one = place_zone(zone, told, _present(zone), rng)
        except ValueError as error:
            raise SourceError(f"zone {zone.key}: {error}.", name=evidence.origin) from error
        types[one.blocks] = one.types
        placed.append(one)
    used = _fill(evidence, zones, placed, types, rng)
    return Draft(
        replace(evidence, zones=zones),
        np.concatenate([one.pfn for one in placed]),
        np.concatenate([one.order for one in placed]),
        used,
        types,
        _known(evidence),
        _drawn(evidence, sum(one.misplaced for one in placed)),
    )


def assumed_zones(buddyinfo: dict[ZoneKey, list[int]]) -> tuple[ZoneDescription, ...]:
    """Return zones that can hold these free blocks, of the usual places on x86-64."""
    zones, at = [], 1
    low_zones = ("DMA", "DMA32")
    rank = {name: at for at, name in enumerate(low_zones)}
    keys = sorted(buddyinfo, key=lambda key: (key[0], rank.get(key[1], len(rank))))
    for number, (node, name) in enumerate(keys):
        free = sum(count << order for order, count in enumerate(buddyinfo[node, name]))
        above = any(one not in low_zones for _, one in keys[number + 1 :])
        size = -(-(free * 4 // 3 + 1) // _GIB) * _GIB
        if name == "DMA" and free < _DMA_END:
            zones.append(_assumed(node, name, 1, _DMA_END - 1, _DMA_END - 1))
            at = _DMA_END
        elif name == "DMA32":
            low = max(at, _DMA_END)
            end = _DMA32_END if above else low + size
            present = _HOLE_AT - low if above and free < _HOLE_AT - low else end - low
            zones.append(_assumed(node, name, low, end - low, present))
            at = end
        else:
            low = max(at, _DMA32_END if number else 1)
            zones.append(_assumed(node, name, low, size, size))
            at = low + size
    return tuple(zones)


def _assumed(node: int, name: str, start: int, spanned: int, present: int) -> ZoneDescription:
    return ZoneDescription(
        node=node,
        name=name,
        start_pfn=start,
        spanned=spanned,
        present=present,
        managed=present,
    )


def _with_drawn_holes(
    zone: ZoneDescription, system_ram: tuple[tuple[int, int], ...]
) -> ZoneDescription:
    """Return the zone with holes: as System RAM tells, else where a PC has them.

    That is below 1 MiB in zone DMA (firmware), and at the end of any other (devices).
    """
    if system_ram:
        told = with_holes(zone, system_ram)
        if told.present == zone.present:
            return told
    missing = zone.spanned - zone.present
    end = zone.end_pfn
    if zone.name == "DMA" and zone.start_pfn + missing < _MIB_END:
        end = _MIB_END
    return replace(zone, holes=((end - missing, missing),) if missing else ())


def _present(zone: ZoneDescription) -> list[tuple[int, int]]:
    """Return the ranges of the zone that have memory."""
    ranges, at = [], zone.start_pfn
    for begin, nr in zone.holes:
        if at < begin:
            ranges.append((at, begin))
        at = begin + nr
    if at < zone.end_pfn:
        ranges.append((at, zone.end_pfn))
    return ranges


def _told(evidence: Evidence, zone: ZoneDescription, counts: list[int]) -> Told:
    key = (zone.node, zone.name)
    counts = counts or [0] * 11
    if evidence.types:
        told = evidence.types[-1]
        return told_zone(zone, counts, told.free.get(key), told.blocks.get(key))
    total = zone.present // PAGEBLOCK_NR_PAGES
    assumed = {kind: total * part // 1000 for kind, part in _ASSUMED_BLOCKS.items()}
    return told_zone(zone, counts, None, assumed if zone.name == "Normal" else None)


def _fill(
    evidence: Evidence,
    zones: tuple[ZoneDescription, ...],
    placed: list[Placed],
    types: npt.NDArray[np.uint8],
    rng: np.random.Generator,
) -> UsedRuns:
    """Draw the used frames: the lowest are reserved, then each zone has its part of every class."""
    parts, pieces = [], []
    for zone, one in zip(zones, placed, strict=True):
        ranges = [used_pieces(low, high, (one.pfn, one.order)) for low, high in _present(zone)]
        start = np.concatenate([piece.start for piece in ranges])
        nr = np.concatenate([piece.nr for piece in ranges])
        reserved, rest = _split_off(Pieces(start, nr), zone.present - zone.managed)
        parts.append(_reserved(reserved))
        pieces.append(rest)
    nr_pcp = [sum(pcp.count for pcp in zone.pcp) for zone in zones]
    nr_used = [int(piece.nr.sum()) - pcp for piece, pcp in zip(pieces, nr_pcp, strict=True)]
    total = sum(nr_used)
    totals = class_totals(evidence.meminfo, total)
    for piece, used, on_lists in zip(pieces, nr_used, nr_pcp, strict=True):
        share = {kind: count * used // max(total, 1) for kind, count in totals.items()}
        parts.append(fill(piece, types, share, on_lists, rng))
    return UsedRuns.sorted(*parts)


def _split_off(pieces: Pieces, count: int) -> tuple[Pieces, Pieces]:
    """Return the lowest ``count`` frames and the others."""
    before = np.cumsum(pieces.nr) - pieces.nr
    low = np.clip(count - before, 0, pieces.nr)
    high = pieces.nr - low
    lower = Pieces(pieces.start[low > 0], low[low > 0])
    return lower, Pieces((pieces.start + low)[high > 0], high[high > 0])


def _reserved(pieces: Pieces) -> UsedRuns:
    kind = np.full(len(pieces.nr), PageClass.RESERVED, np.uint8)
    none = np.zeros(len(pieces.nr), np.uint8)
    return UsedRuns(pieces.start, pieces.nr, kind, none, none, none.astype(bool))


def _known(evidence: Evidence) -> tuple[str, ...]:
    known = ["the number of free blocks by zone and order (buddyinfo)"]
    if evidence.zones_told:
        known.append("zones with their watermarks and reserves (zoneinfo)")
        known.append("the number of pages on each per-CPU list (zoneinfo)")
    if evidence.types:
        known.append("the number of pageblocks of each migratetype (pagetypeinfo)")
    if evidence.meminfo:
        known.append("how many frames are used for what (meminfo)")
    return tuple(known)


def _drawn(evidence: Evidence, misplaced: int) -> tuple[str, ...]:
    drawn = ["where every free block lies, and which pageblock has which migratetype"]
    if evidence.types:
        drawn.append(
            f"{misplaced} free frames lie in a pageblock of another type than pagetypeinfo told"
        )
    else:
        drawn.append("how many pageblocks and free blocks there are of each migratetype")
    drawn.append("which frame is used for what")
    if not evidence.meminfo:
        drawn.append("how many frames are used for what: usual parts are assumed")
    if not evidence.zones_told:
        drawn.append("the zones' places and sizes, and the number of CPUs; watermarks are computed")
    return tuple(drawn)
