"""When a capture's scan read each frame: a scan takes a while, and the machine runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contigmm.hosts.rle import I64


@dataclass(frozen=True, slots=True, eq=False)
class ScanClock:
    """Stamps of a scan, CLOCK_MONOTONIC in ns: frame ``pfn[i]`` was read at ``t_ns[i]``."""

    begun_ns: int
    pfn: I64
    t_ns: I64

    def when(self, pfn: npt.NDArray[np.integer[Any]]) -> I64:
        """Return when each frame was read, linear between stamps."""
        at = np.clip(np.searchsorted(self.pfn, pfn, side="right"), 1, len(self.pfn) - 1)
        low, high = self.pfn[at - 1], self.pfn[at]
        since = self.t_ns[at] - self.t_ns[at - 1]
        read: I64 = self.t_ns[at - 1] + since * (pfn - low) // np.maximum(1, high - low)
        return read

    def begun_at(self, ns: int) -> ScanClock:
        """Return the stamps of a scan that began at ``ns`` and went as this one did."""
        return ScanClock(ns, self.pfn, self.t_ns + (ns - self.begun_ns))


def scan_clock(meta: dict[str, Any]) -> ScanClock | None:
    """Read the stamps of a capture's meta data; nothing if it has none."""
    stamps, nr, begun, end = (
        meta.get(key) for key in ("chunk_stamps", "npfn", "t_start", "t_flags_end")
    )
    numbers = all(isinstance(one, int) for one in (nr, begun, end))
    if not numbers or not isinstance(stamps, list) or not stamps:
        return None
    try:
        table = np.array([*stamps, [nr, end]], np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    if table.ndim == 2 and len(table):
        # A scanner that is used again has the stamps of its earlier scans in front.
        table = table[np.flatnonzero(np.diff(table[:, 0], prepend=table[0, 0] + 1) < 0)[-1] :]
    rising = table.ndim == 2 and table.shape[1] == 2 and bool((np.diff(table, axis=0) >= 0).all())
    return ScanClock(int(str(begun)), table[:, 0], table[:, 1]) if rising else None
