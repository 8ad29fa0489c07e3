"""A comparison calls a difference what the runs' own variation does not explain, and no more."""

import json
import re

import made_up
import numpy as np
import pytest

from contigmm.load.compare import compare
from contigmm.load.effort import Effort
from contigmm.load.sizes import LoadInputError
from contigmm.load.thresholds import Threshold


def written(path, *, p99=2000.0, spread=0.05, seed=0, **changes):
    """A report whose stretches vary by ``spread`` around ``p99``."""
    rng = np.random.default_rng(seed)
    report = json.loads(made_up.report().as_json())
    report["intervals"] = [
        {
            "ops_per_s": 1000 * rng.normal(1, spread),
            "p50_us": 500 * rng.normal(1, spread),
            "p99_us": p99 * rng.normal(1, spread),
            "refused_share": 0.3 * rng.normal(1, spread),
        }
        for _ in range(10)
    ]
    path.write_text(json.dumps(report | changes))
    return path


def test_runs_that_differ_by_their_noise_are_the_same_in_95_of_100_draws(tmp_path):
    verdicts = [
        compare(
            written(tmp_path / "a", spread=0.2, seed=2 * seed),
            written(tmp_path / "b", spread=0.2, seed=2 * seed + 1),
        ).verdict
        for seed in range(60)
    ]
    assert verdicts.count("same") >= 57


def test_a_slowdown_of_30_percent_is_found(tmp_path):
    found = [
        {
            change.figure: change.verdict
            for change in compare(
                written(tmp_path / "a", spread=0.1, seed=2 * seed),
                written(tmp_path / "b", spread=0.1, p99=2600.0, seed=2 * seed + 1),
            ).changes
        }["p99_us"]
        for seed in range(30)
    ]
    assert found.count("worse") >= 28


def runs(folder, *, slower=1.0, seed=0):
    """Six runs that differ from each other by 15 %, far more than the stretches of each."""
    folder.mkdir(parents=True)
    drift = np.random.default_rng(seed).normal(1, 0.15, 6)
    for number, factor in enumerate(drift):
        written(folder / f"{number}.json", p99=2000 * factor * slower, spread=0.02, seed=number)
    return folder


def test_what_changes_from_run_to_run_is_no_difference_between_folders(tmp_path):
    verdicts = []
    for seed in range(20):
        one = runs(tmp_path / f"{seed}a", seed=2 * seed)
        other = runs(tmp_path / f"{seed}b", seed=2 * seed + 1)
        verdicts.append(compare(one, other).verdict)
    assert verdicts.count("same") >= 19
    # Single runs of the same draws differ by what their stretches cannot explain.
    single = [
        compare(tmp_path / f"{seed}a/0.json", tmp_path / f"{seed}b/0.json").verdict
        for seed in range(20)
    ]
    assert single.count("same") < 19


def test_a_slowdown_beyond_what_runs_vary_by_is_found_between_folders(tmp_path):
    found = compare(runs(tmp_path / "a"), runs(tmp_path / "b", slower=1.8, seed=1))
    assert [change.figure for change in found.changes if change.verdict == "worse"] == ["p99_us"]


def test_too_few_runs_and_a_file_beside_a_folder_are_refused(tmp_path):
    folder = runs(tmp_path / "a")
    with pytest.raises(LoadInputError, match="two files are compared, or two folders"):
        compare(folder, folder / "0.json")
    (folder / "0.json").unlink()
    (folder / "1.json").unlink()
    with pytest.raises(LoadInputError, match="has 4 results"):
        compare(folder, folder)


@pytest.mark.parametrize(("p99", "verdict"), [(4000.0, "worse"), (1000.0, "better")])
def test_a_difference_far_above_the_noise_is_named(tmp_path, p99, verdict):
    found = compare(written(tmp_path / "a"), written(tmp_path / "b", p99=p99, seed=1))
    assert found.verdict == verdict
    assert [change.figure for change in found.changes if change.verdict != "same"] == ["p99_us"]


def test_a_real_difference_too_small_to_matter_is_none(tmp_path):
    found = compare(
        written(tmp_path / "a", spread=0.001), written(tmp_path / "b", spread=0.001, p99=2040.0)
    )
    assert found.verdict == "same"


def test_what_speaks_against_comparing_is_said(tmp_path):
    limited = {"generator": {"limited": True}, "arrival": "poisson:5"}
    found = compare(written(tmp_path / "a"), written(tmp_path / "b", **limited))
    assert "the runs differ in arrival: closed and poisson:5" in found.warnings
    assert any("second run was limited by its generator" in said for said in found.warnings)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": "load/1"}'])
def test_what_is_no_report_is_refused_by_name(tmp_path, text):
    (tmp_path / "b").write_text(text)
    with pytest.raises(LoadInputError, match=re.escape(str(tmp_path / "b"))):
        compare(written(tmp_path / "a"), tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("p99<=300us", True),
        ("p99 <= 0.2ms", False),
        ("max<=1s", True),
        ("ops_per_s>=16", True),
        ("ops_per_s>=16.5", False),
        ("refused<=50%", True),
        ("refused<=49%", False),
        ("jain>=0.99", False),
    ],
)
def test_thresholds_hold_figures_of_the_report(text, kept):
    miss = Threshold.parse(text).miss(made_up.report())
    assert (miss is None) == kept
    assert kept or miss.startswith(f"{text} is missed: it is ")


@pytest.mark.parametrize(
    "text", ["p99", "p98<=1ms", "p99<=5", "p99<=5%", "refused<=5", "ops_per_s>=5ms", "p99<5ms"]
)
def test_what_is_no_threshold_is_refused(text):
    with pytest.raises(LoadInputError):
        Threshold.parse(text)


def test_a_busy_generator_is_named_as_the_limit():
    assert Effort(0.95, 10).was_the_limit
    assert Effort(0.1, 10_000).was_the_limit
    assert not Effort(0.5, 5000).was_the_limit
