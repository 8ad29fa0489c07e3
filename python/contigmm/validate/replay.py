"""``validate-replay/1``: recorded runs replayed, beside what the real kernel was left with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from contigmm.hosts.kmem import KmemEvent
from contigmm.replay.closure import closure_residual
from contigmm.replay.distance import distance
from contigmm.replay.forced import ForcedRun, buddy_events, run_forced, run_type_blind
from contigmm.replay.recording import (
    FreeCounts,
    Recording,
    free_counts,
    read_recording,
)
from contigmm.validate.replay_band import compared, typical
from contigmm.validate.replay_free import free_report

SCHEMA: Final = "validate-replay/1"
_COUNTS: Final = ("claims", "steals", "unknown_frees", "missing")


def replay_report(
    stems: Sequence[str], *, mode: str = "forced", draws: int, seed: int
) -> dict[str, Any]:
    """Replay each recording ``draws`` times and compare where the capture after it is there.

    Raises:
        SourceError: a file is missing or cannot be read as what it should be.
    """
    report = _REPORTS[mode]
    traces = [report(read_recording(stem), draws=draws, seed=seed) for stem in stems]
    return {"mode": mode, "draws": draws, "seed": seed, "traces": traces}


def end_states(report: dict[str, Any]) -> dict[str, FreeCounts]:
    """Return the forecast free blocks of each stem, by zone and order."""
    return {trace["stem"]: trace["end_state"] for trace in report["traces"]}


def forced_report(recording: Recording, *, draws: int, seed: int) -> dict[str, Any]:
    """Force the free lists' traffic on the simulated ones; compare if the truth is there."""
    events = buddy_events(recording)
    runs = [run_forced(recording, events, seed=seed + n) for n in range(draws)]
    states = [run.free for run in runs]
    chosen = runs[typical(states)]
    row: dict[str, Any] = {
        "stem": recording.stem,
        "events": recording.trace.nr_events,
        "events_per_s": round(recording.trace.nr_events / min(run.seconds for run in runs)),
        **_medians(runs),
        **_fallbacks(recording),
    }
    if recording.after is not None:
        real = free_counts(recording.after)
        row |= compared(states, real)
        blind = run_type_blind(recording, events, seed=seed)
        row["no_change"] = distance(free_counts(recording.before), real).to_json()
        row["type_blind"] = distance(blind.free, real).to_json()
        row["closure_residual"] = closure_residual(recording)
    return row | {"end_state": chosen.free, "end_state_by_type": chosen.by_type}


def _medians(runs: Sequence[ForcedRun]) -> dict[str, float]:
    return {name: float(np.median([getattr(run, name) for run in runs])) for name in _COUNTS}


def _fallbacks(recording: Recording) -> dict[str, int]:
    """Count how often the real kernel fell back between the captures."""
    is_fallback = recording.trace.type == KmemEvent.EXTFRAG
    claimed = recording.trace.fallbacks[recording.seen()[is_fallback], 3] != 0
    return {"claims_real": int(claimed.sum()), "steals_real": int((~claimed).sum())}


#: What each mode prints of a recording.
_REPORTS: Final = {"forced": forced_report, "free": free_report}
#: What a replay can be given.
MODES: Final = tuple(_REPORTS)


def write_end_states(report: dict[str, Any], path: Path) -> None:
    """Write the forecast end states as one JSON object."""
    path.write_text(json.dumps(end_states(report)) + "\n", encoding="utf-8")


def dumps(report: dict[str, Any], *, version: str) -> str:
    """Return the report as one JSON object."""
    return json.dumps({"schema": SCHEMA, "contigmm": version, **report})


def summary_lines(report: dict[str, Any]) -> list[str]:
    """Return a line a trace for people."""
    lines = []
    for trace in report["traces"]:
        line = (
            f"{Path(trace['stem']).name}: {trace['events']} events, "
            f"{trace['events_per_s'] / 1e6:.1f} M/s, claims {trace['claims']:.0f} "
            f"(real {trace['claims_real']}), steals {trace['steals']:.0f} "
            f"(real {trace['steals_real']})"
        )
        if "refilled" in trace:
            line += (
                f", refilled {trace['refilled']:.0f} (real {trace['refilled_real']}), "
                f"drained {trace['drained']:.0f} (real {trace['drained_real']})"
            )
        if "in_band_pages" in trace:
            line += f", {trace['in_band_pages']:.0%} of free memory in the band of the draws"
        if "free_pages_l1" in trace:
            line += (
                f"; {_beside(trace, 'free_pages_l1', 'l1')}; {_beside(trace, 'emd_orders', 'emd')}"
            )
            line += f"; closure residual {trace['closure_residual']:.4f}"
        lines.append(line)
    return lines


def _beside(trace: dict[str, Any], name: str, short: str) -> str:
    return (
        f"{short} {trace[name]:.5f} (nothing changed {trace['no_change'][name]:.5f}, "
        f"type-blind {trace['type_blind'][name]:.5f})"
    )
