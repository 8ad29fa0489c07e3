"""Zone texts: what the kernel printed, read and printed again, is the same bytes.

``golden/``: /proc of a 6.18.44 x86-64 kernel (2 CPUs, 24 GiB), 2026-11-23.
"""

import re
from pathlib import Path

import pytest

from contigmm.procfs import counters, zones
from contigmm.procfs.counters import NODE_STATS
from contigmm.procfs.zones import MIGRATETYPE_NAMES, NR_PAGE_ORDERS, Pageset, ZoneView

GOLDEN = Path(__file__).parent / "golden"
_HPAGE_STATS = {n for n in NODE_STATS if n.endswith(("hugepages", "pmdmapped"))}


def read_zoneinfo(text):
    """Give (zones, node stats); free lists and pageblocks are not in this file."""
    zones, nodes = [], {}
    for part in re.split(r"(?m)^(?=Node)", text)[1:]:
        node, name = re.match(r"Node (\d+), zone +(\S+)", part).groups()
        pairs = re.findall(r"(?m)^ +(\w+) +(\d+)$", part)
        numbers = {key: int(value) for key, value in pairs}
        numbers["free"] = int(re.search(r"pages free +(\d+)", part).group(1))
        if "per-node" in part:
            nodes[int(node)] = {
                key: numbers[key] * (512 if key in _HPAGE_STATS else 1) for key in NODE_STATS
            }
        pagesets = re.findall(
            r"cpu: \d+\s+count: +(\d+)\s+high: +(\d+)\s+batch: +(\d+)"
            r"\s+high_min: (\d+)\s+high_max: (\d+)",
            part,
        )
        start_pfn = re.search(r"start_pfn: +(\d+)", part)
        unreclaimable = re.search(r"node_unreclaimable: +(\d+)", part)
        zones.append(
            ZoneView(
                node=int(node),
                name=name,
                free_by_type=[[0] * NR_PAGE_ORDERS for _ in MIGRATETYPE_NAMES],
                pageblocks_by_type=[0] * len(MIGRATETYPE_NAMES),
                free=numbers["free"],
                boost=numbers["boost"],
                marks=tuple(numbers[mark] for mark in ("min", "low", "high", "promo")),
                spanned=numbers["spanned"],
                present=numbers["present"],
                managed=numbers["managed"],
                cma=numbers["cma"],
                protection=[int(n) for n in re.search(r"\((.*)\)", part).group(1).split(",")],
                start_pfn=int(start_pfn.group(1)) if start_pfn else 0,
                pagesets=[Pageset(*map(int, row)) for row in pagesets],
                stats=numbers,
                node_unreclaimable=int(unreclaimable.group(1)) if unreclaimable else 0,
            )
        )
    return zones, nodes


def add_pagetypeinfo(zones, text):
    """Fill free lists and pageblocks of ``zones`` from /proc/pagetypeinfo."""
    by_name = {(zone.node, zone.name): zone for zone in zones}
    for node, name, kind, counts in re.findall(
        r"(?m)^Node +(\d+), zone +(\S+), type +(\S+) (.*)$", text
    ):
        index = MIGRATETYPE_NAMES.index(kind)
        blocks = [int(n.lstrip(">")) for n in counts.split()]
        by_name[int(node), name].free_by_type[index][:] = blocks
    kinds = []
    for line in text.splitlines():
        if line.startswith("Number of blocks type"):
            kinds = [MIGRATETYPE_NAMES.index(kind) for kind in line.split()[4:]]
        elif kinds and (row := re.match(r"Node (\d+), zone +(\S+) (.*)$", line)):
            zone = by_name[int(row.group(1)), row.group(2)]
            for kind, blocks in zip(kinds, row.group(3).split(), strict=True):
                zone.pageblocks_by_type[kind] = int(blocks)


def golden(name):
    return (GOLDEN / f"6.18.44-{name}.txt").read_text()


def texts(source):
    """Yield the four texts as the kernel wrote them, one after the other."""
    if source == "golden":
        return {n: golden(n) for n in ("zoneinfo", "pagetypeinfo", "vmstat")}
    text = Path("/proc/vmstat")
    if not text.exists() or "nr_free_pages_blocks" not in text.read_text():
        pytest.skip("this host's kernel is older than 6.15: its counters differ")
    if not Path("/proc/pagetypeinfo").exists():
        pytest.skip("this host has no /proc/pagetypeinfo")
    return {n: Path("/proc", n).read_text() for n in ("zoneinfo", "pagetypeinfo", "vmstat")}


@pytest.fixture(params=["golden", "running kernel"])
def source(request):
    return texts(request.param)


def test_zoneinfo_is_the_kernels_byte_for_byte(source):
    views, nodes = read_zoneinfo(source["zoneinfo"])
    assert zones.zoneinfo(views, nodes) == source["zoneinfo"]


def test_pagetypeinfo_is_the_kernels_byte_for_byte(source):
    views, _ = read_zoneinfo(source["zoneinfo"])
    add_pagetypeinfo(views, source["pagetypeinfo"])
    assert zones.pagetypeinfo(views) == source["pagetypeinfo"]


def test_buddyinfo_is_the_kernels_byte_for_byte():
    text = golden("buddyinfo")
    views, _ = read_zoneinfo(golden("zoneinfo"))
    for view, line in zip(views, text.splitlines(), strict=False):
        view.free_by_type[1][:] = [int(n) for n in line.split()[4:]]
    assert zones.buddyinfo(views) == text


def test_vmstat_has_the_kernels_lines_in_its_order(source):
    views, nodes = read_zoneinfo(source["zoneinfo"])
    lines = dict(line.split() for line in source["vmstat"].splitlines())
    events = {name: int(lines[name]) for name in (*counters.MACHINE_STATS, *counters.VM_EVENTS)}
    ours = [line.split()[0] for line in zones.vmstat(views, nodes, events).splitlines()]
    assert ours == list(lines)


def test_vmstat_prints_the_golden_numbers():
    """Of counters that no time passed between the two golden files for."""
    views, nodes = read_zoneinfo(golden("zoneinfo"))
    events = dict(line.split() for line in golden("vmstat").splitlines())
    ours = zones.vmstat(views, nodes, {n: int(v) for n, v in events.items()})
    same = set(ours.splitlines()) & set(golden("vmstat").splitlines())
    assert len(same) >= 150
    assert f"nr_free_cma {events['nr_free_cma']}" in same


def test_a_count_above_100000_is_cut_as_the_kernel_cuts_it():
    views, _ = read_zoneinfo(golden("zoneinfo"))
    views[0].free_by_type[1][0] = 100_001
    assert " >100000 " in zones.pagetypeinfo(views)
    views[0].free_by_type[1][0] = 99_999
    assert " 99999 " in zones.pagetypeinfo(views)


def test_thresholds_are_those_that_the_kernel_printed():
    for zone, threshold in zip(read_zoneinfo(golden("zoneinfo"))[0], (4, 24, 24), strict=False):
        assert zones.stat_threshold(managed=zone.managed, cpus=2) == threshold
