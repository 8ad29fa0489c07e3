"""What /proc/kpageflags says: the class of every frame, folios, and which blocks are free.

Bit numbers as in include/uapi/linux/kernel-page-flags.h and include/linux/kernel-page-flags.h,
v6.12; the words are made by fs/proc/page.c:stable_page_flags().
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import MAX_PAGE_ORDER, FrameFlags, PageClass
from contigmm.hosts.rle import I64, U64, WordRuns

LOCKED: Final = 1 << 0
REFERENCED: Final = 1 << 2
UPTODATE: Final = 1 << 3
DIRTY: Final = 1 << 4
LRU: Final = 1 << 5
ACTIVE: Final = 1 << 6
SLAB: Final = 1 << 7
RECLAIM: Final = 1 << 9
BUDDY: Final = 1 << 10
MMAP: Final = 1 << 11
ANON: Final = 1 << 12
SWAPBACKED: Final = 1 << 14
COMPOUND_HEAD: Final = 1 << 15
COMPOUND_TAIL: Final = 1 << 16
HUGE: Final = 1 << 17
UNEVICTABLE: Final = 1 << 18
HWPOISON: Final = 1 << 19
NOPAGE: Final = 1 << 20
THP: Final = 1 << 22
OFFLINE: Final = 1 << 23
ZERO_PAGE: Final = 1 << 24
IDLE: Final = 1 << 25
PGTABLE: Final = 1 << 26
RESERVED: Final = 1 << 32
MLOCKED: Final = 1 << 33
OWNER_2: Final = 1 << 34
PRIVATE: Final = 1 << 35
OWNER_PRIVATE: Final = 1 << 37
ARCH: Final = 1 << 38
SOFTDIRTY: Final = 1 << 40
ARCH_2: Final = 1 << 41
ARCH_3: Final = 1 << 42

#: Bits that tell nothing about where a frame may be or go; a capture leaves them out.
VOLATILE: Final = (
    REFERENCED | UPTODATE | IDLE | SOFTDIRTY | LOCKED | RECLAIM | ARCH | OWNER_2 | ARCH_2 | ARCH_3
) | OWNER_PRIVATE

_MAX_FOLIO_ORDER: Final = 18

#: The first line whose bits are set (all of the first, none of the second) names the class.
_RULES: Final[tuple[tuple[int, int, PageClass], ...]] = (
    (NOPAGE, 0, PageClass.NOPAGE),
    (BUDDY, 0, PageClass.FREE),
    (RESERVED | ZERO_PAGE, 0, PageClass.ZERO_PAGE),
    (RESERVED, 0, PageClass.RESERVED),
    (HWPOISON, 0, PageClass.HWPOISON),
    (OFFLINE, 0, PageClass.OFFLINE),
    (HUGE, 0, PageClass.HUGETLB),
    (SLAB, 0, PageClass.SLAB),
    (PGTABLE, 0, PageClass.PGTABLE),
    (ZERO_PAGE, 0, PageClass.ZERO_PAGE),
    (MLOCKED, 0, PageClass.MLOCKED),
    (ANON | THP, 0, PageClass.ANON_THP),
    (ANON, 0, PageClass.ANON),
    (LRU | SWAPBACKED | THP, 0, PageClass.SHMEM_THP),
    (LRU | SWAPBACKED, 0, PageClass.SHMEM),
    (LRU | THP, 0, PageClass.FILE_LARGE),
    (LRU, 0, PageClass.FILE),
    (MMAP, 0, PageClass.MOVABLE_OFFLRU),
    (SWAPBACKED, 0, PageClass.MOVABLE_OFFLRU),
    (UNEVICTABLE, 0, PageClass.MOVABLE_OFFLRU),
)
_FRAME_FLAGS: Final = (
    (DIRTY, FrameFlags.DIRTY),
    (ACTIVE, FrameFlags.ACTIVE),
    (UNEVICTABLE, FrameFlags.UNEVICTABLE),
    (MMAP, FrameFlags.MAPPED),
    (ANON, FrameFlags.ANON),
    (SWAPBACKED, FrameFlags.SWAPBACKED),
    (PRIVATE, FrameFlags.PRIVATE),
)
#: Slab reuses these bits for its own ends (``PG_mappedtodisk`` and the like): no flags of a frame.
_NO_FLAGS: Final = frozenset((PageClass.SLAB, PageClass.PGTABLE, PageClass.ZERO_PAGE))


@dataclass(frozen=True, slots=True, eq=False)
class UsedRuns:
    """Rows of used frames in order of address: ``nr`` frames from ``start``, folios of ``order``.

    ``blank`` tells that the kernel says nothing about them: what pages on per-CPU lists look like.
    """

    start: I64
    nr: I64
    page_class: npt.NDArray[np.uint8]
    order: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    blank: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[np.bool_] | I64) -> UsedRuns:
        """Return these rows only."""
        return UsedRuns(
            self.start[rows],
            self.nr[rows],
            self.page_class[rows],
            self.order[rows],
            self.flags[rows],
            self.blank[rows],
        )

    @staticmethod
    def sorted(*parts: UsedRuns) -> UsedRuns:
        """Return the rows of all parts in order of address."""
        rows = UsedRuns(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.nr for part in parts]),
            np.concatenate([part.page_class for part in parts]),
            np.concatenate([part.order for part in parts]),
            np.concatenate([part.flags for part in parts]),
            np.concatenate([part.blank for part in parts]),
        )
        return rows.take(np.argsort(rows.start, kind="stable"))


def page_class(word: int) -> PageClass:
    """Return the class that one word of /proc/kpageflags means."""
    for having, lacking, meaning in _RULES:
        if word & having == having and not word & lacking:
            return meaning
    return PageClass.KERNEL


def classify(dictionary: U64) -> npt.NDArray[np.uint8]:
    """Return the class of each word."""
    return np.array([page_class(int(word)) for word in dictionary], np.uint8)


def free_runs(runs: WordRuns, bounds: I64) -> tuple[I64, I64]:
    """Return begin and end of each longest run of free frames, cut at ``bounds``."""
    is_free = (classify(runs.dictionary) == PageClass.FREE)[runs.index]
    edge = np.flatnonzero(np.diff(np.concatenate([[False], is_free, [False]]).view(np.int8)))
    begin = runs.start[edge[0::2]]
    end = runs.start[edge[1::2] - 1] + runs.nr[edge[1::2] - 1]
    cuts = [b for b in bounds.tolist() if ((begin < b) & (end > b)).any()]
    cut = np.array(cuts, np.int64)
    return np.sort(np.concatenate([begin, cut])), np.sort(np.concatenate([end, cut]))


def cover(begin: I64, end: I64) -> tuple[I64, npt.NDArray[np.uint8]]:
    """Return pfn and order of the free blocks that make up runs of free frames.

    A freed block merges with its buddy whenever both are free (mm/page_alloc.c:__free_one_page(),
    v6.12), so the blocks are the one cover of each run by maximal aligned blocks.
    """
    unit = 1 << MAX_PAGE_ORDER
    low, high = -(-begin // unit) * unit, end // unit * unit
    whole = low < high
    count = np.where(whole, (high - low) // unit, 0)
    first = np.cumsum(count) - count
    middle = np.repeat(low - first * unit, count) + np.arange(int(count.sum())) * unit
    pfns, orders = [middle], [np.full(len(middle), MAX_PAGE_ORDER, np.uint8)]
    begin = np.concatenate([begin, high[whole]])
    end = np.concatenate([np.where(whole, low, end), end[whole]])
    while len(begin):
        begin, end = begin[begin < end], end[begin < end]
        aligned = np.log2((begin & -begin) | np.where(begin == 0, unit, 0)).astype(np.int64)
        fits = np.log2(np.maximum(end - begin, 1)).astype(np.int64)
        order = np.minimum(np.minimum(aligned, fits), MAX_PAGE_ORDER)
        pfns.append(begin)
        orders.append(order.astype(np.uint8))
        begin = begin + (1 << order)
    pfn, order_of = np.concatenate(pfns), np.concatenate(orders)
    by_pfn = np.argsort(pfn)
    return pfn[by_pfn], order_of[by_pfn]


def used_runs(runs: WordRuns, bounds: I64) -> UsedRuns:
    """Return the frames in use, folios as such, cut at ``bounds``; holes and free are left out."""
    classes = classify(runs.dictionary)
    flags = np.zeros(len(runs.dictionary), np.uint8)
    for bit, meaning in _FRAME_FLAGS:
        flags |= np.where(runs.dictionary & np.uint64(bit), np.uint8(meaning), np.uint8(0))
    flags[np.isin(classes, list(_NO_FLAGS))] = 0
    rows = UsedRuns(
        runs.start,
        runs.nr,
        classes[runs.index],
        _folio_orders(runs, classes),
        flags[runs.index],
        ((runs.dictionary & ~np.uint64(VOLATILE)) == 0)[runs.index],
    )
    rows = _join_folios(rows, runs)
    rows = rows.take((rows.page_class != PageClass.FREE) & (rows.page_class != PageClass.NOPAGE))
    return split(_merge(rows), bounds)


def _folio_orders(runs: WordRuns, classes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return, at each run that ends in a folio's head, that folio's order; else 0.

    A head and the tails behind it are a folio if their number is a power of two, the head is
    aligned to it and all are of one class; else they changed during the scan and count singly.
    """
    is_head = ((runs.dictionary & np.uint64(COMPOUND_HEAD)) != 0)[runs.index]
    is_tail = _tails(runs)
    group = np.cumsum(~is_tail) - 1  # position of the last run before, or itself, that is no tail
    tails = np.bincount(group[is_tail], runs.nr[is_tail], minlength=int(group[-1]) + 1)
    first = np.flatnonzero(~is_tail)
    kinds = classes[runs.index]
    alike = np.ones(len(first), bool)
    alike[group[is_tail & (kinds != kinds[first[group]])]] = False
    length = 1 + tails.astype(np.int64)
    head_pfn = runs.start[first] + runs.nr[first] - 1
    order = np.log2(length).astype(np.int64)
    is_folio = (is_head[first] & alike & (order > 0) & (order <= _MAX_FOLIO_ORDER)) & (
        (1 << order == length) & (head_pfn & (length - 1) == 0)
    )
    out = np.zeros(len(runs.nr), np.uint8)
    out[first[is_folio]] = order[is_folio]
    return out


