"""What a machine is booted from: zones, limits, and what every frame is used for.

A `MachineDescription` is a value: what two readers agree on has the same canonical bytes.
Without a `Layout` the machine is freshly booted, all managed memory free. With one, each frame is
in a free block, on a per-CPU list, in a run of used frames, or absent (a hole).

Numbers are frames (4096 bytes) unless a name says otherwise. Arrays are little-endian, so that the
bytes of a description mean the same everywhere.
"""

from __future__ import annotations

import enum
import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contigmm import foreign_json

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]

PAGE_SHIFT: Final = 12
# include/linux/mmzone.h and include/linux/pageblock-flags.h, v6.12 (x86-64)
MAX_PAGE_ORDER: Final = 10
NR_PAGE_ORDERS: Final = MAX_PAGE_ORDER + 1
PAGEBLOCK_ORDER: Final = 9
PAGEBLOCK_NR_PAGES: Final = 1 << PAGEBLOCK_ORDER
MAX_NR_FRAMES: Final = 2**32 - 1
MAX_NR_NODES: Final = 1024  # MAX_NUMNODES where CONFIG_NODES_SHIFT is 10, its largest

ZONE_NAMES: Final = ("DMA", "DMA32", "Normal", "Movable")
NO_OWNER: Final = 2**32 - 1
UNKNOWN_MIGRATETYPE: Final = 255

_MAGIC: Final = b"CMMDESC1"
_MAX_PACKED: Final = 256 << 20
_MAX_UNPACKED: Final = 1 << 30


class DescriptionError(ValueError):
    """A description contradicts itself, or its bytes are not one; the sentence says where."""


class MigrateType(enum.IntEnum):
    """``enum migratetype``, include/linux/mmzone.h v6.12, with CMA and isolation configured."""

    UNMOVABLE = 0
    MOVABLE = 1
    RECLAIMABLE = 2
    HIGHATOMIC = 3
    CMA = 4
    ISOLATE = 5


class PageClass(enum.IntEnum):
    """What a frame is used for, as far as /proc/kpageflags tells."""

    FREE = 0
    NOPAGE = 1
    RESERVED = 2
    OFFLINE = 3
    HWPOISON = 4
    HUGETLB = 5
    SLAB = 6
    PGTABLE = 7
    ANON = 8
    ANON_THP = 9
    SHMEM = 10
    SHMEM_THP = 11
    FILE = 12
    FILE_LARGE = 13
    MLOCKED = 14
    MOVABLE_OFFLRU = 15
    ZERO_PAGE = 16
    KERNEL = 17
    PCP = 18


class FrameFlags(enum.IntFlag):
    """What else is known of a used frame."""

    DIRTY = 1
    ACTIVE = 2
    UNEVICTABLE = 4
    MAPPED = 8
    ANON = 16
    SWAPBACKED = 32
    PRIVATE = 64


class OwnerKind(enum.StrEnum):
    """What kind of thing a background owner is."""

    PROCESS = "process"
    FILE = "file"
    SHMEM = "shmem"


@dataclass(frozen=True, slots=True)
class PcpDescription:
    """The per-CPU list of one zone on one CPU, as /proc/zoneinfo prints it."""

    count: int
    high: int
    batch: int
    high_min: int | None = None
    high_max: int | None = None


@dataclass(frozen=True, slots=True)
class ZoneDescription:
    """One zone of one node. ``None``: the source does not tell, and the machine computes it.

    ``holes`` are (first frame, frames) without memory, ascending: what is spanned but not present.
    """

    node: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    watermark_min: int | None = None
    watermark_low: int | None = None
    watermark_high: int | None = None
    watermark_promo: int | None = None
    watermark_boost: int = 0
    cma: int = 0
    protection: tuple[int, ...] | None = None
    pcp: tuple[PcpDescription, ...] = ()
    holes: tuple[tuple[int, int], ...] = ()

    @property
    def key(self) -> str:
        """``NODE/ZONE``, as in the machine-readable outputs."""
        return f"{self.node}/{self.name}"

    @property
    def end_pfn(self) -> int:
        """One past the last frame that the zone spans."""
        return self.start_pfn + self.spanned


