"""Classes, folios and free blocks are read off the flags as the kernel means them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contigmm.description import PageClass
from contigmm.hosts import kpageflags as kpf
from contigmm.hosts.rle import runs_of

NONE = np.zeros(0, np.int64)


def used(words, bounds=NONE):
    rows = kpf.used_runs(runs_of(np.array(words, np.uint64)), np.array(bounds, np.int64))
    return list(
        zip(
            rows.start.tolist(),
            rows.nr.tolist(),
            rows.page_class.tolist(),
            rows.order.tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        (0, PageClass.KERNEL),
        (kpf.NOPAGE | kpf.BUDDY, PageClass.NOPAGE),
        (kpf.BUDDY, PageClass.FREE),
        (kpf.RESERVED | kpf.ZERO_PAGE, PageClass.ZERO_PAGE),
        (kpf.RESERVED | kpf.PRIVATE, PageClass.RESERVED),
        (kpf.SLAB | kpf.ANON, PageClass.SLAB),
        (kpf.MLOCKED | kpf.ANON | kpf.LRU, PageClass.MLOCKED),
        (kpf.ANON | kpf.THP, PageClass.ANON_THP),
        (kpf.LRU | kpf.SWAPBACKED, PageClass.SHMEM),
        (kpf.LRU | kpf.THP, PageClass.FILE_LARGE),
        (kpf.LRU, PageClass.FILE),
        (kpf.MMAP, PageClass.MOVABLE_OFFLRU),
        (kpf.DIRTY | kpf.PRIVATE, PageClass.KERNEL),
    ],
)
def test_a_word_has_a_class(word, meaning):
    assert kpf.page_class(word) is meaning


HEAD, TAIL = kpf.LRU | kpf.THP | kpf.COMPOUND_HEAD, kpf.LRU | kpf.THP | kpf.COMPOUND_TAIL
LARGE = PageClass.FILE_LARGE


def test_a_head_and_its_tails_are_a_folio():
    assert used([HEAD, TAIL, TAIL, TAIL]) == [(0, 4, LARGE, 2)]


def test_folios_of_one_kind_in_a_row_are_one_row():
    assert used([HEAD, TAIL, HEAD, TAIL]) == [(0, 4, LARGE, 1)]


def test_what_changed_during_the_scan_counts_singly():
    assert used([HEAD, TAIL, TAIL, kpf.LRU]) == [(0, 3, LARGE, 0), (3, 1, PageClass.FILE, 0)]
    assert used([kpf.LRU, HEAD, TAIL, kpf.LRU]) == [
        (0, 1, PageClass.FILE, 0),
        (1, 2, LARGE, 0),
        (3, 1, PageClass.FILE, 0),
    ]
    slab_tail = kpf.SLAB | kpf.COMPOUND_TAIL
    assert used([HEAD, slab_tail]) == [(0, 1, LARGE, 0), (1, 1, PageClass.SLAB, 0)]


def test_tails_without_a_head_count_singly():
    assert used([TAIL, TAIL, HEAD, TAIL]) == [(0, 2, LARGE, 0), (2, 2, LARGE, 1)]


def test_a_folio_across_an_edge_counts_singly():
    assert used([HEAD, TAIL, TAIL, TAIL], bounds=[1]) == [(0, 1, LARGE, 0), (1, 3, LARGE, 0)]
    assert used([HEAD, TAIL, HEAD, TAIL], bounds=[2]) == [(0, 2, LARGE, 1), (2, 2, LARGE, 1)]


def blocks_of(is_free, bounds=()):
    words = np.where(np.array(is_free), np.uint64(kpf.BUDDY), np.uint64(kpf.LRU))
    runs = runs_of(words)
    pfn, order = kpf.cover(*kpf.free_runs(runs, np.array(bounds, np.int64)))
    return list(zip(pfn.tolist(), order.tolist(), strict=True))


def merged_one_by_one(is_free):
    """Free the frames one after the other into a buddy allocator that cannot be wrong."""
    free = set()
    for pfn in np.flatnonzero(is_free).tolist():
        order = 0
        while order < 10 and (pfn ^ (1 << order), order) in free:
            free.remove((pfn ^ (1 << order), order))
            pfn &= ~(1 << order)
            order += 1
        free.add((pfn, order))
    return sorted(free)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 700)), min_size=1, max_size=12))
def test_free_blocks_are_what_freeing_one_by_one_gives(pieces):
    is_free = np.repeat([free for free, _ in pieces], [count for _, count in pieces])
    assert blocks_of(is_free) == merged_one_by_one(is_free)


def test_free_blocks_do_not_cross_zones():
    assert blocks_of([True] * 8, bounds=[4]) == [(0, 2), (4, 2)]


@given(
    st.lists(
        st.sampled_from([0, kpf.BUDDY, kpf.NOPAGE, kpf.LRU, HEAD, TAIL, kpf.SLAB]),
        min_size=1,
        max_size=64,
    ),
    st.lists(st.integers(1, 63), max_size=3),
)
def test_every_used_frame_stands_in_one_row_with_its_class(words, bounds):
    seen = {}
    for start, nr, kind, order in used(words, sorted(set(bounds))):
        assert start % (1 << order) == 0
        assert nr % (1 << order) == 0
        for pfn in range(start, start + nr):
            assert pfn not in seen
            seen[pfn] = kind
    want = {pfn: kpf.page_class(word) for pfn, word in enumerate(words)}
    left_out = (PageClass.FREE, PageClass.NOPAGE)
    assert seen == {pfn: kind for pfn, kind in want.items() if kind not in left_out}