def _tails(runs: WordRuns) -> npt.NDArray[np.bool_]:
    """Tell which runs are tails of what stands before them."""
    of_word: npt.NDArray[np.bool_] = (runs.dictionary & np.uint64(COMPOUND_TAIL)) != 0
    is_tail = of_word[runs.index]
    is_tail[:1] = False
    return is_tail


def _join_folios(rows: UsedRuns, runs: WordRuns) -> UsedRuns:
    """Make one row of each head and its tails; single frames before a head keep a row."""
    order = rows.order.astype(np.int64)
    is_folio = order > 0
    is_tail = _tails(runs)
    owner = np.maximum.accumulate(np.where(~is_tail, np.arange(len(order)), 0))
    swallowed = is_tail & is_folio[owner]
    single = rows.nr - is_folio
    plain = UsedRuns(
        rows.start, single, rows.page_class, np.zeros_like(rows.order), rows.flags, rows.blank
    ).take((single > 0) & ~swallowed)
    folios = UsedRuns(
        rows.start + single, 1 << order, rows.page_class, rows.order, rows.flags, rows.blank
    ).take(is_folio)
    return UsedRuns.sorted(plain, folios)


def split(rows: UsedRuns, bounds: I64) -> UsedRuns:
    """Cut rows at ``bounds``; a folio that crosses one becomes single frames."""
    for bound in bounds.tolist():
        across = (rows.start < bound) & (rows.start + rows.nr > bound)
        if not across.any():
            continue
        low, high = rows.take(across), rows.take(across)
        unaligned = ((bound - low.start) & ((1 << low.order.astype(np.int64)) - 1)) != 0
        order = np.where(unaligned, 0, low.order).astype(np.uint8)
        rest = high.start + high.nr - bound
        at = np.full_like(high.start, bound)
        rows = UsedRuns.sorted(
            rows.take(~across),
            UsedRuns(low.start, bound - low.start, low.page_class, order, low.flags, low.blank),
            UsedRuns(at, rest, high.page_class, order, high.flags, high.blank),
        )
    return rows


def _merge(rows: UsedRuns) -> UsedRuns:
    """Join neighbouring rows that are alike."""
    if not len(rows.start):
        return rows
    same = rows.start[1:] == rows.start[:-1] + rows.nr[:-1]
    for column in (rows.page_class, rows.order, rows.flags, rows.blank):
        same &= column[1:] == column[:-1]
    first = np.flatnonzero(np.concatenate([[True], ~same]))
    joined = rows.take(first)
    nr = np.add.reduceat(rows.nr, first)
    return UsedRuns(joined.start, nr, joined.page_class, joined.order, joined.flags, joined.blank)
