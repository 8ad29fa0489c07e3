"""How much of what changed the events tell: the floor under every replay of a recording."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import MAX_PAGE_ORDER
from contigmm.hosts.kmem import KmemEvent
from contigmm.replay.forced import PCP_ORDERS
from contigmm.replay.recording import Recording, free_blocks

_LARGEST: Final = 1 << MAX_PAGE_ORDER


def closure_residual(recording: Recording) -> float | None:
    """Return the frames that the events leave on the wrong side, relative to those free at the end.

    The set of free frames is rebuilt from the capture before the run and every event, fallbacks
    included, and held against the capture after it. Whole blocks of 4 MiB that differ are left
    out: page reporting moves them without events. Nothing without a capture afterwards.
    """
    if recording.after is None:
        return None
    trace = recording.trace
    nr = recording.before.page_flags.total if recording.before.page_flags is not None else 0
    free = _is_free(*free_blocks(recording.before), nr)
    to_lists = (trace.type == KmemEvent.DRAIN) | (
        (trace.type == KmemEvent.FREE) & ~np.isin(trace.order, PCP_ORDERS)
    )
    from_lists = (trace.type == KmemEvent.LOCKED) | (trace.type == KmemEvent.EXTFRAG)
    rows = np.flatnonzero((to_lists | from_lists) & recording.seen())
    sizes = np.int64(1) << trace.order[rows].astype(np.int64)
    first = np.cumsum(sizes) - sizes
    pfn = np.repeat(trace.pfn[rows] - first, sizes) + np.arange(int(sizes.sum()))
    free[pfn] = np.repeat(to_lists[rows], sizes)  # of several events of a frame the last one holds
    real = _is_free(*free_blocks(recording.after), nr)
    wrong = free != real
    whole = wrong[: len(wrong) // _LARGEST * _LARGEST].reshape(-1, _LARGEST).all(axis=1)
    return float(wrong.sum() - whole.sum() * _LARGEST) / max(1, int(real.sum()))


def _is_free(
    pfn: npt.NDArray[np.int64], order: npt.NDArray[np.uint8], nr_frames: int
) -> npt.NDArray[np.bool_]:
    edge = np.zeros(nr_frames + 1, np.int8)
    edge[pfn] += 1
    np.add.at(edge, pfn + (np.int64(1) << order.astype(np.int64)), -1)
    return np.cumsum(edge[:-1], dtype=np.int8) > 0
