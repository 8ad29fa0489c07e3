"""Whether one run of the load was better than another, or differs by no more than runs vary.

Each report has the figures of ten stretches of its run. If the two runs were alike, it would not
matter which stretch came from which: the difference of medians is held against those of stretches
dealt out anew at random. Only what chance gives in less than one in a hundred, and is larger than
five percent, is called a difference.

Stretches of one run know nothing of what changes from run to run. Given folders of repeated runs,
whole runs are dealt instead.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contigmm import foreign_json
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
_LEAST_RUNS: Final = 5
"""Fewer a side could never differ: of the 70 deals of four and four, two are as far apart."""
_ROUNDING: Final = 1e-9
"""The same numbers, dealt in another order, have a sum that differs by less."""
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
    """Compare two reports written by ``--json``, or two folders of them.

    Raises:
        LoadInputError: One is no such report, or of a version without intervals, or a folder has
            too few.
        OSError: One cannot be read.
    """
    if before.is_dir() != after.is_dir():
        raise LoadInputError("two files are compared, or two folders of repeated runs")
    one, other = _runs(before), _runs(after)
    # A stretch may be an outlier. A run is the median of its stretches, and means of few runs tell
    # more than their medians do.
    columns, centre = (_column, np.mean) if before.is_dir() else (_stretches, np.median)
    changes = tuple(
        _change(figure, columns(one, figure), columns(other, figure), more_is_better, centre)
        for figure, more_is_better in _FIGURES.items()
    )
    return Comparison(changes, tuple(_warnings(one, other)))


def _runs(path: Path) -> list[Mapping[str, Any]]:
    """Read a report, or all of a folder."""
    if not path.is_dir():
        return [_read(path)]
    found = [_read(file) for file in sorted(path.glob("*.json"))]
    if len(found) < _LEAST_RUNS:
        raise LoadInputError(
            f"{path} has {len(found)} results; to tell a difference from chance it takes"
            f" {_LEAST_RUNS} runs a side"
        )
    return found


def _read(path: Path) -> Mapping[str, Any]:
    try:
        report = foreign_json.loads(path.read_text(encoding="utf-8"))
        figures = [stretch[name] for stretch in report["intervals"] for name in _FIGURES]
        whole = (
            report["schema"] == "load/1"
            and figures
            and all(figure is None or isinstance(figure, int | float) for figure in figures)
            and all("bytes" in size for size in report["by_size"])
            and "limited" in report["generator"]
        )
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise LoadInputError(f"{path} is no report that contigmm load --json has written")
    return dict(report)


def _stretches(runs: Sequence[Mapping[str, Any]], figure: str) -> NDArray[np.float64]:
    """Return a figure of every stretch."""
    return np.array([stretch[figure] for run in runs for stretch in run["intervals"]], np.float64)


def _column(runs: Sequence[Mapping[str, Any]], figure: str) -> NDArray[np.float64]:
    """Return a figure of every run: the median of its stretches."""
    return np.array([np.median(_stretches([run], figure)) for run in runs])


def _change(
    figure: str,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    more_is_better: bool,
    centre: Callable[..., Any],
) -> Change:
    old, new = float(centre(before)), float(centre(after))
    dealt = np.random.default_rng(0).permuted(
        np.tile(np.concatenate([before, after]), (_DEALS, 1)), axis=1
    )
    differences = np.abs(
        centre(dealt[:, : len(before)], axis=1) - centre(dealt[:, len(before) :], axis=1)
    )
    chance = float((differences >= abs(new - old) * (1 - _ROUNDING)).mean())
    if chance >= _CHANCE or abs(new - old) < _LEAST_CHANGE * max(abs(old), abs(new)):
        verdict = "same"
    else:
        verdict = "better" if (new > old) == more_is_better else "worse"
    return Change(figure, old, new, chance, verdict)


def _warnings(runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[str]:
    one, other = runs[0], others[0]
    setup = _SETUP if len(runs) == 1 else _SETUP[1:]  # seeds of repeated runs differ
    found = [
        f"the runs differ in {key}: {one.get(key)} and {other.get(key)}"
        for key in setup
        if one.get(key) != other.get(key)
    ]
    if [size["bytes"] for size in one["by_size"]] != [size["bytes"] for size in other["by_size"]]:
        found.append("the runs differ in the sizes asked for")
    found += [
        f"the {name} run was limited by its generator: its latencies and rate say little"
        for name, side in (("first", runs), ("second", others))
        if any(report["generator"]["limited"] for report in side)
    ]
    return found
