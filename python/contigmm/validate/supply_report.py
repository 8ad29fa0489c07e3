"""``validate-supply/1``: the rows that ``contigmm validate supply`` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any, Final

from contigmm.validate.gigantic import brier
from contigmm.validate.room_report import room_rows
from contigmm.validate.supply import StepForecast, validate_record

SCHEMA: Final = "validate-supply/1"
_FIGURES: Final = (
    "from_step",
    "closed_form_step",
    "type_blind_step",
    "from_snapshot",
    "closed_form_snapshot",
    "type_blind_snapshot",
    "no_op",
)
_ENOUGH: Final = 10
_NEAR: Final = 0.01


def supply_report(
    paths: Sequence[Path],
    *,
    draws: int,
    seed: int,
    room_draws: int = 1,
    jobs: int = 1,
) -> dict[str, Any]:
    """Forecast the steps of records; ``gigantic_score`` sums up the chances of gigantic pages.

    ``room_draws`` is the number of draws of the steps that compact or reclaim, which take longer.
    ``jobs`` processes share the records.

    Raises:
        SourceError: a record or its snapshot cannot be read.
    """
    asks = [(path, draws, room_draws, seed) for path in paths]
    jobs = min(jobs, len(paths))
    if jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(_record_part, asks))
    else:
        parts = [_record_part(ask) for ask in asks]
    report: dict[str, Any] = {
        "draws": draws,
        "room_draws": room_draws,
        "steps": [],
    }
    report |= {"compaction": [], "always9": [], "gigantic": []}
    for part in parts:
        for name, found in part.items():
            report[name] += found
    return report | {"gigantic_score": brier(report["gigantic"])}


def _record_part(ask: tuple[Path, int, int, int]) -> dict[str, Any]:
    """Forecast one record's steps: its part of the report."""
    path, draws, room_draws, seed = ask
    rows = validate_record(path, draws=draws, seed=seed)
    part: dict[str, Any] = {"steps": [row.to_json() for row in rows]}
    others: dict[str, list[dict[str, Any]]] = {"compaction": [], "always9": [], "gigantic": []}
    for kind, row in room_rows(path, draws=room_draws, seed=seed):
        others[kind].append(row)
    return part | others


def error_lines(steps: Sequence[StepForecast | dict[str, Any]]) -> list[str]:
    """Return how far each forecast is off, over the steps that delivered ten folios or more.

    Where fewer were delivered one folio is a tenth or more of them.
    """
    rows = [step if isinstance(step, dict) else step.to_json() for step in steps]
    told = [row for row in rows if (row["delivered"] or 0) >= _ENOUGH]
    lines = []
    for name in _FIGURES if told else ():
        errors = [abs(row[name] - row["delivered"]) / row["delivered"] for row in told]
        near = sum(error <= _NEAR for error in errors) / len(errors)
        ninth = quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0]
        lines.append(
            f"{name}: median {median(errors):.2%}, p90 {ninth:.1%}, mean {fmean(errors):.2%}, "
            f"max {max(errors):.1%}, within {_NEAR:.0%} {near:.0%} of {len(errors)} steps"
        )
    for name in ("from_step", "from_snapshot") if told else ():
        held = sum(row[f"{name}_low"] <= row["delivered"] <= row[f"{name}_high"] for row in told)
        lines.append(f"{name}: {held / len(told):.0%} lie between the least and greatest draw")
    return lines


def dumps(report: dict[str, Any], *, version: str) -> str:
    """Return the report as one JSON object."""
    return json.dumps({"schema": SCHEMA, "contigmm": version, **report})
