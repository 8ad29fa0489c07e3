"""The kernel's /proc text, byte for byte: of processes, of zones, of memory.

``zones``, ``process`` and ``meminfo`` print plain rows; ``views`` gathers the rows from a
simulated machine.
"""

from contigmm.procfs.views import (
    maps,
    meminfo,
    node_stats,
    pagemap,
    smaps,
    smaps_rollup,
    statm,
    status,
    status_lines,
    unusable_index,
    zone_keys,
    zone_views,
)
from contigmm.procfs.zones import ZoneView, buddyinfo, pagetypeinfo, vmstat, zoneinfo

__all__ = [
    "ZoneView",
    "buddyinfo",
    "maps",
    "meminfo",
    "node_stats",
    "pagemap",
    "pagetypeinfo",
    "smaps",
    "smaps_rollup",
    "statm",
    "status",
    "status_lines",
    "unusable_index",
    "vmstat",
    "zone_keys",
    "zone_views",
    "zoneinfo",
]
