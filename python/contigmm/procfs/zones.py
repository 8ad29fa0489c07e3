"""/proc/buddyinfo, pagetypeinfo, zoneinfo and vmstat, byte for byte as Linux v6.18 prints them.

mm/vmstat.c: frag_show(), pagetypeinfo_show(), zoneinfo_show(), vmstat_show(). A counter that
nothing here keeps is printed as 0 (docs/fidelity.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from contigmm.procfs.counters import (
    MACHINE_STATS,
    NODE_STATS,
    NUMA_EVENTS,
    VM_EVENTS,
    ZONE_STATS,
)

NR_PAGE_ORDERS: Final = 11  # include/linux/mmzone.h, v6.18
PAGEBLOCK_ORDER: Final = 9  # include/linux/pageblock-flags.h, v6.18, x86-64
# mm/show_mem.c:migratetype_names, v6.18; a row is printed for CMA if it is configured.
MIGRATETYPE_NAMES: Final = (
    "Unmovable",
    "Movable",
    "Reclaimable",
    "HighAtomic",
    "CMA",
    "Isolate",
)
MIGRATE_CMA: Final = 4
_MOST_COUNTED: Final = 100_000  # pagetypeinfo_showfree_print() stops there
_HPAGE_PMD_NR: Final = 512
# include/linux/vmstat.h:vmstat_item_print_in_thp(), v6.18: kept in pages, printed in huge pages.
_PRINTED_IN_THP: Final = frozenset(
    {
        "nr_anon_transparent_hugepages",
        "nr_file_hugepages",
        "nr_shmem_hugepages",
        "nr_shmem_pmdmapped",
        "nr_file_pmdmapped",
    }
)


@dataclass(slots=True, frozen=True)
class Pageset:
    """The lists of one CPU in one zone: ``struct per_cpu_pages``, in pages."""

    count: int
    high: int
    batch: int
    high_min: int
    high_max: int


@dataclass(slots=True, frozen=True)
class ZoneView:
    """What /proc tells of one zone, in pages."""

    node: int
    name: str
    free_by_type: Sequence[Sequence[int]]  # [migratetype][order] -> blocks
    pageblocks_by_type: Sequence[int]
    free: int
    boost: int
    marks: tuple[int, int, int, int]  # min, low, high, promo; the boost included
    spanned: int
    present: int
    managed: int
    cma: int
    protection: Sequence[int]
    start_pfn: int
    pagesets: Sequence[Pageset]
    stats: Mapping[str, int] = field(default_factory=dict)  # ZONE_STATS and NUMA_EVENTS
    node_unreclaimable: int = 0

    def free_blocks(self) -> list[int]:
        """Free blocks of each order, whatever their type."""
        return [sum(blocks) for blocks in zip(*self.free_by_type, strict=True)]


def buddyinfo(zones: Iterable[ZoneView]) -> str:
    """Text of /proc/buddyinfo: frag_show_print()."""
    return "".join(
        _zone_prefix(zone) + "".join(f"{blocks:6d} " for blocks in zone.free_blocks()) + "\n"
        for zone in zones
        if zone.present
    )


def pagetypeinfo(zones: Sequence[ZoneView], *, cma_configured: bool = False) -> str:
    """Text of /proc/pagetypeinfo: pagetypeinfo_show() of each node.

    A count of more than 100,000 blocks is cut to ``>100000``, as the kernel stops counting there.
    """
    types = [t for t in range(len(MIGRATETYPE_NAMES)) if t != MIGRATE_CMA or cma_configured]
    lines = []
    for node in sorted({zone.node for zone in zones if zone.present}):
        here = [zone for zone in zones if zone.node == node and zone.present]
        lines.append(f"Page block order: {PAGEBLOCK_ORDER}\n")
        lines.append(f"Pages per block:  {1 << PAGEBLOCK_ORDER}\n\n")
        orders = "".join(f"{order:6d} " for order in range(NR_PAGE_ORDERS))
        lines.append(f"{'Free pages count per migrate type at order':<43s} {orders}\n")
        for zone in here:
            for kind in types:
                counts = "".join(_counted(blocks) for blocks in zone.free_by_type[kind])
                lines.append(
                    f"Node {zone.node:4d}, zone {zone.name:>8s}, "
                    f"type {MIGRATETYPE_NAMES[kind]:>12s} {counts}\n"
                )
        names = "".join(f"{MIGRATETYPE_NAMES[kind]:>12s} " for kind in types)
        lines.append(f"\n{'Number of blocks type ':<23s}{names}\n")
        lines.extend(
            _zone_prefix(zone)
            + "".join(f"{zone.pageblocks_by_type[kind]:12d} " for kind in types)
            + "\n"
            for zone in here
        )
    return "".join(lines)


def zoneinfo(zones: Sequence[ZoneView], nodes: Mapping[int, Mapping[str, int]]) -> str:
    """Text of /proc/zoneinfo: zoneinfo_show_print() of every zone, populated or not.

    ``nodes`` holds the counters of each node by name, in pages.
    """
    lines: list[str] = []
    for zone in zones:
        lines.append(f"Node {zone.node}, zone {zone.name:>8s}")
        if zone is next((z for z in zones if z.node == zone.node and z.present), None):
            lines.append("  per-node stats")
            lines.extend(f"      {n:<12s} {v}" for n, v in _node_stats(nodes[zone.node]))
        lines.extend(_zone_marks(zone))
        if zone.present:
            lines.extend(_zone_counters(zone))
    return "".join(line + "\n" for line in lines)


def vmstat(
    zones: Iterable[ZoneView],
    nodes: Mapping[int, Mapping[str, int]],
    events: Mapping[str, int],
) -> str:
    """Text of /proc/vmstat: sums over zones and nodes, then the machine's events."""
    views = list(zones)
    lines = [
        f"{name} {sum(zone.stats.get(name, 0) for zone in views)}"
        for name in (*ZONE_STATS, *NUMA_EVENTS)
    ]
    summed = {name: sum(node.get(name, 0) for node in nodes.values()) for name in NODE_STATS}
    lines.extend(f"{name} {value}" for name, value in _node_stats(summed))
    lines.extend(f"{name} {events.get(name, 0)}" for name in (*MACHINE_STATS, *VM_EVENTS))
    lines.append("nr_unstable 0")
    return "".join(line + "\n" for line in lines)


