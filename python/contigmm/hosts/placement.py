"""Where blocks lie when a source tells only how many there are: drawn, but possible.

Free blocks are placed from the largest order down. Two free buddies never stay apart, so of the two
halves of a block that is not free as a whole at most one is free; the other is in use somewhere.
What is left over is in use, by the classes that /proc/meminfo tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    MAX_PAGE_ORDER,
    NR_PAGE_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    MigrateType,
    ZoneDescription,
)
from contigmm.hosts.kpageflags import cover
from contigmm.hosts.rle import I64
from contigmm.hosts.source_error import SourceError

#: Slots that stay open at a level, at most, for each free block still to be placed below it. Fewer
#: would crowd the free blocks; more would only cost time.
_OPEN_A_BLOCK: Final = 3
_TYPES: Final = tuple(MigrateType)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a source told of one zone's free blocks and pageblocks.

    ``free[type, order]`` sums up to buddyinfo over types; ``blocks[type]`` is the number of
    pageblocks; Movable is what is left in both.
    """

    free: npt.NDArray[np.int64]
    blocks: dict[MigrateType, int]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """One zone's free blocks, and the types of its pageblocks, ``misplaced`` not as told."""

    pfn: I64
    order: npt.NDArray[np.uint8]
    blocks: I64
    types: npt.NDArray[np.uint8]
    misplaced: int


def place_zone(
    zone: ZoneDescription, told: Told, usable: list[tuple[int, int]], rng: np.random.Generator
) -> Placed:
    """Draw where one zone's free blocks lie within its ``usable`` ranges of frames.

    Raises:
        ValueError: they cannot lie there.
    """
    begin = np.array([low for low, _ in usable], np.int64)
    end = np.array([high for _, high in usable], np.int64)
    return _Placement(zone, told, cover(begin, end), rng).run()


