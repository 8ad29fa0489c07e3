"""What a described machine already runs: its frames laid out, its processes and files in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from contigmm.abi import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
)
from contigmm.description import (
    MAX_PAGE_ORDER,
    UNKNOWN_MIGRATETYPE,
    FrameFlags,
    FrameRuns,
    Layout,
    MachineDescription,
    MigrateType,
    OwnerKind,
    PageClass,
)
from contigmm.mm.fault import anon_vma_prepare
from contigmm.mm.task import Task
from contigmm.phys import Memory, VmaIndex
from contigmm.syscalls.mlock import mlock
from contigmm.syscalls.mmap import mmap

if TYPE_CHECKING:
    from contigmm.sim.state import MachineState

#: Where the memory of a background process begins: 1 GiB aligned, so that few tables map it.
BACKGROUND_BASE: Final = 64 << 30


class BackgroundFile(NamedTuple):
    """A file that came with the description: its id in the page cache, its name and its kind."""

    id: int
    name: str
    is_shmem: bool


def import_layout(
    memory: Memory, description: MachineDescription, layout: Layout, *, split_locked: bool
) -> None:
    """Lay out frames, free lists and per-CPU lists in a freshly booted memory.

    With ``split_locked`` large folios that are locked become pages, as their owners will have them.

    Raises:
        ValueError: the layout is not one of this machine.
    """
    frames = layout.frames
    order = np.minimum(frames.order, MAX_PAGE_ORDER).astype(np.uint8)
    if split_locked:
        order[frames.page_class == PageClass.MLOCKED] = 0
    untold = layout.pageblock_type == UNKNOWN_MIGRATETYPE
    types = np.where(untold, np.uint8(MigrateType.MOVABLE), layout.pageblock_type)
    by_place = sorted(description.zones, key=lambda zone: (zone.node, zone.start_pfn))
    memory.import_frames(
        run_start=frames.start,
        run_nr=frames.nr,
        run_class=frames.page_class,
        run_order=order,
        free_pfn=layout.free.pfn,
        free_order=layout.free.order,
        pageblock_mt=types.astype(np.uint8),
        pcp_pfn=layout.pcp.pfn,
        pcp_order=layout.pcp.order,
        pcp_cpu=layout.pcp.cpu % memory.nr_cpus(),
        pcp_high=[
            (number, cpu, pcp.high)
            for number, zone in enumerate(by_place)
            for cpu, pcp in enumerate(zone.pcp)
            if cpu < memory.nr_cpus()
        ],
    )
    if not split_locked:
        memory.mark_dirty(_dirty_folios(frames))
        for flag in (FrameFlags.MAPPED, FrameFlags.ACTIVE):
            memory.mark_used(_used_folios(frames, flag), active=flag is FrameFlags.ACTIVE)


def _dirty_folios(frames: FrameRuns) -> npt.NDArray[np.uint32]:
    """Return the heads of the large cached folios that are not written back."""
    is_dirty = (frames.flags & FrameFlags.DIRTY != 0) & (frames.order > 0)
    return _heads(frames, is_dirty & (frames.page_class == PageClass.FILE_LARGE))


def _used_folios(frames: FrameRuns, flag: FrameFlags) -> npt.NDArray[np.uint32]:
    """Return the heads of the folios of files with this flag."""
    is_file = np.isin(frames.page_class, (PageClass.FILE, PageClass.FILE_LARGE))
    return _heads(frames, (frames.flags & flag != 0) & is_file)


def _heads(frames: FrameRuns, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Return the first frame of every folio of some rows."""
    rows = np.flatnonzero(chosen)
    order = frames.order[rows].astype(np.int64)
    nr = frames.nr[rows].astype(np.int64) >> order
    before = np.cumsum(nr) - nr
    within = np.arange(int(nr.sum())) - np.repeat(before, nr)
    first = np.repeat(frames.start[rows].astype(np.int64), nr)
    heads: npt.NDArray[np.uint32] = (first + (within << np.repeat(order, nr))).astype(np.uint32)
    return heads


