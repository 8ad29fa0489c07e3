"""Forced replay: what reached the real buddy lists is asked of simulated ones.

The simulated machine begins as the capture before the run tells. Each refill, drain, direct
allocation and direct free of the recording is asked of the zone that was asked, and the simulated
allocator chooses the blocks. It sees opaque handles, orders and the migratetypes asked for; not
which frames the real kernel chose, what type their pageblocks had, nor when it fell back.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from contigmm.description import MachineDescription, MigrateType
from contigmm.hosts import build
from contigmm.hosts.kmem import U8, U32, KmemEvent
from contigmm.phys import KmemReplay
from contigmm.replay.recording import FreeCounts, Recording
from contigmm.replay.reporting import reported_blocks
from contigmm.sim.boot import boot_memory

if TYPE_CHECKING:
    from contigmm.phys import Replayed

#: Orders whose blocks go to per-CPU lists when freed: mm/page_alloc.c:pcp_allowed_order(), v6.12.
PCP_ORDERS: Final = (0, 1, 2, 3, 9)


class Step(enum.IntEnum):
    """What an event is to the core: ``Step``, rust/core/src/kmem_replay.rs."""

    REFILL = 0
    TAKE = 1
    DRAIN = 2
    GIVE = 3
    ALLOC = 4
    FREE = 5


@dataclass(frozen=True, slots=True, eq=False)
class BuddyEvents:
    """Events as the core takes them, one row each."""

    step: U8
    cpu: U8
    zone: U8
    order: U8
    migratetype: U8
    handle: U32


@dataclass(frozen=True, slots=True)
class ForcedRun:
    """One replay: how it ended, and what was come upon."""

    free: FreeCounts
    by_type: dict[str, list[list[int]]]
    seconds: float
    taken: int
    silent: int
    missing: int
    unknown_frees: int
    claims: int
    steals: int


def buddy_events(recording: Recording) -> BuddyEvents:
    """Return what reached the free lists, and who used blocks, between the two captures."""
    trace = recording.trace
    rows = np.flatnonzero(recording.seen() & (trace.type != KmemEvent.EXTFRAG))
    rows = rows[trace.type[rows] != KmemEvent.BATCHED]
    kind, order = trace.type[rows], trace.order[rows]
    step = np.full(len(rows), Step.FREE, np.uint8)
    step[kind == KmemEvent.LOCKED] = Step.TAKE
    step[(kind == KmemEvent.LOCKED) & trace.refill[rows]] = Step.REFILL
    step[kind == KmemEvent.DRAIN] = Step.DRAIN
    step[kind == KmemEvent.ALLOC] = Step.ALLOC
    step[(kind == KmemEvent.FREE) & ~np.isin(order, PCP_ORDERS)] = Step.GIVE
    handle = trace.pfn[rows]
    zone = np.full(len(rows), 255, np.uint8)
    for number, one in enumerate(recording.zones):
        zone[(handle >= one.start_pfn) & (handle < one.end_pfn)] = number
    asking = np.isin(step, (Step.REFILL, Step.TAKE, Step.ALLOC))
    asked = np.where(asking, trace.migratetype[rows], 0)
    known = zone != 255
    return BuddyEvents(
        step[known],
        trace.cpu[rows][known],
        zone[known],
        order[known],
        asked[known].astype(np.uint8),
        handle[known],
    )


def run_forced(recording: Recording, events: BuddyEvents, *, seed: int) -> ForcedRun:
    """Replay once; what the capture does not tell is drawn from ``seed``."""
    return _run(build(recording.before, seed=seed), recording, events, seed)


def run_type_blind(recording: Recording, events: BuddyEvents, *, seed: int) -> ForcedRun:
    """Replay on an allocator that knows no migratetypes: the baseline that types must beat."""
    described = type_blind(build(recording.before, seed=seed))
    blind = replace(events, migratetype=np.full_like(events.migratetype, MigrateType.MOVABLE))
    return _run(described, recording, blind, seed)


def type_blind(described: MachineDescription) -> MachineDescription:
    """Return a machine whose pageblocks are all of one type."""
    if described.layout is None:
        return described
    free = replace(
        described.layout.free,
        migratetype=np.full_like(described.layout.free.migratetype, MigrateType.MOVABLE),
    )
    types = np.full_like(described.layout.pageblock_type, MigrateType.MOVABLE)
    return replace(described, layout=replace(described.layout, pageblock_type=types, free=free))


def _returns(recording: Recording, seed: int) -> BuddyEvents:
    """Return the blocks that page reporting gives back first, as events."""
    blocks = reported_blocks(recording.before, recording.zones, seed=seed)
    nr = len(blocks.pfn)
    zeros = np.zeros(nr, np.uint8)
    step = np.full(nr, Step.GIVE, np.uint8)
    return BuddyEvents(step, zeros, blocks.zone, blocks.order, zeros, blocks.pfn.astype(np.uint32))


def _run(
    description: MachineDescription, recording: Recording, events: BuddyEvents, seed: int
) -> ForcedRun:
    memory = boot_memory(description, seed=0, cpus=None, costs=False)
    memory.set_direct_reclaim(False)  # what the recorded kernel moved is in the record
    replay = KmemReplay(memory)
    _apply(replay, _returns(recording, seed))
    begun = time.perf_counter()
    found = _apply(replay, events)
    seconds = time.perf_counter() - begun
    keys = [zone.key for zone in recording.zones]
    by_type = zip(keys, memory.free_by_type(), strict=False)
    return ForcedRun(
        free={
            key: [int(nr) for nr in row] for key, row in zip(keys, memory.buddyinfo(), strict=False)
        },
        by_type={key: [[int(nr) for nr in row] for row in rows] for key, rows in by_type},
        seconds=seconds,
        **found,
    )


def _apply(replay: KmemReplay, events: BuddyEvents) -> Replayed:
    return replay.run(
        step=events.step,
        cpu=events.cpu,
        zone=events.zone,
        order=events.order,
        migratetype=events.migratetype,
        handle=events.handle,
    )
