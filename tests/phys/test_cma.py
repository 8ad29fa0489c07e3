"""CMA areas through the Python face of the core."""

import json

import pytest

from contigmm.phys import CoreError, Memory

START, NR = 4096, 2048


def boot(**area) -> Memory:
    zone = {"node": 0, "kind": "Normal", "start_pfn": 0, "spanned": 1 << 14}
    area = {"name": "dma", "start_pfn": START, "nr": NR} | area
    return Memory.boot(json.dumps({"nr_cpus": 1, "zones": [zone], "cma": [area]}))


def test_an_area_is_counted_taken_and_given_back():
    memory = boot()
    zone = memory.zones()[0]
    assert (zone["cma"], zone["free_cma"], zone["free"]) == (NR, NR, 1 << 14)
    pfn = memory.cma_alloc(area=0, nr=1000, align=9)
    assert pfn == START
    assert memory.zones()[0]["free_cma"] == NR - 1000
    restored = Memory.restore(memory.snapshot(), max_bytes=1 << 24)
    with pytest.raises(CoreError) as caught:
        restored.cma_alloc(area=0, nr=NR)
    assert (caught.value.errno, caught.value.cause) == (12, "no_range")
    assert restored.cma_release(area=0, pfn=pfn, nr=1000)
    assert not restored.cma_release(area=0, pfn=pfn, nr=1000)
    assert restored.cma_alloc(area=0, nr=NR) == START
    restored.check()


def test_areas_that_are_not_there_are_refused():
    memory = boot()
    with pytest.raises(ValueError, match="no CMA area has the number 1 of 1"):
        memory.cma_alloc(area=1, nr=1)
    with pytest.raises(ValueError, match="no CMA area has the number 7 of 1"):
        memory.cma_release(area=7, pfn=0, nr=1)
    with pytest.raises(ValueError, match="is not made of whole pageblocks"):
        boot(nr=100)
