"""The map of a machine: three bytes a pageblock, kept up by counting those that have changed.

Counting the frames of a worn 64 GiB machine takes tens of milliseconds, too long to hold it ten
times a second. So each look compares fingerprints, which read one byte a frame, and counts the
pageblocks that have another one than before. What mlock(2) does is in no fingerprint: some
pageblocks are counted at each look in turn. What is free by zone and order is exact at each look.
"""

import time
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import PageClass
from contigmm.phys import Memory

BUDGET_S: Final = 0.002
"""How long one look may count; what is left is for the next."""
PRINTS: Final = 40_000
"""Most fingerprints of a look: 78 GiB, about two milliseconds."""
IN_TURN: Final = 512
"""Pageblocks that a look counts whatever their fingerprints are."""
PART: Final = 512
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
        self._prints = np.zeros(0, np.uint32)
        self._due = np.zeros(0, np.bool_)
        """Which pageblocks are to be counted."""
        self._next = 0
        self._left = 0
        """Pageblocks whose fingerprints have not been looked at since the machine moved on."""
        self._next_in_turn = 0
        self._left_in_turn = 0
        self._counted_to = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything has been seen since :meth:`renew`."""
        return not (self._left or self._left_in_turn or self._due.any())

    def renew(self) -> None:
        """The machine has moved on: what was seen so far may be old."""
        self._left = self._left_in_turn = len(self.cells)

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
            self._begin(len(types))
        types |= _of_runs(pfn, nr, len(types))
        moved = np.flatnonzero(self.cells[:, 1] != types)
        self.cells[moved, 1] = types[moved]
        self._changed_at[moved] = self.look
        self._find(memory)
        self._count_changed(memory)
        self._count_in_turn(memory)

    def _begin(self, nr: int) -> None:
        self.cells = np.zeros((nr, 3), np.uint8)
        self._changed_at = np.zeros(nr, np.uint32)
        self._prints = np.zeros(nr, np.uint32)
        self._due = np.ones(nr, np.bool_)
        self._next = self._next_in_turn = self._counted_to = 0
        self.renew()

    def _find(self, memory: Memory) -> None:
        """Mark the pageblocks that have another fingerprint than before."""
        nr = len(self.cells)
        some = min(PRINTS, self._left)
        self._left -= some
        while some:
            part = min(some, nr - self._next)
            rows = slice(self._next, self._next + part)
            prints = memory.pageblock_fingerprints(first=self._next, nr=part)
            self._due[rows] |= prints != self._prints[rows]
            self._prints[rows] = prints
            self._next = rows.stop % nr
            some -= part

    def _count_changed(self, memory: Memory) -> None:
        """Count what is marked, from where the last look ended, as far as the time goes."""
        due = np.flatnonzero(self._due).astype(np.uint32)
        due = np.roll(due, -int(np.searchsorted(due, self._counted_to)))
        end_s = time.perf_counter() + BUDGET_S
        for first in range(0, len(due), PART):
            which = due[first : first + PART]
            self._count(memory, which)
            self._due[which] = False
            self._counted_to = int(which[-1]) + 1
            if time.perf_counter() >= end_s:
                return

    def _count_in_turn(self, memory: Memory) -> None:
        nr, some = len(self.cells), min(IN_TURN, self._left_in_turn)
        which = (self._next_in_turn + np.arange(some)) % nr
        self._count(memory, which.astype(np.uint32))
        self._left_in_turn -= some
        self._next_in_turn = (self._next_in_turn + some) % nr

    def _count(self, memory: Memory, which: npt.NDArray[np.uint32]) -> None:
        seen = _cells(memory.class_counts_of(which))
        moved = (self.cells[which, ::2] != seen).any(axis=1)
        self.cells[which, ::2] = seen
        self._changed_at[which[moved]] = self.look

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
