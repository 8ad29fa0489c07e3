"""How long things took, counted by size: a histogram at the cost of an addition."""

from bisect import bisect_left
from typing import Final

BOUNDS_S: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)
"""Upper bounds of the buckets, in seconds; one more takes what is longer."""


class Durations:
    """Counts of durations by bucket, and their sum. For one thread at a time."""

    __slots__ = ("buckets", "total_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Counts up to each bound, as Prometheus has them."""
        rows: list[tuple[str, float]] = []
        count = 0
        for bound, here in zip((*map(str, BOUNDS_S), "+Inf"), self.buckets, strict=True):
            count += here
            rows.append((bound, float(count)))
        return rows
