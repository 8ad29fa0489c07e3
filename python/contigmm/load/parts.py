"""What became of each phase and of each group of a scenario."""

from dataclasses import dataclass

import numpy as np

from contigmm.load.samples import Kind, Samples
from contigmm.load.scenario import Group, Phase, Scenario
from contigmm.load.tally import Latency, latency_of


@dataclass(frozen=True)
class PhaseResult:
    """Requests that were due within one phase."""

    phase: Phase
    attempts: int
    successes: int
    latency: Latency
    """Of mmap, from when it was due."""

    @property
    def refused_share(self) -> float:
        """Refusals by attempts, 0 to 1."""
        return 1 - self.successes / self.attempts if self.attempts else 0.0


@dataclass(frozen=True)
class GroupResult:
    """Requests of the processes of one group."""

    group: Group
    attempts: int
    successes: int

    @property
    def refused_share(self) -> float:
        """Refusals by attempts, 0 to 1."""
        return 1 - self.successes / self.attempts if self.attempts else 0.0


def phase_results(
    scenario: Scenario, samples: Samples, *, begin_ns: int
) -> tuple[PhaseResult, ...]:
    """Sum the calls of mmap up by the phase in which they were due.

    What became due after the last phase, while the load was being stopped, counts to it.
    """
    maps = samples[samples["kind"] == Kind.MAP]
    due_ns = maps["begin_ns"] - maps["late_ns"] - begin_ns
    ends_ns = np.cumsum([phase.seconds for phase in scenario.phases]) * 1e9
    number = np.searchsorted(ends_ns[:-1], due_ns, side="right")
    took_ns = maps["end_ns"] - maps["begin_ns"] + maps["late_ns"]
    return tuple(
        PhaseResult(
            phase,
            attempts=int((number == index).sum()),
            successes=int(((number == index) & (maps["errno"] == 0)).sum()),
            latency=latency_of(took_ns[number == index]),
        )
        for index, phase in enumerate(scenario.phases)
    )


def group_results(
    scenario: Scenario, attempts: tuple[int, ...], successes: tuple[int, ...]
) -> tuple[GroupResult, ...]:
    """Sum what was counted by process up by group."""
    found, first = [], 0
    for group in scenario.groups:
        mine = slice(first, first + group.processes)
        found.append(GroupResult(group, sum(attempts[mine]), sum(successes[mine])))
        first += group.processes
    return tuple(found)
