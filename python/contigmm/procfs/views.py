"""Gathers what /proc prints from address spaces and physical memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from contigmm.abi import PAGE_MASK, PAGE_SHIFT, TASK_SIZE, U64_MAX
from contigmm.description import PageClass
from contigmm.mm.flags import VM_EXEC, VM_LOCKED, VM_READ, VM_WRITE, vm_flags_letters
from contigmm.mm.huge import thp_eligible
from contigmm.mm.mm_struct import MmStruct
from contigmm.mm.task import Task
from contigmm.mm.vma import VmArea, may_share_perms, vma_pages
from contigmm.phys import Memory
from contigmm.procfs.meminfo import meminfo as meminfo_numbers
from contigmm.procfs.meminfo import meminfo_text
from contigmm.procfs.process import (
    STATUS_NUMBERS,
    MapsRow,
    SmapsRow,
    maps_text,
    smaps_rollup_text,
    smaps_text,
    statm_text,
    status_text,
)
from contigmm.procfs.zones import (
    MIGRATETYPE_NAMES,
    NR_PAGE_ORDERS,
    PAGEBLOCK_ORDER,
    Pageset,
    ZoneView,
)

if TYPE_CHECKING:
    from contigmm.mm.limits import Overcommit
    from contigmm.phys import ZoneCounters

# Devices of what a mapping may show (ours; docs/fidelity.md): kernel-internal mounts are 0:1 in
# Linux too, disks are whatever the machine has.
_SHMEM_DEVICE: Final = (0, 1)
_DISK_DEVICE: Final = (8, 1)

_ZONE_NAMES: Final = ("DMA", "DMA32", "Normal", "Movable", "Device")


# Classes that a counter counts; evictable pages of no file are inactive (docs/fidelity.md).
_ANON: Final = (PageClass.ANON, PageClass.ANON_THP)
_SHMEM: Final = (PageClass.SHMEM, PageClass.SHMEM_THP)
_FILE: Final = (PageClass.FILE, PageClass.FILE_LARGE)
_ZONE_COUNTERS: Final = {
    "nr_zone_inactive_anon": _ANON + _SHMEM,
    "nr_zone_unevictable": (PageClass.MLOCKED,),
    "nr_mlock": (PageClass.MLOCKED,),
}
_NODE_COUNTERS: Final = {
    "nr_inactive_anon": _ANON + _SHMEM,
    "nr_unevictable": (PageClass.MLOCKED,),
    "nr_slab_unreclaimable": (PageClass.SLAB,),
    "nr_anon_pages": (*_ANON, PageClass.MLOCKED),
    "nr_file_pages": _FILE + _SHMEM,
    "nr_shmem": _SHMEM,
    "nr_page_table_pages": (PageClass.PGTABLE,),
    "nr_anon_transparent_hugepages": (PageClass.ANON_THP,),
    "nr_shmem_hugepages": (PageClass.SHMEM_THP,),
}


# ---- of a process ----


def _perms(vma: VmArea) -> str:
    flags = vma.vm_flags
    return (
        ("r" if flags & VM_READ else "-")
        + ("w" if flags & VM_WRITE else "-")
        + ("x" if flags & VM_EXEC else "-")
        + may_share_perms(flags)
    )


def _maps_row(mm: MmStruct, vma: VmArea) -> MapsRow:
    file = vma.file
    offset, device, inode = 0, (0, 0), 0
    if file is not None and not file.is_special:
        offset = vma.vm_pgoff << PAGE_SHIFT
        device = _SHMEM_DEVICE if file.is_shmem else _DISK_DEVICE
        inode = file.inode.core_id
    return MapsRow(vma.vm_start, vma.vm_end, _perms(vma), offset, *device, inode, mm.name_of(vma))


def maps(task: Task) -> str:
    """Text of /proc/PID/maps."""
    mm = task.mm
    return maps_text(_maps_row(mm, vma) for vma in mm.all_vmas())


def _smaps_numbers(mm: MmStruct, start: int, end: int, locked: int) -> dict[str, int]:
    """Numbers of a range; ``locked`` is the proportional size of its locked pages, in bytes."""
    vpn, nr = start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT
    usage = mm.memory.usage(mm=mm.id, vpn=vpn, nr=nr)
    file = usage["pss"] - usage["pss_anon"] - usage["pss_shmem"]
    kb = {name: size >> 10 for name, size in usage.items()}
    return {
        "Pss_Anon": kb["pss_anon"],
        "Pss_File": file >> 10,
        "Pss_Shmem": kb["pss_shmem"],
        "Rss": kb["rss"],
        "Pss": kb["pss"],
        "Pss_Dirty": kb["pss_dirty"],
        "Shared_Clean": kb["shared_clean"],
        "Shared_Dirty": kb["shared_dirty"],
        "Private_Clean": kb["private_clean"],
        "Private_Dirty": kb["private_dirty"],
        "Referenced": kb["referenced"],
        "Anonymous": kb["anonymous"],
        "LazyFree": kb["lazyfree"],
        "AnonHugePages": kb["anonymous_thp"],
        "ShmemPmdMapped": kb["shmem_thp"],
        "Locked": locked >> 10,
    }


def _locked_bytes(mm: MmStruct, vma: VmArea) -> int:
    """Proportional size of a VMA's pages if it is locked."""
    if not vma.vm_flags & VM_LOCKED:
        return 0
    usage = mm.memory.usage(mm=mm.id, vpn=vma.vm_start >> PAGE_SHIFT, nr=vma_pages(vma))
    return int(usage["pss"])


