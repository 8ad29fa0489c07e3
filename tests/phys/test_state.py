"""Saving, restoring and importing the whole memory."""

import json

import numpy as np
import pytest

from contigmm.phys import CoreError, Memory

GFP_HIGHUSER_MOVABLE = 0x100CCA
GFP_HIGHUSER = 0x100CC2


def boot():
    zones = [{"kind": "Normal", "start_pfn": 0, "spanned": 4096}]
    return Memory.boot(json.dumps({"zones": zones, "nr_cpus": 2, "seed": 7, "thp": False}))


def churn(memory, seed, steps):
    """Allocate and free by a generator of our own; give what every step answered."""
    rng = np.random.default_rng(seed)
    held, told = [], []
    for _ in range(steps):
        if held and rng.random() < 0.45:
            pfn, order = held.pop(int(rng.integers(len(held))))
            memory.free_pages(pfn, order=order, cpu=int(rng.integers(2)))
            continue
        order = int(rng.integers(0, 6))
        gfp = GFP_HIGHUSER_MOVABLE if rng.random() < 0.7 else GFP_HIGHUSER
        try:
            pfn = memory.alloc_pages(order=order, gfp=gfp, cpu=int(rng.integers(2)))
        except CoreError as refusal:
            told.append(refusal.cause)
        else:
            held.append((pfn, order))
            told.append(pfn)
    return told


def test_a_restored_memory_goes_on_bit_for_bit():
    memory = boot()
    churn(memory, 1, 500)
    twin = Memory.restore(memory.snapshot(), max_bytes=1 << 24)
    assert twin.digest() == memory.digest()
    assert churn(memory, 2, 1000) == churn(twin, 2, 1000)
    assert twin.digest() == memory.digest()
    assert twin.snapshot() == memory.snapshot()
    twin.check()


def test_damaged_or_too_large_snapshots_are_refused():
    snapshot = boot().snapshot()
    for bad in (b"", snapshot[:-1], b"x" + snapshot[1:], snapshot[:50] + b"!" + snapshot[51:]):
        with pytest.raises(ValueError, match=r"."):
            Memory.restore(bad, max_bytes=1 << 24)
    with pytest.raises(ValueError, match=r"."):
        Memory.restore(snapshot, max_bytes=100)


def columns(memory):
    pfns, orders, _ = memory.free_blocks()
    return {
        "run_start": np.array([0, 64], np.uint32),
        "run_nr": np.array([64, 64], np.uint32),
        "run_class": np.array([2, 17], np.uint8),
        "run_order": np.array([0, 1], np.uint8),
        "free_pfn": pfns,
        "free_order": orders,
        "pageblock_mt": memory.pageblock_types(),
        "pcp_pfn": np.zeros(0, np.uint32),
        "pcp_order": np.zeros(0, np.uint8),
        "pcp_cpu": np.zeros(0, np.uint16),
        "pcp_high": [],
    }


def test_imported_frames_are_those_of_the_lists():
    memory = boot()
    source = columns(memory)
    source["free_pfn"] = np.array([128, 256, 3072], np.uint32)
    source["free_order"] = np.array([7, 8, 10], np.uint8)
    source["run_start"] = np.array([0, 512], np.uint32)
    source["run_nr"] = np.array([128, 2560], np.uint32)
    memory.import_frames(**source)
    memory.check()
    assert memory.buddyinfo().tolist() == [[0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1]]
    memory.free_pages(512, order=1)
    memory.check()


def test_frames_named_twice_change_nothing():
    memory = boot()
    before = memory.digest()
    with pytest.raises(ValueError, match=r"."):
        memory.import_frames(**columns(memory))
    assert memory.digest() == before
