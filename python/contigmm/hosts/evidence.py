"""What a source told about a machine, before anything is inferred or drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from contigmm.description import ZONE_NAMES, ZoneDescription
from contigmm.hosts.proc_text import (
    PageTypeInfo,
    ZoneKey,
    parse_buddyinfo,
    parse_meminfo,
    parse_pagetypeinfo,
    parse_system_ram,
    parse_unreclaimable,
    parse_zoneinfo,
)
from contigmm.hosts.rle import WordRuns
from contigmm.hosts.scan_clock import ScanClock
from contigmm.hosts.source_error import SourceError


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All readings of one machine.

    ``types`` are the readings of /proc/pagetypeinfo (none: not told; two: around a scan);
    ``page_flags`` has the word of each frame, from frame 0 on, ``scan`` tells when
    each was read, ``buddyinfo_after`` the free lists just after, ``zones_after`` the zones,
    ``unreclaimable`` the nodes where kswapd had given up.
    """

    origin: str
    zones: tuple[ZoneDescription, ...]
    zones_told: bool
    buddyinfo: dict[ZoneKey, list[int]]
    types: tuple[PageTypeInfo, ...] = ()
    page_flags: WordRuns | None = None
    system_ram: tuple[tuple[int, int], ...] = ()
    meminfo: dict[str, int] = field(default_factory=dict)
    nr_cpus: int = 1
    kernel: str = ""
    settings: dict[str, int | str] = field(default_factory=dict)
    scan: ScanClock | None = None
    buddyinfo_after: dict[ZoneKey, list[int]] = field(default_factory=dict)
    zones_after: tuple[ZoneDescription, ...] = ()
    unreclaimable: frozenset[int] = frozenset()


#: Settings that decide how memory is handed out, by the name that a description has for them.
_SETTINGS = {
    "/proc/sys/vm/min_free_kbytes": "min_free_kbytes",
    "/proc/sys/vm/lowmem_reserve_ratio": "lowmem_reserve_ratio",
    "/proc/sys/vm/watermark_scale_factor": "watermark_scale_factor",
    "/proc/sys/vm/watermark_boost_factor": "watermark_boost_factor",
    "/proc/sys/vm/percpu_pagelist_high_fraction": "percpu_pagelist_high_fraction",
    "/proc/sys/vm/extfrag_threshold": "extfrag_threshold",
    "/proc/sys/vm/compaction_proactiveness": "compaction_proactiveness",
    "/proc/sys/vm/compact_unevictable_allowed": "compact_unevictable_allowed",
    "/proc/sys/vm/defrag_mode": "defrag_mode",
    "/proc/sys/vm/swappiness": "swappiness",
    "/proc/sys/vm/overcommit_memory": "overcommit_memory",
    "/proc/sys/vm/overcommit_ratio": "overcommit_ratio",
    "/proc/sys/vm/overcommit_kbytes": "overcommit_kbytes",
    "/proc/sys/vm/max_map_count": "max_map_count",
    "/proc/sys/vm/mmap_min_addr": "mmap_min_addr",
    "/sys/kernel/mm/transparent_hugepage/enabled": "transparent_hugepage",
    "/sys/kernel/mm/transparent_hugepage/defrag": "transparent_hugepage_defrag",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled": "transparent_hugepage_shmem",
}
SETTING_PATHS = tuple(_SETTINGS)


def settings_of(found: Mapping[str, object]) -> dict[str, int | str]:
    """Keep the settings that matter, numbers as such, of a choice the ``[chosen]`` word."""
    out: dict[str, int | str] = {}
    for path, name in _SETTINGS.items():
        text = str(found.get(path, "")).strip()
        chosen = re.search(r"\[(\S+)\]", text)
        if chosen is not None:
            text = chosen[1]
        if text:
            out[name] = int(text) if text.isascii() and text.isdecimal() else " ".join(text.split())
    return out


