"""The report says what happened: counts, latencies, load/1, the line that names what decided."""

import json

import made_up
import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from rich.console import Console

from contigmm.abi import EAGAIN, ENOMEM
from contigmm.load.console import print_report, progress_view
from contigmm.load.coordinator import Tick
from contigmm.load.effort import Effort
from contigmm.load.report import Integrity
from contigmm.load.samples import Kind
from contigmm.load.tally import Refusal, Tally

NO_BLOCK = made_up.REASONS[1]
KEYS = {
    "schema", "contigmm", "attempts", "successes", "refusals", "by_size", "latency_us", "ops_per_s",
    "jain_fairness", "deciding", "queue_depth_max", "generator_processes", "invariants",
    "observed_twice", "migrated", "reclaimed", "conserved", "before", "after", "seed",
    "arrival", "service_us", "generator", "intervals", "groups", "phases", "simulated_contention",
}  # fmt: skip


def printed(report):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    console.file.close()
    return console.export_text()


def test_attempts_are_counted_by_size_and_what_refused_them():
    small, middle, large = made_up.tally().sizes
    assert (small.attempts, small.successes, small.refusals) == (
        2,
        1,
        {Refusal(EAGAIN, "memlock_limit"): 1},
    )
    assert (middle.attempts, middle.refusals) == (2, {Refusal(ENOMEM, NO_BLOCK): 1})
    assert large.refused_share == 0.5
    assert large.deciding == NO_BLOCK


def test_what_was_known_of_the_machine_and_what_was_drawn_is_printed():
    text = printed(made_up.report(notes=("known: every free block", "drawn: owners")))
    lines = [line.rstrip() for line in text.splitlines()]
    at = lines.index("What the machine was made from")
    assert lines[at + 1 : at + 3] == ["  known: every free block", "  drawn: owners"]
    assert "made from" not in printed(made_up.report())


def test_only_maps_are_attempts_but_every_call_is_counted():
    tally = made_up.tally()
    assert (tally.attempts, tally.successes, tally.nr_calls) == (6, 3, 8)
    assert tally.mapped_by_process == [2, 1]
    assert tally.busy_ns == 860_000


def test_a_failed_unmap_is_no_refusal_and_is_told_apart():
    tally = Tally(sizes_bytes=(4096,), nr_processes=1)
    tally.add(made_up.chunk([(1, 0, Kind.UNMAP, 0, ENOMEM, 1, 0, 9)]))
    assert tally.attempts == 0
    assert tally.failed_calls == {(Kind.UNMAP, Refusal(ENOMEM, NO_BLOCK)): 1}


def test_percentiles_are_those_of_the_samples():
    tally = Tally(sizes_bytes=(4096,), nr_processes=1)
    rows = [(n, 0, Kind.MAP, 0, 0, 0, 0, n) for n in range(1, 10_001)]
    tally.add(made_up.chunk(rows))
    latency = tally.latency(Kind.MAP)
    assert latency.calls == 10_000
    found = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
    assert found == pytest.approx((5000, 9000, 9900, 9990, 10_000), rel=0.002)
    assert tally.latency(Kind.TOUCH).calls == 0


def test_chunks_of_all_generators_together_have_the_percentiles_of_all_samples():
    random = np.random.default_rng(3)
    took_us = [
        (random.pareto(1.2, size) * scale + 1).astype(int)
        for size, scale in ((7000, 300), (2000, 9000), (50, 900_000))
    ]  # three generators, each its own server
    tally = Tally(sizes_bytes=(4096,), nr_processes=1)
    for generator in took_us:
        for part in np.array_split(generator, 5):
            tally.add(made_up.chunk([(1, 0, Kind.MAP, 0, 0, 0, 0, us) for us in part]))
    merged, everything = tally.latency(Kind.MAP), np.concatenate(took_us)
    assert merged.calls == len(everything)
    for figure, share in (("p50", 50), ("p90", 90), ("p99", 99), ("p999", 99.9)):
        exact = np.percentile(everything, share, method="inverted_cdf")
        assert getattr(merged, figure) == pytest.approx(exact, rel=1e-3)  # three digits
    assert merged.max == pytest.approx(everything.max(), rel=1e-3)


