"""Which pageblock has which migratetype: inferred, since /proc tells only how many there are.

/proc/pagetypeinfo gives, by zone and migratetype, the number of pageblocks and of free blocks of
each order. A free block stands on the list of its pageblock's type. So types are given to
pageblocks such that the numbers of pageblocks hold exactly, what is in use speaks for the type, and
the free blocks of each type come as close to the told ones as a local search gets them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    NR_PAGE_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    MigrateType,
    PageClass,
)
from contigmm.hosts.kpageflags import UsedRuns
from contigmm.hosts.rle import I64

#: What compaction could move, by class.
MOVABLE_CLASSES: Final = (
    PageClass.ANON,
    PageClass.ANON_THP,
    PageClass.SHMEM,
    PageClass.SHMEM_THP,
    PageClass.FILE,
    PageClass.FILE_LARGE,
    PageClass.MLOCKED,
    PageClass.MOVABLE_OFFLRU,
    PageClass.HUGETLB,
)
#: Cost of a frame of this content in a pageblock of that type, in thousandths of a nat: how seldom
#: mm/page_alloc.c puts it there. Columns: movable, slab, page tables and kernel.
_COST: Final = {
    MigrateType.MOVABLE: (30, 4600, 4600),
    MigrateType.UNMOVABLE: (3900, 1200, 700),
    MigrateType.RECLAIMABLE: (3900, 100, 4000),
}
_BLANK_IN_UNMOVABLE: Final = 700
_BLANK_IN_RECLAIMABLE: Final = 2500
_BLANK_MOVABLE_MAX: Final = 4600
#: Weight of one free block too many or too few of a type, by order, in the same unit.
_RESIDUAL_WEIGHT: Final = np.array(
    [30_000 * 3**order // 2**order for order in range(NR_PAGE_ORDERS)], np.int64
)
#: A pageblock that was claimed (mm/page_alloc.c:try_to_claim_block(), v6.18) has a type that most
#: of its content does not show: never dearer than this, plus this a movable frame.
_CLAIMED: Final = (15_000, 150)
_POOL: Final = 1500
_MAX_STEPS: Final = 400
_TRIED_A_STEP: Final = 12
_MINORITIES: Final = (
    MigrateType.ISOLATE,
    MigrateType.HIGHATOMIC,
    MigrateType.CMA,
    MigrateType.RECLAIMABLE,
    MigrateType.UNMOVABLE,
)


@dataclass(frozen=True, slots=True, eq=False)
class BlockContent:
    """What is in each pageblock: frames in use by group, free blocks that begin there by order."""

    movable: I64
    slab: I64
    kernel: I64
    blank: I64
    free: npt.NDArray[np.int64]


def frames_per_block(start: I64, nr: I64, nr_blocks: int) -> I64:
    """Count the frames of sorted, disjoint runs in each pageblock."""
    if not len(start):
        return np.zeros(nr_blocks, np.int64)
    below = np.concatenate([[0], np.cumsum(nr)])
    edge = np.arange(nr_blocks + 1, dtype=np.int64) * PAGEBLOCK_NR_PAGES
    last = np.searchsorted(start, edge, side="right") - 1
    at = np.maximum(last, 0)
    counted = np.where(last >= 0, below[at] + np.minimum(edge - start[at], nr[at]), 0)
    return np.diff(counted)


def block_content(
    used: UsedRuns, pfn: I64, order: npt.NDArray[np.uint8], nr_blocks: int
) -> BlockContent:
    """Count what every pageblock holds."""

    def count(rows: npt.NDArray[np.bool_]) -> I64:
        return frames_per_block(used.start[rows], used.nr[rows], nr_blocks)

    kinds = used.page_class
    kernel = np.isin(kinds, (PageClass.KERNEL, PageClass.PGTABLE)) & ~used.blank
    cell = (pfn >> PAGEBLOCK_ORDER) * NR_PAGE_ORDERS + order
    free = np.bincount(cell, minlength=nr_blocks * NR_PAGE_ORDERS)
    return BlockContent(
        movable=count(np.isin(kinds, MOVABLE_CLASSES)),
        slab=count(kinds == PageClass.SLAB),
        kernel=count(kernel),
        blank=count(used.blank),
        free=free.reshape(nr_blocks, NR_PAGE_ORDERS).astype(np.int64),
    )


def infer_types(
    content: BlockContent,
    blocks: I64,
    told_blocks: dict[MigrateType, int],
    told_free: dict[MigrateType, tuple[I64, I64]],
    *,
    nr_pcp: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Return the migratetype of each of one zone's ``blocks``.

    ``told_free`` has, by type, the lowest and the highest number of free blocks of each order.

    Movable takes what the other types leave. Ties are broken by ``rng``, of which the same number
    of values is used whatever the content.
    """
    tie = rng.permutation(len(blocks))
    cost = _costs(content, blocks, nr_pcp)
    free = content.free[blocks]
    types = np.full(len(blocks), MigrateType.MOVABLE, np.uint8)
    fixed = _place_whole(types, free, told_free, tie)
    for migratetype in _MINORITIES:
        wanted = told_blocks.get(migratetype, 0) - int((types == migratetype).sum())
        if wanted <= 0:
            continue
        open_ = np.flatnonzero(~fixed & (types == MigrateType.MOVABLE))
        margin = _margin(cost, migratetype, told_blocks)[open_]
        chosen = open_[np.lexsort((tie[open_], margin))[:wanted]]
        types[chosen] = migratetype
    _Exchange(types, free, cost, told_free, fixed, tie).run()
    return types


