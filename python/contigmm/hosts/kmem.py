"""Recordings of a kernel's page allocator: one ``.tar.xz`` file with the kmem tracepoints.

Format ``kmem-trace/2``: ``meta.json`` and one member a column under ``col/``, events in time order.
``type.u8`` and ``cpu.u8`` one byte an event; ``time.vlq`` (ticks since the event before) and
``pid.vlq`` as unsigned LEB128; ``order.u8``; ``pfn.TYPE.u32`` the frames of one type's events;
``gfp.vlq`` of allocations (an index into ``meta.gfps``); ``mt.u8`` of allocations, drains and
locked ones (plus 16: a refill); ``ext.u8`` of fallbacks, four bytes each.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contigmm import foreign_json
from contigmm.description import MAX_PAGE_ORDER
from contigmm.hosts import rle
from contigmm.hosts.archive import read_members
from contigmm.hosts.rle import I64
from contigmm.hosts.source_error import SourceError

FORMAT: Final = "kmem-trace/2"
#: The frame number of an allocation that failed.
FAILED: Final = 0xFFFF_FFFF
_REFILL: Final = 16

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]


class KmemEvent(enum.IntEnum):
    """Tracepoints of include/trace/events/kmem.h, v6.12, by their number in a recording."""

    ALLOC = 0
    """``mm_page_alloc``: a caller got a block."""
    FREE = 1
    """``mm_page_free``: a caller gave one back."""
    EXTFRAG = 2
    """``mm_page_alloc_extfrag``: a request was served from another migratetype."""
    DRAIN = 3
    """``mm_page_pcpu_drain``: from a per-CPU list to a free list."""
    LOCKED = 4
    """``mm_page_alloc_zone_locked``: from a free list to a per-CPU list or a caller."""
    BATCHED = 5
    """``mm_page_free_batched``: repeats frees."""


_TYPED: Final = (KmemEvent.ALLOC, KmemEvent.DRAIN, KmemEvent.LOCKED)


@dataclass(frozen=True, slots=True, eq=False)
class KmemTrace:
    """A recording, one row an event. What a type of event does not tell is 0.

    ``t_ns`` is CLOCK_MONOTONIC, rounded to ``tick_ns``; ``fallbacks`` has the four bytes of each
    ``EXTFRAG`` event: fallback order, migratetype asked and fallen back to, change of ownership.
    ``task`` is whose event it is: a position in ``comms``, the names of tasks.
    """

    origin: str
    t_ns: I64
    type: U8
    cpu: U8
    pfn: U32
    order: U8
    migratetype: U8
    refill: npt.NDArray[np.bool_]
    gfp: U32
    fallbacks: U8
    task: I64
    comms: tuple[str, ...]
    command_ns: tuple[int, int] | None
    lost: int

    @property
    def nr_events(self) -> int:
        """How many events there are."""
        return len(self.type)


def read_kmem(path: Path) -> KmemTrace:
    """Read a recording.

    Raises:
        SourceError: the file is none, is damaged, or its columns do not fit each other.
    """
    name = str(path)
    members = read_members(path)
    meta = _meta(members, name)
    columns = _Columns(members, name)
    types = columns.octets("type")
    nr = len(types)
    if nr and int(types.max()) >= len(KmemEvent):
        raise SourceError(f"event {int(types.argmax())} has no known type.", name=name)
    order = columns.octets("order", nr)
    if nr and int(order.max()) > MAX_PAGE_ORDER:
        raise SourceError(f"event {int(order.argmax())} has an order above 10.", name=name)
    ticks = columns.varints("time", nr)
    tick_ns, start = _number(meta, "tick_ns", name), _number(meta, "t0", name)
    migratetype = np.zeros(nr, np.uint8)
    typed = np.isin(types, _TYPED)
    migratetype[typed] = columns.octets("mt", int(typed.sum()))
    refill = (migratetype & _REFILL) != 0
    return KmemTrace(
        origin=name,
        t_ns=start + np.cumsum(ticks) * tick_ns,
        type=types,
        cpu=columns.octets("cpu", nr),
        pfn=_frames(columns, types),
        order=order,
        migratetype=migratetype & np.uint8(_REFILL - 1),
        refill=refill,
        gfp=_gfp(columns, types, meta, name),
        fallbacks=columns.octets("ext", 4 * int((types == KmemEvent.EXTFRAG).sum())).reshape(-1, 4),
        task=columns.varints("pid", nr),
        comms=_comms(meta, name),
        command_ns=_command(meta),
        lost=int(meta.get("lost", 0)) if isinstance(meta.get("lost", 0), int) else 0,
    )


class _Columns:
    """The members under ``col/``, held to the number of values that there must be."""

    def __init__(self, members: dict[str, bytes], name: str) -> None:
        self._members, self._name = members, name

    def octets(self, column: str, nr: int | None = None) -> U8:
        values = np.frombuffer(self._member(f"{column}.u8"), np.uint8)
        self._hold(column, len(values), nr)
        return values

    def words(self, column: str, nr: int) -> U32:
        octets = self._member(f"{column}.u32")
        self._hold(column, len(octets), 4 * nr)
        return np.frombuffer(octets, "<u4").astype(np.uint32)

    def varints(self, column: str, nr: int) -> I64:
        try:
            values = rle.decode_varints(np.frombuffer(self._member(f"{column}.vlq"), np.uint8))
        except rle.CodecError as error:
            raise SourceError(f"{error}.", name=f"{self._name}:col/{column}.vlq") from error
        self._hold(column, len(values), nr)
        return values

    def _member(self, member: str) -> bytes:
        try:
            return self._members[f"col/{member}"]
        except KeyError:
            raise SourceError(f"it has no col/{member}.", name=self._name) from None

    def _hold(self, column: str, found: int, wanted: int | None) -> None:
        if wanted is not None and found != wanted:
            raise SourceError(
                f"its column {column!r} holds {found}, not {wanted}.", name=self._name
            )


def _meta(members: dict[str, bytes], name: str) -> dict[str, Any]:
    try:
        meta = foreign_json.loads(members["meta.json"])
    except (KeyError, ValueError) as error:
        raise SourceError("it has no readable meta.json: no recording.", name=name) from error
    told = meta.get("format") if isinstance(meta, dict) else None
    if told != FORMAT:
        raise SourceError(f"its format is {told!r}, not {FORMAT!r}.", name=f"{name}:meta.json")
    return dict(meta)


def _number(meta: dict[str, Any], key: str, name: str) -> int:
    value = meta.get(key)
    if not isinstance(value, int) or not 0 <= value < 2**62:
        raise SourceError(f"its {key} is no time.", name=f"{name}:meta.json")
    return value


def _comms(meta: dict[str, Any], name: str) -> tuple[str, ...]:
    table = meta.get("pids")
    try:
        return tuple(str(comm) for _, comm in table or [])
    except (TypeError, ValueError) as error:
        raise SourceError(
            "its table of tasks is no list of pid and name.", name=f"{name}:meta.json"
        ) from error


def _command(meta: dict[str, Any]) -> tuple[int, int] | None:
    begin, end = meta.get("t_cmd_start"), meta.get("t_cmd_end")
    return (begin, end) if isinstance(begin, int) and isinstance(end, int) else None


def _frames(columns: _Columns, types: U8) -> U32:
    pfn = np.zeros(len(types), np.uint32)
    for kind in KmemEvent:
        rows = types == kind
        count = int(rows.sum())
        if count:
            pfn[rows] = columns.words(f"pfn.{kind.name.lower()}", count)
    return pfn


def _is_word(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 64


def _gfp(columns: _Columns, types: U8, meta: dict[str, Any], name: str) -> U32:
    rows = types == KmemEvent.ALLOC
    index = columns.varints("gfp", int(rows.sum()))
    table = meta.get("gfps")
    if not isinstance(table, list) or not all(_is_word(one) for one in table):
        raise SourceError("its table of gfp flags is no list of words.", name=f"{name}:meta.json")
    if len(index) and int(index.max()) >= len(table):
        raise SourceError("an allocation refers beyond the table of gfp flags.", name=name)
    gfp = np.zeros(len(types), np.uint32)
    gfp[rows] = (np.array([*table, 0], np.uint64) & np.uint64(0xFFFF_FFFF)).astype(np.uint32)[index]
    return gfp
