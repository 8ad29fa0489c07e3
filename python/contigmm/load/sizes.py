"""What a load asks for: sizes with weights, and how long a mapping is held.

Both are small grammars of the command line and of scenario files, read once, here.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final, Self

from contigmm.errors import ContigmmError

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_BYTES: Final = re.compile(r"(\d{1,15})([KMG]?)(?:i?B)?", re.IGNORECASE)
_WEIGHT: Final = re.compile(r"\d{1,15}")
_HOLD: Final = re.compile(r"(\d{1,15})(?:-(\d{1,15}))?|(fixed|exponential|pareto):(\d{1,15})")
_PARETO_SHAPE: Final = 1.5
"""A heavy tail: the mean is three times the least, and there is no variance."""
_LONGEST_HOLD: Final = 1_000_000
_WARM_MEANS: Final = 3
"""Of a distribution without an end: after so many means nearly all is held that ever will be."""


class LoadInputError(ContigmmError, ValueError):
    """What was asked of the load generator cannot be understood."""


def format_bytes(nr_bytes: int) -> str:
    """Write a number of bytes in the largest unit that divides it: ``65536`` is ``64K``."""
    for unit in ("G", "M", "K"):
        if nr_bytes and nr_bytes % _UNITS[unit] == 0:
            return f"{nr_bytes // _UNITS[unit]}{unit}"
    return str(nr_bytes)


def parse_bytes(text: str) -> int:
    """Read a size: a number of bytes, or of K, M or G.

    Raises:
        LoadInputError: The text is none.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise LoadInputError(f"{text.strip()!r} is no size, such as 64K or 2M")
    return int(match[1]) * _UNITS[match[2].upper()]


