"""``contigmm study rfc-defects``: each scenario under the policy at fault, then with it swapped."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from contigmm.study.bench_machine import BenchMachine
from contigmm.study.rfc_scenarios import SCENARIOS, Evidence, Scenario

#: The policy that takes the place of the one at fault.
SWAPPED: Final = "contig"


@dataclass(slots=True, frozen=True)
class Finding:
    """A scenario under two policies of MAP_CONTIG, all else equal."""

    scenario: Scenario
    found: Evidence
    swapped: Evidence

    @property
    def disappears(self) -> bool:
        """Was it there, and is it gone with the other policy?"""
        return self.found.amount > 0 and self.swapped.amount == 0

    def report(self) -> dict[str, Any]:
        """Return what ``--json`` prints of it."""
        scenario = self.scenario
        return {
            "defect": scenario.defect,
            "name": scenario.name,
            "base": scenario.base,
            "stub": scenario.stub,
            "evidence": scenario.kind,
            "policy": scenario.under,
            "amount": self.found.amount,
            "unit": self.found.unit,
            "found": self.found.sentence,
            "swapped_policy": SWAPPED,
            "swapped_amount": self.swapped.amount,
            "swapped": self.swapped.sentence,
            "disappears": self.disappears,
        }


def study(names: list[str] | None = None) -> list[Finding]:
    """Run the scenarios of these names or numbers, or all.

    Raises:
        ValueError: there is no such scenario.
    """
    chosen = [
        scenario
        for scenario in SCENARIOS
        if not names or scenario.name in names or scenario.defect in names
    ]
    known = {word for scenario in SCENARIOS for word in (scenario.name, scenario.defect)}
    if wrong := sorted(set(names or ()) - known):
        raise ValueError(f"there is no scenario {wrong[0]!r}")
    return [
        Finding(
            scenario,
            scenario.run(BenchMachine(scenario.under)),
            scenario.run(BenchMachine(SWAPPED)),
        )
        for scenario in chosen
    ]


def report(findings: list[Finding]) -> dict[str, Any]:
    """Return the whole object: schema study-rfc-defects/1."""
    return {
        "schema": "study-rfc-defects/1",
        "contigmm": version("contigmm"),
        "scenarios": [finding.report() for finding in findings],
    }
