"""How hard a generator process worked: whether it, and not the server, was the limit."""

import asyncio
from dataclasses import dataclass
from time import monotonic_ns, process_time_ns
from typing import Final, Self

from hdrh.histogram import HdrHistogram

_BEAT_S: Final = 0.01
_NS_PER_US: Final = 1000
_LONGEST_LATE_US: Final = 60_000_000
_DIGITS: Final = 3

BUSY_SHARE: Final = 0.9
LATE_US: Final = 10_000
"""From these on a generator is called the limit: so busy, or so late at its 99th percentile."""


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, _LONGEST_LATE_US, _DIGITS)


@dataclass(frozen=True)
class Effort:
    """What the generators needed while measuring."""

    busy_share: float
    """CPU time by elapsed time of the busiest one: 1 is a whole core."""
    late_us_p99: int
    """How late they woke up, of all generators together."""

    @property
    def was_the_limit(self) -> bool:
        """Whether the generators may have held the load back, or made answers look late."""
        return self.busy_share >= BUSY_SHARE or self.late_us_p99 >= LATE_US

    @classmethod
    def merged(cls, parts: list[tuple[float, bytes]]) -> Self:
        """Put together what the meters of several generators said."""
        late = _histogram()
        for _, encoded in parts:
            late.decode_and_add(encoded)
        p99 = int(late.get_value_at_percentile(99)) if late.get_total_count() else 0
        return cls(max((share for share, _ in parts), default=0.0), p99)


class Meter:
    """Measures one generator process from :meth:`start` on."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forget what was measured before."""
        self._late = _histogram()
        self._begin_ns, self._cpu_ns = monotonic_ns(), process_time_ns()

    async def beat(self) -> None:
        """Note, until cancelled, how late this process wakes up."""
        while True:
            due_ns = monotonic_ns() + round(_BEAT_S * 1e9)
            await asyncio.sleep(_BEAT_S)
            late_us = max(1, (monotonic_ns() - due_ns) // _NS_PER_US)
            self._late.record_value(min(late_us, _LONGEST_LATE_US))

    def read(self) -> tuple[float, bytes]:
        """Return the share of a core used, and the encoded histogram of lateness in µs."""
        share = (process_time_ns() - self._cpu_ns) / max(1, monotonic_ns() - self._begin_ns)
        return share, self._late.encode()
