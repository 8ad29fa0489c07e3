"""Do huge frames come back? The fragmentation experiment of LLFree (USENIX ATC 2023), section 5.4.

A zone of 125 GiB: 90 % is taken as single movable frames by eight CPUs, half of that is freed at
random, and then a random tenth is freed and taken again, a hundred times. What the system itself
uses is set so that as many 2 MiB frames are free at the start as in the paper.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from contigmm.phys import frag_study

SCHEMA: Final = "study-llfree-frag/1"
POLICIES: Final = ("linux", "trees")
#: What the paper tells: free 2 MiB frames before and after the rounds.
PAPER: Final = {"start": 5108, "linux_end": 5107, "trees_end": 31967, "free": 17_360_000}
_BINS: Final = 16


@dataclass(frozen=True, slots=True)
class FragSettings:
    """What is varied; shares are in thousandths."""

    nr_huge: int = 64_000
    nr_cpus: int = 8
    filled: int = 900
    freed: int = 500
    churned: int = 100
    rounds: int = 100
    start_huge: int = PAPER["start"]
    seed: int = 0


def llfree_frag(settings: FragSettings) -> dict[str, Any]:
    """Run both policies, each in a thread of its own.

    Raises:
        ValueError: the settings contradict each other.
    """
    with ThreadPoolExecutor(len(POLICIES)) as pool:
        runs = [pool.submit(frag_study, policy=one, **asdict(settings)) for one in POLICIES]
        results = dict(zip(POLICIES, (run.result() for run in runs), strict=True))
    return {"settings": asdict(settings), "paper": PAPER, "policies": results}


def dumps(report: dict[str, Any], *, version: str) -> str:
    """Return the report as one JSON object."""
    return json.dumps({"schema": SCHEMA, "contigmm": version, **report})


def summary_lines(report: dict[str, Any]) -> list[str]:
    """Return what people read: counts, and pageblocks by how much of them is free."""
    lines = []
    for policy, result in report["policies"].items():
        huge, free = result["huge"], result["free"]
        lines.append(
            f"{policy}: free 2 MiB frames {huge[0]} at the start, {min(huge)} to {max(huge)} on "
            f"the way, {huge[-1]} at the end; free frames {free[0]} to {free[-1]}; "
            f"the system uses {result['system']}"
        )
        for moment in ("start", "end"):
            lines.append(f"  {moment}: {_bars(result[f'histogram_{moment}'])}")
    lines.append(
        f"(pageblocks by free frames, 0 to 512 in {_BINS} steps of {512 // _BINS}; the last "
        "number: wholly free)"
    )
    return lines


def _bars(histogram: list[int]) -> str:
    counts = np.array(histogram)
    steps = counts[:-1].reshape(_BINS, -1).sum(axis=1)
    return " ".join(str(count) for count in [*steps.tolist(), int(counts[-1])])
