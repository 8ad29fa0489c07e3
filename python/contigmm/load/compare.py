"""Whether one run of the load was better than another, or differs by no more than runs vary.

Each report has the figures of ten stretches of its run. If the two runs were alike, it would not
matter which stretch came from which: the difference of medians is held against those of stretches
dealt out anew at random. Only what chance gives in less than one in a hundred, and is larger than
five percent, is called a difference.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contigmm.load.sizes import LoadInputError

_DEALS: Final = 20_000
_CHANCE: Final = 0.01
_LEAST_CHANGE: Final = 0.05

_FIGURES: Final[dict[str, bool]] = {
    "ops_per_s": True,
    "p50_us": False,
    "p99_us": False,
    "refused_share": False,
}
"""Figures of a stretch, and whether more of it is better."""
_SETUP: Final = ("seed", "arrival", "generator_processes")


@dataclass(frozen=True)
class Change:
    """One figure of both runs."""

    figure: str
    before: float
    after: float
    chance: float
    """Share of random deals that differ as much."""
    verdict: str
    """``better``, ``worse`` or ``same``."""

    def __str__(self) -> str:
        """Return a line for a person."""
        relative = f"{self.after / self.before - 1:+.1%}" if self.before else "from 0"
        return (
            f"{self.figure}: {self.before:,.4g} -> {self.after:,.4g} ({relative}), {self.verdict};"
            f" chance alone would do so in {self.chance:.1%} of cases"
        )


@dataclass(frozen=True)
class Comparison:
    """What became of each figure, and what speaks against comparing."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Return ``better``, ``worse``, ``mixed`` or ``same``."""
        found = {change.verdict for change in self.changes} - {"same"}
        return "mixed" if len(found) == 2 else next(iter(found), "same")


def compare(before: Path, after: Path) -> Comparison:
    """Compare two reports written by ``--json``.

    Raises:
        LoadInputError: One is no such report, or of a version without intervals.
        OSError: One cannot be read.
    """
    one, other = _read(before), _read(after)
    changes = tuple(
        _change(figure, _column(one, figure), _column(other, figure), more_is_better)
        for figure, more_is_better in _FIGURES.items()
    )
    return Comparison(changes, tuple(_warnings(one, other)))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        whole = report["schema"] == "load/1" and all(
            set(_FIGURES) <= set(interval) for interval in report["intervals"]
        )
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole or not report["intervals"]:
        raise LoadInputError(f"{path} is no report that contigmm load --json has written")
    return dict(report)


def _column(report: Mapping[str, Any], figure: str) -> NDArray[np.float64]:
    return np.array([interval[figure] for interval in report["intervals"]], np.float64)


def _change(
    figure: str,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    more_is_better: bool,
) -> Change:
    old, new = float(np.median(before)), float(np.median(after))
    dealt = np.random.default_rng(0).permuted(
        np.tile(np.concatenate([before, after]), (_DEALS, 1)), axis=1
    )
    differences = np.abs(
        np.median(dealt[:, : len(before)], axis=1) - np.median(dealt[:, len(before) :], axis=1)
    )
    chance = float((differences >= abs(new - old)).mean())
    if chance >= _CHANCE or abs(new - old) < _LEAST_CHANGE * max(abs(old), abs(new)):
        verdict = "same"
    else:
        verdict = "better" if (new > old) == more_is_better else "worse"
    return Change(figure, old, new, chance, verdict)


def _warnings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    found = [
        f"the runs differ in {key}: {one.get(key)} and {other.get(key)}"
        for key in _SETUP
        if one.get(key) != other.get(key)
    ]
    if [size["bytes"] for size in one["by_size"]] != [size["bytes"] for size in other["by_size"]]:
        found.append("the runs differ in the sizes asked for")
    found += [
        f"the {name} run was limited by its generator: its latencies and rate say little"
        for name, report in (("first", one), ("second", other))
        if report["generator"]["limited"]
    ]
    return found
