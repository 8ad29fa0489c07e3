"""Measuring several subjects side by side: rounds are interleaved, so that all see one weather.

Time is the thread's own on the CPU, the kernel's part included: what else the computer does in
between does not count.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class Subject:
    """Something to measure: ``work`` is called ``number`` times a round and timed as a whole.

    Each call does ``units`` of what is measured. ``before`` and ``after`` run untimed around each
    round.
    """

    name: str
    work: Callable[[], object]
    number: int
    vmas: int = 1
    units: int = 1
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None


def interleaved(subjects: Sequence[Subject], *, rounds: int) -> list[dict[str, Any]]:
    """Measure every subject once a round; give microseconds a unit, least and median."""
    times: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            times[subject.name].append(_one_round(subject))
    return [
        {
            "name": subject.name,
            "vmas": subject.vmas,
            "min_us": round(min(times[subject.name]), 4),
            "median_us": round(statistics.median(times[subject.name]), 4),
            "runs": rounds,
        }
        for subject in subjects
    ]


def _one_round(subject: Subject) -> float:
    if subject.before is not None:
        subject.before()
    work = subject.work
    calls = range(subject.number)
    collecting = gc.isenabled()
    gc.disable()  # as timeit does: another subject's garbage is not this one's cost
    start_ns = time.thread_time_ns()
    for _ in calls:
        work()
    elapsed_ns = time.thread_time_ns() - start_ns
    if collecting:
        gc.enable()
    if subject.after is not None:
        subject.after()
    return elapsed_ns / (subject.number * subject.units) / 1e3
