"""How far two states of free lists lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import NR_PAGE_ORDERS
from contigmm.phys.free_lists import suitable_blocks

_SIZES: Final = np.int64(1) << np.arange(NR_PAGE_ORDERS, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Distance:
    """Distances of free lists, all zones together.

    ``free_pages_l1``: frames by zone and order that differ, relative to the mean of free frames.
    ``emd_orders``: how many orders a free frame has to move on average. ``unusable_max``: the
    largest difference of the share of free memory that is unusable for an order.
    """

    free_pages_l1: float
    emd_orders: float
    unusable_max: float

    def to_json(self) -> dict[str, float]:
        """Return the three figures by name."""
        return {
            "free_pages_l1": round(self.free_pages_l1, 6),
            "emd_orders": round(self.emd_orders, 6),
            "unusable_max": round(self.unusable_max, 6),
        }


def distance(ours: Mapping[str, Sequence[float]], real: Mapping[str, Sequence[float]]) -> Distance:
    """Compare two states, zone by zone; a zone that one of them lacks has nothing free there."""
    zones = sorted(set(ours) | set(real))
    none = [0] * NR_PAGE_ORDERS
    mine = np.array([ours.get(zone, none) for zone in zones], np.float64).round().astype(np.int64)
    theirs = np.array([real.get(zone, none) for zone in zones], np.int64)
    pages, other = mine * _SIZES, theirs * _SIZES
    mean = max(1.0, float(pages.sum() + other.sum()) / 2)
    shape = np.cumsum(pages.sum(axis=0)) / max(1, int(pages.sum()))
    other_shape = np.cumsum(other.sum(axis=0)) / max(1, int(other.sum()))
    return Distance(
        free_pages_l1=float(np.abs(pages - other).sum()) / mean,
        emd_orders=float(np.abs(shape - other_shape).sum()),
        unusable_max=float(np.abs(_unusable(mine) - _unusable(theirs)).max()),
    )


def _unusable(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return, by order, the share of free frames in blocks too small for it."""
    merged = counts.sum(axis=0).astype(np.uint64)
    free = suitable_blocks(merged, 0)
    usable = [suitable_blocks(merged, order) << order for order in range(NR_PAGE_ORDERS)]
    return 1 - np.array(usable) / free if free else np.zeros(NR_PAGE_ORDERS)
