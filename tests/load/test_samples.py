"""Interleaving, calls in flight and fairness, told from columns of calls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contigmm.load.samples import (
    SAMPLE,
    Kind,
    Recorder,
    distinct_in_windows,
    jain_fairness,
    mean_in_flight,
    most_in_flight,
)


def calls(processes, begin=None, end=None):
    samples = np.zeros(len(processes), SAMPLE)
    samples["seq"] = np.arange(len(processes)) + 1
    samples["process"] = processes
    if begin is not None:
        samples["begin_ns"], samples["end_ns"] = begin, end
    return samples


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 20))
def test_each_window_is_counted_as_a_set_would_count_it(processes, window):
    expected = [
        len(set(processes[at : at + window]))
        for at in range(max(len(processes) - window + 1, 1 if processes else 0))
    ]
    assert distinct_in_windows(calls(processes), window).tolist() == expected


def test_windows_follow_the_machines_order_not_the_order_of_arrival():
    samples = calls([0, 1, 0, 1])
    samples["seq"] = [1, 3, 2, 4]  # in the machine: 0 0 1 1
    assert distinct_in_windows(samples, 2).tolist() == [1, 2, 1]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=30))
def test_calls_in_flight_are_counted_as_a_clock_would_see_them(spans):
    begin = [start for start, _ in spans]
    end = [start + length for start, length in spans]
    samples = calls([0] * len(spans), begin, end)
    seen = [sum(b <= now < e for b, e in zip(begin, end, strict=True)) for now in range(75)]
    assert most_in_flight(samples) == max(seen)
    span = max(end) - min(begin) if spans else 1
    assert mean_in_flight(samples) == pytest.approx(sum(seen) / span)


def test_a_call_that_ends_when_another_begins_was_not_beside_it():
    assert most_in_flight(calls([0, 0], [0, 5], [5, 9])) == 1


def test_fairness_is_one_for_equal_shares_and_one_nth_for_a_monopoly():
    assert jain_fairness([4, 4, 4]) == 1
    assert jain_fairness([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain_fairness([0, 0]) == 1
    assert jain_fairness([1, 3]) == pytest.approx(16 / 20)


def test_a_recorder_hands_each_call_over_once_with_its_reason():
    recorder = Recorder()
    for seq, reason in enumerate(["", "no_gap", "", "overcommit"], 1):
        recorder.record(
            seq=seq,
            begin_ns=1,
            end_ns=2,
            process=3,
            errno=12,
            reason=reason,
            kind=Kind.MAP,
            size_index=0,
        )
    first = recorder.take()
    assert [first.reasons[code] for code in first.samples["reason"]] == [
        "",
        "no_gap",
        "",
        "overcommit",
    ]
    recorder.record(
        seq=5,
        begin_ns=1,
        end_ns=2,
        process=3,
        errno=12,
        reason="overcommit",
        kind=Kind.MAP,
        size_index=0,
    )
    second = recorder.take()
    assert second.samples["seq"].tolist() == [5]
    assert second.reasons[second.samples["reason"][0]] == "overcommit"
    assert len(recorder.take().samples) == 0
