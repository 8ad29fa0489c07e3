"""A machine is filled and aged before it boots, and stays as fragmented as it was."""

import numpy as np
import pytest

from contigmm.description import (
    NO_OWNER,
    FrameRuns,
    FreeBlocks,
    Layout,
    MachineDescription,
    MigrateType,
    OwnerDescription,
    OwnerKind,
    PageClass,
    PcpPages,
    ZoneDescription,
)
from contigmm.load.fill import FILE_FRAMES, prepare
from contigmm.load.fragmentation import Fragmentation

MANAGED = 1 << 20


def machine(counts, *, watermark_min=1000, protection=(0, 0, 0, 0)):
    """A zone of 4 GiB whose free blocks stand one behind the other, the rest in use by one file."""
    pfns, orders, types, at = [], [], [], 0
    for order in reversed(range(11)):
        for number in range(counts[order]):
            pfns.append(at)
            orders.append(order)
            types.append(MigrateType.MOVABLE if number % 3 else MigrateType.UNMOVABLE)
            at += 1 << order
    free = FreeBlocks(*(np.array(c, t) for c, t in ((pfns, "u4"), (orders, "u1"), (types, "u1"))))
    used = FrameRuns(
        start=np.array([at], "u4"),
        nr=np.array([MANAGED - at], "u4"),
        page_class=np.array([PageClass.FILE], "u1"),
        order=np.zeros(1, "u1"),
        flags=np.zeros(1, "u1"),
        owner=np.zeros(1, "u4"),
        index=np.zeros(1, "u4"),
    )
    none = PcpPages(np.zeros(0, "u4"), np.zeros(0, "u2"), np.zeros(0, "u1"), np.zeros(0, "u1"))
    zone = ZoneDescription(
        node=0,
        name="Normal",
        start_pfn=0,
        spanned=MANAGED,
        present=MANAGED,
        managed=MANAGED,
        watermark_min=watermark_min,
        watermark_low=watermark_min * 5 // 4,
        watermark_high=watermark_min * 3 // 2,
        watermark_promo=watermark_min * 2,
        protection=protection,
    )
    layout = Layout(
        used, free, none, np.ones(MANAGED >> 9, "u1"), (OwnerDescription(OwnerKind.FILE, "base"),)
    )
    return MachineDescription(zones=(zone,), layout=layout)


WORN = machine([9000, 5000, 3000, 2000, 1500, 1000, 600, 300, 150, 80, 200])


def free_frames(description):
    order = description.layout.free.order
    return int((1 << order.astype(int)).sum())


def unusable(description):
    return Fragmentation.of(description.buddyinfo()).unusable["0/Normal"]


@pytest.mark.parametrize("occupancy", [0.8, 0.9, 0.97])
def test_filling_reaches_the_occupancy_and_keeps_the_fragmentation(occupancy):
    filled = prepare(WORN, occupancy=occupancy, age=0, seed=1)
    filled.description.check()
    assert free_frames(filled.description) == pytest.approx((1 - occupancy) * MANAGED, abs=1)
    half_a_block = 512 / free_frames(filled.description)  # the largest blocks are left whole
    assert unusable(filled.description) == pytest.approx(unusable(WORN), abs=half_a_block)
    types = filled.description.layout.free.migratetype
    assert (types == MigrateType.UNMOVABLE).mean() == pytest.approx(1 / 3, abs=0.05)


def test_what_filling_took_belongs_to_files_page_by_page():
    filled = prepare(WORN, occupancy=0.9, age=0, seed=1)
    layout = filled.description.layout
    new = layout.frames.start.astype(int), layout.frames.nr.astype(int)
    assert free_frames(WORN) - free_frames(filled.description) == filled.cache_frames
    assert layout.owners[0].name == "base"
    assert len(layout.owners) == 1 + filled.nr_files == 1 + -(-filled.cache_frames // FILE_FRAMES)
    seen = {}
    rows = zip(*new, layout.frames.owner.tolist(), layout.frames.index.tolist(), strict=True)
    for start, nr, owner, index in rows:
        assert owner != NO_OWNER
        assert index == seen.get(owner, 0), "a file's pages follow each other without gap"
        seen[owner] = index + nr
        assert start + nr <= MANAGED
    assert set(layout.frames.page_class) == {PageClass.FILE}


def test_blocks_that_stay_free_keep_their_place_in_their_lists():
    before, after = (
        WORN.layout.free,
        prepare(WORN, occupancy=0.9, age=0, seed=1).description.layout.free,
    )
    place = {pfn: at for at, pfn in enumerate(before.pfn.tolist())}
    places = [place[pfn] for pfn in after.pfn.tolist()]
    assert places == sorted(places)


def test_a_machine_that_is_fuller_already_stays_as_it_is():
    filled = prepare(WORN, occupancy=0.5, age=0, seed=1)
    assert filled.description.layout is WORN.layout
    assert filled.cache_frames == 0


def test_filling_stops_where_the_watermarks_keep_the_rest():
    tight = machine([0] * 9 + [50, 100], watermark_min=60_000, protection=(0, 7_000, 7_000, 7_000))
    filled = prepare(tight, occupancy=1.0, age=0, seed=1)
    assert free_frames(filled.description) == pytest.approx(67_000, abs=512)
    assert filled.usable_frames <= 512
    roomy = prepare(tight, occupancy=0.91, age=0, seed=1)
    assert roomy.usable_frames == free_frames(roomy.description) - 67_000


def test_room_is_left_even_where_the_occupancy_would_leave_less():
    tight = machine([0] * 9 + [50, 100], watermark_min=30_000)
    filled = prepare(tight, occupancy=0.97, age=0, seed=1, room_frames=8 << 10)
    assert filled.usable_frames == pytest.approx(8 << 10, abs=512)
    assert prepare(tight, occupancy=0.97, age=0, seed=1).usable_frames < 2 << 10
    everything = prepare(tight, occupancy=0.97, age=0, seed=1, room_frames=MANAGED)
    assert everything.cache_frames == 0


def test_no_watermark_boost_builds_up_that_nobody_would_take_back():
    filled = prepare(WORN, occupancy=0.97, age=0, seed=1).description
    assert filled.settings["watermark_boost_factor"] == 0


def test_the_seed_chooses_the_blocks():
    one, same, other = (
        prepare(WORN, occupancy=0.9, age=0.3, seed=seed).description.digest() for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_ageing_breaks_large_blocks_and_takes_few_pages():
    fresh = machine([0] * 10 + [1000])
    aged = prepare(fresh, occupancy=0, age=0.5, seed=3)
    aged.description.check()
    assert free_frames(aged.description) + aged.aged_frames == free_frames(fresh)
    assert 0 < aged.aged_frames < 0.1 * MANAGED
    assert aged.description.buddyinfo()["0/Normal"][10] == 500
    assert unusable(fresh)[9] == 0
    assert 0.35 < unusable(aged.description)[9] < 0.6
    worn_out = prepare(fresh, occupancy=0, age=1.0, seed=3)
    assert worn_out.description.buddyinfo()["0/Normal"][10] == 0


def test_free_blocks_that_ageing_leaves_are_as_large_as_they_can_be():
    aged = prepare(machine([0] * 10 + [40]), occupancy=0, age=1.0, seed=3).description.layout.free
    blocks = set(zip(aged.pfn.tolist(), aged.order.tolist(), strict=True))
    assert not any((pfn ^ (1 << order), order) in blocks for pfn, order in blocks if order < 10)