def _costs(content: BlockContent, blocks: I64, nr_pcp: int) -> dict[MigrateType, I64]:
    """Return the cost of giving each block each type, by what is in use there."""
    seen = int(content.blank[blocks].sum())
    on_pcp = min(1.0, nr_pcp / seen) if seen else 0.0
    blank_movable = round(_BLANK_MOVABLE_MAX * (1 - on_pcp) + _BLANK_IN_UNMOVABLE * on_pcp)
    blank = {
        MigrateType.MOVABLE: blank_movable,
        MigrateType.UNMOVABLE: _BLANK_IN_UNMOVABLE,
        MigrateType.RECLAIMABLE: _BLANK_IN_RECLAIMABLE,
    }
    dear, each = _CLAIMED
    moving = content.movable[blocks]
    out = {
        kind: np.minimum(moving * movable, dear + moving * each)
        + content.slab[blocks] * slab
        + content.kernel[blocks] * kernel
        + content.blank[blocks] * blank[kind]
        for kind, (movable, slab, kernel) in _COST.items()
    }
    unspoken = np.zeros(len(blocks), np.int64)  # any content may be in a reserved or isolated block
    out[MigrateType.CMA] = out[MigrateType.MOVABLE]
    out[MigrateType.HIGHATOMIC] = out[MigrateType.ISOLATE] = unspoken
    return out


def _margin(
    cost: dict[MigrateType, I64], migratetype: MigrateType, told: dict[MigrateType, int]
) -> I64:
    """Return how much dearer this type is than the best of the others that there are."""
    others: list[I64] = [
        cost[kind]
        for kind in (MigrateType.MOVABLE, MigrateType.UNMOVABLE, MigrateType.RECLAIMABLE)
        if kind != migratetype and (kind == MigrateType.MOVABLE or told.get(kind, 0))
    ]
    dearer: I64 = cost[migratetype] - np.minimum.reduce(others)
    return dearer