def test_lateness_of_all_generators_is_merged_and_the_busiest_counts():
    late_us = np.concatenate([np.arange(1, 1000), np.arange(40_000, 40_020)])
    parts = []
    for share, part in ((0.7, late_us[900:]), (0.2, late_us[:900])):
        histogram = HdrHistogram(1, 60_000_000, 3)
        for value in part.tolist():
            histogram.record_value(value)
        parts.append((share, histogram.encode()))
    effort = Effort.merged(parts)
    exact = np.percentile(late_us, 99, method="inverted_cdf")
    assert effort.late_us_p99 == pytest.approx(exact, rel=1e-3)
    assert effort.busy_share == 0.7
    assert effort.was_the_limit


def test_load_1_has_exactly_its_keys():
    result = json.loads(made_up.report().as_json())
    assert result.keys() == KEYS
    assert result["schema"] == "load/1"
    assert (result["attempts"], result["successes"]) == (6, 3)
    assert result["refusals"] == {"ENOMEM": 2, "EAGAIN": 1}
    assert result["deciding"] == {NO_BLOCK: 2, "memlock_limit": 1}
    assert result["by_size"][0] == {"bytes": 65536, "attempts": 2, "successes": 1}
    assert result["latency_us"].keys() == {"p50", "p90", "p99", "p999", "max"}
    assert result["ops_per_s"] == 16
    assert result["jain_fairness"] == 0.9
    assert result["conserved"] is True
    assert result["before"].keys() == result["after"].keys() == {"buddyinfo", "unusable_index"}
    assert result["before"]["buddyinfo"]["0/Normal"][0] == 1800
    assert result["after"]["buddyinfo"]["0/Normal"][0] == 900
    index = result["after"]["unusable_index"]["0/Normal"]
    assert index[0] == 0
    assert index == sorted(index)
    assert result["after"]["unusable_index"]["0/DMA"] == [1.0] * 11


def test_the_verdict_names_the_reason_and_what_linux_would_have_tried():
    verdict = made_up.report().verdict()
    assert verdict.startswith(f"What decided: {NO_BLOCK}, 67% of refusals")
    assert "2M (50%), 4M (50%)" in verdict
    assert "Linux would have tried compaction" in verdict
    assert "\n" not in verdict


def test_with_nothing_refused_the_verdict_says_so():
    sizes = tuple(made_up.Tally(sizes_bytes=(4096,), nr_processes=1).sizes)
    assert "nothing" in made_up.report(sizes=sizes).verdict()


def test_the_report_fits_eighty_columns_and_keeps_limits_apart_from_memory():
    text = printed(made_up.report())
    assert max(map(len, text.splitlines())) <= 80
    assert "EAGAIN" in text
    row = next(line for line in text.splitlines() if line.split()[:1] == ["64K"])
    assert row.split() == ["64K", "2", "1", "50.0%", "0", "1"]
    assert "owned twice" in text
    assert "Conserved" in text


def test_what_was_not_conserved_is_printed_and_fails():
    integrity = Integrity("ok", 1, 1, 2, 0, 0, ("frame 9 is not what it was before the load",))
    report = made_up.report(integrity=integrity)
    assert not report.integrity.ok
    assert "Not conserved: frame 9 is not" in " ".join(printed(report).split())
    assert json.loads(report.as_json())["conserved"] is False


def test_progress_is_shown_by_phase_and_by_size():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(progress_view(Tick("booting the machine")))
    sizes = tuple(made_up.tally().sizes)
    console.print(progress_view(Tick("measuring", 1.5, 10, sizes, 4000, 7.5)))
    console.file.close()
    text = console.export_text()
    assert "booting the machine" in text
    assert "measuring:  1.5 s of 10 s, 4,000 calls/s, 7.5 in flight" in text
    assert "50.0%" in text
