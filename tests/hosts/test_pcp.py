"""Which frames are taken for frames of per-CPU lists."""

import numpy as np

from contigmm.description import MigrateType, PageClass, PcpDescription, ZoneDescription
from contigmm.hosts.kpageflags import UsedRuns
from contigmm.hosts.pcp import draw_pcp, without

SINGLES = np.arange(0, 4096, 8)
BUFFER = 4096


def used():
    """Single blank frames with neighbours in use, and one blank run of 256 frames."""
    start = np.append(SINGLES, BUFFER)
    nr = np.append(np.ones(len(SINGLES), np.int64), 256)
    kind = np.full(len(start), PageClass.KERNEL, np.uint8)
    zeros = np.zeros(len(start), np.uint8)
    return UsedRuns(start, nr, kind, zeros, zeros, np.ones(len(start), bool))


def drawn(count, seed=0):
    zone = ZoneDescription(
        node=0,
        name="Normal",
        start_pfn=0,
        spanned=8192,
        present=8192,
        managed=8192,
        pcp=(PcpDescription(count=count, high=count, batch=63),),
    )
    types = np.full(16, MigrateType.MOVABLE, np.uint8)
    return draw_pcp(used(), (zone,), types, np.random.default_rng(seed))


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
