"""Machines that others used before: each frame has the owner that the description names."""

import numpy as np
import pytest

from contigmm.description import (
    NO_OWNER,
    FrameRuns,
    FreeBlocks,
    Layout,
    MachineDescription,
    OwnerDescription,
    OwnerKind,
    PageClass,
    PcpPages,
    ZoneDescription,
)
from contigmm.sim.machine import Machine

PAGE = 4096
PFN = (1 << 55) - 1
FREE = {PageClass.FREE, PageClass.PCP}
#   start, nr, class, order, owner, index
ROWS = [
    (0, 16, PageClass.RESERVED, 0, NO_OWNER, 0),
    (16, 8, PageClass.PGTABLE, 0, 0, 0),
    (24, 8, PageClass.SLAB, 3, NO_OWNER, 0),
    (32, 32, PageClass.ANON, 0, 0, 0),
    (64, 64, PageClass.FILE, 0, 1, 7),
    (128, 4, PageClass.MLOCKED, 0, 0, 100),
    (132, 124, PageClass.KERNEL, 0, NO_OWNER, 0),
    (512, 512, PageClass.ANON_THP, 9, 0, 512),
    (1024, 512, PageClass.SHMEM, 0, 2, 0),
]
OWNERS = [
    (OwnerKind.PROCESS, "eater"),
    (OwnerKind.FILE, "log"),
    (OwnerKind.SHMEM, "segment"),
]
FREE_BLOCKS = [(256, 8), (2048, 10), (3072, 10)]  # 1536 … 2047 is a hole


def column(rows, at, kind):
    return np.array([row[at] for row in rows], kind)


def description(rows=ROWS):
    frames = FrameRuns(
        start=column(rows, 0, np.uint32),
        nr=column(rows, 1, np.uint32),
        page_class=column(rows, 2, np.uint8),
        order=column(rows, 3, np.uint8),
        flags=np.zeros(len(rows), np.uint8),
        owner=column(rows, 4, np.uint32),
        index=column(rows, 5, np.uint32),
    )
    free = FreeBlocks(
        column(FREE_BLOCKS, 0, np.uint32),
        column(FREE_BLOCKS, 1, np.uint8),
        np.ones(len(FREE_BLOCKS), np.uint8),
    )
    none = np.zeros(0, np.uint32)
    pcp = PcpPages(none, none.astype(np.uint16), none.astype(np.uint8), none.astype(np.uint8))
    layout = Layout(
        frames,
        free,
        pcp,
        np.ones(8, np.uint8),
        tuple(OwnerDescription(kind, name) for kind, name in OWNERS),
    )
    zone = ZoneDescription(0, "Normal", 0, 4096, 3584, 3568, holes=((1536, 512),))
    return MachineDescription(zones=(zone,), layout=layout, known=("all",), origin="a test")


@pytest.fixture
def machine():
    machine = Machine.boot(description())
    machine.check()
    return machine


def classes(machine):
    with machine.held() as memory:
        return memory.frame_classes()


def test_free_lists_equal_the_description_block_for_block(machine):
    assert machine.buddyinfo() == {"0/Normal": [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]}
    with machine.held() as memory:
        pfns, orders, _ = memory.free_blocks()
    assert sorted(zip(pfns.tolist(), orders.tolist(), strict=True)) == FREE_BLOCKS
    assert machine.zones()[2].present == 3584


def test_every_used_frame_keeps_its_class(machine):
    found = classes(machine)
    for start, nr, kind, *_ in ROWS:
        assert (found[start : start + nr] == kind).all(), (start, kind)
    assert (found[1536:2048] == PageClass.NOPAGE).all()


def test_a_background_process_maps_exactly_its_frames(machine):
    (process,) = machine.processes()
    entry = machine.entry(process.id)
    assert (entry.name, entry.background) == ("eater", True)
    mapped = [
        int(word) & PFN
        for vma in entry.task.mm.all_vmas()
        for word in process.pagemap(vma.vm_start, vma.vm_end - vma.vm_start)
    ]
    assert [pfn for pfn in mapped if pfn] == [*range(32, 64), *range(128, 132), *range(512, 1024)]
    assert process.status()["VmLck"] == 16
    assert process.status()["RssAnon"] == 4 * (32 + 4 + 512)


def test_killing_a_background_process_frees_exactly_its_frames(machine):
    before = classes(machine)
    machine.processes()[0].exit()
    machine.check()
    after = classes(machine)
    freed = np.flatnonzero(np.isin(after, list(FREE)) & ~np.isin(before, list(FREE)))
    kept = np.flatnonzero(after == before)
    its_own = [row for row in ROWS if row[4] == 0]
    assert set(freed.tolist()) == {
        pfn for start, nr, *_ in its_own for pfn in range(start, start + nr)
    }
    assert len(freed) + len(kept) == len(after)


def test_dropping_a_background_file_frees_exactly_its_frames(machine):
    before = classes(machine)
    log, segment = machine.background_files
    assert (log.name, log.is_shmem, segment.name, segment.is_shmem) == (
        "log",
        False,
        "segment",
        True,
    )
    with machine.held() as memory:
        assert memory.file_drop(log.id) == 64
        assert memory.file_drop(segment.id) == 512
    machine.check()
    freed = np.flatnonzero(np.isin(classes(machine), list(FREE)) & ~np.isin(before, list(FREE)))
    assert freed.tolist() == [*range(64, 128), *range(1024, 1536)]


def test_a_forked_background_process_shares_its_frames(machine):
    (process,) = machine.processes()
    child = process.fork()
    (vma, *_) = machine.entry(process.id).task.mm.all_vmas()
    words = process.pagemap(vma.vm_start, 4 * PAGE) & PFN
    assert words.tolist() == (child.pagemap(vma.vm_start, 4 * PAGE) & PFN).tolist()
    assert words.all()


def test_an_owner_of_the_wrong_kind_is_refused():
    rows = [(s, n, k, o, 1 if k == PageClass.ANON else owner, i) for s, n, k, o, owner, i in ROWS]
    with pytest.raises(ValueError, match="frame 32"):
        Machine.boot(description(rows))


def test_cached_frames_tell_which_file_they_cache_and_no_others_do(machine):
    with machine.held() as memory:
        files = memory.frame_files()
    no_file = 2**32 - 1
    log, segment = files[64], files[1024]
    assert len({log, segment, no_file}) == 3
    expected = np.full(len(files), no_file)
    expected[64:128], expected[1024:1536] = log, segment
    assert files.tolist() == expected.tolist()
