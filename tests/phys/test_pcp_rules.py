"""How a CPU's lists shrink: the rules that decide what a later request finds on them."""

import json

import pytest

from contigmm.phys import Memory
from contigmm.phys.gfp import GFP
from contigmm.sim.boot import release_of

ORDER = 3
FOLIOS = 1000


def boot(*, high_min, half_min):
    """One zone of 256 MiB whose lists tune themselves from ``high_min`` on."""
    limits = {"batch": 63, "high_min": high_min, "high_max": 40_000}
    zone = {"kind": "Normal", "start_pfn": 1024, "spanned": 65536, "pcp_limits": limits}
    spec = {"nr_cpus": 1, "zones": [zone], "pcp": {"free_high_half_min": half_min}}
    return Memory.boot(json.dumps(spec))


def left_on_lists(memory):
    """Take folios, give all of them back; return the frames of their order on the lists."""
    folios = memory.alloc_batch(FOLIOS, order=ORDER, gfp=GFP["GFP_TRANSHUGE_LIGHT"])
    assert len(folios) == FOLIOS
    memory.free_batch(folios, order=ORDER)
    return int(memory.pcp_frames()[0, 0, :, ORDER].sum())


def test_since_v6_16_frees_in_a_row_empty_lists_only_after_half_of_high_min():
    # free_count stops at 32 batches and a folio: half of a larger high_min is never reached.
    wide, narrow = 10_081, 1_444
    assert left_on_lists(boot(high_min=wide, half_min=True)) >= FOLIOS << ORDER
    assert left_on_lists(boot(high_min=wide, half_min=False)) < 63 + (2 << ORDER)
    assert left_on_lists(boot(high_min=narrow, half_min=True)) < narrow


def test_each_second_a_list_gives_back_an_eighth_of_its_limit():
    memory = boot(high_min=252, half_min=True)
    pages = memory.alloc_batch(30_000, order=0, gfp=GFP["GFP_HIGHUSER_MOVABLE"])
    memory.free_batch(pages, order=0)
    (count, high, *_), *_ = memory.zones()[0]["pcp"]
    memory.decay_pcp(cpu=0)
    (later, lowered, *_), *_ = memory.zones()[0]["pcp"]
    assert lowered == max(high - high // 8, count - 63 * 32)
    assert later == min(count, lowered)


def kept_after_exhaustion(*, by_frames, kind="GFP_TRANSHUGE_LIGHT"):
    """Take all folios while single frames are left; return what lists keep of them, and all.

    Before them a few single frames are given back, too few to fill a list to ``high_min``.
    """
    limits = {"batch": 63, "high_min": 4_100, "high_max": 337_141}
    zone = {"kind": "Normal", "start_pfn": 1024, "spanned": 65536, "pcp_limits": limits}
    rules = {"free_high_half_min": True, "below_high_by_frames": by_frames}
    memory = Memory.boot(json.dumps({"nr_cpus": 1, "zones": [zone], "pcp": rules}))
    memory.set_direct_reclaim(False)
    light = GFP["GFP_TRANSHUGE_LIGHT"]
    rest = memory.alloc_batch(24_000, order=0, gfp=light)
    own = memory.alloc_batch(1100, order=0, gfp=light)
    memory.free_batch(rest[::2].copy(), order=0)
    for _ in range(20):
        memory.decay_pcp()
    memory.alloc_batch(3500, order=0, gfp=light)
    folios = memory.alloc_batch(1 << 16, order=ORDER, gfp=GFP[kind])
    for pages, order in ((own, 0), (folios, ORDER)):
        memory.free_batch(pages, order=order)
    return int(memory.pcp_frames()[0, 0, :, ORDER].sum()), len(folios) << ORDER


def test_where_only_frames_count_a_zone_out_of_folios_keeps_them_on_its_lists_afterwards():
    kept, given = kept_after_exhaustion(by_frames=True)
    assert given > 30_000
    assert kept > given * 9 // 10
    kept, given = kept_after_exhaustion(by_frames=False)
    assert kept < given // 2


def test_where_only_frames_count_a_want_of_folios_counts_if_the_request_may_reclaim():
    kept, given = kept_after_exhaustion(by_frames=True, kind="GFP_TRANSHUGE")
    assert given > 30_000
    assert kept < given // 2


@pytest.mark.parametrize(
    ("kernel", "release"),
    [("6.18.44-fc-v669", (6, 18)), ("Linux version 6.12.0 (x) #1", (6, 12)), ("", (0, 0))],
)
def test_a_release_is_read_off_what_the_kernel_says_of_itself(kernel, release):
    assert release_of(kernel) == release
