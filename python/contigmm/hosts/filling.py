"""What the used frames of a zone are for when only /proc/meminfo tells: drawn, to its totals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    FrameFlags,
    MigrateType,
    PageClass,
)
from contigmm.hosts.kpageflags import UsedRuns
from contigmm.hosts.rle import I64

_ANON: Final = int(FrameFlags.ANON | FrameFlags.SWAPBACKED | FrameFlags.MAPPED)
_FLAGS: Final = {
    PageClass.ANON: _ANON,
    PageClass.ANON_THP: _ANON,
    PageClass.MLOCKED: _ANON | int(FrameFlags.UNEVICTABLE),
    PageClass.SHMEM: int(FrameFlags.SWAPBACKED),
}
#: What is taken to be in use, in percent, where meminfo is not told.
_ASSUMED: Final = {
    PageClass.SLAB: 8,
    PageClass.PGTABLE: 1,
    PageClass.FILE: 45,
    PageClass.ANON: 35,
    PageClass.SHMEM: 3,
}


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Runs of used frames, none across a pageblock's edge."""

    start: I64
    nr: I64


def class_totals(meminfo: dict[str, int], nr_used: int) -> dict[PageClass, int]:
    """Return how many frames meminfo tells of each class; the rest of ``nr_used`` is the kernel's.

    Classes are cut down, kernel first, to what is in use: the texts may be of different moments.
    """
    if not meminfo:
        return {kind: nr_used * share // 100 for kind, share in _ASSUMED.items()}

    def pages(*names: str) -> int:
        return sum(meminfo.get(name, 0) for name in names) // 4

    shmem, locked = pages("Shmem"), pages("Mlocked")
    wish = {
        PageClass.SLAB: pages("Slab"),
        PageClass.PGTABLE: pages("PageTables"),
        PageClass.MLOCKED: locked,
        PageClass.ANON: max(0, pages("AnonPages") - locked),
        PageClass.SHMEM: shmem,
        PageClass.FILE: max(0, pages("Cached", "Buffers") - shmem),
    }
    left = nr_used
    for kind, count in wish.items():
        wish[kind] = min(count, left)
        left -= wish[kind]
    return wish


def used_pieces(low: int, high: int, taken: tuple[I64, npt.NDArray[np.uint8]]) -> Pieces:
    """Return what free blocks leave of the frames ``low … high``, cut at pageblocks."""
    pfn, order = taken
    inside = (pfn >= low) & (pfn < high)
    begin = pfn[inside]
    end = begin + (np.int64(1) << order[inside].astype(np.int64))
    by_pfn = np.argsort(begin)
    edge = np.arange(low // PAGEBLOCK_NR_PAGES + 1, -(-high // PAGEBLOCK_NR_PAGES))
    marks = _ascending(np.concatenate([[low], begin, end, edge * PAGEBLOCK_NR_PAGES, [high]]))
    start, nr = marks[:-1], np.diff(marks)
    begin, end = begin[by_pfn], end[by_pfn]
    row = np.searchsorted(begin, start, side="right") - 1
    is_free = np.zeros(len(start), bool)
    if len(begin):
        is_free = (row >= 0) & (start < end[np.maximum(row, 0)])
    return Pieces(start[~is_free], nr[~is_free])


def fill(
    pieces: Pieces,
    types: npt.NDArray[np.uint8],
    totals: dict[PageClass, int],
    nr_pcp: int,
    rng: np.random.Generator,
) -> UsedRuns:
    """Draw what one zone's used pieces are for.

    Slab fills Reclaimable pageblocks, then page tables, slab and the kernel Unmovable ones; the
    rest goes to Movable ones, there beginning with the frames that can be on per-CPU lists.
    """
    kinds = types[pieces.start >> PAGEBLOCK_ORDER]
    rank = np.select(
        [kinds == MigrateType.RECLAIMABLE, kinds == MigrateType.UNMOVABLE], [0, 1], default=2
    )
    whole = (pieces.nr == PAGEBLOCK_NR_PAGES) & (rank == 2)
    drawn = rng.permutation(len(pieces.nr))
    first = np.lexsort((drawn, whole, rank))
    nr_used, pinned = int(pieces.nr.sum()), int(pieces.nr[rank < 2].sum())
    nr_kernel = max(0, nr_used - sum(totals.values()) - nr_pcp)
    slab, tables = totals.get(PageClass.SLAB, 0), totals.get(PageClass.PGTABLE, 0)
    early = max(0, min(nr_kernel, pinned - slab - tables))
    movable = [
        (kind, count)
        for kind, count in totals.items()
        if kind not in (PageClass.SLAB, PageClass.PGTABLE)
    ]
    order_of_use = [
        (PageClass.SLAB, slab),
        (PageClass.PGTABLE, tables),
        (PageClass.KERNEL, early),
        (PageClass.PCP, nr_pcp),
        *movable,
        (PageClass.KERNEL, nr_used),
    ]
    return _cut(Pieces(pieces.start[first], pieces.nr[first]), order_of_use)


def _cut(pieces: Pieces, order_of_use: list[tuple[PageClass, int]]) -> UsedRuns:
    """Give the frames of the pieces, in order, to the classes, in order."""
    total = int(pieces.nr.sum())
    ends = np.minimum(np.cumsum([count for _, count in order_of_use]), total)
    begins = np.concatenate([[0], np.cumsum(pieces.nr)])
    marks = _ascending(np.concatenate([begins, ends]))
    if len(marks) < 2:
        marks = np.zeros(1, np.int64)
    at, nr = marks[:-1], np.diff(marks)
    piece = np.searchsorted(begins, at, side="right") - 1
    use = np.searchsorted(ends, at, side="right")
    kind = np.array([int(one) for one, _ in order_of_use], np.uint8)[use]
    blank = (kind == PageClass.PCP) | (kind == PageClass.KERNEL)
    kind = np.where(kind == PageClass.PCP, np.uint8(PageClass.KERNEL), kind)
    flags = np.zeros(len(nr), np.uint8)
    for one, meaning in _FLAGS.items():
        flags[kind == one] = meaning
    start = pieces.start[np.minimum(piece, len(pieces.start) - 1)] + at - begins[piece]
    rows = UsedRuns(start, nr, kind, np.zeros(len(nr), np.uint8), flags, blank)
    return rows.take(np.argsort(rows.start, kind="stable"))


def _ascending(numbers: I64) -> I64:
    """Return each number once, in order."""
    ordered: I64 = np.sort(numbers)
    once: I64 = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return once