def adopt_background(
    state: MachineState, description: MachineDescription, layout: Layout
) -> tuple[BackgroundFile, ...]:
    """Give imported frames to background processes and files; return the files.

    Each process has its memory in one mapping, in page tables of the capture as far as they go.
    """
    frames = layout.frames
    by_owner = np.lexsort((frames.index, frames.owner))
    owner = frames.owner[by_owner].astype(np.int64)
    bounds = np.searchsorted(owner, np.arange(len(layout.owners) + 1)).tolist()
    files = []
    for number, described in enumerate(layout.owners):
        rows = by_owner[bounds[number] : bounds[number + 1]]
        is_table = frames.page_class[rows] == PageClass.PGTABLE
        pages, tables = rows[~is_table], rows[is_table]
        if described.kind is OwnerKind.PROCESS:
            task = _spawn(state, described.name, number)
            state.memory.adopt_pgtables(task.mm.id, _frames(frames, tables))
            _map_frames(state.memory, task, frames, pages)
        else:
            is_shmem = described.kind is OwnerKind.SHMEM
            file = state.memory.file_create(shmem=is_shmem)
            for first, pfns in _stretches(frames, pages):
                state.memory.cache_adopt(file, index=first, pfns=pfns)
            files.append(BackgroundFile(file, described.name, is_shmem))
    return tuple(files)


def _spawn(state: MachineState, name: str, number: int) -> Task:
    """Start a background process: root's, spread over the CPUs."""
    cpu = number % state.memory.nr_cpus()
    task = Task(
        state.config,
        VmaIndex(),
        pid=state.table.new_pid(),
        caps=frozenset({"CAP_IPC_LOCK"}),
        cpu=cpu,
        node=state.memory.node_of_cpu(cpu) or 0,
    )
    state.table.add(name=name, parent=0, task=task, background=True)
    return task


def _map_frames(memory: Memory, task: Task, frames: FrameRuns, rows: npt.NDArray[np.int64]) -> None:
    """Map the frames of one process: locked ones in a locked mapping of their own."""
    locked = frames.page_class[rows] == PageClass.MLOCKED
    base = BACKGROUND_BASE
    for part, is_locked in ((rows[~locked], False), (rows[locked], True)):
        stretches = _stretches(frames, part)
        if not stretches:
            continue
        first, last = stretches[0][0], stretches[-1][0] + len(stretches[-1][1])
        addr, length = base + first * PAGE_SIZE, (last - first) * PAGE_SIZE
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE
        mmap(task, addr, length, PROT_READ | PROT_WRITE, flags, -1, 0)
        (vma,) = task.mm.vmas_in(addr, addr + length)
        anon_vma_prepare(task.mm, vma)
        for index, pfns in stretches:
            vpn = (base >> PAGE_SHIFT) + index
            done, cause = memory.anon_adopt(mm=task.mm.id, cpu=task.cpu, vpn=vpn, pfns=pfns)
            if done < len(pfns):
                raise ValueError(f"process {task.pid} lacks page tables for its frames: {cause}")
        if is_locked:
            mlock(task, addr, length)


def _frames(frames: FrameRuns, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return the frames of rows, one by one."""
    nr = frames.nr[rows].astype(np.int64)
    before = np.cumsum(nr) - nr
    start = frames.start[rows].astype(np.int64)
    return (np.repeat(start - before, nr) + np.arange(int(nr.sum()))).astype(np.uint32)


def _stretches(
    frames: FrameRuns, rows: npt.NDArray[np.int64]
) -> list[tuple[int, npt.NDArray[np.uint32]]]:
    """Cut rows that stand in order of ``index`` into stretches without a gap: (index, frames)."""
    if not len(rows):
        return []
    index = frames.index[rows].astype(np.int64)
    end = index + frames.nr[rows]
    gaps = np.flatnonzero(index[1:] != end[:-1]) + 1
    return [(int(frames.index[part[0]]), _frames(frames, part)) for part in np.split(rows, gaps)]
