"""Parsers of the /proc texts that tell about physical memory.

Each takes the text and the name that an error shall give it. A line that cannot be what it should
be raises `SourceError`; a line of a kind that is not needed is passed over. Formats as printed by
mm/vmstat.c (``frag_show_print``, ``pagetypeinfo_show*``, ``zoneinfo_show_print``), v6.12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from contigmm.description import MigrateType, PcpDescription, ZoneDescription
from contigmm.hosts.source_error import SourceError

ZoneKey = tuple[int, str]

#: Names that ``migratetype_names[]`` had in v2.6 … v6.18, mm/page_alloc.c.
MIGRATETYPE_NAMES: Final = {
    "Unmovable": MigrateType.UNMOVABLE,
    "Movable": MigrateType.MOVABLE,
    "Reclaimable": MigrateType.RECLAIMABLE,
    "HighAtomic": MigrateType.HIGHATOMIC,
    "CMA": MigrateType.CMA,
    "Isolate": MigrateType.ISOLATE,
}
_MAX_NUMBER: Final = 2**63 - 1
_ZONE_LINE: Final = re.compile(r"Node\s+(\d{1,9}),\s+zone\s+(\S+?),?(?:\s+(.*))?$")


@dataclass(frozen=True, slots=True)
class PageTypeInfo:
    """/proc/pagetypeinfo: free blocks by zone, migratetype and order; pageblocks by type.

    ``capped`` holds the (zone, migratetype, order) whose count is only a lower bound: the kernel
    stops counting a list at 100,000 blocks and prints ``>100000``.
    """

    pageblock_order: int
    free: dict[ZoneKey, dict[MigrateType, list[int]]]
    blocks: dict[ZoneKey, dict[MigrateType, int]]
    capped: frozenset[tuple[ZoneKey, MigrateType, int]]


@dataclass(slots=True)
class _ZoneText:
    """A zone's lines of /proc/zoneinfo while they are being read."""

    node: int
    name: str
    numbers: dict[str, int] = field(default_factory=dict)
    protection: tuple[int, ...] | None = None
    pcp: list[dict[str, int]] = field(default_factory=list)


def number(word: str, *, name: str, line: int) -> int:
    """Read one decimal number.

    Raises:
        SourceError: it is none, or does not fit 63 bits.
    """
    if not word.isascii() or not word.isdecimal():
        raise SourceError(f"{word[:40]!r} is no number.", name=name, line=line)
    if len(word) > 19 or int(word) > _MAX_NUMBER:
        raise SourceError(f"{word[:40]}… is too large a number.", name=name, line=line)
    return int(word)


def parse_buddyinfo(text: str, *, name: str) -> dict[ZoneKey, list[int]]:
    """Read /proc/buddyinfo: free blocks of order 0, 1, … by zone.

    Raises:
        SourceError: a line is malformed, a zone stands twice, or there is none.
    """
    out: dict[ZoneKey, list[int]] = {}
    for at, key, rest in _zone_lines(text, name):
        counts = [number(word, name=name, line=at) for word in rest.split()]
        if not 1 <= len(counts) <= 11:
            raise SourceError(
                f"zone {key[1]} has {len(counts)} orders; 1 to 11 can be.", name=name, line=at
            )
        if key in out:
            raise SourceError(f"zone {key[1]} of node {key[0]} again.", name=name, line=at)
        out[key] = counts + [0] * (11 - len(counts))
    if not out:
        raise SourceError("no zone's free blocks are in it.", name=name)
    return out


def _zone_lines(text: str, name: str) -> Iterator[tuple[int, ZoneKey, str]]:
    """Yield line number, zone and the rest of every line; refuse lines that are none."""
    for at, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _ZONE_LINE.match(line)
        if match is None:
            raise SourceError(f"{line[:60]!r} is no zone's line.", name=name, line=at)
        yield at, (int(match[1]), match[2]), match[3] or ""


