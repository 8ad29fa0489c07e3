"""Requests come when the arrival says, and one that is sent late counts from when it was due."""

from itertools import islice, takewhile

import made_up
import numpy as np
import pytest

from contigmm.load.arrival import Arrival
from contigmm.load.effort import LATE_US, Effort, Meter
from contigmm.load.samples import SAMPLE, Chunk, Kind
from contigmm.load.sizes import LoadInputError
from contigmm.load.tally import Tally

NS = 1_000_000_000


def due_ns(text, *, processes=4, duration_s=10.0, seed=0):
    """When the requests of all processes within the duration are due, in order."""
    arrival = Arrival.parse(text)
    found = []
    for index in range(processes):
        offsets = arrival.offsets_ns(
            seed=seed, process_index=index, nr_processes=processes, duration_s=duration_s
        )
        found += takewhile(lambda at: at < duration_s * NS, offsets)
    return np.sort(np.array(found))


@pytest.mark.parametrize("text", ["closed", "constant:50", "poisson:0.5", "ramp:10-90"])
def test_what_is_written_is_read_again(text):
    assert str(Arrival.parse(text)) == text


@pytest.mark.parametrize("text", ["", "open", "constant", "constant:0", "ramp:5", "poisson:-1"])
def test_what_is_no_arrival_is_refused(text):
    with pytest.raises(LoadInputError):
        Arrival.parse(text)


def test_a_constant_rate_is_evenly_spaced_over_all_processes():
    due = due_ns("constant:50")
    assert len(due) == 500
    assert set(np.diff(due)) == {NS // 50}


@pytest.mark.parametrize(("text", "first_half"), [("ramp:0-100", 125), ("ramp:100-0", 375)])
def test_a_ramp_has_its_mean_rate_and_grows_linearly(text, first_half):
    due = due_ns(text)
    assert len(due) == 500
    assert (due < 5 * NS).sum() == pytest.approx(first_half, abs=1)


def test_poisson_arrivals_have_the_rate_asked_for_and_vary_as_such():
    gaps = np.diff(due_ns("poisson:400", processes=7)) / NS
    assert gaps.mean() == pytest.approx(1 / 400, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1), "exponential: as wide as its mean"
    assert due_ns("poisson:5").tolist() == due_ns("poisson:5").tolist()
    assert due_ns("poisson:5").tolist() != due_ns("poisson:5", seed=1).tolist()


def test_after_a_ramp_the_last_rate_goes_on():
    offsets = Arrival.parse("ramp:0-10").offsets_ns(
        seed=0, process_index=0, nr_processes=1, duration_s=2.0
    )
    assert list(islice(offsets, 10, 13)) == [2 * NS, round(2.1 * NS), round(2.2 * NS)]


def test_a_stall_is_charged_to_every_request_that_it_held_up():
    samples = np.zeros(10, SAMPLE)
    samples["kind"] = Kind.MAP
    samples["end_ns"] = samples["begin_ns"] + 1_000_000
    samples["late_ns"] = np.arange(10) * 100_000_000
    total = Tally(sizes_bytes=made_up.MIX.sizes_bytes, nr_processes=1)
    total.add(Chunk(samples, made_up.REASONS))
    assert total.service().p50 == pytest.approx(1000, rel=0.01)
    assert total.latency(Kind.MAP).p50 == pytest.approx(401_000, rel=0.01)
    assert total.latency(Kind.MAP).max == pytest.approx(901_000, rel=0.01)


def test_histograms_of_several_generators_become_one():
    calm, late = Meter(), Meter()
    for _ in range(98):
        calm._late.record_value(100)
    for _ in range(2):
        late._late.record_value(LATE_US + 5000)
    merged = Effort.merged([(0.2, calm.read()[1]), (0.4, late.read()[1])])
    assert merged.busy_share == 0.4
    assert merged.late_us_p99 == pytest.approx(LATE_US + 5000, rel=0.01)
    assert merged.was_the_limit
    assert not Effort.merged([(0.2, calm.read()[1])]).was_the_limit
