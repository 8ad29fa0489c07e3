"""Which frames are taken for frames of per-CPU lists."""

import numpy as np

from contigmm.description import MigrateType, PageClass, PcpDescription, ZoneDescription
from contigmm.hosts.kpageflags import UsedRuns
from contigmm.hosts.pcp import draw_pcp, without

SINGLES = np.arange(0, 4096, 8)
BUFFER = 4096


def used(length=1):
    """Short blank runs with neighbours in use, and one blank run of 256 frames."""
    start = np.append(SINGLES, BUFFER)
    nr = np.append(np.full(len(SINGLES), length, np.int64), 256)
    kind = np.full(len(start), PageClass.KERNEL, np.uint8)
    zeros = np.zeros(len(start), np.uint8)
    return UsedRuns(start, nr, kind, zeros, zeros, np.ones(len(start), bool))


def drawn(count, seed=0, length=1, types=None):
    zone = ZoneDescription(
        node=0,
        name="Normal",
        start_pfn=0,
        spanned=8192,
        present=8192,
        managed=8192,
        pcp=(PcpDescription(count=count, high=count, batch=63),),
    )
    if types is None:
        types = np.full(16, MigrateType.MOVABLE, np.uint8)
    return draw_pcp(used(length), (zone,), types, np.random.default_rng(seed))


def test_long_blank_runs_are_taken_for_buffers_while_others_are_left():
    pcp, short = drawn(400)
    assert short == 0
    assert len(np.unique(pcp.pfn)) == 400
    assert set(pcp.pfn.tolist()) <= set(SINGLES.tolist())


def test_where_no_others_are_left_they_hold_the_rest():
    pcp, short = drawn(600)
    assert short == 0
    assert (pcp.pfn >= BUFFER).sum() == 600 - len(SINGLES)
    assert int(without(used(), pcp).nr.sum()) == len(SINGLES) + 256 - 600


def test_what_is_told_beyond_all_blank_frames_is_missing():
    pcp, short = drawn(1000)
    assert len(pcp.pfn) == len(SINGLES) + 256
    assert short == 1000 - len(pcp.pfn)


def test_neighbours_are_on_the_list_together_the_lowest_last():
    pcp, _ = drawn(402, length=4)
    runs, members = np.unique(pcp.pfn >> 3, return_counts=True)
    assert len(runs) == 101
    assert sorted(members.tolist()) == [2] + [4] * 100
    ups = np.diff(pcp.pfn.astype(np.int64))
    assert (ups == -1).sum() == 402 - len(runs)
    assert (pcp.pfn[:8] != drawn(402, seed=1, length=4)[0].pfn[:8]).any()


def test_a_part_of_the_kernels_blank_frames_is_on_lists_and_not_most_of_what_they_hold():
    types = np.full(16, MigrateType.MOVABLE, np.uint8)
    types[:4] = MigrateType.UNMOVABLE  # half of the single frames
    half = len(SINGLES) // 2
    pcp, _ = drawn(300, types=types)
    assert (pcp.pfn < 4 * 512).sum() == int(0.4 * half)
    few, _ = drawn(40, types=types)
    assert (few.pfn < 4 * 512).sum() == 20


def test_single_blank_frames_are_drawn_less_often_than_runs():
    start = np.arange(0, 4096, 8)
    nr = np.where(np.arange(len(start)) % 2, 1, 4)
    kind = np.full(len(start), PageClass.KERNEL, np.uint8)
    zeros = np.zeros(len(start), np.uint8)
    rows = UsedRuns(start, nr, kind, zeros, zeros, np.ones(len(start), bool))
    zone = ZoneDescription(
        node=0,
        name="Normal",
        start_pfn=0,
        spanned=8192,
        present=8192,
        managed=8192,
        pcp=(PcpDescription(count=640, high=640, batch=63),),
    )
    types = np.full(16, MigrateType.MOVABLE, np.uint8)
    pcp, _ = draw_pcp(rows, (zone,), types, np.random.default_rng(3))
    single = np.isin(pcp.pfn, start[nr == 1]).sum()
    assert single / (nr == 1).sum() < 0.8 * (640 - single) / nr[nr == 4].sum()
