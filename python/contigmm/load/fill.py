"""Makes a described machine as full, and as worn, as a load wants it, before it is booted.

Memory is taken by page cache that has owners: frames of background files, which a reclaim could
drop. Cache that took single pages would use up the small blocks first and so undo fragmentation;
this one takes the same share of the blocks of every order and migratetype, so that what remains
free is as broken up as before.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contigmm.description import (
    MAX_PAGE_ORDER,
    NO_OWNER,
    PAGEBLOCK_NR_PAGES,
    FrameRuns,
    FreeBlocks,
    Layout,
    MachineDescription,
    MigrateType,
    OwnerDescription,
    OwnerKind,
    PageClass,
    PcpPages,
    ZoneDescription,
)
from contigmm.sim.machine import Machine

FILE_FRAMES: Final = 1 << 14
"""Frames of one file of the cache: 64 MiB."""

# What kswapd would take back again, by and by, stays for good where nobody lets it work:
# mm/page_alloc.c:boost_watermark(), mm/vmscan.c:balance_pgdat(), v6.12.
_UNBOOSTED: Final[dict[str, int | str]] = {"watermark_boost_factor": 0}

# Requests are refused where Linux would compact and reclaim, so that what fragmentation alone
# decides is seen; unless a load asks for both.
_AS_IT_LIES: Final[dict[str, int | str]] = _UNBOOSTED | {"direct_reclaim": 0}

_BATCH_FRAMES: Final = 1 << 22

_SPARSEST: Final = 7
"""Aged blocks lose one frame in 2 to one in 2**7."""


@dataclass(frozen=True)
class Filling:
    """What was done to a description."""

    description: MachineDescription
    aged_frames: int
    """Frames that ageing took, one here and one there."""
    cache_frames: int
    """Frames that filling took, in whole blocks."""
    nr_files: int

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that say what was done."""
        done = [
            "watermarks are not boosted: kswapd, which would lower them again, does not run",
            "requests compact and reclaim before they are refused, as in Linux"
            if self.description.settings.get("direct_reclaim", 1)
            else "requests do not compact or reclaim: fragmentation decides as it is",
        ]
        if self.aged_frames:
            done.append(f"{self.aged_frames} single pages of cache age it (drawn from the seed)")
        if self.cache_frames:
            done.append(
                f"{self.cache_frames} frames of {self.nr_files} cached files fill it, from blocks"
                " of all orders alike (drawn from the seed)"
            )
        return tuple(done)

    @property
    def usable_frames(self) -> int:
        """Frames that user space can get before a watermark refuses."""
        description, floors = self.description, _floors(self.description)
        return sum(
            max(0, _free_frames(description, zone) - floors[zone.key]) for zone in description.zones
        )


def prepare(
    description: MachineDescription,
    *,
    occupancy: float,
    age: float,
    seed: int,
    room_frames: int = 0,
    reclaim: bool = False,
) -> Filling:
    """Return ``description`` aged by the share ``age`` and filled up to ``occupancy``.

    ``age`` is the share of free memory, 0 to 1, whose blocks are broken by scattered single pages.
    ``occupancy`` is the share of managed memory in use afterwards, 0 to 1; at least ``room_frames``
    are left above what watermarks and reserves keep from user space, if there are as many. A
    machine that is fuller already stays as it is. With ``reclaim`` requests make room for
    themselves before they are refused.
    """
    settings = _UNBOOSTED if reclaim else _AS_IT_LIES
    rng = np.random.default_rng([seed, 0x10AD])
    taken_by_ageing, description = _aged(description, age, rng)
    taken, free_left = _cache_blocks(description, occupancy, room_frames, rng)
    description = _with_layout(description, taken, free_left, "load-cache")
    return Filling(
        replace(description, settings=description.settings | settings),
        aged_frames=taken_by_ageing,
        cache_frames=int(_frames_of(taken.order).sum()),
        nr_files=sum(owner.name.startswith("load-") for owner in _layout(description).owners),
    )


