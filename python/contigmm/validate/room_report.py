"""Rows of ``validate-supply/1`` about steps that make room: forecasts beside what records tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from contigmm.hosts import read
from contigmm.validate.gigantic import gigantic_row
from contigmm.validate.supply import read_record
from contigmm.validate.supply_room import Outcome, forecast_steps, makes_room


def room_rows(path: Path, *, draws: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Forecast the steps of a record that compact or reclaim; yield the kind of each row and it.

    The machine is booted from the last snapshot before the first of them.

    Raises:
        SourceError: the record or its snapshot cannot be read.
    """
    record = read_record(path)
    told = record["snapshots"]
    steps = record["measured"]
    first = next((n for n, step in enumerate(steps) if makes_room(step)), len(steps))
    source = path.with_name(told.get("mid", told["pre"]))
    start = first if "mid" in told else 0
    runs = forecast_steps(
        read(f"file:{source}"),
        steps[start:],
        written=source.stat().st_size,
        draws=draws,
        seed=seed,
    )
    for index, step in enumerate(steps[first:], first):
        kind = _kind(step)
        if kind:
            outcomes = [run[index - start] for run in runs]
            yield kind, {"record": record.get("name", ""), "index": index} | _row(step, outcomes)


def _kind(step: Mapping[str, Any]) -> str | None:
    if step.get("step") == "compact_memory":
        return "compaction"
    if step.get("step") == "fault" and step.get("defrag") == "always" and step["order"] == 9:
        return "always9"
    if step.get("step") == "hugetlb" and step.get("kib", 0) > 2048:
        return "gigantic"
    return None


def _row(step: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    no_op = int(median([outcome.blocks9_before for outcome in outcomes]))
    if step["step"] == "hugetlb":
        return gigantic_row(step, [outcome.delivered for outcome in outcomes])
    if step["step"] == "fault":
        row = {"asked": step["max"], "delivered": step.get("result", {}).get("success")}
        row |= _spread([outcome.delivered for outcome in outcomes])
    else:
        row = {f"blocks9_{when}": _blocks9(step.get(when)) for when in ("before", "after")}
        row |= _spread([outcome.blocks9_after for outcome in outcomes])
    return row | {"no_op": no_op} | _counters(step, outcomes)


def _spread(values: Sequence[int]) -> dict[str, int]:
    """Return the median of the draws, and the least and greatest."""
    return {"forecast": int(median(values)), "low": min(values), "high": max(values)}


def _counters(step: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
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
