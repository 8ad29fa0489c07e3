"""What several draws of one forecast say together: the typical one, and a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contigmm.description import NR_PAGE_ORDERS
from contigmm.replay.distance import Distance, distance
from contigmm.replay.recording import FreeCounts

#: Shares of the draws below and above a band of 90 %.
_BAND: Final = (5.0, 95.0)
_SIZES: Final = np.int64(1) << np.arange(NR_PAGE_ORDERS, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Free blocks by zone and order of several draws: the range of nine in ten of them."""

    zones: tuple[str, ...]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    @classmethod
    def of(cls, states: Sequence[FreeCounts]) -> Band:
        """Return the band of at least one draw."""
        zones = tuple(sorted(states[0]))
        counts = np.array([[state[zone] for zone in zones] for state in states], np.float64)
        low, high = np.percentile(counts, _BAND, axis=0)
        return cls(zones, low, high)

    def holds(self, real: FreeCounts) -> npt.NDArray[np.bool_]:
        """Tell for each zone and order whether what is real lies in the band."""
        found = np.array([real.get(zone, [0] * NR_PAGE_ORDERS) for zone in self.zones])
        inside: npt.NDArray[np.bool_] = (found >= self.low) & (found <= self.high)
        return inside

    def to_json(self, real: FreeCounts | None) -> dict[str, Any]:
        """Return the band by zone, and how much of what is real it holds.

        ``in_band`` is the share of zones' orders; ``in_band_pages`` weighs each by the free frames
        that really stand there.
        """
        out: dict[str, Any] = {
            "end_state_low": _by_zone(self.zones, self.low),
            "end_state_high": _by_zone(self.zones, self.high),
        }
        if real is None:
            return out
        inside = self.holds(real)
        rows = [real.get(zone, [0] * NR_PAGE_ORDERS) for zone in self.zones]
        pages = np.array(rows, np.int64) * _SIZES
        out["in_band"] = round(float(inside.mean()), 4)
        out["in_band_pages"] = round(float(pages[inside].sum() / max(1, pages.sum())), 4)
        return out


def _by_zone(zones: Sequence[str], rows: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    return {zone: [float(nr) for nr in row] for zone, row in zip(zones, rows, strict=True)}


def typical(states: Sequence[FreeCounts]) -> int:
    """Return the draw that lies closest to all others."""
    far = [sum(distance(one, other).free_pages_l1 for other in states) for one in states]
    return int(np.argmin(far))


def compared(states: Sequence[FreeCounts], real: FreeCounts) -> dict[str, Any]:
    """Return the median of each distance, and its least and greatest over the draws."""
    found: list[Distance] = [distance(state, real) for state in states]
    rows = [one.to_json() for one in found]
    out: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        out[name] = float(np.median(values))
        out[f"{name}_range"] = [min(values), max(values)]
    return out