def parse_pagetypeinfo(text: str, *, name: str) -> PageTypeInfo:
    """Read /proc/pagetypeinfo.

    Raises:
        SourceError: a line of its tables is malformed, or a table is missing.
    """
    free: dict[ZoneKey, dict[MigrateType, list[int]]] = {}
    blocks: dict[ZoneKey, dict[MigrateType, int]] = {}
    capped: set[tuple[ZoneKey, MigrateType, int]] = set()
    pageblock_order, columns = 9, None
    for at, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if line.startswith("Page block order:") and len(words) == 4:
            pageblock_order = number(words[3], name=name, line=at)
        elif line.startswith("Number of blocks type"):
            columns = [_migratetype(word, name, at) for word in words[4:]]
        elif match := _ZONE_LINE.match(line):
            key, rest = (int(match[1]), match[2]), (match[3] or "").split()
            if rest[:1] == ["type"]:
                _read_free(rest, key, free, capped, (name, at))
            elif columns is not None:
                counts = [number(word, name=name, line=at) for word in rest]
                if len(counts) != len(columns):
                    raise SourceError(
                        f"{len(counts)} counts under {len(columns)} types.", name=name, line=at
                    )
                blocks[key] = dict(zip(columns, counts, strict=True))
    if not free or not blocks:
        raise SourceError("it lacks the table of free blocks or of pageblocks.", name=name)
    return PageTypeInfo(pageblock_order, free, blocks, frozenset(capped))


def _migratetype(word: str, name: str, line: int) -> MigrateType:
    if word not in MIGRATETYPE_NAMES:
        raise SourceError(f"there is no migratetype {word[:40]!r}.", name=name, line=line)
    return MIGRATETYPE_NAMES[word]


def _read_free(
    rest: list[str],
    key: ZoneKey,
    free: dict[ZoneKey, dict[MigrateType, list[int]]],
    capped: set[tuple[ZoneKey, MigrateType, int]],
    where: tuple[str, int],
) -> None:
    name, at = where
    if not 3 <= len(rest) <= 13:
        raise SourceError("a type's line needs 1 to 11 counts.", name=name, line=at)
    migratetype = _migratetype(rest[1], name, at)
    counts = [number(word.removeprefix(">"), name=name, line=at) for word in rest[2:]]
    capped |= {(key, migratetype, order) for order, w in enumerate(rest[2:]) if w[0] == ">"}
    free.setdefault(key, {})[migratetype] = counts + [0] * (11 - len(counts))


def parse_zoneinfo(text: str, *, name: str) -> tuple[ZoneDescription, ...]:
    """Read /proc/zoneinfo: the zones that span any frame.

    Raises:
        SourceError: a number is malformed, a zone is impossible, or there is none.
    """
    zones: list[_ZoneText] = []
    for at, line in enumerate(text.splitlines(), 1):
        match = _ZONE_LINE.match(line)
        if match is not None:
            zones.append(_ZoneText(int(match[1]), match[2]))
        elif zones:
            _read_zone_line(zones[-1], line.split(), (name, at))
    out = tuple(_zone(zone, name) for zone in zones if zone.numbers.get("spanned", 0))
    if not out:
        raise SourceError("no zone that spans memory is in it.", name=name)
    return out


def parse_unreclaimable(text: str) -> frozenset[int]:
    """Return the nodes that /proc/zoneinfo calls unreclaimable.

    ``node_unreclaimable``: kswapd found nothing to free MAX_RECLAIM_RETRIES times in a row,
    mm/vmstat.c:zoneinfo_show_print(), v6.12.
    """
    nodes, node = set(), 0
    for line in text.splitlines():
        match = _ZONE_LINE.match(line)
        if match is not None:
            node = int(match[1])
        elif line.split() == ["node_unreclaimable:", "1"]:
            nodes.add(node)
    return frozenset(nodes)


_ZONE_NUMBERS: Final = frozenset(
    ("min", "low", "high", "boost", "promo", "spanned", "present", "managed", "cma")
)
_PCP_NUMBERS: Final = frozenset(("count:", "high:", "batch:", "high_min:", "high_max:"))


