"""``validate-supply/1``: the rows that ``contigmm validate supply`` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from contigmm.validate.floor import share_of
from contigmm.validate.gigantic import brier
from contigmm.validate.room_report import room_rows
from contigmm.validate.supply import FloorShare, StepForecast, read_record, validate_record

SCHEMA: Final = "validate-supply/1"


def supply_report(
    paths: Sequence[Path], *, share: FloorShare | None, draws: int, seed: int
) -> dict[str, Any]:
    """Forecast the steps of records; ``gigantic_score`` sums up the chances of gigantic pages.

    Without ``share`` each record's is that of its kernel.

    Raises:
        SourceError: a record or its snapshot cannot be read.
    """
    steps: list[dict[str, Any]] = []
    others: dict[str, list[dict[str, Any]]] = {"compaction": [], "always9": [], "gigantic": []}
    shares: dict[str, float] = {}
    for path in paths:
        record = read_record(path)
        floor = share or share_of(str(record.get("kernel", "")))
        shares[str(record.get("name", path.name))] = floor.below_pmd
        rows = validate_record(path, share=floor, draws=draws, seed=seed)
        steps += [row.to_json() for row in rows]
        for kind, row in room_rows(path, draws=draws, seed=seed):
            others[kind].append(row)
    score = brier(others["gigantic"])
    report = {"min_share_below_pmd": shares, "draws": draws, "steps": steps}
    return {**report, **others, "gigantic_score": score}


def error_lines(steps: Sequence[StepForecast | dict[str, Any]]) -> list[str]:
    """Return the median and mean error of each forecast, where the record tells the outcome."""
    rows = [step if isinstance(step, dict) else step.to_json() for step in steps]
    told = [row for row in rows if row["delivered"]]
    lines = []
    for name in ("from_step", "closed_form_step", "from_snapshot", "closed_form_snapshot", "no_op"):
        errors = sorted(abs(row[name] - row["delivered"]) / row["delivered"] for row in told)
        if errors:
            middle, mean = errors[len(errors) // 2], sum(errors) / len(errors)
            lines.append(
                f"{name}: median {middle:.2%}, mean {mean:.2%}, max {errors[-1]:.1%} of "
                f"{len(errors)} steps"
            )
    return lines


def dumps(report: dict[str, Any], *, version: str) -> str:
    """Return the report as one JSON object."""
    return json.dumps({"schema": SCHEMA, "contigmm": version, **report})