@dataclass(frozen=True, slots=True)
class OwnerDescription:
    """A background process or file: the used frames whose ``owner`` is this one's position."""

    kind: OwnerKind
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class FrameRuns:
    """Used frames: each row is ``nr`` frames from ``start`` on, alike in all columns.

    Folios of ``order`` fill a row end to end: ``start`` and ``nr`` are multiples of ``2**order``.
    Rows of one owner are laid out at ``index`` pages into the file, or into the process's memory.
    """

    start: U32
    nr: U32
    page_class: U8
    order: U8
    flags: U8
    owner: U32
    index: U32


@dataclass(frozen=True, slots=True, eq=False)
class FreeBlocks:
    """Blocks on the free lists: rows of one zone, order and migratetype stand in list order."""

    pfn: U32
    order: U8
    migratetype: U8


@dataclass(frozen=True, slots=True, eq=False)
class PcpPages:
    """Blocks on per-CPU lists: rows of one CPU, zone, order and migratetype in list order."""

    pfn: U32
    cpu: U16
    order: U8
    migratetype: U8


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What every frame is used for. Frames that stand nowhere are holes.

    ``pageblock_type[i]`` is the migratetype of frames ``512 * i …``; 255 where there is none.
    """

    frames: FrameRuns
    free: FreeBlocks
    pcp: PcpPages
    pageblock_type: U8
    owners: tuple[OwnerDescription, ...] = ()


_SECTIONS: Final[tuple[tuple[str, type], ...]] = (
    ("frames", FrameRuns),
    ("free", FreeBlocks),
    ("pcp", PcpPages),
)
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "U8": np.dtype("<u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
}


@dataclass(frozen=True, slots=True)
class MachineDescription:
    """All that a machine is booted from.

    ``known`` and ``drawn`` are sentences: what the source told, and what it did not tell and was
    therefore inferred, or drawn from ``seed``.
    """

    zones: tuple[ZoneDescription, ...]
    nr_cpus: int = 1
    cpu_nodes: tuple[int, ...] = ()
    distances: tuple[tuple[int, ...], ...] = ()
    settings: dict[str, int | str] = field(default_factory=dict)
    origin: str = ""
    kernel: str = ""
    layout: Layout | None = None
    known: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    seed: int = 0

    @property
    def nr_frames(self) -> int:
        """One past the highest frame that a zone spans."""
        return max((zone.end_pfn for zone in self.zones), default=0)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Node numbers, ascending."""
        return tuple(sorted({zone.node for zone in self.zones}))

    @property
    def managed(self) -> int:
        """Frames that the allocator manages, over all zones."""
        return sum(zone.managed for zone in self.zones)

    def buddyinfo(self) -> dict[str, list[int]]:
        """Free blocks by ``NODE/ZONE`` and order, counted from the layout."""
        if self.layout is None:
            raise DescriptionError("A freshly booted machine has no layout to count.")
        free = self.layout.free
        return {
            zone.key: np.bincount(
                free.order[(free.pfn >= zone.start_pfn) & (free.pfn < zone.end_pfn)],
                minlength=NR_PAGE_ORDERS,
            ).tolist()
            for zone in self.zones
        }

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, compressed."""
        return _MAGIC + zlib.compress(self._plain(), 6)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical bytes before compression, in hexadecimal."""
        return hashlib.sha256(self._plain()).hexdigest()

    def _plain(self) -> bytes:
        header: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("layout", "zones")
        }
        header["zones"] = [asdict(zone) for zone in self.zones]
        arrays: list[np.ndarray[Any, Any]] = []
        if self.layout is not None:
            named = dict(_named_arrays(self.layout))
            header["arrays"] = {name: len(array) for name, array in named.items()}
            header["owners"] = [[str(o.kind), o.name] for o in self.layout.owners]
            arrays = [named[name] for name in sorted(named)]
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        parts = [len(text).to_bytes(4, "little"), text, *(a.tobytes() for a in arrays)]
        return b"".join(parts)

    @classmethod
    def from_bytes(
        cls,
        packed: bytes,
        *,
        max_packed: int = _MAX_PACKED,
        max_unpacked: int = _MAX_UNPACKED,
    ) -> MachineDescription:
        """Read and check canonical bytes from anyone.

        Raises:
            DescriptionError: they are too long, no description, or one that contradicts itself.
        """
        if len(packed) > max_packed:
            raise DescriptionError(f"The description has more than {max_packed} bytes.")
        if packed[: len(_MAGIC)] != _MAGIC:
            raise DescriptionError("These bytes are no machine description (version 1).")
        inflater = zlib.decompressobj()
        try:
            plain = inflater.decompress(packed[len(_MAGIC) :], max_unpacked)
        except zlib.error as error:
            raise DescriptionError(f"The description cannot be unpacked: {error}.") from error
        if not inflater.eof:
            raise DescriptionError(
                f"The description is cut off, or unpacks to more than {max_unpacked} bytes."
            )
        try:
            description = _parse(plain)
            description.check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, DescriptionError):
                raise
            raise DescriptionError(f"The description's header is malformed: {error}.") from error
        return description

    def check(self) -> None:
        """Hold the description against itself.

        Raises:
            DescriptionError: a zone is impossible, or a frame is out of range or used twice.
        """
        _check_zones(self)
        if self.layout is not None:
            _check_layout(self, self.layout)


