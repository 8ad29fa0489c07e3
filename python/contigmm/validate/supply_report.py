"""``validate-supply/1``: the rows that ``contigmm validate supply`` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from contigmm.hosts import read
from contigmm.validate.floor import share_of
from contigmm.validate.supply import FloorShare, StepForecast, read_record, validate_record
from contigmm.validate.supply_room import Outcome, forecast_steps

SCHEMA: Final = "validate-supply/1"


def supply_report(
    paths: Sequence[Path], *, share: FloorShare | None, draws: int, seed: int
) -> dict[str, Any]:
    """Forecast the steps of records; gigantic pages have no forecast yet.

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
        _add_room(path, others, draws=draws, seed=seed)
    return {"min_share_below_pmd": shares, "draws": draws, "steps": steps, **others}


def _add_room(
    path: Path, others: dict[str, list[dict[str, Any]]], *, draws: int, seed: int
) -> None:
    """Forecast the steps that compact or reclaim, and set what the record tells beside it."""
    record = read_record(path)
    snapshot = read(f"file:{path.with_name(record['snapshots']['pre'])}")
    runs = forecast_steps(snapshot, record["measured"], draws=draws, seed=seed)
    for index, step in enumerate(record["measured"]):
        outcomes = [run[index] for run in runs]
        row: dict[str, Any] = {"record": record.get("name", ""), "index": index}
        if step.get("step") == "compact_memory":
            row |= {f"blocks9_{when}": _blocks9(step.get(when)) for when in ("before", "after")}
            row |= _spread([outcome.blocks9_after for outcome in outcomes])
            row["no_op"] = int(median([outcome.blocks9_before for outcome in outcomes]))
            row |= _counters(step, outcomes)
            others["compaction"].append(row)
        elif step.get("step") == "fault" and step.get("defrag") == "always" and step["order"] == 9:
            row |= {"asked": step["max"], "delivered": step.get("result", {}).get("success")}
            row |= _spread([outcome.delivered for outcome in outcomes])
            row["no_op"] = int(median([outcome.blocks9_before for outcome in outcomes]))
            others["always9"].append(row)
        elif step.get("step") == "hugetlb" and step.get("kib", 0) > 2048:
            row |= {"asked": step["requested"], "delivered": step.get("got"), "forecast": None}
            others["gigantic"].append(row)


def _spread(values: Sequence[int]) -> dict[str, int]:
    """Return the median of the draws, and the least and greatest."""
    return {"forecast": int(median(values)), "low": min(values), "high": max(values)}


def _counters(step: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the counters of compaction, told and forecast."""
    told = step.get("vmstat", {})
    return {
        name: {
            "told": told.get(name),
            "forecast": int(median([outcome.counters[name] for outcome in outcomes])),
        }
        for name in outcomes[0].counters
    }


def _blocks9(state: dict[str, Any] | None) -> int | None:
    if not state:
        return None
    return sum(int(row[9]) + 2 * int(row[10]) for row in state["buddy"].values())


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
