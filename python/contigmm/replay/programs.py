"""Free replay: what programs asked of a real kernel is asked of the whole simulated one.

The simulated machine begins as the capture before the run tells. It is given the requests and the
frees of the recording's programs, with order, gfp flags and CPU, and nothing of what the real
kernel made of them: not its refills and drains, not its fallbacks, not which frames it chose, and
not what kswapd and kcompactd freed. These are simulated.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    MAX_PAGE_ORDER,
    FrameFlags,
    MachineDescription,
    PageClass,
    ZoneDescription,
)
from contigmm.hosts import Builder
from contigmm.hosts.draft import Subject, stream
from contigmm.hosts.kmem import U8, U32, KmemEvent
from contigmm.phys import ProgramReplay
from contigmm.phys.gfp import GFP
from contigmm.replay.forced import type_blind
from contigmm.replay.recording import FreeCounts, Recording
from contigmm.replay.reporting import reported_blocks
from contigmm.sim.boot import boot_memory

if TYPE_CHECKING:
    from contigmm.phys import Played

#: Threads that free pages to make room, one of each a node: mm/vmscan.c:kswapd_run(),
#: mm/compaction.c:kcompactd_run(), v6.12. Their frees are the kernel's own work. All others' are
#: programs', RCU callbacks in ksoftirqd and work in kworkers included.
MAKERS_OF_ROOM: Final = ("kswapd", "kcompactd")

_MOBILITY: Final = GFP["__GFP_MOVABLE"] | GFP["__GFP_RECLAIMABLE"]
#: The chance that the entries of a mapped folio on the inactive list are young.
_YOUNG: Final = 0.5

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class ProgramRequests:
    """Requests and frees as the core takes them, one row each."""

    alloc: U8
    cpu: U8
    order: U8
    gfp: U32
    handle: U32
    at_ns: U64


@dataclass(frozen=True, slots=True)
class FreeRun:
    """One draw: how it ended, how long the core took, and what was come upon."""

    free: FreeCounts
    by_type: dict[str, list[list[int]]]
    seconds: float
    played: Played


def program_requests(recording: Recording) -> ProgramRequests:
    """Return what programs asked and gave back between the two captures."""
    trace = recording.trace
    makers = np.array([comm.startswith(MAKERS_OF_ROOM) for comm in (*trace.comms, "")], bool)
    by_makers = makers[np.minimum(trace.task, len(makers) - 1)]
    is_request = (trace.type == KmemEvent.ALLOC) | (trace.type == KmemEvent.FREE) & ~by_makers
    handle = trace.pfn
    nr_frames = max((zone.end_pfn for zone in recording.zones), default=0)
    rows = np.flatnonzero(is_request & recording.seen() & (handle < nr_frames))
    begin = int(trace.t_ns[0]) if trace.nr_events else 0
    return ProgramRequests(
        alloc=(trace.type[rows] == KmemEvent.ALLOC).astype(np.uint8),
        cpu=trace.cpu[rows],
        order=trace.order[rows],
        gfp=trace.gfp[rows],
        handle=handle[rows],
        at_ns=(trace.t_ns[rows] - begin).astype(np.uint64),
    )


class FreeReplay:
    """A recording, ready to be replayed with any seed."""

    def __init__(self, recording: Recording) -> None:
        """Read what the capture before the run tells.

        Raises:
            SourceError: it contradicts itself.
        """
        evidence = recording.before
        told = evidence.zones_after or evidence.zones
        zones = tuple(unboosted(zone) for zone in told)
        settings = {**evidence.settings, "background_reclaim": 1}
        self._recording = recording
        self._builder = Builder(replace(evidence, zones=zones, settings=settings))
        by_place = sorted(told, key=lambda zone: (zone.node, zone.start_pfn))
        self._boosts = [zone.watermark_boost or 0 for zone in by_place]
        self._begin_ns = int(recording.trace.t_ns[0]) if recording.trace.nr_events else 0
        nodes = max((zone.node for zone in zones), default=0) + 1
        self._hopeless = [node in evidence.unreclaimable for node in range(nodes)]
        self.requests = program_requests(recording)

    def run(self, *, seed: int) -> FreeRun:
        """Replay once; what the recording does not tell is drawn from ``seed``."""
        return self._run(self._builder.build(seed=seed), self.requests, seed)

    def run_type_blind(self, *, seed: int) -> FreeRun:
        """Replay on a kernel that knows no migratetypes and makes no room: a baseline."""
        described = type_blind(self._builder.build(seed=seed))
        settings = {**described.settings, "background_reclaim": 0, "direct_reclaim": 0}
        gfp = self.requests.gfp & ~np.uint32(_MOBILITY) | np.uint32(GFP["__GFP_MOVABLE"])
        requests = replace(self.requests, gfp=gfp)
        return self._run(replace(described, settings=settings), requests, seed)

    def _run(
        self, description: MachineDescription, requests: ProgramRequests, seed: int
    ) -> FreeRun:
        memory = boot_memory(description, seed=seed, cpus=None, costs=False)
        inactive, young = inactive_folios(description, seed=seed)
        replay = ProgramReplay(
            memory,
            boosts=self._boosts,
            hopeless=self._hopeless,
            inactive=inactive,
            young=young,
            at_ns=self._begin_ns,
            seed=seed,
        )
        _apply(replay, self._returns(seed))
        begun = time.perf_counter()
        played = _apply(replay, requests)
        seconds = time.perf_counter() - begun
        keys = [zone.key for zone in self._recording.zones]
        rows = zip(keys, memory.buddyinfo(), strict=False)
        by_type = zip(keys, memory.free_by_type(), strict=False)
        return FreeRun(
            free={key: [int(nr) for nr in row] for key, row in rows},
            by_type={key: [[int(nr) for nr in row] for row in each] for key, each in by_type},
            seconds=seconds,
            played=played,
        )

    def _returns(self, seed: int) -> ProgramRequests:
        """Return the frees of the blocks that page reporting held while the scan went by."""
        blocks = reported_blocks(self._recording.before, self._recording.zones, seed=seed)
        nr = len(blocks.pfn)
        none = np.zeros(nr, np.uint8)
        return ProgramRequests(
            alloc=none,
            cpu=none,
            order=blocks.order,
            gfp=np.zeros(nr, np.uint32),
            handle=blocks.pfn.astype(np.uint32),
            at_ns=np.zeros(nr, np.uint64),
        )


def inactive_folios(description: MachineDescription, *, seed: int) -> tuple[list[int], list[bool]]:
    """Return the mapped large folios of files on the inactive list, and which of them are young.

    Whether the entries that map a folio were used is told by no capture, and decides whether
    reclaim keeps it: mm/vmscan.c:folio_check_references(), v6.12. It is drawn with even chance, and
    alike for two folios that make up a block of the largest order, which stand on the list
    together.
    """
    if description.layout is None:
        return [], []
    frames = description.layout.frames
    mapped = frames.flags & (FrameFlags.MAPPED | FrameFlags.ACTIVE) == FrameFlags.MAPPED
    rows = np.flatnonzero(mapped & (frames.page_class == PageClass.FILE_LARGE) & (frames.order > 0))
    sizes = np.int64(1) << frames.order[rows].astype(np.int64)
    counts = frames.nr[rows].astype(np.int64) // sizes
    first = np.cumsum(counts) - counts
    within = np.arange(int(counts.sum())) - np.repeat(first, counts)
    heads = np.repeat(frames.start[rows].astype(np.int64), counts) + within * np.repeat(
        sizes, counts
    )
    blocks, of_block = np.unique(heads >> MAX_PAGE_ORDER, return_inverse=True)
    young = stream(seed, Subject.YOUNG).random(len(blocks)) < _YOUNG
    return heads.tolist(), young[of_block].tolist()


def unboosted(zone: ZoneDescription) -> ZoneDescription:
    """Return the zone with the marks that it has without a boost.

    /proc/zoneinfo shows ``wmark_pages()``, boost included: include/linux/mmzone.h, v6.12.
    """
    boost = zone.watermark_boost or 0
    marks = (zone.watermark_min, zone.watermark_low, zone.watermark_high, zone.watermark_promo)
    low, *others = (None if mark is None else mark - boost for mark in marks)
    return replace(
        zone,
        watermark_min=low,
        watermark_low=others[0],
        watermark_high=others[1],
        watermark_promo=others[2],
    )


def _apply(replay: ProgramReplay, requests: ProgramRequests) -> Played:
    return replay.run(
        alloc=requests.alloc,
        cpu=requests.cpu,
        order=requests.order,
        gfp=requests.gfp,
        handle=requests.handle,
        at_ns=requests.at_ns,
    )