def _named_arrays(layout: Layout) -> list[tuple[str, np.ndarray[Any, Any]]]:
    named: list[tuple[str, np.ndarray[Any, Any]]] = [("pageblock_type", layout.pageblock_type)]
    for section, kind in _SECTIONS:
        part = getattr(layout, section)
        for column in fields(kind):
            array = np.ascontiguousarray(getattr(part, column.name), _DTYPES[str(column.type)])
            named.append((f"{section}.{column.name}", array))
    return named


def _parse(plain: bytes) -> MachineDescription:
    length = int.from_bytes(plain[:4], "little")
    header = foreign_json.loads(plain[4 : 4 + length])
    lengths = header.pop("arrays", None)
    owners = header.pop("owners", ())
    zones = tuple(_parse_zone(zone) for zone in header.pop("zones"))
    layout = None
    if lengths is not None:
        layout = _parse_layout(plain, 4 + length, lengths, owners)
    elif len(plain) != 4 + length:
        raise DescriptionError("Bytes follow the description's end.")
    for name in ("cpu_nodes", "known", "drawn"):
        header[name] = tuple(header[name])
    header["distances"] = tuple(tuple(row) for row in header["distances"])
    return MachineDescription(zones=zones, layout=layout, **header)


def _parse_zone(zone: dict[str, Any]) -> ZoneDescription:
    pcp = tuple(PcpDescription(**one) for one in zone.pop("pcp"))
    protection = zone.pop("protection")
    holes = tuple((int(start), int(nr)) for start, nr in zone.pop("holes"))
    told = None if protection is None else tuple(protection)
    return ZoneDescription(**zone, pcp=pcp, protection=told, holes=holes)