def _place_whole(
    types: npt.NDArray[np.uint8],
    free: npt.NDArray[np.int64],
    told_free: dict[MigrateType, tuple[I64, I64]],
    tie: I64,
) -> npt.NDArray[np.bool_]:
    """Give wholly free pageblocks the types told for orders 9 and 10; return which are settled."""
    fixed = np.zeros(len(types), bool)
    for order, span in ((10, 2), (9, 1)):
        heads = np.flatnonzero(free[:, order] > 0)
        heads = heads[np.argsort(tie[heads])]
        at = 0
        for migratetype in _MINORITIES:
            count = int(told_free[migratetype][1][order]) if migratetype in told_free else 0
            for head in heads[at : at + count]:
                types[head : head + span] = migratetype
            at += count
        for step in range(span):
            fixed[np.minimum(heads + step, len(types) - 1)] = True
    return fixed


class _Exchange:
    """A local search that lets pageblocks of two types swap them."""

    def __init__(
        self,
        types: npt.NDArray[np.uint8],
        free: npt.NDArray[np.int64],
        cost: dict[MigrateType, I64],
        told: dict[MigrateType, tuple[I64, I64]],
        fixed: npt.NDArray[np.bool_],
        tie: I64,
    ) -> None:
        self.types, self.free, self.cost, self.told = types, free, cost, told
        self.fixed, self.tie = fixed, tie
        self.sums = {kind: free[types == kind].sum(axis=0) for kind in told}

    def run(self) -> None:
        """Swap until no tried pair brings content and free blocks closer to what was told."""
        rare = [kind for kind in _MINORITIES if (self.types == kind).any() and kind in self.told]
        pairs = [(kind, MigrateType.MOVABLE) for kind in rare]
        pairs += [(a, b) for at, a in enumerate(rare) for b in rare[at + 1 :]]
        for first, second in (*pairs, *pairs):
            self._swap_all(first, second)

    def _swap_all(self, first: MigrateType, second: MigrateType) -> None:
        ours, theirs = self._pool(first, second), self._pool(second, first)
        change = self.cost[second] - self.cost[first]
        if not len(ours) or not len(theirs):
            return
        for _ in range(_MAX_STEPS):
            away = change[ours] + self._weigh(first, second, self.free[ours])
            best, pair = 0, (-1, -1)
            for at in np.argsort(away, kind="stable")[:_TRIED_A_STEP]:
                moved = self.free[ours[at]] - self.free[theirs]
                total = change[ours[at]] - change[theirs] + self._weigh(first, second, moved)
                other = int(np.argmin(total))
                if total[other] < best:
                    best, pair = int(total[other]), (int(at), other)
            if best == 0:
                return
            mine, other = int(ours[pair[0]]), int(theirs[pair[1]])
            self.types[mine], self.types[other] = second, first
            ours[pair[0]], theirs[pair[1]] = other, mine
            moved = self.free[mine] - self.free[other]
            for kind, sign in ((first, -1), (second, 1)):
                if kind in self.sums:
                    self.sums[kind] = self.sums[kind] + sign * moved

    def _pool(self, kind: MigrateType, other: MigrateType) -> I64:
        """Return the pageblocks of ``kind`` that are likeliest to be ``other``."""
        members = np.flatnonzero((self.types == kind) & ~self.fixed)
        margin = (self.cost[other] - self.cost[kind])[members]
        return members[np.lexsort((self.tie[members], margin))[:_POOL]]

    def _weigh(self, first: MigrateType, second: MigrateType, moved: I64) -> I64:
        """Return what moving these free blocks from ``first`` to ``second`` costs."""
        total = np.zeros(len(moved), np.int64)
        for kind, sign in ((first, -1), (second, 1)):
            if kind != MigrateType.MOVABLE and kind in self.sums:
                low, high = self.told[kind]
                now = self.sums[kind]
                total += _off(now + sign * moved, low, high) - _off(now[None], low, high)
        return total


def _off(counts: I64, low: I64, high: I64) -> I64:
    outside = np.maximum(low - counts, 0) + np.maximum(counts - high, 0)
    weighed: I64 = outside @ _RESIDUAL_WEIGHT
    return weighed