@dataclass(frozen=True)
class SizeMix:
    """Sizes of mappings, in bytes and ascending, and how often each is asked for."""

    sizes_bytes: tuple[int, ...]
    weights: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``64K:50,2M:30,4M:20``: size, colon, weight; a weight left out is 1.

        Raises:
            LoadInputError: The text is no such list, or names a size twice.
        """
        weights: dict[int, int] = {}
        for part in text.split(","):
            size, colon, weight_text = part.partition(":")
            size_bytes = parse_bytes(size)
            if colon and _WEIGHT.fullmatch(weight_text.strip()) is None:
                raise LoadInputError(f"{part.strip()!r} is no size with a weight, such as 64K:50")
            weight = int(weight_text) if colon else 1
            if size_bytes == 0 or weight == 0:
                raise LoadInputError(f"{part.strip()!r}: a size and a weight are at least 1")
            if size_bytes in weights:
                raise LoadInputError(f"the size {format_bytes(size_bytes)} is named twice")
            weights[size_bytes] = weight
        ordered = sorted(weights.items())
        return cls(tuple(size for size, _ in ordered), tuple(weight for _, weight in ordered))

    def over(self, sizes_bytes: Sequence[int]) -> Self:
        """Return the same mix among more sizes, which are never asked for."""
        weight = dict(zip(self.sizes_bytes, self.weights, strict=True))
        return type(self)(tuple(sizes_bytes), tuple(weight.get(size, 0) for size in sizes_bytes))

    @property
    def mean_bytes(self) -> float:
        """The mean size of a request."""
        pairs = zip(self.sizes_bytes, self.weights, strict=True)
        return sum(size * weight for size, weight in pairs) / sum(self.weights)

    @property
    def cumulative(self) -> tuple[float, ...]:
        """Upper bounds of the shares of 0..1 that the sizes have, in order."""
        total = sum(self.weights)
        return tuple(bound / total for bound in accumulate(self.weights))

    def __str__(self) -> str:
        """Return what :meth:`parse` reads."""
        pairs = zip(self.sizes_bytes, self.weights, strict=True)
        return ",".join(f"{format_bytes(size)}:{weight}" for size, weight in pairs)


@dataclass(frozen=True)
class Hold:
    """How long a process keeps a mapping, in its own next requests.

    Counted in requests, not in seconds, so that what is held at once, and with it how often memory
    runs out, does not depend on the speed of the machine that runs the load.
    """

    low: int
    high: int
    """``uniform``: the bounds. Of the others ``low`` is the mean, and ``high`` when all is held."""
    kind: str = "uniform"
    """``uniform``, ``fixed``, ``exponential`` or ``pareto``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``8-64``, ``32`` (half of it to one and a half times as much), or ``KIND:MEAN``.

        Raises:
            LoadInputError: The text is none of these.
        """
        match = _HOLD.fullmatch(text.strip())
        if match is None:
            raise LoadInputError(
                f"{text!r} is no number of requests to hold for: 32, a range as 8-64, fixed:32,"
                " exponential:32 or pareto:32"
            )
        if match[3] is not None:
            return cls._of_kind(match[3], int(match[4]))
        if match[2] is None:
            return cls.around(int(match[1]))
        low, high = int(match[1]), int(match[2])
        if not 1 <= low <= high:
            raise LoadInputError(f"{text!r}: the range to hold for goes from 1 or more upwards")
        return cls(low, high)

    @classmethod
    def _of_kind(cls, kind: str, mean: int) -> Self:
        if not 1 <= mean <= _LONGEST_HOLD:
            raise LoadInputError(f"{kind}:{mean}: the mean is from 1 to {_LONGEST_HOLD:,} requests")
        return cls(mean, mean if kind == "fixed" else _WARM_MEANS * mean, kind)

    @classmethod
    def around(cls, mean: float) -> Self:
        """Return the range from half of ``mean`` to one and a half times as much, at least 1."""
        low = max(1, round(mean / 2))
        return cls(low, max(low, round(mean * 3 / 2)))

    @property
    def mean(self) -> float:
        """Mean number of requests."""
        return (self.low + self.high) / 2 if self.kind == "uniform" else float(self.low)

    def at(self, share: float) -> int:
        """Return the number of requests below which ``share`` (0 to 1) of all holds are."""
        if self.kind == "uniform":
            return self.low + int(share * (self.high - self.low + 1))
        if self.kind == "fixed":
            return self.low
        if self.kind == "exponential":
            return min(max(1, math.ceil(-math.log1p(-share) * self.low)), _LONGEST_HOLD)
        least = self.low * (1 - 1 / _PARETO_SHAPE)
        held = least / math.pow(1 - share, 1 / _PARETO_SHAPE)
        return min(max(1, round(held)), _LONGEST_HOLD)

    def __str__(self) -> str:
        """Return what :meth:`parse` reads."""
        return f"{self.low}-{self.high}" if self.kind == "uniform" else f"{self.kind}:{self.low}"


@dataclass(frozen=True)
class Request:
    """One step of a simulated process: what it maps, and for how many steps it keeps it."""

    size_index: int
    hold_requests: int
    pin: bool = False
    fork: bool = False
    kill: bool = False


@dataclass(frozen=True)
class Chances:
    """How often, of 1, something else happens with a request."""

    pin: float = 0.0
    fork: float = 0.0
    kill: float = 0.0


class Script:
    """The endless list of one process's requests, drawn from the seed and nothing else."""

    def __init__(
        self,
        *,
        seed: int,
        process_index: int,
        mix: SizeMix,
        hold: Hold,
        chances: Chances = Chances(),
    ) -> None:
        # Of Random only seeding and random() are promised to be the same in every Python.
        self._random = Random(f"contigmm load {seed} {process_index}")
        self._aside = Random(f"contigmm load aside {seed} {process_index}")
        self._bounds = mix.cumulative
        self._hold = hold
        self._chances = chances

    def next_request(self) -> Request:
        """Draw the next request."""
        size_index = bisect_right(self._bounds, self._random.random())
        held = self._hold.at(self._random.random())
        pin, fork, kill = (self._aside.random() for _ in range(3))
        return Request(
            size_index,
            held,
            pin=pin < self._chances.pin,
            fork=fork < self._chances.fork,
            kill=kill < self._chances.kill,
        )