def from_texts(
    texts: Mapping[str, str],
    *,
    origin: str,
    name_of: Mapping[str, str],
    page_flags: WordRuns | None = None,
    found_settings: Mapping[str, object] | None = None,
    nr_cpus: int = 0,
    kernel: str = "",
) -> Evidence:
    """Parse /proc texts, by name; ``NAME.before`` and ``NAME.after`` are readings around a scan.

    Raises:
        SourceError: one is malformed, or free lists or zones are missing.
    """

    def named(name: str) -> str:
        return name_of.get(name, name)

    def first(name: str) -> str:
        for key in (name, f"{name}.before"):
            if readable(texts.get(key, "")):
                return key
        return ""

    buddy = first("buddyinfo")
    if not buddy:
        raise SourceError("it has no buddyinfo, so nothing is known of free blocks.", name=origin)
    buddyinfo = parse_buddyinfo(texts[buddy], name=named(buddy))
    zones_from, memory = first("zoneinfo"), first("meminfo")
    zones: tuple[ZoneDescription, ...] = ()
    if zones_from:
        zones = parse_zoneinfo(texts[zones_from], name=named(zones_from))
        zones = _known_zones(zones, named(zones_from))
        _hold_against(zones, buddyinfo, named(buddy))
    types = tuple(
        parse_pagetypeinfo(texts[key], name=named(key))
        for key in ("pagetypeinfo", "pagetypeinfo.before", "pagetypeinfo.after")
        if readable(texts.get(key, ""))
    )
    ram = texts.get("iomem", "")
    return Evidence(
        origin=origin,
        zones=zones,
        zones_told=bool(zones),
        buddyinfo=buddyinfo,
        types=types,
        page_flags=page_flags,
        system_ram=parse_system_ram(ram, name=named("iomem")) if readable(ram) else (),
        meminfo=parse_meminfo(texts[memory], name=named(memory)) if memory else {},
        nr_cpus=nr_cpus or max((len(zone.pcp) for zone in zones), default=1) or 1,
        kernel=kernel or _release(texts.get("version", "")),
        settings=settings_of(found_settings or {}),
        buddyinfo_after=_buddyinfo_after(texts, named("buddyinfo.after")),
        zones_after=_zones_after(texts, named("zoneinfo.after")),
        unreclaimable=parse_unreclaimable(texts.get(zones_from, "")),
    )


def _buddyinfo_after(texts: Mapping[str, str], name: str) -> dict[ZoneKey, list[int]]:
    text = texts.get("buddyinfo.after", "")
    return parse_buddyinfo(text, name=name) if readable(text) else {}


def _zones_after(texts: Mapping[str, str], name: str) -> tuple[ZoneDescription, ...]:
    text = texts.get("zoneinfo.after", "")
    return _known_zones(parse_zoneinfo(text, name=name), name) if readable(text) else ()


def readable(text: str) -> bool:
    """Tell whether this is a text and not the note that it could not be read."""
    return bool(text.strip()) and not text.startswith("!unreadable")


def _release(version: str) -> str:
    words = version.split()
    return words[2] if words[:2] == ["Linux", "version"] and len(words) > 2 else ""


def _known_zones(zones: tuple[ZoneDescription, ...], name: str) -> tuple[ZoneDescription, ...]:
    """Leave device memory out; refuse zones that the allocator does not have."""
    kept = tuple(zone for zone in zones if zone.name != "Device")
    for zone in kept:
        if zone.name not in ZONE_NAMES:
            raise SourceError(f"zone {zone.name} of a 32-bit machine is not simulated.", name=name)
    if not kept:
        raise SourceError("no zone that the allocator has is in it.", name=name)
    return kept


def _hold_against(
    zones: tuple[ZoneDescription, ...], buddyinfo: dict[ZoneKey, list[int]], name: str
) -> None:
    by_key = {(zone.node, zone.name): zone for zone in zones}
    for key, counts in buddyinfo.items():
        free = sum(count << order for order, count in enumerate(counts))
        if key not in by_key and free:
            raise SourceError(f"zone {key[1]} of node {key[0]} is not in zoneinfo.", name=name)
        if key in by_key and free > by_key[key].spanned:
            raise SourceError(f"zone {key[1]} has more free frames than it spans.", name=name)
