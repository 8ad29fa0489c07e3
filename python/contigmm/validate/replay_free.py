"""One recording replayed freely: the forecast, the truth, and what a forecast has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np

from contigmm.hosts.kmem import FAILED, KmemEvent
from contigmm.replay.closure import closure_residual
from contigmm.replay.distance import distance
from contigmm.replay.programs import FreeReplay, FreeRun, ProgramRequests
from contigmm.replay.recording import FreeCounts, Recording, free_counts
from contigmm.validate.replay_band import Band, compared, typical

Counted = Literal[
    "refilled",
    "drained",
    "claims",
    "steals",
    "migrated",
    "reclaimed",
    "unknown_frees",
    "refused",
]
#: What is told of each draw, as median and range.
_COUNTS: Final[tuple[Counted, ...]] = get_args(Counted)


def free_report(recording: Recording, *, draws: int, seed: int) -> dict[str, Any]:
    """Replay one recording ``draws`` times; compare where the capture afterwards is there."""
    replay = FreeReplay(recording)
    runs = [replay.run(seed=seed + n) for n in range(draws)]
    states = [run.free for run in runs]
    chosen = runs[typical(states)]
    requests = len(replay.requests.alloc)
    row: dict[str, Any] = {
        "stem": recording.stem,
        "events": recording.trace.nr_events,
        "requests": requests,
        "events_per_s": round(requests / max(min(run.seconds for run in runs), 1e-9)),
        **_counts(runs),
        **real_counts(recording),
    }
    real = free_counts(recording.after) if recording.after is not None else None
    if real is not None:
        before = free_counts(recording.before)
        blind = replay.run_type_blind(seed=seed)
        row |= compared(states, real)
        row["no_change"] = distance(before, real).to_json()
        row["closed_form"] = distance(closed_form(before, replay.requests), real).to_json()
        row["type_blind"] = distance(blind.free, real).to_json()
        row["closure_residual"] = closure_residual(recording)
    row |= Band.of(states).to_json(real)
    return row | {"end_state": chosen.free, "end_state_by_type": chosen.by_type}


def closed_form(before: FreeCounts, requests: ProgramRequests) -> dict[str, list[float]]:
    """Return the free lists before, scaled to what programs asked and gave back on balance.

    This is the arithmetic that a simulation has to beat: it knows neither lists nor reclaim.
    """
    sizes = np.int64(1) << requests.order.astype(np.int64)
    balance = int(np.where(requests.alloc == 1, -sizes, sizes).sum())
    free = sum(nr << order for row in before.values() for order, nr in enumerate(row))
    scale = max(0.0, 1 + balance / max(1, free))
    return {zone: [nr * scale for nr in row] for zone, row in before.items()}


def real_counts(recording: Recording) -> dict[str, int]:
    """Return what the real kernel did between the captures: frames moved, fallbacks."""
    trace, seen = recording.trace, recording.seen()
    sizes = np.int64(1) << trace.order.astype(np.int64)
    claimed = trace.fallbacks[seen[trace.type == KmemEvent.EXTFRAG], 3] != 0
    refused = (trace.type == KmemEvent.ALLOC) & (trace.pfn == FAILED)
    return {
        "refilled_real": int(sizes[seen & (trace.type == KmemEvent.LOCKED)].sum()),
        "drained_real": int(sizes[seen & (trace.type == KmemEvent.DRAIN)].sum()),
        "claims_real": int(claimed.sum()),
        "steals_real": int((~claimed).sum()),
        "refused_real": int(refused.sum()),
    }


def _counts(runs: Sequence[FreeRun]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in _COUNTS:
        values = [int(run.played[name]) for run in runs]
        out[name] = float(np.median(values))
        out[f"{name}_range"] = [min(values), max(values)]
    return out
