"""When requests come: each after the one before (closed loop), or at times of their own (open).

In an open loop a request that cannot be sent in time, because its process still waits for an
earlier answer, counts from when it should have been sent: a server that stalls is charged with
every request that the stall held up, not only with the one that it held.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Final, Self

from contigmm.load.sizes import LoadInputError

_NS: Final = 1_000_000_000
_RATE: Final = r"(\d{1,15}(?:\.\d{1,15})?)"
_OPEN: Final = re.compile(rf"(constant|poisson):{_RATE}|(ramp):{_RATE}-{_RATE}")


@dataclass(frozen=True)
class Arrival:
    """Requests a second of all simulated processes together, or a closed loop."""

    kind: str = "closed"
    """``closed``, ``constant``, ``poisson`` or ``ramp``."""
    from_per_s: float = 0.0
    to_per_s: float = 0.0
    """At the end of the measured time; a ramp's only differs from ``from_per_s``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``closed``, ``constant:RATE``, ``poisson:RATE`` or ``ramp:RATE-RATE``.

        Raises:
            LoadInputError: The text is none of these, or asks for no request at all.
        """
        if text == "closed":
            return cls()
        match = _OPEN.fullmatch(text)
        if match is None:
            raise LoadInputError(
                f"{text!r} is no arrival: closed, constant:RATE, poisson:RATE or ramp:RATE-RATE,"
                " in requests a second"
            )
        kind = match[1] or match[3]
        low = float(match[2] or match[4])
        high = float(match[5] or low)
        if max(low, high) <= 0:
            raise LoadInputError(f"{text!r}: a rate is above 0")
        return cls(kind, low, high)

    @property
    def open(self) -> bool:
        """Whether requests come at times of their own."""
        return self.kind != "closed"

    @property
    def mean_per_s(self) -> float:
        """Requests asked for a second, over the measured time."""
        return (self.from_per_s + self.to_per_s) / 2

    def offsets_ns(
        self, *, seed: int, process_index: int, nr_processes: int, duration_s: float
    ) -> Iterator[int]:
        """Yield when one process's requests are due, in nanoseconds since measuring began."""
        if self.kind == "poisson":
            random = Random(f"contigmm load arrival {seed} {process_index}")
            at_s = 0.0
            while True:
                at_s -= math.log(1.0 - random.random()) * nr_processes / self.from_per_s
                yield round(at_s * _NS)
        for number in count(process_index, nr_processes):
            yield round(self._time_of(number, duration_s) * _NS)

    def _time_of(self, number: int, duration_s: float) -> float:
        """Return when the ``number``-th request of all is due, at a rate that changes linearly."""
        slope = (self.to_per_s - self.from_per_s) / duration_s
        total = self.mean_per_s * duration_s
        if number >= total and self.to_per_s > 0:
            return duration_s + (number - total) / self.to_per_s
        if slope == 0:
            return number / self.from_per_s
        root = self.from_per_s**2 + 2 * slope * number
        return (math.sqrt(max(root, 0.0)) - self.from_per_s) / slope

    def __str__(self) -> str:
        """Return what :meth:`parse` reads."""
        if not self.open:
            return self.kind
        if self.kind == "ramp":
            return f"ramp:{self.from_per_s:g}-{self.to_per_s:g}"
        return f"{self.kind}:{self.from_per_s:g}"


class Timetable:
    """When one process's requests are due, through all phases of a run."""

    def __init__(
        self,
        phases: Sequence[tuple[float, Arrival]],
        *,
        seed: int,
        process_index: int,
        nr_processes: int,
    ) -> None:
        """Make the table of ``phases``, each so many seconds long, which follow each other."""
        self._seed = seed
        self._process_index = process_index
        self._nr_processes = nr_processes
        self._left = list(phases)
        self._begins_ns = 0
        self._ends_ns = 0
        self._offsets_ns: Iterator[int] | None = None
        self._next_phase()

    def due_ns(self, now_ns: int) -> int | None:
        """Return when the next request is due, since measuring began; None: at once.

        In an open phase each request has its time and is made, however late; in a closed one it is
        due when the one before has been answered, until the phase is over.
        """
        while True:
            if self._offsets_ns is None:
                if now_ns < self._ends_ns or not self._left:
                    return None
            else:
                due_ns = self._begins_ns + next(self._offsets_ns)
                if due_ns < self._ends_ns or not self._left:
                    return due_ns
            self._next_phase()

    def _next_phase(self) -> None:
        seconds, arrival = self._left.pop(0)
        self._begins_ns = self._ends_ns
        self._ends_ns += round(seconds * _NS)
        self._offsets_ns = None
        if arrival.open:
            self._offsets_ns = arrival.offsets_ns(
                seed=self._seed,
                process_index=self._process_index,
                nr_processes=self._nr_processes,
                duration_s=seconds,
            )
