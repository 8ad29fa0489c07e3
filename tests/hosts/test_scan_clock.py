"""When a capture's scan read which frame."""

import numpy as np

from contigmm.hosts.scan_clock import scan_clock

SCAN = {"npfn": 300, "t_start": 1000, "t_flags_end": 1400}


def test_a_scanner_that_is_used_again_leaves_the_stamps_of_its_earlier_scans():
    earlier = [[0, 10], [100, 20], [200, 30]]
    clock = scan_clock(SCAN | {"chunk_stamps": [*earlier, *earlier, [0, 1100], [200, 1300]]})
    assert clock is not None
    assert clock.pfn.tolist() == [0, 200, 300]
    assert clock.when(np.array([100, 250])).tolist() == [1200, 1350]


def test_stamps_that_go_back_in_time_are_no_clock():
    assert scan_clock(SCAN | {"chunk_stamps": [[0, 1200], [100, 1100]]}) is None
    assert scan_clock(SCAN | {"chunk_stamps": [[0, 1, 2]]}) is None
    assert scan_clock(SCAN | {"chunk_stamps": []}) is None
