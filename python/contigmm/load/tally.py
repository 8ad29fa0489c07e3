"""Adds up what the generators saw: counts, latencies, and the order in which commands ran."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from contigmm.load.samples import SAMPLE, Chunk, Kind, Samples

_HIGHEST_LATENCY_US: Final = 3_600_000_000
_SIGNIFICANT_DIGITS: Final = 3


@dataclass(frozen=True)
class Refusal:
    """A way to be refused: Linux's errno and the check that decided."""

    errno: int
    reason: str


@dataclass
class SizeTally:
    """Attempts to map one size and what became of them."""

    size_bytes: int
    attempts: int = 0
    refusals: Counter[Refusal] = field(default_factory=Counter)

    @property
    def successes(self) -> int:
        """Attempts that mapped."""
        return self.attempts - self.refusals.total()

    @property
    def deciding(self) -> str | None:
        """The Reason of most refusals; None if there was none."""
        reasons: Counter[str] = Counter()
        for refusal, times in self.refusals.items():
            reasons[refusal.reason] += times
        return reasons.most_common(1)[0][0] if reasons else None

    @property
    def refused_share(self) -> float:
        """Refusals by attempts, 0 to 1."""
        return self.refusals.total() / self.attempts if self.attempts else 0.0


@dataclass(frozen=True)
class Latency:
    """Percentiles of one kind of call, in microseconds, until its answer."""

    calls: int
    p50: int
    p90: int
    p99: int
    p999: int
    max: int


class Tally:
    """Sum over the chunks of all generators."""

    def __init__(self, *, sizes_bytes: tuple[int, ...], nr_processes: int) -> None:
        self.sizes = [SizeTally(size) for size in sizes_bytes]
        self.failed_calls: Counter[tuple[Kind, Refusal]] = Counter()
        """Calls other than map that did not succeed: there should be none."""
        self._mapped_by_process = np.zeros(nr_processes, dtype=np.int64)
        self._attempts_by_process = np.zeros(nr_processes, dtype=np.int64)
        self._latency_us = {
            kind: HdrHistogram(1, _HIGHEST_LATENCY_US, _SIGNIFICANT_DIGITS) for kind in Kind
        }
        self._service_us = HdrHistogram(1, _HIGHEST_LATENCY_US, _SIGNIFICANT_DIGITS)
        self._parts: list[Samples] = []
        self.busy_ns = 0
        """Time that calls were in flight, added up over all calls."""

    def add(self, chunk: Chunk) -> None:
        """Count the calls of a chunk."""
        samples = chunk.samples
        self._parts.append(samples)
        self.busy_ns += int((samples["end_ns"] - samples["begin_ns"]).sum())
        for kind in Kind:
            of_kind = samples[samples["kind"] == kind]
            for errno, code, size_index, times in _refusals(of_kind):
                refusal = Refusal(errno, chunk.reasons[code])
                if kind is Kind.MAP:
                    self.sizes[size_index].refusals[refusal] += times
                else:
                    self.failed_calls[kind, refusal] += times
            took_ns = of_kind["end_ns"] - of_kind["begin_ns"]
            _count(self._latency_us[kind], took_ns + of_kind["late_ns"])
            if kind is Kind.MAP:
                _count(self._service_us, took_ns)
        maps = samples[samples["kind"] == Kind.MAP]
        for size_index, times in zip(
            *np.unique(maps["size_index"], return_counts=True), strict=True
        ):
            self.sizes[size_index].attempts += int(times)
        mapped, nr_processes = maps["process"][maps["errno"] == 0], len(self._mapped_by_process)
        self._mapped_by_process += np.bincount(mapped, minlength=nr_processes)
        self._attempts_by_process += np.bincount(maps["process"], minlength=nr_processes)

    @property
    def samples(self) -> Samples:
        """All calls, in the order in which they came in."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=SAMPLE)

    @property
    def nr_calls(self) -> int:
        """Calls of all kinds."""
        return sum(len(part) for part in self._parts)

    @property
    def attempts(self) -> int:
        """Attempts to map."""
        return sum(size.attempts for size in self.sizes)

    @property
    def successes(self) -> int:
        """Attempts that mapped."""
        return sum(size.successes for size in self.sizes)

    @property
    def mapped_by_process(self) -> list[int]:
        """Successes of each simulated process."""
        return [int(times) for times in self._mapped_by_process]

    @property
    def refusals(self) -> Counter[Refusal]:
        """Refused attempts of all sizes."""
        return sum((size.refusals for size in self.sizes), Counter())

    @property
    def attempts_by_process(self) -> list[int]:
        """Attempts of each simulated process."""
        return [int(times) for times in self._attempts_by_process]

    def latency(self, kind: Kind) -> Latency:
        """Return the latency of one kind of call from when it was due; zeros if there was none."""
        return _percentiles(self._latency_us[kind])

    def service(self) -> Latency:
        """Return the latency of mmap from when it was sent; in a closed loop the same."""
        return _percentiles(self._service_us)


def latency_of(took_ns: NDArray[np.int64]) -> Latency:
    """Return the percentiles of calls that took so long."""
    histogram = HdrHistogram(1, _HIGHEST_LATENCY_US, _SIGNIFICANT_DIGITS)
    _count(histogram, took_ns)
    return _percentiles(histogram)


def _percentiles(histogram: HdrHistogram) -> Latency:
    if not histogram.get_total_count():
        return Latency(0, 0, 0, 0, 0, 0)
    p50, p90, p99, p999 = (
        int(histogram.get_value_at_percentile(share)) for share in (50, 90, 99, 99.9)
    )
    return Latency(
        int(histogram.get_total_count()), p50, p90, p99, p999, int(histogram.get_max_value())
    )


def _count(histogram: HdrHistogram, took_ns: NDArray[np.int64]) -> None:
    took_us = (took_ns // 1000).clip(1, _HIGHEST_LATENCY_US)
    values, counts = np.unique(took_us, return_counts=True)
    for value, times in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, times)


def _refusals(samples: Samples) -> Iterator[tuple[int, int, int, int]]:
    """Yield errno, code of the reason, index of the size, and how often, of what was refused."""
    refused = samples[samples["errno"] != 0]
    keys = np.stack([refused["errno"], refused["reason"], refused["size_index"]], axis=1).astype(
        np.int64
    )
    rows, times = np.unique(keys, axis=0, return_counts=True)
    for row, count in zip(rows.tolist(), times.tolist(), strict=True):
        yield row[0], row[1], row[2], count
