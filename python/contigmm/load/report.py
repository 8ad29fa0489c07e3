"""The result of a load, as values: what is printed, drawn and written as load/1."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Final

from contigmm.errors import ERRNO_NAMES, Reason
from contigmm.load.contention import Contention
from contigmm.load.effort import Effort
from contigmm.load.export import Exported
from contigmm.load.fragmentation import Fragmentation
from contigmm.load.intervals import Interval
from contigmm.load.parts import GroupResult, PhaseResult, group_results
from contigmm.load.samples import Kind, jain_fairness
from contigmm.load.scenario import Scenario
from contigmm.load.sizes import format_bytes
from contigmm.load.tally import Latency, Refusal, SizeTally

SCHEMA: Final = "load/1"

LIMITS: Final = frozenset({"EAGAIN", "EPERM"})
"""Errno names that speak of a limit of the process, not of memory."""

_WHAT_DECIDED: Final[dict[str, str]] = {
    Reason.NO_CONTIGUOUS_BLOCK_AFTER_COMPACTION: (
        "enough memory was free, in pieces too small, and compaction made none large enough"
    ),
    Reason.NO_ROOM_AFTER_RECLAIM: "too little memory was free, and reclaim made no more so",
    Reason.NO_CONTIGUOUS_BLOCK_COMPACTION_NOT_SIMULATED: (
        "enough memory was free, in pieces too small; Linux would have tried compaction,"
        " which is switched off for this machine"
    ),
    Reason.BELOW_WATERMARK_RECLAIM_NOT_SIMULATED: (
        "too little memory was free above the watermarks; Linux would have tried reclaim,"
        " which is switched off for this machine"
    ),
    Reason.OUT_OF_MEMORY_RECLAIM_NOT_SIMULATED: (
        "no memory was free; Linux would have tried reclaim, which is switched off here"
    ),
    Reason.CONTIG_ABOVE_MAX_ORDER: "the size is above the largest block the allocator has",
    Reason.CONTIG_NO_RANGE: "no zone has an aligned range of that size",
    Reason.CONTIG_RANGE_RESERVED: "every range had a hole or reserved memory in it",
    Reason.CONTIG_RANGE_HUGETLB: "a page of a hugetlb pool stood in most ranges",
    Reason.CONTIG_RANGE_UNMOVABLE: "a page of the kernel that cannot move stood in most ranges",
    Reason.CONTIG_RANGE_PINNED: "a pinned page stood in most ranges",
    Reason.CONTIG_RANGE_BUSY: "a page that somebody held stood in most ranges",
    Reason.CONTIG_RANGE_NO_TARGET: "pages of the range had no frame elsewhere to move to",
    Reason.MEMLOCK_LIMIT: "the process's RLIMIT_MEMLOCK, not memory",
    Reason.ADDRESS_SPACE_LIMIT: "the process's RLIMIT_AS, not memory",
    Reason.OVERCOMMIT: "the overcommit limit, before any frame was looked for",
}


@dataclass(frozen=True)
class Stages:
    """The machine's free memory at the stations of a run."""

    captured: Fragmentation
    """As the source has it."""
    filled: Fragmentation
    """With page cache up to the occupancy asked for, and no load."""
    loaded: Fragmentation
    """When the load's demand had built up and measuring began."""
    end: Fragmentation
    """When measuring ended, all mappings still held."""
    emptied: Fragmentation
    """When all processes of the load had exited."""


@dataclass(frozen=True)
class Integrity:
    """What the observing client found."""

    invariants: str
    """``ok``, or the first violation that the machine's own checker found."""
    observations: int
    """Moments at which the pagemaps of all processes were read."""
    observed_frames: int
    """Frames seen owned, over all moments."""
    observed_twice: int
    """Frames seen with two owners."""
    migrated: int
    reclaimed: int
    violations: tuple[str, ...]
    """What was not conserved, a sentence each."""

    @property
    def conserved(self) -> bool:
        """Whether every frame ended as it began."""
        return not self.violations

    @property
    def ok(self) -> bool:
        """Whether nothing at all was wrong."""
        return self.invariants == "ok" and self.observed_twice == 0 and self.conserved


@dataclass(frozen=True)
class Traffic:
    """How the calls came in."""

    duration_s: float
    calls: int
    generator_processes: int
    in_flight_mean: float
    in_flight_max: int
    queue_depth_max: int
    """Calls that waited for the machine at once, as the server counted them."""
    processes_in_window_min: int
    """Fewest processes among 100 commands that followed each other in the machine."""
    processes_in_window_median: int
    effort: Effort
    intervals: tuple[Interval, ...]

    @property
    def ops_per_s(self) -> float:
        """Calls answered a second."""
        return self.calls / self.duration_s


