"""What views show of a machine, taken within one turn of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contigmm import procfs
from contigmm.description import PageClass
from contigmm.mm.task import Task
from contigmm.sim.machine import Machine
from contigmm.v1 import view_pb2 as pb
from contigmm_server.codec import PAGE_SHIFT

PAGE_BYTES: Final = 1 << PAGE_SHIFT
ENTRY_BYTES: Final = 8
RUN_BYTES: Final = 13  # one row of frame_runs
BLOCK_BYTES: Final = 6  # one row of free_blocks
CLASS_NAMES: Final = tuple(kind.name.lower() for kind in PageClass)
_TASK_END: Final = 1 << 47


def _zoneinfo(machine: Machine) -> str:
    with machine.held() as memory:
        return procfs.zoneinfo(procfs.zone_views(memory), procfs.node_stats(memory))


def _vmstat(machine: Machine) -> str:
    with machine.held() as memory:
        zones, nodes = procfs.zone_views(memory), procfs.node_stats(memory)
        return procfs.vmstat(zones, nodes, memory.vmstat())


PROCESS_FILES: Final[dict[int, Callable[[Task], str]]] = {
    pb.PROCESS_FILE_MAPS: procfs.maps,
    pb.PROCESS_FILE_SMAPS: procfs.smaps,
    pb.PROCESS_FILE_STATUS: procfs.status_lines,
    pb.PROCESS_FILE_SMAPS_ROLLUP: procfs.smaps_rollup,
}
MACHINE_FILES: Final[dict[int, Callable[[Machine], str]]] = {
    pb.MACHINE_FILE_BUDDYINFO: lambda machine: procfs.buddyinfo(machine.zones()),
    pb.MACHINE_FILE_PAGETYPEINFO: lambda machine: procfs.pagetypeinfo(machine.zones()),
    pb.MACHINE_FILE_ZONEINFO: _zoneinfo,
    pb.MACHINE_FILE_VMSTAT: _vmstat,
    pb.MACHINE_FILE_MEMINFO: Machine.meminfo,
}


@dataclass(slots=True, frozen=True)
class Stretch:
    """Pagemap entries of neighbouring pages of one process."""

    process: int
    address: int
    entries: bytes


def pagemaps(
    machine: Machine, processes: Sequence[int], address: int, length: int
) -> list[Stretch]:
    """Pagemaps of the mapped ranges of ``processes``, of all spawned ones if none is named."""
    with machine.held():
        end = address + length if length else _TASK_END
        found = []
        for process in processes or _spawned(machine):
            if not machine.is_alive(process):
                continue
            task = machine.entry(process).task
            for vma in task.mm.vmas_in(address, end):
                first = max(vma.vm_start, address & -PAGE_BYTES)
                entries = procfs.pagemap(task, first, min(vma.vm_end, end) - first)
                found.append(Stretch(process, first, entries.astype("<u8").tobytes()))
        return found


def _spawned(machine: Machine) -> list[int]:
    return [p.id for p in machine.processes() if not machine.entry(p.id).background]


@dataclass(slots=True, frozen=True)
class Runs:
    """Runs of frames of one class that cache one file, or none."""

    first: npt.NDArray[np.uint32]
    count: npt.NDArray[np.uint32]
    frame_class: npt.NDArray[np.uint8]
    file: npt.NDArray[np.uint32]


def frame_runs(machine: Machine) -> Runs:
    """What every frame is, holes left out."""
    with machine.held() as memory:
        classes, files = memory.frame_classes(), memory.frame_files()
    starts = np.concatenate(
        [[0], np.flatnonzero((np.diff(classes) != 0) | (np.diff(files) != 0)) + 1]
    )
    count = np.diff(starts, append=len(classes))
    kinds = classes[starts]
    present = kinds != PageClass.NOPAGE
    return Runs(
        starts[present].astype("<u4"),
        count[present].astype("<u4"),
        kinds[present].astype("u1"),
        files[starts[present]].astype("<u4"),
    )


def free_blocks(machine: Machine) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """First frames, orders and migratetypes of the free blocks, in list order."""
    with machine.held() as memory:
        pfn, order, migratetype = memory.free_blocks()
    return pfn.astype("<u4"), order.astype("u1"), migratetype.astype("u1")


def buddyinfo(machine: Machine) -> list[pb.ZoneBuddyinfo]:
    """Free blocks and the unusable index by zone and order."""
    unusable = machine.unusable_index()
    return [
        pb.ZoneBuddyinfo(zone=zone, free_blocks=counts, unusable_index=unusable[zone])
        for zone, counts in machine.buddyinfo().items()
    ]


def zone_counters(machine: Machine) -> list[pb.ZoneCounters]:
    """Counters of each zone."""
    return [
        pb.ZoneCounters(
            zone=f"{zone.node}/{zone.name}",
            counters={
                "nr_free_pages": zone.free,
                "boost": zone.boost,
                "min": zone.marks[0],
                "low": zone.marks[1],
                "high": zone.marks[2],
                "promo": zone.marks[3],
                "spanned": zone.spanned,
                "present": zone.present,
                "managed": zone.managed,
                "cma": zone.cma,
                "pcp": sum(pageset.count for pageset in zone.pagesets),
                **zone.stats,
            },
        )
        for zone in machine.zones()
    ]
