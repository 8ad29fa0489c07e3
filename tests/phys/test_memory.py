"""Blocks of frames against a set of frames, which is too simple to be wrong."""

import json
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from contigmm.phys import CoreError, Memory

EINVAL, ENOMEM = 22, 12
GFP_HIGHUSER_MOVABLE = 0x100CCA
GFP_HIGHUSER = 0x100CC2
NR_FRAMES = 8192


def boot(**keys):
    zones = [
        {"kind": "DMA32", "start_pfn": 1, "spanned": 2047},
        {"kind": "Normal", "start_pfn": 2048, "spanned": NR_FRAMES - 2048},
    ]
    spec = {"zones": zones, "nr_cpus": 2, "min_free_kbytes": 128, "thp": False, **keys}
    return Memory.boot(json.dumps(spec))


class Blocks(RuleBasedStateMachine):
    blocks = Bundle("blocks")

    def __init__(self):
        super().__init__()
        self.memory = boot()
        self.in_use = set()

    def has_free_run(self, order):
        return any(
            self.in_use.isdisjoint(range(pfn, pfn + 2**order))
            for pfn in range(2**order, NR_FRAMES, 2**order)
        )

    def judge(self, refusal, order):
        assert refusal.errno == ENOMEM
        if refusal.cause == "no_block":
            # Frames that wait on another CPU's lists are free to the model only.
            waiting = sum(pcp[0] for zone in self.memory.zones() for pcp in zone["pcp"])
            assert waiting or not self.has_free_run(order), "refused although a run was free"

    @rule(
        target=blocks,
        order=st.integers(0, 10),
        gfp=st.sampled_from([GFP_HIGHUSER, GFP_HIGHUSER_MOVABLE]),
        cpu=st.integers(0, 1),
    )
    def alloc(self, order, gfp, cpu):
        try:
            pfn = self.memory.alloc_pages(order=order, gfp=gfp, cpu=cpu)
        except CoreError as refusal:
            self.judge(refusal, order)
            return multiple()
        frames = set(range(pfn, pfn + 2**order))
        assert pfn % 2**order == 0, "misaligned"
        assert not frames & self.in_use, "handed out twice"
        self.in_use |= frames
        return pfn, order

    @rule(block=consumes(blocks), cpu=st.integers(0, 1))
    def free(self, block, cpu):
        pfn, order = block
        self.memory.free_pages(pfn, order=order, cpu=cpu)
        self.in_use -= set(range(pfn, pfn + 2**order))

    @rule(nr=st.integers(0, 300), order=st.integers(0, 2), cpu=st.integers(0, 1))
    def a_batch_there_and_back(self, nr, order, cpu):
        pfns = self.memory.alloc_batch(nr, order=order, gfp=GFP_HIGHUSER_MOVABLE, cpu=cpu)
        frames = {pfn + i for pfn in pfns.tolist() for i in range(2**order)}
        assert len(frames) == len(pfns) << order, "handed out twice"
        assert not frames & self.in_use, "handed out twice"
        self.memory.free_batch(pfns, order=order, cpu=cpu)

    @rule(block=blocks)
    def a_block_of_another_order_is_not_freed(self, block):
        pfn, order = block
        with pytest.raises(ValueError, match="no block of order"):
            self.memory.free_pages(pfn, order=(order + 1) % 11)

    @invariant()
    def the_core_holds_and_counts_what_the_model_counts(self):
        self.memory.check()
        zones = self.memory.zones()
        free = sum(zone["free"] + sum(pcp[0] for pcp in zone["pcp"]) for zone in zones)
        assert free == NR_FRAMES - 1 - len(self.in_use)


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=60, stateful_step_count=50)


def test_views_agree_with_each_other():
    memory = boot()
    memory.alloc_batch(100, order=0, gfp=GFP_HIGHUSER)
    by_type = memory.free_by_type()
    assert np.array_equal(by_type.sum(axis=1), memory.buddyinfo())
    pfns, orders, types = memory.free_blocks()
    assert len(pfns) == by_type.sum()
    assert np.array_equal(np.bincount(orders, minlength=11), memory.buddyinfo().sum(axis=0))
    assert np.array_equal(memory.pageblock_types()[pfns >> 9], types)
    assert memory.nr_frames() == NR_FRAMES
    assert memory.nr_cpus() == 2


def test_time_passes_on_every_cpu_and_by_steps_on_one():
    memory = boot()
    memory.advance_clock(1000)
    assert [memory.clock_ns(cpu) for cpu in (0, 1)] == [1000, 1000]
    memory.alloc_pages(order=0, gfp=GFP_HIGHUSER, cpu=1)
    assert memory.clock_ns(0) == 1000 < memory.clock_ns(1) == memory.clock_ns()


def test_what_does_not_exist_is_einval():
    memory = boot()
    for keys in ({"order": 11}, {"order": 0, "cpu": 2}, {"order": 0, "node": 1}):
        with pytest.raises(CoreError) as refusal:
            memory.alloc_pages(gfp=GFP_HIGHUSER, **keys)
        assert refusal.value.errno == EINVAL
        assert refusal.value.cause.startswith(("no_such", "order_too"))
    for pfn in (0, NR_FRAMES, 2**32 - 1, 5):
        with pytest.raises(ValueError, match="no block"):
            memory.free_pages(pfn, order=0)
    for spec in ("", "{}", '{"zones": []}', '{"zones": [], "speed": 1}'):
        with pytest.raises(ValueError, match=r"."):
            Memory.boot(spec)


def test_threads_share_one_memory():
    """Eight threads, no lock of Python's: no frame twice, and every invariant afterwards."""
    memory = boot()
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        held = []
        try:
            for _ in range(200):
                pfns = memory.alloc_batch(
                    int(rng.integers(1, 80)), order=0, gfp=GFP_HIGHUSER_MOVABLE, cpu=seed % 2
                )
                held.append(pfns)
                if len(held) > 8:
                    memory.free_batch(held.pop(0), order=0, cpu=seed % 2)
            for pfns in held:
                memory.free_batch(pfns, order=0)
        except (CoreError, ValueError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    memory.check()
    zones = memory.zones()
    assert sum(z["free"] + sum(p[0] for p in z["pcp"]) for z in zones) == NR_FRAMES - 1
