"""Machines by name, freshly booted: ``spec:NAME``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from contigmm.description import MachineDescription, ZoneDescription
from contigmm.hosts.source_error import SourceError

_MIB: Final = 256
_GIB: Final = 1024 * _MIB
#: x86-64: ZONE_DMA ends at 16 MiB, ZONE_DMA32 at 4 GiB, arch/x86/mm/init.c:zone_sizes_init() v6.12.
_DMA_END: Final = 16 * _MIB
_DMA32_END: Final = 4 * _GIB
#: Below 4 GiB a PC has its devices: from here on there is no memory.
_HOLE_AT: Final = 3 * _GIB
_RESERVED_DMA: Final = 256  # the first MiB: firmware


@dataclass(frozen=True, slots=True)
class _Spec:
    frames_a_node: int
    nodes: int
    cpus: int


SPECS: Final = {
    "small": _Spec(256 * _MIB, 1, 2),
    "medium": _Spec(4 * _GIB, 1, 4),
    "numa": _Spec(4 * _GIB, 2, 8),
    "large": _Spec(64 * _GIB, 1, 16),
    "huge": _Spec(1024 * _GIB, 1, 64),
}


def spec(name: str, *, seed: int) -> MachineDescription:
    """Return the machine of that name.

    Raises:
        SourceError: there is none.
    """
    if name not in SPECS:
        raise SourceError(
            f"there is no such machine; there are {', '.join(SPECS)}.", name=f"spec:{name}"
        )
    chosen = SPECS[name]
    zones: list[ZoneDescription] = []
    at = 0
    for node in range(chosen.nodes):
        of_node, at = _node_zones(node, at, chosen.frames_a_node)
        zones += of_node
    per_node = chosen.cpus // chosen.nodes
    distances = [[10 if a == b else 21 for b in range(chosen.nodes)] for a in range(chosen.nodes)]
    return MachineDescription(
        zones=tuple(zones),
        nr_cpus=chosen.cpus,
        cpu_nodes=tuple(cpu // per_node for cpu in range(chosen.cpus)),
        distances=tuple(tuple(row) for row in distances),
        origin=f"spec:{name}",
        known=("zones and CPUs (built in)", "all managed frames are free"),
        seed=seed,
    )


def _node_zones(node: int, start: int, nr_frames: int) -> tuple[list[ZoneDescription], int]:
    """Return the zones of one node that has ``nr_frames`` from ``start`` on, and its end."""
    zones, at, left = [], start, nr_frames
    for name, end in (("DMA", _DMA_END), ("DMA32", _DMA32_END)):
        if at >= end or not left:
            continue
        present = min(left, min(end, _HOLE_AT) - at)
        spanned = end - at if present < left else present
        reserved = _RESERVED_DMA if name == "DMA" else 0
        zones.append(_zone(node, name, (at, spanned, present), reserved))
        at, left = at + spanned, left - present
    if left:
        zones.append(_zone(node, "Normal", (at, left, left), 0))
        at += left
    return zones, at


def _zone(node: int, name: str, span: tuple[int, int, int], reserved: int) -> ZoneDescription:
    start, spanned, present = span
    missing = spanned - present
    return ZoneDescription(
        node=node,
        name=name,
        start_pfn=start,
        spanned=spanned,
        present=present,
        managed=present - reserved,
        holes=((start + present, missing),) if missing else (),
    )