def _parse_layout(plain: bytes, at: int, lengths: dict[str, int], owners: Any) -> Layout:
    dtypes = {"pageblock_type": _DTYPES["U8"]}
    for section, kind in _SECTIONS:
        dtypes |= {f"{section}.{c.name}": _DTYPES[str(c.type)] for c in fields(kind)}
    if set(lengths) != set(dtypes):
        raise DescriptionError("The description's arrays are not those of version 1.")
    arrays: dict[str, Any] = {}
    for name in sorted(dtypes):
        count = lengths[name]
        if not isinstance(count, int) or count < 0:
            raise DescriptionError(f"The array {name} has no usable length.")
        end = at + count * dtypes[name].itemsize
        if end > len(plain):
            raise DescriptionError(f"The array {name} is cut off.")
        arrays[name] = np.frombuffer(plain, dtypes[name], count, at).copy()  # aligned
        at = end
    if at != len(plain):
        raise DescriptionError("Bytes follow the description's end.")
    parts = {
        section: kind(**{c.name: arrays[f"{section}.{c.name}"] for c in fields(kind)})
        for section, kind in _SECTIONS
    }
    named = tuple(OwnerDescription(OwnerKind(kind), str(name)) for kind, name in owners)
    return Layout(**parts, pageblock_type=arrays["pageblock_type"], owners=named)


def _check_zones(description: MachineDescription) -> None:
    if not description.zones:
        raise DescriptionError("The machine has no zone.")
    if not 1 <= description.nr_cpus <= 8192:
        raise DescriptionError(f"The machine has {description.nr_cpus} CPUs; 1 to 8192 can be.")
    end = 0
    for zone in sorted(description.zones, key=lambda zone: zone.start_pfn):
        _check_zone(zone)
        if zone.start_pfn < end:
            raise DescriptionError(f"Zone {zone.key} overlaps the zone before it.")
        end = zone.end_pfn
    keys = [zone.key for zone in description.zones]
    if len(set(keys)) != len(keys):
        raise DescriptionError("A node has the same zone twice.")


def _check_zone(zone: ZoneDescription) -> None:
    if zone.name not in ZONE_NAMES:
        raise DescriptionError(f"There is no zone {zone.name!r}; there are {ZONE_NAMES}.")
    if not 0 <= zone.node < MAX_NR_NODES:
        raise DescriptionError(
            f"Node {zone.node} of zone {zone.name} is not in 0 … {MAX_NR_NODES - 1}."
        )
    if zone.start_pfn < 0 or zone.spanned <= 0 or zone.end_pfn > MAX_NR_FRAMES:
        raise DescriptionError(f"Zone {zone.key} spans frames that cannot be.")
    at = zone.start_pfn
    for start, nr in zone.holes:
        if start < at or nr <= 0 or start + nr > zone.end_pfn:
            raise DescriptionError(f"A hole of zone {zone.key} begins or ends where it cannot.")
        at = start + nr
    if sum(nr for _, nr in zone.holes) != zone.spanned - zone.present:
        raise DescriptionError(f"The holes of zone {zone.key} are not what it lacks of its span.")
    if not 0 <= zone.managed <= zone.present <= zone.spanned:
        raise DescriptionError(
            f"Zone {zone.key}: managed {zone.managed}, present {zone.present} and spanned "
            f"{zone.spanned} frames must not decrease in that order."
        )


