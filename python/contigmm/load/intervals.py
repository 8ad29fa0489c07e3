"""A run cut into equal stretches of time: its own measure of how much its figures vary."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from contigmm.load.samples import Kind, Samples

NR_INTERVALS: Final = 10


@dataclass(frozen=True)
class Interval:
    """One stretch of the measured time, by the calls that were answered in it."""

    ops_per_s: float
    p50_us: float
    """Of mmap, from when it was due."""
    p99_us: float
    refused_share: float

    @classmethod
    def of(cls, samples: Samples, seconds: float) -> "Interval":
        """Sum up the calls answered within ``seconds``."""
        maps = samples[samples["kind"] == Kind.MAP]
        if not len(maps):
            return cls(len(samples) / seconds, 0.0, 0.0, 0.0)
        took_us = (maps["end_ns"] - maps["begin_ns"] + maps["late_ns"]) / 1000
        p50, p99 = np.percentile(took_us, [50, 99])
        return cls(
            len(samples) / seconds, float(p50), float(p99), float((maps["errno"] != 0).mean())
        )


def intervals(samples: Samples, *, begin_ns: int, elapsed_ns: int) -> tuple[Interval, ...]:
    """Cut the measured time into :data:`NR_INTERVALS`; later answers belong to none."""
    number = (samples["end_ns"] - begin_ns) * NR_INTERVALS // max(elapsed_ns, 1)
    seconds = elapsed_ns / NR_INTERVALS / 1e9
    return tuple(Interval.of(samples[number == at], seconds) for at in range(NR_INTERVALS))