def fresh_layout(description: MachineDescription) -> MachineDescription:
    """Return ``description`` with a layout: its own, or that of a machine just booted.

    Then all managed memory is free, in the largest blocks, and movable. Frames that a zone spans
    and does not have stand at its end, those that it has and does not manage at its beginning.
    """
    if description.layout is not None:
        return description
    free: list[FreeBlocks] = []
    reserved: list[tuple[int, int]] = []
    for zone in description.zones:
        begin = zone.start_pfn + zone.present - zone.managed
        reserved.append((zone.start_pfn, zone.present - zone.managed))
        free.append(_largest_blocks(begin, begin + zone.managed))
    rows = [(start, nr) for start, nr in reserved if nr]
    nr_blocks = -(-description.nr_frames // PAGEBLOCK_NR_PAGES)
    return replace(
        description,
        layout=Layout(
            frames=FrameRuns(
                start=np.array([start for start, _ in rows], np.uint32),
                nr=np.array([nr for _, nr in rows], np.uint32),
                page_class=np.full(len(rows), PageClass.RESERVED, np.uint8),
                order=np.zeros(len(rows), np.uint8),
                flags=np.zeros(len(rows), np.uint8),
                owner=np.full(len(rows), NO_OWNER, np.uint32),
                index=np.zeros(len(rows), np.uint32),
            ),
            free=_joined(free),
            pcp=PcpPages(
                pfn=np.zeros(0, np.uint32),
                cpu=np.zeros(0, np.uint16),
                order=np.zeros(0, np.uint8),
                migratetype=np.zeros(0, np.uint8),
            ),
            pageblock_type=np.full(nr_blocks, MigrateType.MOVABLE, np.uint8),
        ),
    )


def _largest_blocks(begin: int, end: int) -> FreeBlocks:
    """Cover ``begin <= pfn < end`` by the fewest aligned blocks, lowest first."""
    pfns, orders = [], []
    while begin < end:
        alignment = (begin & -begin).bit_length() - 1 if begin else MAX_PAGE_ORDER
        order = min(alignment, (end - begin).bit_length() - 1, MAX_PAGE_ORDER)
        if order == MAX_PAGE_ORDER:  # all of those at once: there may be hundreds of thousands
            nr = (end - begin) >> MAX_PAGE_ORDER
            pfns.append(np.arange(nr, dtype=np.uint32) * (1 << MAX_PAGE_ORDER) + begin)
        else:
            nr = 1
            pfns.append(np.array([begin]))
        orders.append(np.full(nr, order, np.uint8))
        begin += nr << order
    pfn = np.concatenate(pfns).astype(np.uint32) if pfns else np.zeros(0, np.uint32)
    order_column = np.concatenate(orders) if orders else np.zeros(0, np.uint8)
    return FreeBlocks(pfn, order_column, np.full(len(pfn), MigrateType.MOVABLE, np.uint8))


# ---- filling ----


def _cache_blocks(
    description: MachineDescription, occupancy: float, room: int, rng: np.random.Generator
) -> tuple[FreeBlocks, FreeBlocks]:
    """Split the free blocks into those the cache takes and those it leaves."""
    free = _layout(description).free
    floors = _floors(description)
    above = {
        zone.key: max(0, _free_frames(description, zone) - floors[zone.key])
        for zone in description.zones
    }
    usable = sum(above.values())
    nr_free = sum(_free_frames(description, zone) for zone in description.zones)
    to_leave = round((1 - occupancy) * description.managed)
    to_take = max(0, min(nr_free - to_leave, usable - room))
    taken = np.zeros(len(free.pfn), dtype=np.bool_)
    for zone in description.zones:
        inside = _inside(zone, free)
        nr_inside = int(_frames_of(free.order[inside]).sum())
        if above[zone.key] and nr_inside:
            share = to_take / usable * above[zone.key] / nr_inside
            taken |= _sample(free, inside, share, rng)
    return _rows(free, taken), _rows(free, ~taken)


def _sample(
    free: FreeBlocks, inside: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose ``share`` of the blocks of each order and migratetype, large orders first.

    Blocks are whole, so what one kind has given too much or too little the next makes up for.
    """
    taken = np.zeros(len(free.pfn), dtype=np.bool_)
    kind = free.order.astype(np.int64) << 8 | free.migratetype
    owed = 0.0
    for value in np.unique(kind[inside])[::-1]:
        rows = np.flatnonzero(inside & (kind == value))
        block_frames = 1 << (int(value) >> 8)
        owed += share * len(rows) * block_frames
        nr_taken = min(max(round(owed / block_frames), 0), len(rows))
        owed -= nr_taken * block_frames
        taken[rng.permutation(rows)[:nr_taken]] = True
    return taken


def _floors(description: MachineDescription) -> dict[str, int]:
    """Frames of each zone that user space does not get: min watermark and lowmem reserve.

    mm/page_alloc.c:__zone_watermark_ok(), v6.12. The machine itself says so, freshly booted: what
    a source does not tell it computes.
    """
    machine = Machine.boot(replace(description, layout=None))
    return {
        f"{zone.node}/{zone.name}": zone.marks[0] + max(zone.protection) for zone in machine.zones()
    }


# ---- ageing ----


def _aged(
    description: MachineDescription, age: float, rng: np.random.Generator
) -> tuple[int, MachineDescription]:
    """Break the share ``age`` of free memory by scattered pages of cache."""
    free = _layout(description).free
    chosen = np.zeros(len(free.pfn), dtype=np.bool_)
    for zone in description.zones:
        chosen |= _sample(free, _inside(zone, free) & (free.order > 0), age, rng)
    if not chosen.any():
        return 0, description
    taken, left = zip(*_broken(_rows(free, chosen), rng), strict=True)
    single = _joined(taken)
    remaining = _joined([_rows(free, ~chosen), *left])
    return len(single.pfn), _with_layout(description, single, remaining, "load-aged")


def _broken(
    blocks: FreeBlocks, rng: np.random.Generator
) -> Iterator[tuple[FreeBlocks, FreeBlocks]]:
    """Yield, some blocks at a time, the single frames taken and the free blocks left."""
    for order, rows in _batches(blocks):
        sparsity = rng.integers(1, _SPARSEST + 1, len(rows.pfn))
        used = rng.random((len(rows.pfn), 1 << order)) < (0.5**sparsity)[:, np.newaxis]
        which, offset = np.nonzero(used)
        taken = _blocks(rows, which, offset.astype(np.uint32), 0)
        yield taken, _joined(list(_maximal(rows, ~used, order)))


def _batches(blocks: FreeBlocks) -> Iterator[tuple[int, FreeBlocks]]:
    """Yield blocks of one order, at most 4 Mi frames at a time: frames are drawn one by one."""
    for order in np.unique(blocks.order).tolist():
        rows = np.flatnonzero(blocks.order == order)
        step = _BATCH_FRAMES >> order
        for begin in range(0, len(rows), step):
            batch = rows[begin : begin + step]
            yield (
                order,
                FreeBlocks(blocks.pfn[batch], blocks.order[batch], blocks.migratetype[batch]),
            )


def _maximal(rows: FreeBlocks, free: NDArray[np.bool_], order: int) -> Iterator[FreeBlocks]:
    """Yield, by order, the largest aligned blocks that the ``free`` frames of each row make."""
    for low in range(order + 1):
        if low < order:
            both = free[:, 0::2] & free[:, 1::2]
            alone = free & ~np.repeat(both, 2, axis=1)
        else:
            both, alone = free, free
        which, place = np.nonzero(alone)
        yield _blocks(rows, which, (place << low).astype(np.uint32), low)
        free = both


def _blocks(
    rows: FreeBlocks, which: NDArray[np.int64], offset: NDArray[np.uint32], order: int
) -> FreeBlocks:
    pfn = (rows.pfn[which] + offset).astype(np.uint32)
    return FreeBlocks(
        pfn, np.full(len(pfn), order, np.uint8), rows.migratetype[which].astype(np.uint8)
    )


# ---- layouts ----


def _with_layout(
    description: MachineDescription, taken: FreeBlocks, left: FreeBlocks, name: str
) -> MachineDescription:
    """Give the ``taken`` blocks to files called ``name-N`` and keep the ``left`` ones free."""
    if not len(taken.pfn):
        return description
    layout = _layout(description)
    nr = _frames_of(taken.order)
    before = np.concatenate([[0], np.cumsum(nr)[:-1]])
    file = before // FILE_FRAMES
    starts = np.flatnonzero(np.concatenate([[True], file[1:] != file[:-1]]))
    index = before - np.repeat(before[starts], np.diff(np.append(starts, len(file))))
    number = np.cumsum(np.concatenate([[0], file[1:] != file[:-1]]))
    rows = len(taken.pfn)
    frames = FrameRuns(
        start=taken.pfn,
        nr=nr.astype(np.uint32),
        page_class=np.full(rows, PageClass.FILE, np.uint8),
        order=np.zeros(rows, np.uint8),
        flags=np.zeros(rows, np.uint8),
        owner=(len(layout.owners) + number).astype(np.uint32),
        index=index.astype(np.uint32),
    )
    owners = tuple(
        OwnerDescription(OwnerKind.FILE, f"{name}-{file}") for file in range(int(number[-1]) + 1)
    )
    changed = Layout(
        frames=_runs_joined(layout.frames, frames),
        free=left,
        pcp=layout.pcp,
        pageblock_type=layout.pageblock_type,
        owners=layout.owners + owners,
    )
    return replace(description, layout=changed)


def _layout(description: MachineDescription) -> Layout:
    if description.layout is None:
        raise ValueError("the description has no layout")
    return description.layout


def _free_frames(description: MachineDescription, zone: ZoneDescription) -> int:
    """Frames on the zone's free lists and on the per-CPU lists in front of them."""
    layout = _layout(description)
    return sum(
        int(_frames_of(blocks.order[_inside(zone, blocks)]).sum())
        for blocks in (layout.free, layout.pcp)
    )


def _frames_of(order: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.int64(1) << order.astype(np.int64)


def _inside(zone: ZoneDescription, blocks: FreeBlocks | PcpPages) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (blocks.pfn >= zone.start_pfn) & (blocks.pfn < zone.end_pfn)
    return inside


def _rows(free: FreeBlocks, mask: NDArray[np.bool_]) -> FreeBlocks:
    return FreeBlocks(free.pfn[mask], free.order[mask], free.migratetype[mask])


def _joined(parts: list[FreeBlocks] | tuple[FreeBlocks, ...]) -> FreeBlocks:
    return FreeBlocks(
        np.concatenate([part.pfn for part in parts]),
        np.concatenate([part.order for part in parts]),
        np.concatenate([part.migratetype for part in parts]),
    )


def _runs_joined(one: FrameRuns, other: FrameRuns) -> FrameRuns:
    return FrameRuns(
        start=np.concatenate([one.start, other.start]),
        nr=np.concatenate([one.nr, other.nr]),
        page_class=np.concatenate([one.page_class, other.page_class]),
        order=np.concatenate([one.order, other.order]),
        flags=np.concatenate([one.flags, other.flags]),
        owner=np.concatenate([one.owner, other.owner]),
        index=np.concatenate([one.index, other.index]),
    )