def _check_layout(description: MachineDescription, layout: Layout) -> None:
    for section, kind in _SECTIONS:
        lengths = {len(getattr(getattr(layout, section), c.name)) for c in fields(kind)}
        if len(lengths) > 1:
            raise DescriptionError(f"The columns of {section} differ in length.")
    frames, free, pcp = layout.frames, layout.free, layout.pcp
    if any(int(o.max(initial=0)) > MAX_PAGE_ORDER for o in (free.order, pcp.order)):
        raise DescriptionError(f"A free block's order is above {MAX_PAGE_ORDER}.")
    if int(frames.order.max(initial=0)) > 18:
        raise DescriptionError("A folio's order is above 18 (1 GiB).")
    if int(frames.page_class.max(initial=0)) > PageClass.KERNEL:
        raise DescriptionError("A used frame has a class that does not exist.")
    start = np.concatenate([frames.start, free.pfn, pcp.pfn]).astype(np.int64)
    order = np.concatenate([frames.order, free.order, pcp.order]).astype(np.int64)
    one = np.int64(1)
    nr = np.concatenate([frames.nr.astype(np.int64), one << order[len(frames.nr) :]])
    if ((start | nr) & ((one << order) - 1)).any() or (nr == 0).any():
        raise DescriptionError("A block or folio does not begin or end at a multiple of its size.")
    _check_disjoint(start, nr)
    _check_in_zones(description, start, nr, len(frames.nr))
    _check_owners(frames, layout.owners)
    if int(pcp.cpu.max(initial=0)) >= description.nr_cpus:
        raise DescriptionError("A per-CPU list belongs to a CPU that does not exist.")
    if len(layout.pageblock_type) != -(-description.nr_frames // PAGEBLOCK_NR_PAGES):
        raise DescriptionError("There is not exactly one migratetype a pageblock.")


_OWNED_BY: Final = {
    OwnerKind.PROCESS: (
        PageClass.ANON,
        PageClass.ANON_THP,
        PageClass.MLOCKED,
        PageClass.PGTABLE,
    ),
    OwnerKind.FILE: (PageClass.FILE, PageClass.FILE_LARGE),
    OwnerKind.SHMEM: (PageClass.SHMEM, PageClass.SHMEM_THP),
}


def _check_owners(frames: FrameRuns, owners: tuple[OwnerDescription, ...]) -> None:
    """Owners have frames of their kind, and no page of an owner is there twice."""
    owned = frames.owner != NO_OWNER
    if not owned.any():
        return
    owner, kind = frames.owner[owned].astype(np.int64), frames.page_class[owned]
    if int(owner.max()) >= len(owners):
        raise DescriptionError("A used frame's owner does not exist.")
    number_of = {name: number for number, name in enumerate(OwnerKind)}
    allowed = np.zeros((len(OwnerKind), len(PageClass)), bool)
    for name, classes in _OWNED_BY.items():
        allowed[number_of[name], list(classes)] = True
    owner_kind = np.array([number_of[one.kind] for one in owners], np.int64)
    if not allowed[owner_kind[owner], kind].all():
        raise DescriptionError("An owner has a frame of a class that is not its kind's.")
    pages = kind != PageClass.PGTABLE
    place = owner[pages] << 32 | frames.index[owned][pages].astype(np.int64)
    nr = frames.nr[owned][pages].astype(np.int64)
    if (place[1:] <= place[:-1]).any():
        by_place = np.argsort(place, kind="stable")
        place, nr = place[by_place], nr[by_place]
    if ((place & 0xFFFFFFFF) + nr > MAX_NR_FRAMES).any() or (place[1:] < (place + nr)[:-1]).any():
        raise DescriptionError("A page of an owner is described twice, or lies beyond the last.")


def _check_disjoint(start: npt.NDArray[np.int64], nr: npt.NDArray[np.int64]) -> None:
    by_start = np.argsort(start, kind="stable")
    start, end = start[by_start], (start + nr)[by_start]
    twice = np.flatnonzero(start[1:] < end[:-1])
    if len(twice):
        raise DescriptionError(f"Frame {int(start[twice[0] + 1])} is described twice.")


def _check_in_zones(
    description: MachineDescription,
    start: npt.NDArray[np.int64],
    nr: npt.NDArray[np.int64],
    nr_used: int,
) -> None:
    """Free frames lie in one zone; frames in use may lie in none, but not across an edge."""
    end = start + nr
    inside = np.zeros(len(start), bool)
    touching = np.zeros(len(start), bool)
    for zone in description.zones:
        inside |= (start >= zone.start_pfn) & (end <= zone.end_pfn)
        touching |= (start < zone.end_pfn) & (end > zone.start_pfn)
    outside = ~inside
    outside[:nr_used] &= touching[:nr_used] | (end[:nr_used] > description.nr_frames)
    if outside.any():
        raise DescriptionError(f"Frame {int(start[outside][0])} lies in no zone, or in two.")
