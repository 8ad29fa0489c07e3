"""The marks that hold while a step runs: which folio sizes its recorder enabled decides them.

Each step of a record enables one folio size. While that is the PMD's, khugepaged runs and raises
``min_free_kbytes``; with smaller ones it is what the size of memory gives, 0.29 of that on 24 GiB
(mm/khugepaged.c:set_recommended_min_free_kbytes(), v6.12).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from contigmm.description import MachineDescription, ZoneDescription
from contigmm.hosts import Evidence
from contigmm.phys import Memory
from contigmm.sim.boot import core_spec

if TYPE_CHECKING:
    from contigmm.phys import ZoneCounters

PMD_ORDER: Final = 9


def enable_size(memory: Memory, order: int) -> None:
    """Enable folios of one order only."""
    memory.set_khugepaged(order >= PMD_ORDER)


def with_size_enabled(evidence: Evidence, order: int) -> Evidence:
    """Return what would be told of the zones' limits while folios of one order only are enabled."""
    described = MachineDescription(
        zones=evidence.zones,
        nr_cpus=evidence.nr_cpus,
        settings=evidence.settings,
        kernel=evidence.kernel,
    )
    spec = core_spec(described, seed=0, cpus=None, costs=False)
    memory = Memory.boot(json.dumps(spec, sort_keys=True))
    enable_size(memory, order)
    limits = {(int(zone["node"]), str(zone["name"])): zone for zone in memory.zones()}
    return replace(
        evidence,
        zones=tuple(_limited(zone, limits[zone.node, zone.name]) for zone in evidence.zones),
    )


def _limited(zone: ZoneDescription, limits: ZoneCounters) -> ZoneDescription:
    """Return a zone with the marks and the limits of its lists that a machine has."""
    lists = tuple(
        replace(told, batch=int(batch), high_min=int(high_min), high_max=int(high_max))
        for told, (_, _, batch, high_min, high_max) in zip(zone.pcp, limits["pcp"], strict=False)
    )
    return replace(
        zone,
        watermark_min=int(limits["watermark_min"]),
        watermark_low=int(limits["watermark_low"]),
        watermark_high=int(limits["watermark_high"]),
        watermark_promo=int(limits["watermark_promo"]),
        pcp=lists,
    )
