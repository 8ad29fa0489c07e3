"""A capture's description holds what an independent decoder reads from it, block for block."""

import collections
import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from contigmm import open_machine
from contigmm.description import (
    NO_OWNER,
    MachineDescription,
    OwnerKind,
    PageClass,
)
from contigmm.hosts import Builder, build, describe, read

HOME = Path(os.environ.get("CONTIGMM_SHARED", Path(__file__).parents[3] / "shared")) / "realmem"
CAPTURES = sorted((HOME / "data" / "dev").glob("d0*.snap.tar.xz"))

pytestmark = pytest.mark.skipif(not CAPTURES, reason=f"recorded captures are not there: {HOME}")

#: Every fourth of 27, so that each phase is met; `scripts/soak captures` asks for all.
many_captures = pytest.mark.parametrize(
    "path",
    CAPTURES[:: 1 if "CONTIGMM_ALL_CAPTURES" in os.environ else 4],
    ids=lambda path: path.name[:8],
)
#: Reading classes frame by frame takes the decoder seconds: one capture of each phase.
some_captures = pytest.mark.parametrize("path", CAPTURES[::8], ids=lambda path: path.name[:8])


def decoder():
    """Return the decoder that came with the captures: the truth that readers are held against."""
    tools = str(HOME / "tools")
    if tools not in sys.path:
        sys.path.insert(0, tools)
    return importlib.import_module("decode_snapshot"), importlib.import_module("snapshot_format")


def by_name(counts):
    return {f"{node}/{zone}": count for (node, zone), count in counts.items()}


@many_captures
def test_free_blocks_are_exact_by_zone_and_order(path):
    decode, _ = decoder()
    snap = decode.sf.Snapshot(str(path))
    described = describe(f"file:{path}", seed=1)
    rebuilt = by_name(decode.free_by_zone(snap))
    assert described.buddyinfo() == rebuilt
    before, after = snap.buddyinfo("before"), snap.buddyinfo("after")
    if before == after:
        assert described.buddyinfo() == by_name(before)


def class_counts(description: MachineDescription) -> dict[int, collections.Counter]:
    """Frames by pageblock and the decoder's name of their class, frame by frame."""
    kinds = np.full(description.nr_frames, PageClass.NOPAGE, np.uint8)
    layout = description.layout
    for start, nr, kind in zip(
        layout.frames.start, layout.frames.nr, layout.frames.page_class, strict=True
    ):
        kinds[start : start + nr] = kind
    for blocks, kind in ((layout.free, PageClass.FREE), (layout.pcp, PageClass.KERNEL)):
        for pfn, order in zip(blocks.pfn, blocks.order, strict=True):
            kinds[pfn : int(pfn) + (1 << int(order))] = kind
    names = [kind.name.lower() for kind in PageClass]
    names[PageClass.KERNEL] = "kernel_or_pcp"
    out = {}
    for at in range(0, len(kinds), 512):
        count = np.bincount(kinds[at : at + 512])
        out[at] = {names[kind]: int(n) for kind, n in enumerate(count) if n}
    return out


@some_captures
def test_classes_by_pageblock_are_the_decoders(path):
    decode, sf = decoder()
    mine = class_counts(describe(f"file:{path}", seed=1))
    for pfn, mix in decode.pageblocks(sf.Snapshot(str(path))):
        assert mine[pfn] == dict(mix), f"pageblock at frame {pfn}"


@some_captures
def test_per_cpu_lists_have_the_told_number_of_pages(path):
    described = describe(f"file:{path}", seed=1)
    pcp = described.layout.pcp
    for zone in described.zones:
        inside = (pcp.pfn >= zone.start_pfn) & (pcp.pfn < zone.end_pfn)
        for cpu, told in enumerate(zone.pcp):
            mine = inside & (pcp.cpu == cpu)
            assert int((1 << pcp.order[mine].astype(int)).sum()) == told.count