def stat_threshold(*, managed: int, cpus: int) -> int:
    """Per-CPU drift that a counter of a zone may have: calculate_normal_threshold(), v6.18."""
    mem_128m = managed >> (27 - 12)
    return min(125, 2 * cpus.bit_length() * (1 + mem_128m.bit_length()))


def _zone_prefix(zone: ZoneView) -> str:
    return f"Node {zone.node}, zone {zone.name:>8s} "


def _counted(blocks: int) -> str:
    return f">{_MOST_COUNTED:6d} " if blocks >= _MOST_COUNTED else f"{blocks:6d} "


def _node_stats(stats: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    for name in NODE_STATS:
        pages = stats.get(name, 0)
        yield name, pages // _HPAGE_PMD_NR if name in _PRINTED_IN_THP else pages


def _zone_marks(zone: ZoneView) -> list[str]:
    low_marks = zip(("min", "low", "high", "promo"), zone.marks, strict=True)
    rows = [
        ("boost", zone.boost),
        *low_marks,
        ("spanned", zone.spanned),
        ("present", zone.present),
        ("managed", zone.managed),
        ("cma", zone.cma),
    ]
    return [
        f"  pages free     {zone.free}",
        *(f"        {name:<8s} {pages}" for name, pages in rows),
        f"        protection: ({', '.join(str(pages) for pages in zone.protection)})",
    ]


def _zone_counters(zone: ZoneView) -> list[str]:
    lines = [f"      {n:<12s} {zone.stats.get(n, 0)}" for n in (*ZONE_STATS, *NUMA_EVENTS)]
    lines.append("  pagesets")
    threshold = stat_threshold(managed=zone.managed, cpus=len(zone.pagesets))
    for cpu, pageset in enumerate(zone.pagesets):
        lines.extend(
            (
                f"    cpu: {cpu}",
                f"              count:    {pageset.count}",
                f"              high:     {pageset.high}",
                f"              batch:    {pageset.batch}",
                f"              high_min: {pageset.high_min}",
                f"              high_max: {pageset.high_max}",
                f"  vm stats threshold: {threshold}",
            )
        )
    lines.append(f"  node_unreclaimable:  {zone.node_unreclaimable}")
    lines.append(f"  start_pfn:           {zone.start_pfn}")
    return lines
