"""An outsider tells from views alone when a frame is owned twice, or was lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contigmm.load.ownership import (
    PM_PRESENT,
    Closing,
    FrameStates,
    owned_twice,
    present_frames,
)

NAMES = ("free", "anon", "pcp", "file")
FREE, ANON, PCP, FILE = range(4)
NO_FILE = 2**32 - 1


def states(*runs):
    """Runs of (first frame, frames, class), or of those and a file."""
    first, count, classes, files = zip(*((*run, NO_FILE)[:4] for run in runs), strict=True)
    return FrameStates(
        np.array(first, np.uint64),
        np.array(count, np.uint64),
        np.array(classes, np.uint8),
        NAMES,
        np.array(files, np.uint32),
    )


def frames(*pfns):
    return np.array(pfns, np.uint64)


START = states((0, 100, FREE), (100, 50, ANON), (150, 10, PCP), (160, 40, FILE))


def test_a_pagemap_names_the_frames_of_present_pages_only():
    entries = np.array([PM_PRESENT | 7, 9, PM_PRESENT | 1 << 56 | 8], np.uint64)
    assert present_frames(entries).tolist() == [7, 8]


def test_frames_that_were_free_and_have_one_owner_are_in_order():
    assert owned_twice({1: frames(0, 99), 2: frames(150, 50)}, START).tolist() == []
    assert owned_twice({}, START).tolist() == []


@pytest.mark.parametrize(
    "pagemaps",
    [
        pytest.param({1: frames(5, 6), 2: frames(6, 7)}, id="two processes have it"),
        pytest.param({1: frames(6, 7, 6)}, id="two pages of one process have it"),
    ],
)
def test_a_frame_with_two_owners_is_found(pagemaps):
    assert owned_twice(pagemaps, START).tolist() == [6]


@pytest.mark.parametrize("pfn", [100, 149, 160, 199, 200])
def test_a_frame_that_was_not_free_at_the_start_is_found(pfn):
    assert owned_twice({1: frames(1, pfn)}, START).tolist() == [pfn]


@given(st.permutations([(0, 100, FREE), (100, 50, ANON), (150, 10, PCP), (160, 40, FILE)]))
def test_the_order_in_which_a_view_sends_its_runs_does_not_matter(runs):
    view = states(*runs)
    pfns = np.arange(210, dtype=np.uint64)
    expected = [pfn < 100 or 150 <= pfn < 160 for pfn in range(210)]
    assert view.is_free(pfns).tolist() == expected
    assert Closing(START, view, {}, {}).violations() == []


def test_runs_cut_elsewhere_and_frames_on_a_cpus_list_make_no_difference():
    end = states(
        (0, 30, FREE),
        (30, 70, PCP),
        (100, 20, ANON),
        (120, 30, ANON),
        (150, 10, FREE),
        (160, 40, FILE),
    )
    assert Closing(START, end, {}, {}).violations() == []


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        pytest.param(
            states((0, 99, FREE), (99, 51, ANON), (150, 10, PCP), (160, 40, FILE)),
            "frame 99 is not what it was",
            id="a frame leaked",
        ),
        pytest.param(
            states((0, 101, FREE), (101, 49, ANON), (150, 10, PCP), (160, 40, FILE)),
            "frame 100 is not what it was",
            id="a frame was freed that was not the load's",
        ),
        pytest.param(
            states((0, 100, FREE), (100, 50, ANON), (149, 11, PCP), (160, 40, FILE)),
            "1 frames are in two states at once",
            id="a frame is free and in use",
        ),
        pytest.param(
            states((0, 100, FREE), (100, 50, ANON), (150, 10, PCP), (160, 39, FILE)),
            "had 200 frames and has 199",
            id="a frame vanished",
        ),
    ],
)
def test_what_is_not_conserved_is_said(end, sentence):
    assert any(sentence in violation for violation in Closing(START, end, {}, {}).violations())


def test_cache_of_another_file_is_not_what_it_was():
    start = states((0, 100, FREE), (100, 30, FILE, 1), (130, 10, FILE, 2))
    assert Closing(start, start, {}, {}).violations() == []
    end = states((0, 100, FREE), (100, 20, FILE, 1), (120, 20, FILE, 2))
    assert Closing(start, end, {}, {}).violations() == [
        "frame 120 is not what it was before the load"
    ]


def test_a_nested_run_counts_as_frames_in_two_states():
    assert states((0, 100, FREE), (10, 5, ANON), (50, 10, FREE)).nr_in_two_states() == 15


def test_owners_are_compared_page_by_page():
    moved = Closing(START, START, {4: frames(100, 101)}, {4: frames(101, 100)})
    assert moved.violations() == [
        "process 4, which the machine came with, no longer has the frames it had"
    ]
    gone = Closing(START, START, {4: frames(100)}, {})
    assert gone.violations() == moved.violations()


def test_a_process_of_the_load_that_is_still_there_is_named():
    closing = Closing(START, START, {}, {}, survivors=(9,))
    assert closing.violations() == ["process 9 has outlived the load"]


def test_frames_may_change_hands_where_some_were_migrated_but_none_may_vanish():
    moved = states((0, 40, FREE), (40, 120, ANON), (160, 40, FREE))
    assert Closing(START, moved, {}, {}).violations(moved=True) == []
    assert Closing(START, states((0, 199, FREE)), {}, {}).violations(moved=True)
