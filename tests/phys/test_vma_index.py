"""The index of VMAs against a sorted list of ranges, which is too simple to be wrong."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contigmm.phys import VmaIndex

LIMIT = 64  # addresses of the model, in units: a gap search by trying every address is quick


class IndexMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.index = VmaIndex()
        self.ranges = {}  # start -> (end, id, gap_below)
        self.ids = iter(range(10**9))

    def taken(self, addr):
        """Whether a byte is in a range or in the room that the next one keeps free below it."""
        if any(start <= addr < end for start, (end, _, _) in self.ranges.items()):
            return True
        above = [start for start in self.ranges if start > addr]
        return bool(above) and addr >= min(above) - self.ranges[min(above)][2]

    @rule(start=st.integers(0, LIMIT - 1), length=st.integers(0, 6), gap=st.integers(0, 3))
    def insert(self, start, length, gap):
        end, name = start + length, next(self.ids)
        overlaps = any(s < end and start < e for s, (e, _, _) in self.ranges.items())
        if length == 0 or overlaps:
            with pytest.raises(ValueError, match=r"is empty|overlaps"):
                self.index.insert(start=start, end=end, id=name, gap_below=gap)
        else:
            self.index.insert(start=start, end=end, id=name, gap_below=gap)
            self.ranges[start] = (end, name, gap)

    @rule(start=st.integers(0, LIMIT))
    def remove(self, start):
        if start in self.ranges:
            assert self.index.remove(start) == self.ranges.pop(start)[1]
        else:
            with pytest.raises(KeyError):
                self.index.remove(start)

    @precondition(lambda self: self.ranges)
    @rule(data=st.data(), down=st.integers(-3, 3), up=st.integers(-3, 3))
    def replace(self, data, down, up):
        old = data.draw(st.sampled_from(sorted(self.ranges)))
        end, name, gap = self.ranges[old]
        start, end = max(0, old + down), max(0, end + up)
        below = max((e for s, (e, _, _) in self.ranges.items() if s < old), default=0)
        above = min((s for s in self.ranges if s > old), default=2 * LIMIT)
        if not below <= start < end <= above:
            with pytest.raises(ValueError, match=r"is empty|overlaps"):
                self.index.replace(old, new_start=start, new_end=end)
        else:
            self.index.replace(old, new_start=start, new_end=end)
            del self.ranges[old]
            self.ranges[start] = (end, name, gap)

    @rule(addr=st.integers(0, LIMIT + 8))
    def look_around(self, addr):
        order = sorted((s, e, name) for s, (e, name, _) in self.ranges.items())

        def first(names):
            return names[0] if names else None

        assert self.index.find(addr) == first([n for s, e, n in order if e > addr])
        assert self.index.lookup(addr) == first([n for s, e, n in order if s <= addr < e])
        assert self.index.prev(addr) == first([n for s, e, n in reversed(order) if s < addr])
        assert self.index.next(addr) == first([n for s, e, n in order if s > addr])

    @rule(length=st.integers(1, 12), low=st.integers(0, LIMIT), high=st.integers(0, LIMIT))
    def search_gaps(self, length, low, high):
        places = [
            addr
            for addr in range(low, high - length + 1)
            if not any(self.taken(a) for a in range(addr, addr + length))
        ]
        found = self.index.highest_gap(length=length, low=low, high=high)
        assert found == (places[-1] if places else None)
        found = self.index.lowest_gap(length=length, low=low, high=high)
        assert found == (places[0] if places else None)

    @rule(start=st.integers(0, LIMIT), length=st.integers(0, LIMIT))
    def list_range(self, start, length):
        end = start + length
        names = [n for s, (e, n, _) in sorted(self.ranges.items()) if s < end and e > start]
        assert self.index.range(start, end) == names

    @rule()
    def a_copy_is_independent(self):
        copy = self.index.copy()
        for start in list(self.ranges):
            copy.remove(start)
        assert len(copy) == 0

    @invariant()
    def same_length(self):
        assert len(self.index) == len(self.ranges)


TestVmaIndex = IndexMachine.TestCase
TestVmaIndex.settings = settings(max_examples=100, stateful_step_count=60)


def test_a_hundred_thousand_ranges_keep_their_order():
    index = VmaIndex()
    for i in range(100_000):
        index.insert(start=i * 8192, end=i * 8192 + 4096, id=i)
    assert index.range(0, 2**40) == list(range(100_000))
    assert index.highest_gap(length=8192, low=0, high=100_000 * 8192) is None
    index.remove(8192 * 50_000)
    assert index.highest_gap(length=8192, low=0, high=100_000 * 8192) == 50_000 * 8192


def test_ints_in_a_row_are_keyword_only():
    with pytest.raises(TypeError):
        VmaIndex().insert(0, 1, 2)
