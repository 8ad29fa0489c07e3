"""From a description to physical memory."""

import json
import re
from fnmatch import fnmatchcase
from typing import Any

from contigmm.description import MachineDescription, ZoneDescription
from contigmm.phys import Memory, default_costs
from contigmm.sim.background import import_layout
from contigmm.sim.costs import costs_of


def core_spec(
    description: MachineDescription, *, seed: int, cpus: int | None, costs: bool
) -> dict[str, Any]:
    """Write what the core boots from: ``BootSpec``, rust/core/src/boot.rs.

    ``costs``: whether steps take simulated time by themselves.
    """
    nr_cpus = description.nr_cpus if cpus is None else cpus
    settings = description.settings
    spec: dict[str, Any] = {
        "seed": seed,
        "nr_cpus": nr_cpus,
        "zones": [_zone_spec(zone) for zone in description.zones],
    }
    if description.cpu_nodes and nr_cpus == description.nr_cpus:
        spec["cpu_nodes"] = list(description.cpu_nodes)
    if description.distances:
        spec["distances"] = [list(row) for row in description.distances]
    for name in ("min_free_kbytes", "watermark_scale_factor", "watermark_boost_factor"):
        if name in settings:
            spec[name] = int(settings[name])
    if "transparent_hugepage" in settings:
        spec["thp"] = settings["transparent_hugepage"] != "never"
    if "direct_reclaim" in settings:
        spec["direct_reclaim"] = bool(settings["direct_reclaim"])
    if settings.get("background_reclaim"):
        proactiveness = int(settings.get("compaction_proactiveness", _PROACTIVENESS))
        spec["background"] = {"proactiveness": proactiveness}
    pcp: dict[str, Any] = dict(_pcp_rules(description.kernel))
    if settings.get("percpu_pagelist_high_fraction"):
        pcp["high_fraction"] = int(settings["percpu_pagelist_high_fraction"])
    if pcp:
        spec["pcp"] = pcp
    if costs:
        spec["costs"] = costs_of(settings)
    else:
        spec["costs"] = dict.fromkeys(default_costs(), 0)
    return spec


#: ``sysctl_compaction_proactiveness``, mm/compaction.c, v6.12.
_PROACTIVENESS = 20


def _pcp_rules(kernel: str) -> dict[str, bool]:
    """Return the rules of per-CPU lists in which a kernel differs from v6.12."""
    rules = {
        "free_high_half_min": release_of(kernel) >= _FREE_HIGH_HALF_MIN,
        "below_high_by_frames": fnmatchcase(kernel, _BELOW_HIGH_BY_FRAMES),
    }
    return {name: True for name, holds in rules.items() if holds}


#: Kernels on which a zone without a block of the order asked for does not count as below its high
#: mark as long as it has the frames: seen in their records (docs/supply.md), in no source.
_BELOW_HIGH_BY_FRAMES = "*6.18.*-fc-*"
#: Since then runs of frees of orders 1 to 3 empty a CPU's list only after half of ``high_min`` and
#: a batch: mm/page_alloc.c:free_frozen_page_commit(), v6.16.
_FREE_HIGH_HALF_MIN = (6, 16)
_RELEASE = re.compile(r"(\d+)\.(\d+)")


def release_of(kernel: str) -> tuple[int, int]:
    """Return the version and patch level of a release like ``6.18.44-fc``; (0, 0) if it has none.

    ``kernel`` may be the first words of /proc/version too.
    """
    found = _RELEASE.search(kernel)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _zone_spec(zone: ZoneDescription) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "node": zone.node,
        "kind": zone.name,
        "start_pfn": zone.start_pfn,
        "spanned": zone.spanned,
        "managed": zone.managed,
    }
    if zone.holes:
        spec["holes"] = [list(hole) for hole in zone.holes]
    if zone.watermark_min is not None:
        spec["watermarks"] = {
            "min": zone.watermark_min,
            "low": zone.watermark_low,
            "high": zone.watermark_high,
            "promo": zone.watermark_promo,
        }
    limits = zone.pcp[0] if zone.pcp else None
    if limits is not None and limits.high_min is not None and limits.high_max is not None:
        spec["pcp_limits"] = {
            "batch": limits.batch,
            "high_min": limits.high_min,
            "high_max": limits.high_max,
        }
    if zone.protection is not None:
        spec["lowmem_reserve"] = list(zone.protection[:4])
    return spec


def boot_memory(
    description: MachineDescription,
    *,
    seed: int,
    cpus: int | None,
    costs: bool,
    split_locked: bool = False,
) -> Memory:
    """Boot the core and lay out what the description says is in use.

    ``split_locked``: frames will be given owners, which have locked folios page by page.
    """
    spec = core_spec(description, seed=seed, cpus=cpus, costs=costs)
    memory = Memory.boot(json.dumps(spec, sort_keys=True))
    if description.layout is not None:
        import_layout(memory, description, description.layout, split_locked=split_locked)
    return memory
