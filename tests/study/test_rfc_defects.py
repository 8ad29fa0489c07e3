"""Does each scenario find its defect, and does the other policy make it go away?"""

import pytest

from contigmm.study.bench_machine import BenchMachine
from contigmm.study.rfc_defects import report, study
from contigmm.study.rfc_scenarios import SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.defect for s in SCENARIOS])
def test_each_defect_shows_under_the_policy_at_fault(scenario):
    evidence = scenario.run(BenchMachine(scenario.under))
    assert evidence.amount > 0, evidence.sentence


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.defect for s in SCENARIOS])
def test_each_defect_goes_when_the_policy_is_swapped(scenario):
    evidence = scenario.run(BenchMachine("contig"))
    assert not evidence.amount, evidence.sentence


def test_scenarios_are_the_same_every_time():
    assert report(study()) == report(study())


def test_scenarios_are_numbered_without_a_gap():
    assert [s.defect for s in SCENARIOS] == [f"D{number}" for number in range(1, 18)]
    assert len({s.name for s in SCENARIOS}) == len(SCENARIOS)


def test_one_scenario_may_be_asked_for_and_none_may_be_made_up():
    (finding,) = study(["split"])
    assert finding.scenario.defect == "D6"
    with pytest.raises(ValueError, match="no scenario 'D99'"):
        study(["D99"])
