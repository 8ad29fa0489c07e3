"""A recorded run: a capture before it, the kernel's events, and maybe a capture after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contigmm.description import NR_PAGE_ORDERS, ZoneDescription
from contigmm.hosts import Evidence, SourceError, kpageflags, read
from contigmm.hosts.kmem import FAILED, KmemTrace, read_kmem
from contigmm.hosts.scan_clock import ScanClock

#: Free blocks: of each zone (``NODE/ZONE``), how many of each order.
FreeCounts = dict[str, list[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What STEM.before.snap.tar.xz, STEM.kmem.tar.xz and STEM.after.snap.tar.xz tell."""

    stem: str
    before: Evidence
    trace: KmemTrace
    after: Evidence | None

    @property
    def zones(self) -> tuple[ZoneDescription, ...]:
        """The zones, as the core numbers them."""
        return tuple(sorted(self.before.zones, key=lambda zone: (zone.node, zone.start_pfn)))

    def seen(self) -> npt.NDArray[np.bool_]:
        """Tell which events fall between the readings of their frame in the two captures.

        Without a capture afterwards, its scan is taken to have begun when the command ended, as the
        recorder does, and to have gone as the one before.
        """
        trace = self.trace
        seen: npt.NDArray[np.bool_] = trace.pfn != FAILED
        if self.before.scan is not None:
            seen &= trace.t_ns >= self.before.scan.when(trace.pfn)
        last = self._last_scan()
        if last is not None:
            seen &= trace.t_ns <= last.when(trace.pfn)
        return seen

    def _last_scan(self) -> ScanClock | None:
        if self.after is not None:
            return self.after.scan
        if self.before.scan is None or self.trace.command_ns is None:
            return None
        return self.before.scan.begun_at(self.trace.command_ns[1])


def read_recording(stem: str) -> Recording:
    """Read what stands under a stem; the capture after the run may be missing.

    Raises:
        SourceError: a file is missing or cannot be read as what it should be.
    """
    before = read(f"file:{stem}.before.snap.tar.xz")
    if before.page_flags is None:
        raise SourceError("it does not tell the flags of frames.", name=before.origin)
    after = Path(f"{stem}.after.snap.tar.xz")
    return Recording(
        stem=stem,
        before=before,
        trace=read_kmem(Path(f"{stem}.kmem.tar.xz")),
        after=read(f"file:{after}") if after.exists() else None,
    )


def free_blocks(evidence: Evidence) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return pfn and order of every free block that a capture's scan saw.

    Raises:
        SourceError: it has none.
    """
    if evidence.page_flags is None:
        raise SourceError("it does not tell the flags of frames.", name=evidence.origin)
    edges = {edge for zone in evidence.zones for edge in (zone.start_pfn, zone.end_pfn)}
    bounds = np.array(sorted(edges), np.int64)
    return kpageflags.cover(*kpageflags.free_runs(evidence.page_flags, bounds))


def free_counts(evidence: Evidence) -> FreeCounts:
    """Count a capture's free blocks by zone and order."""
    pfn, order = free_blocks(evidence)
    counts: FreeCounts = {}
    for zone in evidence.zones:
        inside = (pfn >= zone.start_pfn) & (pfn < zone.end_pfn)
        row = np.bincount(order[inside], minlength=NR_PAGE_ORDERS)
        if zone.spanned:
            counts[zone.key] = [int(count) for count in row]
    return counts
