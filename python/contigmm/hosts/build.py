"""From evidence to a description: what was told is kept, what was not is inferred or drawn."""

from __future__ import annotations

import numpy as np

from contigmm.description import (
    NO_OWNER,
    PAGEBLOCK_ORDER,
    UNKNOWN_MIGRATETYPE,
    DescriptionError,
    FreeBlocks,
    Layout,
    MachineDescription,
    MigrateType,
    PageClass,
)
from contigmm.hosts.draft import Draft, Subject, stream
from contigmm.hosts.evidence import Evidence
from contigmm.hosts.from_counts import draft_from_counts
from contigmm.hosts.from_flags import read_flags
from contigmm.hosts.owners import Ownership, draw_owners
from contigmm.hosts.pcp import draw_pcp, without
from contigmm.hosts.source_error import SourceError


class Builder:
    """Completes what a source told about a machine, a seed a draw; what is told is read once."""

    def __init__(self, evidence: Evidence) -> None:
        """Read what was told.

        Raises:
            SourceError: it contradicts itself.
        """
        self._evidence = evidence
        self._flags = read_flags(evidence) if evidence.page_flags is not None else None

    def build(self, *, seed: int) -> MachineDescription:
        """Return one draw.

        Raises:
            SourceError: what was told contradicts itself.
        """
        try:
            if self._flags is None:
                return _finish(draft_from_counts(self._evidence, seed), seed)
            return _finish(self._flags.draft(seed), seed)
        except DescriptionError as error:
            raise SourceError(str(error), name=self._evidence.origin) from error


def build(evidence: Evidence, *, seed: int) -> MachineDescription:
    """Complete what a source told about a machine.

    Raises:
        SourceError: what it told contradicts itself.
    """
    return Builder(evidence).build(seed=seed)


def _finish(draft: Draft, seed: int) -> MachineDescription:
    """Draw what no source tells: pages on per-CPU lists, owners, the order of lists."""
    evidence, types = draft.evidence, draft.types
    pcp, short = draw_pcp(draft.used, evidence.zones, types, stream(seed, Subject.PCP))
    owned = draw_owners(without(draft.used, pcp), stream(seed, Subject.OWNERS))
    listed = stream(seed, Subject.LIST_ORDER).permutation(len(draft.pfn))
    pfn, order = draft.pfn[listed], draft.order[listed]
    told = types[pfn >> PAGEBLOCK_ORDER]
    free_types = np.where(told == UNKNOWN_MIGRATETYPE, MigrateType.MOVABLE, told)
    layout = Layout(
        frames=owned.frames,
        free=FreeBlocks(pfn.astype(np.uint32), order, free_types.astype(np.uint8)),
        pcp=pcp,
        pageblock_type=types,
        owners=owned.owners,
    )
    nodes = sorted({zone.node for zone in evidence.zones})
    nr_cpus = evidence.nr_cpus
    described = MachineDescription(
        zones=evidence.zones,
        nr_cpus=nr_cpus,
        cpu_nodes=tuple(nodes[cpu * len(nodes) // nr_cpus] for cpu in range(nr_cpus)),
        distances=tuple(tuple(10 if a == b else 20 for b in nodes) for a in nodes),
        settings=evidence.settings,
        origin=evidence.origin,
        kernel=evidence.kernel,
        layout=layout,
        known=draft.known,
        drawn=(*draft.drawn, *_drawn(owned, short)),
        seed=seed,
    )
    described.check()
    return described


def _drawn(owned: Ownership, short: int) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for owner in owned.owners:
        counts[owner.kind] = counts.get(owner.kind, 0) + 1
    groups = ", ".join(f"{count} of kind {kind}" for kind, count in counts.items())
    drawn = [
        "the order of the blocks in each free list",
        "which frames are on per-CPU lists, and in which order"
        + (f"; no frame was left for {short} of them" if short else ""),
        f"which frame belongs to which background process or file ({groups}), and where in it",
    ]
    if owned.unbacked:
        drawn.append(f"{owned.unbacked} anonymous frames have no owner: too few page tables told")
    ownerless = owned.frames.owner == NO_OWNER
    locked = ownerless & (owned.frames.page_class == PageClass.MLOCKED)
    if locked.any():
        nr_locked = int(owned.frames.nr[locked].sum())
        drawn.append(f"{nr_locked} locked frames that are not anonymous have no owner")
    return tuple(drawn)
