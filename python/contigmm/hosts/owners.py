"""Who owns the used frames: background processes and files, drawn, since the flags do not tell.

Anonymous frames belong to processes, cache frames to files, shared memory to shmem files; what is
locked but not anonymous keeps its place. Frames of
one pageblock mostly belong to one process, as faults take them in runs; a file has neighbouring
frames. Page tables belong to the processes, each getting at least as many as map its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from contigmm.description import (
    NO_OWNER,
    PAGEBLOCK_ORDER,
    FrameFlags,
    FrameRuns,
    OwnerDescription,
    OwnerKind,
    PageClass,
)
from contigmm.hosts.kpageflags import UsedRuns
from contigmm.hosts.rle import I64

_PAGES_A_PROCESS: Final = 20_000
_MAX_PROCESSES: Final = 48
_STAYS_WITH_PAGEBLOCK: Final = 0.85
_PAGES_A_FILE: Final = 2048
_PAGES_A_SHMEM_FILE: Final = 4096
_FILE_GAP: Final = 4096
#: Page tables of x86-64 with four levels: entries of one, and levels above the last.
_ENTRIES: Final = 512
_UPPER_LEVELS: Final = 2  # one PGD and one PUD a process; PMDs and PTE tables by its size

#: Bits of the key that rows are laid out by: 32 of place, 5 of order, 1 of kind, 25 of owner.
_ORDER_SHIFT: Final = 32
_MAX_ORDER: Final = 18
_TABLE_BIT: Final = 37
_OWNER_SHIFT: Final = 38

_ANON: Final = (PageClass.ANON, PageClass.ANON_THP)
_SHMEM: Final = (PageClass.SHMEM, PageClass.SHMEM_THP)
_FILE: Final = (PageClass.FILE, PageClass.FILE_LARGE)


@dataclass(frozen=True, slots=True, eq=False)
class Ownership:
    """The rows of used frames with their owners, grouped by owner, and who the owners are.

    ``unbacked`` anonymous frames have no owner: too few page tables were told to map them.
    """

    frames: FrameRuns
    owners: tuple[OwnerDescription, ...]
    unbacked: int


def tables_needed(nr_pages: int) -> int:
    """Return how many page tables map that many pages in a row, from a 1 GiB boundary on."""
    last = -(-nr_pages // _ENTRIES)
    return _UPPER_LEVELS + last + -(-last // _ENTRIES)


def draw_owners(used: UsedRuns, rng: np.random.Generator) -> Ownership:
    """Give every anonymous, cache and page-table frame an owner."""
    used = _single_tables(used)
    kinds, flags = used.page_class, used.flags
    anon = np.flatnonzero(np.isin(kinds, _ANON))
    is_locked = (kinds == PageClass.MLOCKED) & ((flags & FrameFlags.ANON) != 0)
    locked = np.flatnonzero(is_locked)
    nr_tables = int(used.nr[kinds == PageClass.PGTABLE].sum())
    owner = np.full(len(used.nr), NO_OWNER, np.int64)
    names: list[OwnerDescription] = []

    count = _nr_processes(int(used.nr[anon].sum()), int(used.nr[locked].sum()), nr_tables)
    for number in range(count):
        names.append(OwnerDescription(OwnerKind.PROCESS, f"background-{number}"))
    if count:
        owner[anon] = _processes(used, anon, count, rng)
        owner[locked] = _locked_owner(names) if len(locked) else 0
    shmem = np.flatnonzero(np.isin(kinds, _SHMEM))
    for rows, kind, pages in (
        (shmem, OwnerKind.SHMEM, _PAGES_A_SHMEM_FILE),
        (np.flatnonzero(np.isin(kinds, _FILE)), OwnerKind.FILE, _PAGES_A_FILE),
    ):
        number_of, nr_files = _files(used, rows, pages, rng)
        owner[rows] = len(names) + number_of
        names += [OwnerDescription(kind, f"{kind}-{number}") for number in range(nr_files)]
    unbacked = _give_tables_room(used, owner, names, nr_tables)
    return Ownership(_lay_out(used, owner, names, rng), tuple(names), unbacked)


def _single_tables(used: UsedRuns) -> UsedRuns:
    """Give every page table a row of its own."""
    is_table = used.page_class == PageClass.PGTABLE
    rows = used.take(is_table)
    each = rows.take(np.repeat(np.arange(len(rows.nr)), rows.nr))
    within = np.arange(len(each.nr)) - np.repeat(np.cumsum(rows.nr) - rows.nr, rows.nr)
    one, order = np.ones_like(each.nr), np.zeros_like(each.order)
    tables = UsedRuns(each.start + within, one, each.page_class, order, each.flags, each.blank)
    return UsedRuns.sorted(used.take(~is_table), tables)


def _nr_processes(nr_anon: int, nr_locked: int, nr_tables: int) -> int:
    """Return how many processes share the anonymous frames, so that the page tables suffice."""
    if not nr_anon and not nr_locked:
        return 1 if nr_tables else 0
    wish = min(_MAX_PROCESSES, max(1, nr_anon // _PAGES_A_PROCESS))
    spare = nr_tables - tables_needed(nr_anon) - (tables_needed(nr_locked) if nr_locked else 0)
    return max(1, min(wish, 1 + spare // (_UPPER_LEVELS + 2)))


def _locked_owner(names: list[OwnerDescription]) -> int:
    names.append(OwnerDescription(OwnerKind.PROCESS, "background-locked"))
    return len(names) - 1


def _processes(used: UsedRuns, rows: I64, count: int, rng: np.random.Generator) -> I64:
    """Draw the process of each row: a few are large, neighbours mostly share one."""
    weight = 1.0 / np.arange(1, count + 1)
    share = np.cumsum(weight / weight.sum())
    block = used.start[rows] >> PAGEBLOCK_ORDER
    numbers, place = np.unique(block, return_inverse=True)
    of_block = np.searchsorted(share, rng.random(len(numbers)))[place]
    of_row = np.searchsorted(share, rng.random(len(rows)))
    stays = rng.random(len(rows)) < _STAYS_WITH_PAGEBLOCK
    return np.minimum(np.where(stays, of_block, of_row), count - 1).astype(np.int64)


def _files(used: UsedRuns, rows: I64, pages: int, rng: np.random.Generator) -> tuple[I64, int]:
    """Cut cache rows, in order of address, into files of ``pages`` on average."""
    if not len(rows):
        return rows, 0
    start, nr = used.start[rows], used.nr[rows]
    far = np.concatenate([[True], start[1:] - (start[:-1] + nr[:-1]) >= _FILE_GAP])
    begins = far | (rng.random(len(rows)) < nr / pages)
    number_of = np.cumsum(begins) - 1
    return number_of.astype(np.int64), int(number_of[-1]) + 1


def _give_tables_room(
    used: UsedRuns, owner: I64, names: list[OwnerDescription], nr_tables: int
) -> int:
    """Share the page-table frames among the processes; take frames off that no table can map."""
    processes = [n for n, name in enumerate(names) if name.kind is OwnerKind.PROCESS]
    if not processes:
        return 0
    mine = owner != NO_OWNER
    pages = np.bincount(owner[mine], used.nr[mine], minlength=len(names)).astype(np.int64)
    unbacked, left = 0, nr_tables
    need: list[int] = []
    for process in processes:
        wanted = tables_needed(int(pages[process])) if pages[process] else 0
        if wanted > left:
            unbacked += _trim(used, owner, process, left)
            at = owner == process
            wanted = tables_needed(int(used.nr[at].sum())) if at.any() else 0
        need.append(wanted)
        left -= wanted
    _share_tables(used, owner, processes, need, left)
    return unbacked


def _trim(used: UsedRuns, owner: I64, process: int, tables: int) -> int:
    """Leave a process only what that many tables map; return how many frames it loses."""
    room = max(0, tables - _UPPER_LEVELS)
    room = max(0, room - -(-room // (_ENTRIES + 1))) * _ENTRIES
    rows = np.flatnonzero(owner == process)
    loses = rows[np.cumsum(used.nr[rows]) > room]
    owner[loses] = NO_OWNER
    return int(used.nr[loses].sum())


def _share_tables(
    used: UsedRuns, owner: I64, processes: list[int], need: list[int], left: int
) -> None:
    """Give each process the tables it needs and its part of those left over."""
    total = sum(need) or len(need)
    extra = [left * (one or (0 if sum(need) else 1)) // total for one in need]
    extra[0] += left - sum(extra)
    rows = np.flatnonzero(used.page_class == PageClass.PGTABLE)
    ends = np.cumsum([one + more for one, more in zip(need, extra, strict=True)])
    at = np.searchsorted(ends, np.cumsum(used.nr[rows]) - 1, side="right")
    owner[rows] = np.array(processes)[np.minimum(at, len(processes) - 1)]


def _lay_out(
    used: UsedRuns, owner: I64, names: list[OwnerDescription], rng: np.random.Generator
) -> FrameRuns:
    """Group rows by owner; within one, large folios first, those of a size in drawn order.

    So every folio lies at a multiple of its size, and no page is left out between two.
    """
    order = used.order.astype(np.int64)
    is_table = used.page_class == PageClass.PGTABLE
    drawn = rng.permutation(len(owner))
    owned = owner != NO_OWNER
    # One number a row: by owner, page tables last, larger folios first, else in drawn order.
    key = np.where(owned, owner + 1, 0) << _OWNER_SHIFT | np.where(is_table, 1 << _TABLE_BIT, 0)
    key |= np.where(owned, (_MAX_ORDER - order) << _ORDER_SHIFT | drawn, used.start)
    by_owner = np.argsort(key, kind="stable")
    rows, owner = used.take(by_owner), owner[by_owner]
    before = np.cumsum(rows.nr) - rows.nr
    first = np.concatenate([[True], owner[1:] != owner[:-1]]) if len(owner) else owner.astype(bool)
    base = np.maximum.accumulate(np.where(first, before, 0))
    index = np.where((owner != NO_OWNER) & ~is_table[by_owner], before - base, 0)
    return FrameRuns(
        start=rows.start.astype(np.uint32),
        nr=rows.nr.astype(np.uint32),
        page_class=rows.page_class,
        order=rows.order,
        flags=rows.flags,
        owner=owner.astype(np.uint32),
        index=index.astype(np.uint32),
    )
