"""Scenario files: what they say is what runs, and what they cannot mean is refused by line."""

import json
import re
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_run import run

from contigmm.client.views import Pagemaps
from contigmm.load.arrival import Arrival, Timetable
from contigmm.load.ownership import PM_PRESENT, frames_of_families, owned_twice
from contigmm.load.parts import group_results, phase_results
from contigmm.load.samples import SAMPLE, Kind
from contigmm.load.scenario import read_scenario, scenario_of
from contigmm.load.sizes import Chances, Hold, LoadInputError, Script, SizeMix

SCENARIOS = sorted((Path(__file__).resolve().parents[2] / "examples/scenarios").glob("*.yaml"))
WHOLE = """\
question: Who wins?
machine: spec:small
seed: 4
groups:
  - name: one
    processes: 2
    sizes: {64K: 3, 2M: 1}
    memory: ordinary
    fork: 0.5
  - name: two
    processes: 3
    sizes: 4M
    hold: exponential:8
phases:
  - {name: calm, seconds: 1, arrival: poisson:50}
  - {name: storm, seconds: 3}
"""


def written(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return path


def test_a_file_says_what_runs(tmp_path):
    scenario = read_scenario(written(tmp_path, WHOLE))
    assert (scenario.machine, scenario.seed, scenario.nr_processes) == ("spec:small", 4, 5)
    assert scenario.sizes_bytes == (64 << 10, 2 << 20, 4 << 20)
    assert [scenario.group_of(index) for index in range(5)] == [0, 0, 1, 1, 1]
    assert str(scenario.phases[0].arrival) == "poisson:50"
    assert scenario.duration_s == 4
    assert [phase.seconds for phase in scenario.lasting(2).phases] == [0.5, 1.5]
    auto, own = scenario.holds(512 << 20)
    assert own == Hold(8, 24, "exponential")
    mean = scenario.groups[0].sizes.mean_bytes
    assert auto.mean * 2 * mean == pytest.approx(2.5 * (512 << 20), rel=0.01)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("seed: 4", "sead: 4", 3, "sead: there is no such field"),
        ("seed: 4", "seed: four", 3, "seed: input should be a valid integer"),
        ("processes: 3\n", "processes: 0\n", 11, "groups[1].processes: input should be greater"),
        ("4M", "4Q", 12, "groups[1].sizes: '4Q' is no size"),
        ("{64K: 3, 2M: 1}", "[64K]", 7, "groups[0].sizes: sizes are named with weights"),
        ("exponential:8", "normal:8", 13, "groups[1].hold: 'normal:8' is no number of requests"),
        ("exponential:8", "pareto:0", 13, "groups[1].hold: pareto:0: the mean is from 1"),
        ("fork: 0.5", "fork: 1.5", 9, "groups[0].fork: input should be less than or equal to 1"),
        ("hold: exponential:8", "pin: 0.5", 10, "groups[1]: pin is for ordinary memory"),
        ("poisson:50", "poison:50", 15, "phases[0].arrival: 'poison:50' is no arrival"),
        ("seconds: 3", "seconds: 0", 16, "phases[1].seconds: input should be greater"),
        ("storm", "calm", 1, "the scenario: the name 'calm' is given twice"),
        ("name: two", "name: a b", 10, "groups[1].name: string should match"),
        ("seed: 4", "machine: spec:large", 3, "machine is given twice"),
        ("memory: ordinary", "memory: huge", 8, "groups[0].memory: input should be 'contig' or"),
        ("    sizes: 4M\n", "", 10, "groups[1].sizes: is missing"),
    ],
)
def test_a_bad_field_is_named_with_its_line(tmp_path, old, new, line, said):
    path = written(tmp_path, WHOLE.replace(old, new))
    with pytest.raises(LoadInputError) as refused:
        read_scenario(path)
    assert str(refused.value).startswith(f"{path}:{line}: {said}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "[]",
        "a: [",
        "\t",
        "\0",
        "a: &x [*x]",
        "? [1]\n: 2",
        "!!python/none x",
        "a: 2020-99-99",
    ],
)
def test_what_is_no_scenario_is_refused_by_name(tmp_path, text):
    path = written(tmp_path, text)
    with pytest.raises(LoadInputError, match=re.escape(str(path))):
        read_scenario(path)


def test_options_make_the_same_scenario_as_a_file(tmp_path):
    text = "groups: [{processes: 8, sizes: '64K:1,2M:3', hold: 8-24}]\nphases: [{seconds: 2}]\n"
    document = {
        "groups": [{"processes": 8, "sizes": "64K:1,2M:3", "hold": "8-24"}],
        "phases": [{"seconds": 2, "arrival": "closed"}],
    }
    assert read_scenario(written(tmp_path, text)) == scenario_of(document)