class _Placement:
    """The slots of one zone that are still open, from the largest order down."""

    def __init__(
        self,
        zone: ZoneDescription,
        told: Told,
        slots: tuple[I64, npt.NDArray[np.uint8]],
        rng: np.random.Generator,
    ) -> None:
        self.zone, self.rng = zone, rng
        self.free = told.free.copy()
        self.whole_pfn, self.whole_order = slots
        first, last = zone.start_pfn >> PAGEBLOCK_ORDER, -(-zone.end_pfn // PAGEBLOCK_NR_PAGES)
        self.first_block = first
        self.types = np.full(last - first, MigrateType.MOVABLE, np.uint8)
        self.is_typed = np.zeros(last - first, bool)
        self.blocks = dict(told.blocks)
        self.pfns: list[I64] = []
        self.orders: list[npt.NDArray[np.uint8]] = []
        self.misplaced = 0

    def run(self) -> Placed:
        mixed = np.zeros(0, np.int64)
        for order in range(MAX_PAGE_ORDER, -1, -1):
            single = self.whole_pfn[self.whole_order == order]
            mixed = self._level(order, mixed, single)
        is_present = np.zeros(len(self.types), bool)
        for step in (0, 1):
            reaches = (1 << self.whole_order.astype(np.int64)) > step * PAGEBLOCK_NR_PAGES
            is_present[(self.whole_pfn[reaches] >> PAGEBLOCK_ORDER) + step - self.first_block] = (
                True
            )
        present = np.flatnonzero(is_present) + self.first_block
        return Placed(
            np.concatenate(self.pfns),
            np.concatenate(self.orders),
            present,
            self.types[present - self.first_block],
            self.misplaced,
        )

    def _level(self, order: int, mixed: I64, single: I64) -> I64:
        """Place the free blocks of one order; return the slots of this order that are not free."""
        size = 1 << order
        upper = mixed + size * self.rng.integers(0, 2, len(mixed))  # one half of each may be free
        lower = 2 * mixed + size - upper
        candidates = self.rng.permutation(np.concatenate([upper, single]))
        if order == PAGEBLOCK_ORDER - 1:
            self._draw_types(np.concatenate([candidates, lower]))
        taken = self._take(order, candidates)
        self.pfns.append(candidates[taken])
        self.orders.append(np.full(int(taken.sum()), order, np.uint8))
        return self._prune(order, np.concatenate([candidates[~taken], lower]))

    def _take(self, order: int, candidates: I64) -> npt.NDArray[np.bool_]:
        """Choose which candidates are free, by type as told as far as that is possible."""
        wanted = self.free[:, order].copy()
        if int(wanted.sum()) > len(candidates):
            raise ValueError(
                f"{int(wanted.sum())} free blocks of order {order} do not fit into the zone"
            )
        taken = np.zeros(len(candidates), bool)
        if order >= PAGEBLOCK_ORDER:
            at = 0
            for kind in _TYPES:
                heads = candidates[at : at + int(wanted[kind])]
                taken[at : at + len(heads)] = True
                at += len(heads)
                self._set_type(heads, kind, 1 << (order - PAGEBLOCK_ORDER))
            return taken
        kinds = self.types[(candidates >> PAGEBLOCK_ORDER) - self.first_block]
        for kind in _TYPES:
            found = np.flatnonzero(kinds == kind)[: int(wanted[kind])]
            taken[found] = True
            wanted[kind] -= len(found)
        left = int(wanted.sum())
        self.misplaced += left << order
        taken[np.flatnonzero(~taken)[:left]] = True
        return taken

    def _set_type(self, heads: I64, kind: MigrateType, span: int) -> None:
        for step in range(span):
            at = (heads >> PAGEBLOCK_ORDER) + step - self.first_block
            self.types[at], self.is_typed[at] = kind, True
        if kind in self.blocks:
            self.blocks[kind] -= len(heads) * span

    def _draw_types(self, pfns: I64) -> None:
        """Give the pageblocks that are not wholly free their types."""
        is_open = np.zeros(len(self.types), bool)
        is_open[(pfns >> PAGEBLOCK_ORDER) - self.first_block] = True
        open_ = self.rng.permutation(np.flatnonzero(is_open & ~self.is_typed))
        at = 0
        for kind in _TYPES:
            if kind != MigrateType.MOVABLE:
                count = max(0, self.blocks.get(kind, 0))
                self.types[open_[at : at + count]] = kind
                at += count

    def _prune(self, order: int, slots: I64) -> I64:
        """Close slots that no free block will need: they are in use as a whole."""
        need = int(self.free[:, :order].sum()) * _OPEN_A_BLOCK
        if order >= PAGEBLOCK_ORDER or len(slots) <= need:
            return slots
        kinds = self.types[(slots >> PAGEBLOCK_ORDER) - self.first_block]
        rare = kinds != MigrateType.MOVABLE
        kept = self.rng.permutation(slots[~rare])[:need]
        return np.concatenate([slots[rare], kept])


def told_zone(
    zone: ZoneDescription,
    counts: list[int],
    free_by_type: dict[MigrateType, list[int]] | None,
    blocks: dict[MigrateType, int] | None,
) -> Told:
    """Bring what was told of one zone to terms: buddyinfo holds, types as far as they agree."""
    free = np.zeros((len(_TYPES), NR_PAGE_ORDERS), np.int64)
    left = np.array(counts, np.int64)
    for kind, told in (free_by_type or {}).items():
        if kind != MigrateType.MOVABLE:
            free[kind] = np.minimum(np.array(told, np.int64), left)
            left = left - free[kind]
    free[MigrateType.MOVABLE] = left
    return Told(free, dict(blocks or {}))


def hold_frames(zone: ZoneDescription, counts: list[int], name: str) -> None:
    """Refuse free lists that have more frames than the zone manages.

    Raises:
        SourceError: so it is.
    """
    free = sum(count << order for order, count in enumerate(counts))
    on_lists = sum(pcp.count for pcp in zone.pcp)
    if free + on_lists > zone.managed:
        raise SourceError(
            f"zone {zone.key} has {free} free frames and {on_lists} on per-CPU lists, but manages "
            f"only {zone.managed}.",
            name=name,
        )