def _read_zone_line(zone: _ZoneText, words: list[str], where: tuple[str, int]) -> None:
    name, at = where
    if words[:2] == ["pages", "free"] and len(words) == 3:
        zone.numbers["free"] = number(words[2], name=name, line=at)
    elif words[:1] == ["protection:"]:
        told = "".join(words[1:]).strip("()").split(",")
        zone.protection = tuple(number(word, name=name, line=at) for word in told)
    elif words[:1] == ["cpu:"] and len(words) == 2:
        zone.pcp.append({"cpu": number(words[1], name=name, line=at)})
    elif len(words) == 2 and words[0] == "start_pfn:":
        zone.numbers["start_pfn"] = number(words[1], name=name, line=at)
    elif len(words) == 2 and zone.pcp and words[0] in _PCP_NUMBERS:
        zone.pcp[-1][words[0][:-1]] = number(words[1], name=name, line=at)
    elif len(words) == 2 and not zone.pcp and words[0] in _ZONE_NUMBERS:
        zone.numbers[words[0]] = number(words[1], name=name, line=at)


def _zone(zone: _ZoneText, name: str) -> ZoneDescription:
    lacking = {"spanned", "present", "start_pfn"} - set(zone.numbers)
    if lacking:
        raise SourceError(
            f"zone {zone.name} of node {zone.node} lacks {sorted(lacking)[0]}.", name=name
        )
    numbers = zone.numbers
    managed = numbers.get("managed", numbers["present"])
    if not managed <= numbers["present"] <= numbers["spanned"]:
        raise SourceError(
            f"zone {zone.name} of node {zone.node} manages {managed} of {numbers['present']} "
            f"present of {numbers['spanned']} spanned frames; they must not decrease.",
            name=name,
        )
    pcp = [
        PcpDescription(
            count=one.get("count", 0),
            high=one.get("high", 0),
            batch=one.get("batch", 1),
            high_min=one.get("high_min"),
            high_max=one.get("high_max"),
        )
        for one in zone.pcp
    ]
    return ZoneDescription(
        node=zone.node,
        name=zone.name,
        start_pfn=numbers["start_pfn"],
        spanned=numbers["spanned"],
        present=numbers["present"],
        managed=managed,
        watermark_min=numbers.get("min"),
        watermark_low=numbers.get("low"),
        watermark_high=numbers.get("high"),
        watermark_promo=numbers.get("promo"),
        watermark_boost=numbers.get("boost", 0),
        cma=numbers.get("cma", 0),
        protection=zone.protection,
        pcp=tuple(pcp),
    )


def parse_meminfo(text: str, *, name: str) -> dict[str, int]:
    """Read /proc/meminfo: values as printed, in kB where it says so.

    Raises:
        SourceError: a line is malformed or there is none.
    """
    out: dict[str, int] = {}
    for at, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        key, colon, rest = line.partition(":")
        words = rest.split()
        if not colon or len(words) not in (1, 2) or words[1:] not in ([], ["kB"]):
            raise SourceError(f"{line[:60]!r} is no line of meminfo.", name=name, line=at)
        out[key] = number(words[0], name=name, line=at)
    if not out:
        raise SourceError("it is empty.", name=name)
    return out


def parse_vmstat(text: str, *, name: str) -> dict[str, int]:
    """Read /proc/vmstat: counters by name.

    Raises:
        SourceError: a line is malformed.
    """
    out: dict[str, int] = {}
    for at, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and len(words) != 2:
            raise SourceError(f"{line[:60]!r} is no counter.", name=name, line=at)
        if words:
            out[words[0]] = number(words[1].removeprefix("-"), name=name, line=at)
    return out


def parse_system_ram(text: str, *, name: str) -> tuple[tuple[int, int], ...]:
    """Read the ``System RAM`` ranges of /proc/iomem as (first, one past the last) whole frames.

    Without CAP_SYS_ADMIN the kernel prints zeros: then there are none.

    Raises:
        SourceError: such a line's range is malformed.
    """
    out = []
    for at, line in enumerate(text.splitlines(), 1):
        if line.startswith(" ") or not line.endswith(": System RAM"):
            continue
        match = re.match(r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) :", line)
        if match is None:
            raise SourceError(f"{line[:60]!r} is no range.", name=name, line=at)
        first, last = int(match[1], 16), int(match[2], 16)
        begin, end = (first + 4095) >> 12, (last + 1) >> 12
        if end > begin:
            out.append((begin, end))
    return tuple(out)