def test_options_that_a_scenario_says_are_refused_beside_it(tmp_path):
    done = run("--scenario", str(written(tmp_path, WHOLE)), "--hold", "8")
    assert done.returncode == 2
    assert "--hold and --scenario exclude each other" in done.stderr


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_the_shipped_scenarios_run_and_answer_by_group_and_phase(tmp_path, path):
    out = tmp_path / "load.json"
    done = run("--scenario", str(path), "--duration", "1.5", "--json", str(out))
    assert done.returncode == 0, done.stderr
    result, scenario = json.loads(out.read_text()), read_scenario(path)
    assert scenario.question.endswith("?")
    assert result["observed_twice"] == 0
    for parts in ("groups", "phases"):
        assert [part["name"] for part in result[parts]] == [
            part.name for part in getattr(scenario, parts)
        ]
        assert sum(part["attempts"] for part in result[parts]) == result["attempts"]
        assert all(part["attempts"] for part in result[parts])
    if scenario.forks:
        assert re.search(r"^  fork +[1-9]", done.stdout, re.MULTILINE)
        assert re.search(r"^  mlock +[1-9]", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("text", ["8-24", "fixed:16", "exponential:16", "pareto:16"])
def test_holds_have_the_mean_that_they_are_named_by(text):
    hold = Hold.parse(text)
    assert str(hold) == text
    # Midpoints of 100,000 equal shares: the far tail of a Pareto distribution carries 2 % of it.
    drawn = [hold.at((number + 0.5) / 100_000) for number in range(100_000)]
    assert statistics.fmean(drawn) == pytest.approx(16, rel=0.04)
    assert min(drawn) >= 1
    assert hold.at(1 - 2**-53) <= 1_000_000


def test_what_else_happens_leaves_sizes_and_holds_alone():
    mix, hold = SizeMix.parse("64K:1,2M:1"), Hold(4, 12)
    plain = Script(seed=1, process_index=0, mix=mix, hold=hold)
    busy = Script(seed=1, process_index=0, mix=mix, hold=hold, chances=Chances(0.2, 0.1, 0.05))
    counts = Counter()
    for _ in range(20_000):
        one, other = plain.next_request(), busy.next_request()
        assert (one.size_index, one.hold_requests) == (other.size_index, other.hold_requests)
        assert one.pin is one.fork is one.kill is False
        counts.update(name for name in ("pin", "fork", "kill") if getattr(other, name))
    assert counts["pin"] == pytest.approx(4000, rel=0.1)
    assert counts["fork"] == pytest.approx(2000, rel=0.1)
    assert counts["kill"] == pytest.approx(1000, rel=0.15)


def test_a_size_of_another_group_is_never_drawn():
    mix = SizeMix.parse("2M:1").over((4096, 2 << 20, 4 << 20))
    script = Script(seed=1, process_index=0, mix=mix, hold=Hold(1, 1))
    assert {script.next_request().size_index for _ in range(1000)} == {1}


def test_phases_follow_each_other():
    phases = [
        (1.0, Arrival.parse("constant:4")),
        (2.0, Arrival()),
        (1.0, Arrival.parse("constant:2")),
    ]
    table = Timetable(phases, seed=0, process_index=0, nr_processes=1)
    second = 1_000_000_000
    assert [table.due_ns(0) for _ in range(4)] == [0, second // 4, second // 2, 3 * second // 4]
    assert table.due_ns(second) is None
    assert table.due_ns(2 * second) is None
    # The closed phase is over: the next request has its time again, however late it is asked for.
    assert [table.due_ns(4 * second) for _ in range(3)] == [
        3 * second,
        3 * second + second // 2,
        4 * second,
    ]


def test_calls_count_to_the_phase_in_which_they_were_due_and_to_their_group():
    scenario = scenario_of(
        {
            "groups": [{"name": n, "processes": 1, "sizes": "64K"} for n in "ab"],
            "phases": [{"name": "x", "seconds": 1}, {"name": "y", "seconds": 1}],
        }
    )
    samples = np.zeros(3, SAMPLE)
    samples["kind"] = Kind.MAP
    samples["begin_ns"] = [0.5e9, 1.5e9, 1.5e9]
    samples["late_ns"] = [0, 0.7e9, 0]
    samples["end_ns"] = samples["begin_ns"] + 1000
    samples["errno"] = [0, 12, 12]
    first, last = phase_results(scenario, samples, begin_ns=0)
    assert (first.attempts, first.successes, last.attempts, last.successes) == (2, 1, 1, 0)
    assert first.latency.max == pytest.approx(0.7e6, rel=0.001)
    groups = group_results(scenario, (5, 7), (1, 2))
    assert [(part.group.name, part.attempts, part.successes) for part in groups] == [
        ("a", 5, 1),
        ("b", 7, 2),
    ]


def test_a_frame_shared_by_a_fork_is_owned_once_and_by_strangers_twice():
    def maps(address, *frames):
        return [(address, np.array(frames, np.uint64) | np.uint64(PM_PRESENT))]

    pagemaps = Pagemaps(1, {10: maps(0x1000, 5, 6), 11: maps(0x1000, 5, 7), 12: maps(0x1000, 8)})
    related = frames_of_families(pagemaps, {10: 0, 11: 0, 12: 1})
    assert owned_twice(related, None).tolist() == []
    assert owned_twice(frames_of_families(pagemaps, {10: 0, 11: 1, 12: 2}), None).tolist() == [5]
    elsewhere = Pagemaps(1, {10: maps(0x1000, 5), 11: maps(0x2000, 5)})
    assert owned_twice(frames_of_families(elsewhere, {10: 0, 11: 0}), None).tolist() == [5]
