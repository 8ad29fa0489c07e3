"""What a load asks for is read from a small grammar and drawn from the seed alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contigmm.load.sizes import Hold, LoadInputError, Script, SizeMix, format_bytes

MIX = SizeMix.parse("64K:50,2M:30,4M:20")


def test_sizes_are_read_with_their_weights_and_sorted():
    assert MIX.sizes_bytes == (64 << 10, 2 << 20, 4 << 20)
    assert MIX.weights == (50, 30, 20)
    assert SizeMix.parse("4M:20, 64k:50,2MiB:30") == MIX
    assert SizeMix.parse("5000").weights == (1,)


BAD = ["", "64K:", "64Q:1", "0:1", "64K:0", "64K:1,65536:2", "-4K:1", "1.5M"]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_list_of_sizes_is_refused_with_a_sentence(text):
    with pytest.raises(LoadInputError, match=r"\w+ \w+"):
        SizeMix.parse(text)


@given(st.dictionaries(st.integers(1, 1 << 33), st.integers(1, 100), min_size=1, max_size=8))
def test_a_mix_is_read_back_from_what_it_prints(weights):
    mix = SizeMix(tuple(sorted(weights)), tuple(weights[size] for size in sorted(weights)))
    assert SizeMix.parse(str(mix)) == mix


def test_bytes_are_written_in_the_largest_unit_that_divides_them():
    assert [format_bytes(n) for n in (0, 1, 4096, 3 << 19, 1 << 30)] == [
        "0",
        "1",
        "4K",
        "1536K",
        "1G",
    ]


def test_a_single_hold_is_a_range_around_it():
    assert Hold.parse("32") == Hold(16, 48)
    assert Hold.parse("1").low == 1
    assert Hold.parse("8-64") == Hold(8, 64)
    assert Hold.parse(str(Hold(3, 9))) == Hold(3, 9)


@pytest.mark.parametrize("text", ["", "0-4", "9-3", "fast", "-3", "2s"])
def test_what_is_no_hold_is_refused(text):
    with pytest.raises(LoadInputError):
        Hold.parse(text)


def script(seed, process=0):
    return Script(seed=seed, process_index=process, mix=MIX, hold=Hold(8, 24))


def test_the_same_seed_asks_for_the_same():
    one, other = script(7), script(7)
    assert [one.next_request() for _ in range(200)] == [other.next_request() for _ in range(200)]


def test_processes_and_seeds_ask_for_different_things():
    draws = {
        tuple(s.next_request() for _ in range(20)) for s in (script(7), script(8), script(7, 1))
    }
    assert len(draws) == 3


def test_requests_follow_the_weights_and_the_range_of_holds():
    source = script(1)
    requests = [source.next_request() for _ in range(20_000)]
    shares = Counter(request.size_index for request in requests)
    assert [round(shares[index] / 20_000, 1) for index in range(3)] == [0.5, 0.3, 0.2]
    assert {request.hold_requests for request in requests} == set(range(8, 25))
    mean = sum(MIX.sizes_bytes[request.size_index] for request in requests) / 20_000
    assert mean == pytest.approx(MIX.mean_bytes, rel=0.03)