def smaps(task: Task) -> str:
    """Text of /proc/PID/smaps."""
    mm = task.mm
    return smaps_text(
        SmapsRow(
            _maps_row(mm, vma),
            _smaps_numbers(mm, vma.vm_start, vma.vm_end, _locked_bytes(mm, vma)),
            thp_eligible=thp_eligible(mm, vma),
            vm_flags=vm_flags_letters(vma.vm_flags),
        )
        for vma in mm.all_vmas()
    )


def smaps_rollup(task: Task) -> str:
    """Text of /proc/PID/smaps_rollup: sums over all mappings."""
    mm = task.mm
    vmas = mm.all_vmas()
    rows = [_maps_row(mm, vma) for vma in vmas]
    start, end = (rows[0].start, rows[-1].end) if rows else (0, 0)
    locked = sum(_locked_bytes(mm, vma) for vma in vmas)
    return smaps_rollup_text(rows, _smaps_numbers(mm, start, end, locked))


def meminfo(memory: Memory, overcommit: "Overcommit") -> str:
    """Text of /proc/meminfo."""
    zones, nodes = zone_views(memory), node_stats(memory)
    mapped = memory.user_stat()["nr_mapped"]
    numbers = meminfo_numbers(zones, nodes, overcommit, mapped=mapped)
    numbers["ShmemPmdMapped"] = memory.nr_shmem_pmdmapped() << (PAGE_SHIFT - 10)
    return meminfo_text(numbers)


def status(task: Task) -> dict[str, int]:
    """Memory lines of /proc/PID/status by name, in the kernel's order and in kB."""
    numbers = task.mm.status()
    return {name: numbers.get(name, 0) for name in STATUS_NUMBERS}


def status_lines(task: Task) -> str:
    """Text of the memory lines of /proc/PID/status."""
    return status_text(status(task))


def statm(task: Task) -> str:
    """Text of /proc/PID/statm: task_statm(), fs/proc/task_mmu.c, v6.18."""
    mm = task.mm
    numbers = mm.status()
    text = ((mm.end_code + ~PAGE_MASK & PAGE_MASK) - (mm.start_code & PAGE_MASK)) >> PAGE_SHIFT
    return statm_text(
        size=mm.total_vm,
        resident=numbers["VmRSS"] >> 2,
        shared=(numbers["RssFile"] + numbers["RssShmem"]) >> 2,
        text=text,
        data=mm.data_vm + mm.stack_vm,
    )


def pagemap(task: Task, addr: int, length: int) -> npt.NDArray[np.uint64]:
    """Words of /proc/PID/pagemap for each page that the range touches.

    What lies above the address space reads as nothing, as a short read of the file would.
    """
    start = min(addr & U64_MAX, TASK_SIZE) >> PAGE_SHIFT
    end = (min((addr & U64_MAX) + length, TASK_SIZE) + ~PAGE_MASK) >> PAGE_SHIFT
    words = task.mm.memory.pagemap(mm=task.mm.id, vpn=start, nr=max(0, end - start))
    return np.asarray(words, np.uint64)


# ---- of zones ----


def zone_keys(memory: Memory) -> list[str]:
    """``NODE/ZONE`` of every zone, in the order of the core's arrays."""
    return [f"{zone['node']}/{zone['name']}" for zone in memory.zones()]


def zone_views(memory: Memory) -> list[ZoneView]:
    """What /proc tells of each zone; every node has all zones, empty ones included."""
    by_type = memory.free_by_type().tolist()
    types = memory.pageblock_types()
    zones = memory.zones()
    counts = memory.class_counts()
    views: list[ZoneView] = []
    for node in sorted({zone["node"] for zone in zones}):
        here = {zone["name"]: at for at, zone in enumerate(zones) if zone["node"] == node}
        views.extend(
            _zone_view(zones[here[name]], by_type[here[name]], types, counts)
            if name in here
            else _empty_zone(node, name)
            for name in _ZONE_NAMES
        )
    return views