@some_captures
def test_pageblock_types_have_the_told_totals(path):
    evidence = read(f"file:{path}")
    described = build(evidence, seed=1)
    types = described.layout.pageblock_type
    for zone in described.zones:
        told = evidence.types[0].blocks[zone.node, zone.name]
        first, last = zone.start_pfn >> 9, -(-zone.end_pfn // 512)
        mine = np.bincount(types[first:last], minlength=256)
        assert {kind: int(mine[kind]) for kind in told} == told


@some_captures
def test_every_anonymous_and_cache_frame_has_an_owner_of_its_kind(path):
    described = describe(f"file:{path}", seed=1)
    frames, owners = described.layout.frames, described.layout.owners
    kinds_of = {
        OwnerKind.PROCESS: {
            PageClass.ANON,
            PageClass.ANON_THP,
            PageClass.MLOCKED,
            PageClass.PGTABLE,
        },
        OwnerKind.FILE: {PageClass.FILE, PageClass.FILE_LARGE},
        OwnerKind.SHMEM: {PageClass.SHMEM, PageClass.SHMEM_THP},
    }
    owned = frames.owner != NO_OWNER
    for owner in np.unique(frames.owner[owned]).tolist():
        kinds = set(frames.page_class[frames.owner == owner].tolist())
        assert kinds <= kinds_of[owners[owner].kind]
    must = {kind for kinds in kinds_of.values() for kind in kinds} - {PageClass.MLOCKED}
    assert not np.isin(frames.page_class[~owned], list(must)).any()


@some_captures
def test_an_owners_pages_follow_one_another(path):
    frames = describe(f"file:{path}", seed=1).layout.frames
    rows = (frames.owner != NO_OWNER) & (frames.page_class != PageClass.PGTABLE)
    owner, index, nr = frames.owner[rows], frames.index[rows], frames.nr[rows]
    same = owner[1:] == owner[:-1]
    assert (index[1:][same] == (index + nr)[:-1][same]).all()
    assert (index[1:][~same] == 0).all()
    assert not (index & ((1 << frames.order[rows].astype(np.int64)) - 1)).any()


def test_the_seed_decides_all_that_is_drawn():
    source = f"file:{CAPTURES[-1]}"
    assert describe(source, seed=5).digest() == describe(source, seed=5).digest()
    other = describe(source, seed=6)
    assert other.digest() != describe(source, seed=5).digest()
    assert other.buddyinfo() == describe(source, seed=5).buddyinfo()


def test_what_was_read_once_serves_every_draw():
    builder = Builder(read(f"file:{CAPTURES[-1]}"))
    for seed in (5, 6, 5):
        drawn = builder.build(seed=seed)
        assert drawn.digest() == describe(f"file:{CAPTURES[-1]}", seed=seed).digest()


def test_the_bytes_of_a_capture_are_a_description():
    described = describe(f"file:{CAPTURES[-1]}", seed=5)
    again = MachineDescription.from_bytes(described.to_bytes())
    assert again.digest() == described.digest()
    assert any("pagetypeinfo" in sentence for sentence in again.known)
    assert any("per-CPU" in sentence for sentence in again.drawn)


@pytest.mark.parametrize("path", CAPTURES[::13], ids=lambda path: path.name[:8])
def test_the_booted_machine_is_the_captured_one(path):
    decode, sf = decoder()
    snap = sf.Snapshot(str(path))
    machine = open_machine(f"file:{path}", seed=1)
    machine.check()
    rebuilt = by_name(decode.free_by_zone(snap))
    mine = machine.buddyinfo()
    assert {zone: mine[zone] for zone in rebuilt} == rebuilt
    with machine.held() as memory:
        counts = memory.class_counts().astype(int)
    counts[:, PageClass.KERNEL] += counts[:, PageClass.PCP]
    for pfn, mix in decode.pageblocks(snap):
        row = counts[pfn >> 9]
        assert dict(mix) == {
            name: row[kind] for kind, name in enumerate(sf.CLASSES) if row[kind]
        }, f"pageblock at frame {pfn}"
