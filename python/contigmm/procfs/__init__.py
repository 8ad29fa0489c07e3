"""The kernel's /proc text, byte for byte: of processes and of zones.

``zones`` and ``process`` print plain rows; ``views`` gathers the rows from a simulated machine.
"""

from contigmm.procfs.views import (
    maps,
    node_stats,
    pagemap,
    smaps,
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
    "node_stats",
    "pagemap",
    "pagetypeinfo",
    "smaps",
    "statm",
    "status",
    "status_lines",
    "unusable_index",
    "vmstat",
    "zone_keys",
    "zone_views",
    "zoneinfo",
]
