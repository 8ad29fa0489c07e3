"""The map of a machine: three bytes a pageblock, kept up by looking at a part of it at a time.

Counting the frames of a worn 64 GiB machine takes tens of milliseconds, too long to hold it ten
times a second. So each look counts as many pageblocks as fit in ``BUDGET_S``, where the last look
ended, and round again; what is free by zone and order is exact at each look.
"""

import time
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import PageClass
from contigmm.phys import Memory

BUDGET_S: Final = 0.0025
"""How long one look may hold the machine."""
LEAST: Final = 256
"""Pageblocks of the first look, and least of any."""
MOST: Final = 16_384
"""Pageblocks counted by one call."""
CONTIG: Final = 0x80
"""Beside the migratetype: a contiguous run has frames here."""

_NOT_USED: Final = (PageClass.FREE, PageClass.PCP, PageClass.NOPAGE)


class Survey:
    """What is known of each pageblock, and since which look."""

    def __init__(self) -> None:
        self.look = 0
        """Number of the last look."""
        self.cells = np.zeros((0, 3), np.uint8)
        """By pageblock: the class that most used frames have, migratetype and CONTIG, share used.

        The share is of 255, and 0 for nothing. Without used frames the class is FREE, or NOPAGE.
        """
        self._changed_at = np.zeros(0, np.uint32)
        self._next = 0
        self._size = LEAST
        self._left = 0
        """Pageblocks that the present round has not come to."""

    @property
    def is_complete(self) -> bool:
        """Whether a whole round has been made since :meth:`renew`."""
        return self._left == 0

    def renew(self) -> None:
        """The machine has moved on: what was seen so far may be old."""
        self._left = len(self.cells)

    def take(self, memory: Memory, pfn: npt.NDArray[np.uint32], nr: npt.NDArray[np.uint32]) -> None:
        """Look at the next pageblocks, within a turn of the machine.

        Args:
            memory: The machine's.
            pfn: First frame of each contiguous run.
            nr: Frames of each.
        """
        self.look += 1
        types = memory.pageblock_types()
        if len(types) != len(self.cells):
            self.cells = np.zeros((len(types), 3), np.uint8)
            self._changed_at = np.zeros(len(types), np.uint32)
            self._left = len(types)
        types |= _of_runs(pfn, nr, len(types))
        moved = np.flatnonzero(self.cells[:, 1] != types)
        self.cells[moved, 1] = types[moved]
        self._changed_at[moved] = self.look
        self._count(memory)

    def _count(self, memory: Memory) -> None:
        begin_s = time.perf_counter()
        nr, left_s = len(self.cells), BUDGET_S
        left = nr
        while left and left_s > 0:
            part_s = time.perf_counter()
            some = min(self._size, left, nr - self._next)
            rows = slice(self._next, self._next + some)
            seen = _cells(memory.class_counts(first=self._next, nr=some))
            moved = np.flatnonzero((self.cells[rows, ::2] != seen).any(axis=1)) + self._next
            self.cells[rows, ::2] = seen
            self._changed_at[moved] = self.look
            self._next = (self._next + some) % nr
            left -= some
            self._left = max(0, self._left - some)
            now_s = time.perf_counter()
            left_s = BUDGET_S - (now_s - begin_s)
            fits = int(some * left_s / (now_s - part_s))
            self._size = min(MOST, max(LEAST, fits if fits > 0 else self._size // 2))
            if fits < LEAST:
                return

    def since(self, look: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """The pageblocks that have changed after a look, and their cells."""
        which = np.flatnonzero(self._changed_at > look).astype("<u4")
        return which, self.cells[which]


def _cells(counts: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Class and share used of pageblocks, from their frames by class."""
    used = counts.copy()
    used[:, _NOT_USED] = 0
    nr_used = used.sum(axis=1, dtype=np.uint32)
    present = counts.sum(axis=1, dtype=np.uint32) - counts[:, PageClass.NOPAGE]
    kind = used.argmax(axis=1).astype(np.uint8)
    kind[nr_used == 0] = PageClass.FREE
    kind[present == 0] = PageClass.NOPAGE
    share = np.ceil(255 * nr_used / np.maximum(present, 1))  # up, so that one frame is seen
    return np.stack([kind, share.astype(np.uint8)], axis=1)


def _of_runs(
    pfn: npt.NDArray[np.uint32], nr: npt.NDArray[np.uint32], nr_pageblocks: int
) -> npt.NDArray[np.uint8]:
    """CONTIG for each pageblock in which a run has frames."""
    edges = np.zeros(nr_pageblocks + 1, np.int32)
    np.add.at(edges, pfn >> 9, 1)
    np.add.at(edges, ((pfn + nr - 1) >> 9) + 1, -1)
    return np.where(np.cumsum(edges[:-1]) > 0, CONTIG, 0).astype(np.uint8)
