"""The lock that many CPUs want, in simulated time, for the requests of a load."""

import io
import json

import made_up
import pytest
from rich.console import Console

from contigmm.load.console import print_report
from contigmm.load.contention import CPUS, contention
from contigmm.load.scenario import scenario_of


def asking(sizes, **group):
    return scenario_of(
        {"groups": [{"processes": 4, "sizes": sizes, **group}], "phases": [{"seconds": 1}]}
    )


def means(found):
    return {row.cpus: row.mean_ns for row in found.rows}


def test_the_lock_is_handed_round_and_waiting_grows_with_those_who_want_it():
    found = means(contention(asking("64K"), {"cost_handover_ns": 500}))
    assert tuple(found) == CPUS
    assert list(found.values()) == sorted(found.values())
    # A lock that is always wanted: each allocation waits for a hand-over to each of the others.
    assert found[256] - found[128] == pytest.approx(128 * 576, rel=0.2)


def test_without_a_hand_over_less_is_waited():
    dear = means(contention(asking("64K"), {"cost_handover_ns": 2000}))
    cheap = means(contention(asking("64K"), {"cost_handover_ns": 0}))
    assert dear[64] > 4 * cheap[64]
    assert dear[1] == cheap[1]


def test_the_mix_of_the_load_is_what_is_simulated():
    small, large = (means(contention(asking(size), {})) for size in ("64K", "4M"))
    both = means(contention(asking("64K:1,4M:1"), {}))
    assert large[1] > 50 * small[1]  # a frame is zeroed in 100 ns, and 4 MiB are 64 times 64 KiB
    assert small[1] < both[1] < large[1]
    assert means(contention(asking("4M", hold="fixed:9"), {})) == large


def test_what_is_not_contiguous_or_no_block_wants_no_such_lock():
    assert contention(asking("64K", memory="ordinary"), {}) is None
    assert contention(asking("8M"), {}) is None


def test_the_report_says_which_figure_is_simulated_and_from_what():
    found = contention(made_up.SCENARIO, {"cost_lock_ns": 77})
    report = made_up.report(contention=found)
    told = json.loads(report.as_json())["simulated_contention"]
    assert [row["cpus"] for row in told["by_cpus"]] == list(CPUS)
    assert told["costs"]["lock_ns"] == 77
    console = Console(file=io.StringIO(), width=80)
    print_report(report, console)
    text = " ".join(console.file.getvalue().split())
    assert "Simulated, not measured" in text
    assert "Measured, mmap through the server took" in text
    assert "lock_ns 77" in text
