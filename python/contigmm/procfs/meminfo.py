"""/proc/meminfo, byte for byte as Linux v6.18 prints it on x86-64.

fs/proc/meminfo.c: meminfo_proc_show(). What nothing here keeps is printed as 0 (docs/fidelity.md).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from contigmm.procfs.zones import ZoneView

if TYPE_CHECKING:
    from contigmm.mm.limits import Overcommit

_PAGE_KB: Final = 4
# arch/x86/include/asm/pgtable_64_types.h, v6.18: 32 TiB less one byte.
_VMALLOC_TOTAL_KB: Final = 34_359_738_367
_HUGEPAGE_KB: Final = 2048

MEMINFO_LABELS: Final = (
    "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive",
    "Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked",
    "SwapTotal", "SwapFree", "Zswap", "Zswapped", "Dirty", "Writeback", "AnonPages", "Mapped",
    "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables",
    "SecPageTables", "NFS_Unstable", "Bounce", "WritebackTmp", "CommitLimit", "Committed_AS",
    "VmallocTotal", "VmallocUsed", "VmallocChunk", "Percpu", "AnonHugePages", "ShmemHugePages",
    "ShmemPmdMapped", "FileHugePages", "FilePmdMapped", "Balloon", "HugePages_Total",
    "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp", "Hugepagesize", "Hugetlb", "DirectMap4k",
    "DirectMap2M", "DirectMap1G",
)  # fmt: skip
"""Lines in the kernel's order (x86-64 with zswap, THP, hugetlb and balloon; no CMA)."""

#: Lines that count huge pages, and so have no unit.
_COUNTS: Final = frozenset(label for label in MEMINFO_LABELS if label.startswith("HugePages_"))
#: Counters of nodes in pages, by the line that shows them.
_OF_NODES: Final = {
    "Active(anon)": "nr_active_anon",
    "Inactive(anon)": "nr_inactive_anon",
    "Active(file)": "nr_active_file",
    "Inactive(file)": "nr_inactive_file",
    "Unevictable": "nr_unevictable",
    "AnonPages": "nr_anon_pages",
    "Shmem": "nr_shmem",
    "SReclaimable": "nr_slab_reclaimable",
    "SUnreclaim": "nr_slab_unreclaimable",
    "PageTables": "nr_page_table_pages",
    "AnonHugePages": "nr_anon_transparent_hugepages",
    "ShmemHugePages": "nr_shmem_hugepages",
}


def meminfo_text(numbers: Mapping[str, int]) -> str:
    """Text of /proc/meminfo from kB, or huge pages, by label; what is missing is 0."""
    return "".join(
        f"{label + ':':<16s}{numbers.get(label, 0):8d}{'' if label in _COUNTS else ' kB'}\n"
        for label in MEMINFO_LABELS
    )


def meminfo(
    zones: Sequence[ZoneView],
    nodes: Mapping[int, Mapping[str, int]],
    overcommit: "Overcommit",
    *,
    mapped: int,
) -> dict[str, int]:
    """Numbers of /proc/meminfo by label, in kB, from the counters of zones and nodes.

    ``mapped``: frames of the page cache that somebody maps.
    """

    def of_nodes(name: str) -> int:
        return sum(node.get(name, 0) for node in nodes.values())

    pages = {label: of_nodes(name) for label, name in _OF_NODES.items()}
    pages["Mapped"] = mapped
    pages["MemTotal"] = sum(zone.managed for zone in zones)
    pages["MemFree"] = sum(zone.free for zone in zones)
    pages["MemAvailable"] = available_pages(zones, pages)
    pages["Cached"] = of_nodes("nr_file_pages")  # no buffers, and no swap
    pages["Active"] = pages["Active(anon)"] + pages["Active(file)"]
    pages["Inactive"] = pages["Inactive(anon)"] + pages["Inactive(file)"]
    pages["Mlocked"] = sum(zone.stats.get("nr_mlock", 0) for zone in zones)
    pages["KReclaimable"] = pages["SReclaimable"]
    pages["Slab"] = pages["SReclaimable"] + pages["SUnreclaim"]
    pages["CommitLimit"] = overcommit.commit_limit()
    pages["Committed_AS"] = overcommit.committed
    numbers = {label: count * _PAGE_KB for label, count in pages.items()}
    numbers["VmallocTotal"] = _VMALLOC_TOTAL_KB
    numbers["Hugepagesize"] = _HUGEPAGE_KB
    return numbers


def available_pages(zones: Sequence[ZoneView], pages: Mapping[str, int]) -> int:
    """What a new program could have without swapping: si_mem_available(), mm/show_mem.c, v6.18.

    Half of what could be reclaimed is kept, or the low marks if they are less.
    """
    low = sum(zone.marks[1] for zone in zones if zone.present)
    free = pages["MemFree"] - sum(map(_reserve, zones))
    cache = pages["Active(file)"] + pages["Inactive(file)"]
    slab = pages["SReclaimable"]
    kept = min(cache // 2, low) + min(slab // 2, low)
    return max(0, free + cache + slab - kept)


def _reserve(zone: ZoneView) -> int:
    """Pages of a zone that are not for user space: calculate_totalreserve_pages(), v6.18."""
    return min(max(zone.protection) + zone.marks[2], zone.managed)