@dataclass(frozen=True)
class Report:
    """Everything that a run of the load has to say."""

    source: str
    scenario: Scenario
    stages: Stages
    managed_bytes: int
    sizes: tuple[SizeTally, ...]
    failed_calls: dict[tuple[Kind, Refusal], int]
    mapped_by_process: tuple[int, ...]
    attempts_by_process: tuple[int, ...]
    phases: tuple[PhaseResult, ...]
    latency: dict[Kind, Latency]
    """From when a call was due; in a closed loop that is when it was sent."""
    service: Latency
    """Of mmap, from when it was sent."""
    traffic: Traffic
    integrity: Integrity
    contention: Contention | None = None
    """What this mix would wait for a zone's lock: simulated."""
    exported: Exported | None = None
    """Refusals that were written to files."""
    notes: tuple[str, ...] = ()
    """Sentences about how the machine was made: what was known, drawn, filled."""

    @property
    def groups(self) -> tuple[GroupResult, ...]:
        """What became of each group's requests."""
        return group_results(self.scenario, self.attempts_by_process, self.mapped_by_process)

    @property
    def arrival(self) -> str:
        """How requests came: of one phase its arrival, of more also their names and seconds."""
        phases = self.scenario.phases
        if len(phases) == 1:
            return str(phases[0].arrival)
        return ", ".join(f"{phase.name} {phase.arrival} {phase.seconds:g}s" for phase in phases)

    @property
    def attempts(self) -> int:
        """Attempts to map."""
        return sum(size.attempts for size in self.sizes)

    @property
    def successes(self) -> int:
        """Attempts that mapped."""
        return sum(size.successes for size in self.sizes)

    @property
    def deciding(self) -> Counter[str]:
        """How often each Reason refused."""
        return self._refusals_by(lambda refusal: refusal.reason)

    @property
    def refused_by_errno(self) -> Counter[str]:
        """Refusals by the name of their errno."""
        return self._refusals_by(lambda refusal: errno_name(refusal.errno))

    @property
    def fairness(self) -> float:
        """Jain's index over the successes of the processes."""
        return jain_fairness(self.mapped_by_process)

    def as_json(self) -> str:
        """Return the load/1 object."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "contigmm": version("contigmm"),
                "attempts": self.attempts,
                "successes": self.successes,
                "refusals": dict(self.refused_by_errno),
                "by_size": [
                    {
                        "bytes": size.size_bytes,
                        "attempts": size.attempts,
                        "successes": size.successes,
                    }
                    for size in self.sizes
                ],
                "latency_us": _percentiles(self.latency[Kind.MAP]),
                "ops_per_s": round(self.traffic.ops_per_s, 1),
                "jain_fairness": round(self.fairness, 4),
                "deciding": dict(self.deciding),
                "queue_depth_max": self.traffic.queue_depth_max,
                "generator_processes": self.traffic.generator_processes,
                "invariants": self.integrity.invariants,
                "observed_twice": self.integrity.observed_twice,
                "migrated": self.integrity.migrated,
                "reclaimed": self.integrity.reclaimed,
                "conserved": self.integrity.conserved,
                "before": self.stages.filled.as_json(),
                "after": self.stages.end.as_json(),
                "seed": self.scenario.seed,
                "arrival": self.arrival,
                "service_us": _percentiles(self.service),
                "generator": {
                    "busy_share": round(self.traffic.effort.busy_share, 3),
                    "late_us_p99": self.traffic.effort.late_us_p99,
                    "limited": self.traffic.effort.was_the_limit,
                },
                "intervals": [asdict(interval) for interval in self.traffic.intervals],
                **self._parts(),
                "simulated_contention": None
                if self.contention is None
                else self.contention.as_json(),
            },
            indent=2,
        )

    def _parts(self) -> dict[str, list[dict[str, object]]]:
        """Return what load/1 tells of groups and phases."""
        return {
            "groups": [
                {
                    "name": part.group.name,
                    "processes": part.group.processes,
                    "attempts": part.attempts,
                    "successes": part.successes,
                }
                for part in self.groups
            ],
            "phases": [
                {
                    "name": part.phase.name,
                    "seconds": part.phase.seconds,
                    "arrival": str(part.phase.arrival),
                    "attempts": part.attempts,
                    "successes": part.successes,
                    "latency_us": _percentiles(part.latency),
                }
                for part in self.phases
            ],
        }

    def verdict(self) -> str:
        """Name, in one line, what decided over the requests that were refused."""
        deciding = self.deciding
        if not deciding:
            return f"What decided: nothing, all {self.attempts} requests were mapped."
        reason, times = deciding.most_common(1)[0]
        sizes = ", ".join(
            f"{format_bytes(size.size_bytes)} ({size.refused_share:.0%})"
            for size in self.sizes
            if size.deciding == reason
        )
        return (
            f"What decided: {reason}, {times / deciding.total():.0%} of refusals and most of those"
            f" of {sizes}: {what_decided(reason)}."
        )

    def _refusals_by(self, key: Callable[[Refusal], str]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for size in self.sizes:
            for refusal, times in size.refusals.items():
                counts[key(refusal)] += times
        return counts


def _percentiles(latency: Latency) -> dict[str, int]:
    return {name: getattr(latency, name) for name in ("p50", "p90", "p99", "p999", "max")}


def errno_name(errno: int) -> str:
    """Return Linux's name of an errno, or its number where it has none here."""
    return ERRNO_NAMES.get(errno, str(errno))


def what_decided(reason: str) -> str:
    """Say in words what a Reason means for whoever was refused."""
    return _WHAT_DECIDED.get(reason, reason.replace("_", " "))
