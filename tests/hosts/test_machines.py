"""A machine booted from a capture is that machine: lists, classes, owners; and it lives on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contigmm import Machine, Reason, SyscallError, open_machine
from contigmm.abi import MAP_ANONYMOUS, MAP_CONTIG, MAP_PRIVATE, PROT_READ, PROT_WRITE
from contigmm.description import NO_OWNER, OwnerKind, PageClass
from contigmm.hosts import describe

DATA = Path(__file__).parents[1] / "data"
FRAGMENTED = f"file:{DATA / 'fragmented.snap.tar.xz'}"
HOST = f"file:{DATA / 'host.snap.tar.xz'}"
both = pytest.mark.parametrize("source", [FRAGMENTED, HOST], ids=["fragmented", "host"])


@pytest.fixture(scope="module")
def booted():
    """One machine and its description; tests that change it boot their own."""
    return open_machine(FRAGMENTED, seed=2), describe(FRAGMENTED, seed=2)


def class_totals(machine):
    with machine.held() as memory:
        return memory.class_counts().sum(axis=0, dtype=np.int64)


def frames_not_in_use(machine):
    totals = class_totals(machine)
    return int(totals[PageClass.FREE] + totals[PageClass.PCP])


@both
def test_free_lists_are_the_captures_block_for_block(source):
    described = describe(source, seed=2)
    machine = Machine.boot(described, seed=2)
    machine.check()
    assert machine.buddyinfo() == described.buddyinfo()
    with machine.held() as memory:
        pfn, order, kind = memory.free_blocks()
    free = described.layout.free
    mine = set(zip(pfn.tolist(), order.tolist(), kind.tolist(), strict=True))
    told = zip(free.pfn.tolist(), free.order.tolist(), free.migratetype.tolist(), strict=True)
    assert mine == set(told)


def test_blocks_of_a_list_stand_in_the_described_order(booted):
    machine, described = booted
    free = described.layout.free
    with machine.held() as memory:
        pfn, order, kind = memory.free_blocks()
    for zone in described.zones:
        for size in range(11):
            rows = [
                (low >= zone.start_pfn) & (low < zone.end_pfn) & (orders == size) & (kinds == 1)
                for low, orders, kinds in (
                    (pfn, order, kind),
                    (free.pfn, free.order, free.migratetype),
                )
            ]
            assert pfn[rows[0]].tolist() == free.pfn[rows[1]].tolist()


@both
def test_every_used_frame_keeps_its_class(source):
    described = describe(source, seed=2)
    machine = Machine.boot(described, seed=2)
    frames = described.layout.frames
    want = np.full(described.nr_frames, PageClass.NOPAGE, np.uint8)
    start, nr = frames.start.astype(np.int64), frames.nr.astype(np.int64)
    pfn = np.repeat(start - (np.cumsum(nr) - nr), nr) + np.arange(int(nr.sum()))
    want[pfn] = np.repeat(frames.page_class, nr)
    with machine.held() as memory:
        counts = memory.class_counts()
        kinds = memory.frame_classes()
    used = want != PageClass.NOPAGE
    assert np.array_equal(kinds[used], want[used])
    blocks = np.arange(len(want)) >> 9
    for kind in (PageClass.ANON, PageClass.FILE, PageClass.MLOCKED, PageClass.PGTABLE):
        told = np.bincount(blocks[want == kind], minlength=len(counts))
        assert np.array_equal(counts[:, kind], told)


def test_per_cpu_lists_have_the_described_pages(booted):
    machine, described = booted
    for view, zone in zip(machine.zones(), described.zones, strict=False):
        assert [one.count for one in view.pagesets] == [one.count for one in zone.pcp]
        assert [one.high for one in view.pagesets] == [one.high for one in zone.pcp]
        assert [one.high_max for one in view.pagesets] == [one.high_max for one in zone.pcp]
        assert [one.batch for one in view.pagesets] == [one.batch for one in zone.pcp]


def test_zones_are_the_described_ones(booted):
    machine, described = booted
    for view, zone in zip(machine.zones(), described.zones, strict=False):
        assert (view.present, view.managed, view.spanned) == (
            zone.present,
            zone.managed,
            zone.spanned,
        )
        assert view.marks[:3] == (zone.watermark_min, zone.watermark_low, zone.watermark_high)


@pytest.mark.parametrize("number", [0, 3, 7])
def test_killing_a_background_process_frees_exactly_its_frames(number):
    described = describe(FRAGMENTED, seed=5)
    machine = Machine.boot(described, seed=5)
    frames, owners = described.layout.frames, described.layout.owners
    mine = frames.owner == number
    assert owners[number].kind is OwnerKind.PROCESS
    before_free, before = frames_not_in_use(machine), class_totals(machine)
    victim = machine.processes()[number]
    victim.exit()
    machine.check()
    after = class_totals(machine)
    assert frames_not_in_use(machine) - before_free == int(frames.nr[mine].sum())
    for kind in (PageClass.ANON, PageClass.PGTABLE, PageClass.FILE, PageClass.SLAB):
        gone = int(frames.nr[mine & (frames.page_class == kind)].sum())
        assert before[kind] - after[kind] == gone


def test_dropping_a_background_file_frees_its_frames():
    described = describe(FRAGMENTED, seed=5)
    machine = Machine.boot(described, seed=5)
    owners = described.layout.owners
    files = [n for n, owner in enumerate(owners) if owner.kind is not OwnerKind.PROCESS]
    assert [file.name for file in machine.background_files] == [owners[n].name for n in files]
    frames = described.layout.frames
    for file, number in list(zip(machine.background_files, files, strict=True))[::17]:
        before = frames_not_in_use(machine)
        with machine.held() as memory:
            memory.file_drop(file.id)
        assert frames_not_in_use(machine) - before == int(frames.nr[frames.owner == number].sum())
    machine.check()


def test_freeing_all_owners_gives_back_what_they_had():
    described = describe(FRAGMENTED, seed=5)
    machine = Machine.boot(described, seed=5)
    frames = described.layout.frames
    before = frames_not_in_use(machine)
    for process in machine.processes():
        process.exit()
    with machine.held() as memory:
        for file in machine.background_files:
            memory.file_drop(file.id)
    machine.check()
    owned = int(frames.nr[frames.owner != NO_OWNER].sum())
    assert frames_not_in_use(machine) - before == owned


def test_a_background_process_is_one_like_any_other():
    machine = open_machine(FRAGMENTED, seed=5)
    process = machine.processes()[0]
    line = process.maps().splitlines()[0]
    begin, _, end = line.split()[0].partition("-")
    begin, end = int(begin, 16), int(end, 16)
    before = frames_not_in_use(machine)
    process.munmap(begin, 1 << 20)
    machine.check()
    assert frames_not_in_use(machine) - before >= 256
    child = process.fork()
    assert child.maps() == process.maps()
    machine.check()


WANTING = (
    Reason.NO_CONTIGUOUS_BLOCK_AFTER_COMPACTION,
    Reason.NO_ROOM_AFTER_RECLAIM,
)


def pieces_until_refused(process, flags):
    """Map contiguous MiBs until one is refused; return how many there were, and why no more."""
    for number in range(1_000_000):
        try:
            process.mmap(0, 1 << 20, PROT_READ | PROT_WRITE, flags)
        except SyscallError as refusal:
            return number, refusal.reason
    raise AssertionError("a small machine has no million MiB")


def asked_until_refused(setting):
    """Ask a machine for contiguous MiBs; return those listed, those got, why no more, counters."""
    described = describe(FRAGMENTED, seed=5)
    machine = Machine.boot(replace(described, settings=described.settings | setting), seed=5)
    process = machine.spawn("asks", caps={"CAP_IPC_LOCK"})
    before = machine.buddyinfo()["0/DMA32"]
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_CONTIG
    got, reason = pieces_until_refused(process, flags)
    machine.check()
    return before[8] + 2 * before[9] + 4 * before[10], got, reason, machine.vmstat()


def test_the_machine_serves_contiguous_requests_from_the_captured_lists():
    listed, got, reason, vmstat = asked_until_refused({"direct_reclaim": 0})
    assert reason in (
        Reason.NO_CONTIGUOUS_BLOCK_COMPACTION_NOT_SIMULATED,
        Reason.BELOW_WATERMARK_RECLAIM_NOT_SIMULATED,
    )
    assert 0 < got <= listed + 8
    assert vmstat["pgmigrate_success"] == 0


def test_contiguous_requests_compact_and_reclaim_before_they_are_refused():
    listed, got, reason, vmstat = asked_until_refused({})
    assert reason in WANTING
    assert got > listed + 8
    assert vmstat["compact_success"] > 0
    assert vmstat["pgmigrate_success"] > 0


def moved_in_a_second(setting):
    """Pages that a broken-up machine moves in a second in which nobody asks for anything."""
    described = describe(FRAGMENTED, seed=5)
    settings = described.settings | {"compaction_proactiveness": 100} | setting
    machine = Machine.boot(replace(described, settings=settings), seed=5)
    machine.advance_clock(1_000_000_000)
    machine.check()
    return machine.vmstat()["pgmigrate_success"]


def test_kcompactd_works_as_the_clock_goes_on_where_a_machine_has_it():
    assert moved_in_a_second({}) == 0
    assert moved_in_a_second({"background_reclaim": 1}) > 0


def test_a_snapshot_keeps_the_background():
    machine = open_machine(FRAGMENTED, seed=5)
    machine.processes()[1].exit()
    again = Machine.restore(machine.snapshot())
    again.check()
    assert again.digest() == machine.digest()
    assert again.background_files == machine.background_files
    assert [p.id for p in again.processes()] == [p.id for p in machine.processes()]


def test_the_seed_makes_the_machine():
    assert open_machine(FRAGMENTED, seed=5).digest() == open_machine(FRAGMENTED, seed=5).digest()
    assert open_machine(FRAGMENTED, seed=6).digest() != open_machine(FRAGMENTED, seed=5).digest()


def test_fewer_cpus_take_over_the_lists_of_those_that_are_not_there():
    described = describe(FRAGMENTED, seed=5)
    machine = open_machine(FRAGMENTED, seed=5, cpus=1)
    machine.check()
    counts = [view.pagesets[0].count for view in machine.zones() if view.managed]
    assert counts == [sum(pcp.count for pcp in zone.pcp) for zone in described.zones]