def node_stats(memory: Memory) -> dict[int, dict[str, int]]:
    """Counters of each node by their names in /proc/zoneinfo, from its frames and their lists."""
    counts = memory.class_counts()
    nodes: dict[int, dict[str, int]] = {}
    for zone in memory.zones():
        frames = _frames_of(zone, counts)
        stats = nodes.setdefault(zone["node"], dict.fromkeys(_NODE_COUNTERS, 0))
        for name, classes in _NODE_COUNTERS.items():
            stats[name] += sum(int(frames[kind]) for kind in classes)
        for name, nr in _file_lists(zone).items():
            stats[name] = stats.get(name, 0) + nr
    return nodes


def _file_lists(zone: "ZoneCounters") -> dict[str, int]:
    """Pages of files by the list of reclaim on which they stand."""
    return {"nr_inactive_file": zone["inactive_file"], "nr_active_file": zone["active_file"]}


def _frames_of(zone: "ZoneCounters", counts: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint64]:
    """Frames of each class in the pageblocks of a zone."""
    start, end = zone["start_pfn"], zone["start_pfn"] + zone["spanned"]
    rows = counts[start >> PAGEBLOCK_ORDER : (end - 1 >> PAGEBLOCK_ORDER) + 1]
    return np.asarray(rows.sum(axis=0, dtype=np.uint64))


def _zone_view(
    zone: "ZoneCounters",
    free_by_type: list[list[int]],
    types: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.uint16],
) -> ZoneView:
    start, end = zone["start_pfn"], zone["start_pfn"] + zone["spanned"]
    here = types[start >> PAGEBLOCK_ORDER : (end - 1 >> PAGEBLOCK_ORDER) + 1]
    boost = zone["watermark_boost"]
    frames = _frames_of(zone, counts)
    whole = sum(
        nr << order
        for blocks in free_by_type
        for order, nr in enumerate(blocks)
        if order >= PAGEBLOCK_ORDER
    )
    return ZoneView(
        node=zone["node"],
        name=zone["name"],
        free_by_type=free_by_type,
        pageblocks_by_type=np.bincount(here, minlength=len(MIGRATETYPE_NAMES)).tolist(),
        free=zone["free"],
        boost=boost,
        marks=(
            zone["watermark_min"] + boost,
            zone["watermark_low"] + boost,
            zone["watermark_high"] + boost,
            zone["watermark_promo"] + boost,
        ),
        spanned=zone["spanned"],
        present=zone["present"],
        managed=zone["managed"],
        cma=zone["cma"],
        protection=[*zone["protection"], zone["protection"][-1]],
        start_pfn=start,
        pagesets=[Pageset(*pcp) for pcp in zone["pcp"]],
        stats={
            "nr_free_pages": zone["free"],
            "nr_free_pages_blocks": whole,
            "nr_free_cma": zone["free_cma"],
            **{
                name: sum(int(frames[kind]) for kind in classes)
                for name, classes in _ZONE_COUNTERS.items()
            },
            "nr_zone_inactive_file": zone["inactive_file"],
            "nr_zone_active_file": zone["active_file"],
            "numa_hit": zone["numa_hit"],
            "numa_miss": zone["numa_miss"],
            "numa_foreign": zone["numa_foreign"],
            "numa_local": zone["numa_local"],
            "numa_other": zone["numa_other"],
        },
    )


def _empty_zone(node: int, name: str) -> ZoneView:
    # __setup_per_zone_wmarks(), mm/page_alloc.c, v6.18: Movable has a floor of 32 pages.
    mark = 32 if name == "Movable" else 0
    return ZoneView(
        node=node,
        name=name,
        free_by_type=[[0] * NR_PAGE_ORDERS for _ in MIGRATETYPE_NAMES],
        pageblocks_by_type=[0] * len(MIGRATETYPE_NAMES),
        free=0,
        boost=0,
        marks=(mark, mark, mark, mark),
        spanned=0,
        present=0,
        managed=0,
        cma=0,
        protection=[0] * len(_ZONE_NAMES),
        start_pfn=0,
        pagesets=[],
    )


def unusable_index(blocks: Sequence[int]) -> list[float]:
    """Share of free memory in blocks below each order, in thousandths over 1000.

    mm/vmstat.c:unusable_free_index(), v6.12, from the free blocks of each order.
    """
    free = sum(nr << order for order, nr in enumerate(blocks))
    if free == 0:
        return [1.0] * NR_PAGE_ORDERS
    index = []
    for order in range(NR_PAGE_ORDERS):
        suitable = sum(nr << at for at, nr in enumerate(blocks) if at >= order)
        index.append((free - suitable) * 1000 // free / 1000)
    return index
