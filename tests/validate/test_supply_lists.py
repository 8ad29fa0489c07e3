"""A step's machine holds what was told; what lists consist of follows the earlier requests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contigmm.description import MigrateType, PageClass
from contigmm.hosts import build, read
from contigmm.hosts.draft import Subject, stream
from contigmm.hosts.scan_clock import ScanClock
from contigmm.phys.gfp import GFP
from contigmm.sim.boot import boot_memory
from contigmm.validate.supply import Ask, probe
from contigmm.validate.supply_gap import (
    RECORDER,
    Seconds,
    another_cpu,
    code_snapshot,
    draw_cpus,
    draw_move,
    recorders_cpu,
)
from contigmm.validate.supply_lists import ToldLists, match_cpus, scale_lists, told_totals

CAPTURE = Path(__file__).parents[1] / "data" / "fragmented.snap.tar.xz"
UNMOVABLE, MOVABLE = MigrateType.UNMOVABLE, MigrateType.MOVABLE


@pytest.fixture(scope="module")
def capture():
    return read(f"file:{CAPTURE}")


def plain(lists):
    """Told totals as single movable frames."""
    none = np.zeros((lists.evidence.nr_cpus, 3, 11), np.int64)
    totals = told_totals(lists.evidence)
    return [scale_lists(none, totals[zone.key]) for zone in lists.evidence.zones]


def test_free_lists_and_per_cpu_totals_are_as_told(capture):
    lists = ToldLists.of(capture)
    memory = lists.boot(plain(lists), seed=0)
    memory.check()
    told = [capture.buddyinfo[zone.node, zone.name] for zone in lists.evidence.zones]
    assert memory.buddyinfo().tolist() == told
    by_type = memory.free_by_type()
    assert [by_type[n, : len(row)].tolist() for n, row in enumerate(lists.free)] == [
        row[: by_type.shape[1]].tolist() for row in lists.free
    ]
    totals = told_totals(lists.evidence)
    assert memory.pcp_frames().sum(axis=(2, 3)).tolist() == list(totals.values())


def test_a_type_blind_machine_has_the_same_blocks_in_one_type_and_no_lists(capture):
    memory = ToldLists.of(capture).boot_type_blind()
    assert memory.buddyinfo().tolist() == list(capture.buddyinfo.values())
    others = [kind for kind in range(memory.free_by_type().shape[1]) if kind != MOVABLE]
    assert not memory.free_by_type()[:, others].any()
    assert memory.pcp_frames().size == 0


def test_giving_back_leaves_a_packed_machine_as_it_was(capture):
    lists = ToldLists.of(capture)
    memory = lists.boot_type_blind()
    before = memory.buddyinfo().tolist()
    assert probe(memory, Ask(4, 50)) > 0
    memory.check()
    assert memory.buddyinfo().tolist() == before


def test_told_totals_are_divided_as_in_the_run_by_rank_of_the_cpus():
    run = np.zeros((2, 3, 11), np.int64)
    run[0, MOVABLE, 2], run[0, MOVABLE, 0] = 400, 5000
    run[1, UNMOVABLE, 0] = 30
    assert match_cpus(run, [100, 7000]) == [1, 0]
    scaled = scale_lists(run, [100, 7000])
    assert scaled.sum(axis=(1, 2)).tolist() == [100, 7000]
    assert scaled[1, MOVABLE, 2] == 400
    assert scaled[0, UNMOVABLE, 0] == 30


def test_a_total_smaller_than_the_runs_folios_takes_whole_folios_of_it():
    run = np.zeros((1, 3, 11), np.int64)
    run[0, MOVABLE, 9], run[0, MOVABLE, 3] = 2048, 800
    scaled = scale_lists(run, [700])
    assert scaled.sum() == 700
    assert scaled[0, MOVABLE, 9] % 512 == 0
    assert scaled[0, MOVABLE, 3] % 8 == 0


def test_folios_on_the_asking_cpus_lists_are_delivered_before_free_blocks(capture):
    lists = ToldLists.of(capture)
    without, content = plain(lists), plain(lists)
    content[-1][0, MOVABLE, 2] += 4 * 64
    got = [
        len(
            lists.boot(held, seed=0).alloc_batch(
                100_000, order=2, gfp=GFP["GFP_TRANSHUGE_LIGHT"], cpu=0
            )
        )
        for held in (without, content)
    ]
    assert got[1] - got[0] in range(50, 65)


def test_what_the_recorder_gives_back_waits_on_its_cpus_lists(capture):
    memory = boot_memory(build(capture, seed=0), seed=0, cpus=None, costs=False)
    memory.set_direct_reclaim(False)
    before = memory.pcp_frames().sum(axis=(0, 2, 3))
    end = capture.page_flags.total
    scan = ScanClock(0, np.array([0, end]), np.array([0, 10**6]))
    code_snapshot(memory, replace(capture, scan=scan), stream(0, Subject.BETWEEN), cpu=1)
    after = memory.pcp_frames().sum(axis=(0, 2, 3))
    assert after[1] > before[1]
    assert after[0] <= before[0]
    memory.check()


def test_the_recorders_file_is_in_the_page_cache_afterwards(capture):
    memory = boot_memory(build(capture, seed=0), seed=0, cpus=None, costs=False)

    def cached():
        counts = memory.class_counts().sum(axis=0)
        return int(counts[PageClass.FILE] + counts[PageClass.FILE_LARGE])

    before = cached()
    code_snapshot(memory, capture, stream(0, Subject.BETWEEN), cpu=0, written=40 << 12)
    assert cached() == before + 40


def test_each_full_second_lowers_the_limits_of_all_cpus(capture):
    lists = ToldLists.of(capture)
    memory = lists.boot(plain(lists), seed=0)

    def limits():
        return sum(high for zone in memory.zones() for _, high, *_ in zone["pcp"])

    clock, before = Seconds(memory, 0.0), limits()
    clock.pass_by(0.6)
    assert limits() == before
    clock.pass_by(0.6)
    assert limits() <= before
    assert clock.rest == pytest.approx(0.2)


def test_programs_mostly_stay_on_their_cpu():
    cpus = draw_cpus(4000, 2, np.random.default_rng(5), first=1)
    moved = np.mean(np.diff(cpus) != 0)
    assert moved == pytest.approx(RECORDER.moves / 2, abs=0.02)
    assert set(cpus) == {0, 1}


def test_a_step_that_compacts_is_moved_once_at_most():
    rng = np.random.default_rng(6)
    draws = [draw_move(1, 20, 2, rng) for _ in range(400)]
    assert {len(cpus) for cpus in draws} == {20}
    assert all(cpus == sorted(cpus, reverse=True) for cpus in draws)
    assert np.mean([0 in cpus for cpus in draws]) == pytest.approx(0.5, abs=0.1)


def with_counts(evidence, counts):
    """The largest zone's lists with these counts, one a CPU; other zones' are empty."""
    return tuple(
        replace(
            zone,
            pcp=tuple(
                replace(pcp, count=count if zone is evidence.zones[-1] else 0)
                for pcp, count in zip(zone.pcp, counts, strict=True)
            ),
        )
        for zone in evidence.zones
    )


@pytest.mark.parametrize(
    ("before", "after", "likeliest"),
    [
        pytest.param((900, 20), (900, 26), 1, id="the only one whose lists changed"),
        pytest.param((900, 20), (880, 26), 0, id="both changed: the fullest"),
        pytest.param((20, 900), (20, 900), 1, id="none changed: the fullest"),
    ],
)
def test_the_recorder_ran_where_lists_changed_or_else_are_fullest(
    capture, before, after, likeliest
):
    told = replace(
        capture, zones=with_counts(capture, before), zones_after=with_counts(capture, after)
    )
    rng = np.random.default_rng(3)
    drawn = np.mean([recorders_cpu(told, 2, rng) == likeliest for _ in range(2000)])
    assert drawn == pytest.approx(1 - RECORDER.moves / 2, abs=0.03)


def test_kswapd_runs_beside_the_busy_cpu_that_wakes_it():
    rng = np.random.default_rng(1)
    assert {another_cpu(1, 3, rng) for _ in range(50)} == {0, 2}
    assert another_cpu(0, 1, rng) == 0
