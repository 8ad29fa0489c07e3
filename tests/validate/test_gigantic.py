"""Gigantic pages are forecast by emptying ranges, and scored as chances."""

import json

import numpy as np
import pytest

from contigmm.description import PageClass
from contigmm.phys import Memory
from contigmm.validate.gigantic import brier, chance_lines, fill_gigantic, gigantic_row

KIB_16M = 16 << 10


def boot(**zone) -> Memory:
    zone = {"node": 0, "kind": "Normal", "start_pfn": 0, "spanned": 1 << 14} | zone
    return Memory.boot(json.dumps({"seed": 1, "nr_cpus": 1, "zones": [zone]}))


def test_a_pool_grows_range_by_range_and_is_emptied_again():
    memory = boot()
    assert fill_gigantic(memory, KIB_16M, 2, 0) == 2
    assert fill_gigantic(memory, KIB_16M, 9, 0) == 4, "64 MiB have four aligned ranges of 16 MiB"
    assert PageClass.HUGETLB not in set(np.unique(memory.frame_classes()))
    memory.check()


def test_a_reserved_frame_spoils_its_range_only():
    memory = boot(reserved=[[5000, 1]])
    assert fill_gigantic(memory, KIB_16M, 9, 0) == 3


def test_pages_of_the_kernel_spoil_their_ranges():
    memory = boot()
    memory.alloc_batch(9000, order=0, gfp=0xCC0)  # GFP_KERNEL
    assert fill_gigantic(memory, KIB_16M, 4, 0) == 1
    memory.check()


def test_a_row_tells_the_mean_and_the_chance():
    row = gigantic_row({"requested": 2, "got": 1}, [2, 2, 1, 0])
    assert row == {
        "asked": 2, "delivered": 1, "forecast": 1.25, "low": 0, "high": 2, "chance": 0.5,
    }  # fmt: skip


def test_the_score_is_the_mean_square_beside_the_base_rates():
    rows = [
        {"asked": 1, "delivered": 1, "chance": 0.8},
        {"asked": 4, "delivered": 0, "chance": 0.1},
        {"asked": 4, "delivered": None, "chance": 0.9},
    ]
    score = brier(rows)
    assert score == {"steps": 2, "brier": 0.025, "brier_base_rate": 0.25}
    assert chance_lines(score)[0].startswith("gigantic pages: Brier score 0.025 of 2 steps")
    assert (brier(rows[2:]), chance_lines({})) == ({}, [])


@pytest.mark.parametrize("nr", [0, -1])
def test_a_range_of_nothing_is_refused(nr):
    with pytest.raises((ValueError, OverflowError)):
        boot().alloc_contig_pages(nr=nr, gfp=0xCC2)
