"""The parsers read what the kernel prints, and refuse anything else with one sentence."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contigmm.description import MigrateType
from contigmm.hosts.proc_text import (
    MIGRATETYPE_NAMES,
    parse_buddyinfo,
    parse_meminfo,
    parse_pagetypeinfo,
    parse_system_ram,
    parse_vmstat,
    parse_zoneinfo,
)
from contigmm.hosts.source_error import SourceError
from contigmm.procfs import zones as text

GOLDEN = Path(__file__).with_name("golden")


def golden(name):
    return (GOLDEN / name).read_text()


def test_golden_texts_agree_with_one_another():
    buddy = parse_buddyinfo(golden("buddyinfo"), name="b")
    zones = {(z.node, z.name): z for z in parse_zoneinfo(golden("zoneinfo"), name="z")}
    types = parse_pagetypeinfo(golden("pagetypeinfo"), name="p")
    assert set(buddy) == set(zones) == {(0, "DMA"), (0, "DMA32"), (0, "Normal")}
    assert set(types.blocks) == set(zones)
    for key in ((0, "DMA"), (0, "DMA32")):  # these stood still
        by_order = zip(*types.free[key].values(), strict=True)
        assert [sum(counts) for counts in by_order] == buddy[key]
        assert sum(types.blocks[key].values()) == -(-zones[key].present // 512)
    assert zones[0, "DMA32"].holes == ()
    assert zones[0, "DMA32"].present == 782336
    assert zones[0, "DMA"].protection[0] == 0
    assert [len(zone.pcp) for zone in zones.values()] == [2, 2, 2]
    assert parse_system_ram(golden("iomem"), name="i") == (
        (1, 159),
        (256, 786432),
        (1048576, 6553600),
    )
    assert parse_meminfo(golden("meminfo"), name="m")["MemTotal"] > 24_000_000


def zone_view(*, node, name, free_by_type, blocks, pagesets):
    return text.ZoneView(
        node=node,
        name=name,
        free_by_type=free_by_type,
        pageblocks_by_type=blocks,
        free=7,
        boost=3,
        marks=(11, 22, 33, 44),
        spanned=4095,
        present=4000,
        managed=3900,
        cma=5,
        protection=(0, 1, 2),
        start_pfn=17,
        pagesets=pagesets,
    )


counts = st.lists(st.integers(0, 200_000), min_size=11, max_size=11)
views = st.builds(
    zone_view,
    node=st.integers(0, 9),
    name=st.sampled_from(["DMA", "DMA32", "Normal", "Movable"]),
    free_by_type=st.lists(counts, min_size=6, max_size=6),
    blocks=st.lists(st.integers(0, 10**6), min_size=6, max_size=6),
    pagesets=st.lists(
        st.builds(
            text.Pageset,
            count=st.integers(0, 10**6),
            high=st.integers(0, 10**6),
            batch=st.integers(1, 63),
            high_min=st.integers(0, 10**6),
            high_max=st.integers(0, 10**6),
        ),
        max_size=4,
    ),
)


@given(st.lists(views, min_size=1, max_size=4, unique_by=lambda view: (view.node, view.name)))
def test_what_is_printed_is_read_back(zones):
    buddy = parse_buddyinfo(text.buddyinfo(zones), name="b")
    assert buddy == {(zone.node, zone.name): zone.free_blocks() for zone in zones}
    types = parse_pagetypeinfo(text.pagetypeinfo(zones, cma_configured=True), name="p")
    told = parse_zoneinfo(text.zoneinfo(zones, {z.node: {} for z in zones}), name="z")
    for zone, read in zip(zones, told, strict=True):
        key = (zone.node, zone.name)
        for kind in MigrateType:
            capped = [min(count, 100_000) for count in zone.free_by_type[kind]]
            assert types.free[key][kind] == capped
            assert types.blocks[key][kind] == zone.pageblocks_by_type[kind]
            for order, count in enumerate(zone.free_by_type[kind]):
                assert ((key, kind, order) in types.capped) == (count >= 100_000)
        assert (read.node, read.name, read.start_pfn) == (zone.node, zone.name, 17)
        assert (read.spanned, read.present, read.managed, read.cma) == (4095, 4000, 3900, 5)
        assert (read.watermark_min, read.watermark_promo, read.watermark_boost) == (11, 44, 3)
        assert read.protection == (0, 1, 2)
        assert [(p.count, p.high, p.batch, p.high_min, p.high_max) for p in read.pcp] == [
            (p.count, p.high, p.batch, p.high_min, p.high_max) for p in zone.pagesets
        ]


BUDDY_LINE = "Node 0, zone   Normal   1 2 3 4 5 6 7 8 9 10 11\n"


@pytest.mark.parametrize(
    ("parse", "body", "sentence"),
    [
        (parse_buddyinfo, "", "^f: no zone"),
        (parse_buddyinfo, "hello\n", "^f:1: 'hello' is no zone's line"),
        (parse_buddyinfo, BUDDY_LINE + BUDDY_LINE, "^f:2: zone Normal of node 0 again"),
        (parse_buddyinfo, BUDDY_LINE.replace(" 7 ", " x7 "), "^f:1: 'x7' is no number"),
        (parse_buddyinfo, BUDDY_LINE.replace(" 7 ", " -7 "), "^f:1: '-7' is no number"),
        (parse_buddyinfo, BUDDY_LINE.replace(" 7 ", f" {10**30} "), "^f:1: .* too large"),
        (parse_buddyinfo, BUDDY_LINE.strip() + " 12\n", "^f:1: zone Normal has 12 orders"),
        (parse_buddyinfo, "Node 0, zone Normal\n", "^f:1: zone Normal has 0 orders"),
        (parse_pagetypeinfo, "", "^f: it lacks the table"),
        (parse_pagetypeinfo, "Node 0, zone DMA, type Odd 1 2\n", "^f:1: .* 'Odd'"),
        (
            parse_pagetypeinfo,
            "Number of blocks type Movable Unmovable\nNode 0, zone DMA 1\n",
            "^f:2: 1 counts under 2 types",
        ),
        (parse_zoneinfo, "", "^f: no zone that spans"),
        (parse_zoneinfo, "Node 0, zone DMA\n spanned 5\n present 5\n", "lacks start_pfn"),
        (parse_zoneinfo, "Node 0, zone DMA\n spanned five\n", "^f:2: 'five'"),
        (parse_zoneinfo, "Node 0, zone DMA\n protection: (0, ?)\n", "^f:2: '\\?'"),
        (parse_meminfo, "", "^f: it is empty"),
        (parse_meminfo, "MemTotal 5\n", "^f:1: 'MemTotal 5'"),
        (parse_vmstat, "nr_free_pages\n", "^f:1: 'nr_free_pages'"),
        (parse_system_ram, "zz-ff : System RAM\n", "^f:1: 'zz-ff"),
    ],
)
def test_bad_texts_are_refused_with_file_and_line(parse, body, sentence):
    with pytest.raises(SourceError, match=sentence):
        parse(body, name="f")


PARSERS = (parse_buddyinfo, parse_pagetypeinfo, parse_zoneinfo, parse_meminfo, parse_system_ram)
LINES = [line for path in sorted(GOLDEN.iterdir()) for line in path.read_text().splitlines()]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=30), max_size=30))
def test_no_text_does_anything_but_parse_or_be_refused(lines):
    for parse in PARSERS:
        with contextlib.suppress(SourceError):
            parse("\n".join(lines), name="f")


@given(st.sampled_from(["buddyinfo", "zoneinfo", "pagetypeinfo", "iomem"]), st.data())
def test_a_spoiled_text_parses_or_is_refused(name, data):
    body = golden(name)
    at = data.draw(st.integers(0, len(body)))
    body = body[:at] + data.draw(st.text(max_size=4)) + body[at + data.draw(st.integers(0, 9)) :]
    for parse in PARSERS:
        with contextlib.suppress(SourceError):
            parse(body, name="f")


def test_every_migratetype_name_has_a_number():
    assert set(MIGRATETYPE_NAMES.values()) == set(MigrateType)
