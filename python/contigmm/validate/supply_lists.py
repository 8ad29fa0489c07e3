"""A small machine that has the told free lists, and nothing else that a request could notice.

What a request without reclaim and compaction gets depends on free blocks by order and
migratetype, on the watermarks and on per-CPU lists; not on where blocks lie. So they are packed:
each free block lies beside used frames of its own type, in pageblocks of that type, and the zones
follow each other. Such a machine boots in a fraction of the time of one that has every frame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    MAX_PAGE_ORDER,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    MachineDescription,
    MigrateType,
    PageClass,
    ZoneDescription,
)
from contigmm.hosts import Evidence
from contigmm.hosts.placement import told_zone
from contigmm.phys import Memory
from contigmm.sim.boot import core_spec

#: Frames on per-CPU lists: [CPU, migratetype, order].
OnLists = npt.NDArray[np.int64]

_NR_PCPTYPES: Final = 3
_ALIGN: Final = 1 << MAX_PAGE_ORDER
_I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Blocks of one order and type on one CPU's list, or (CPU -1) on a free list."""

    kind: int
    order: int
    nr: int
    cpu: int


class _Packer:
    """Lays blocks out, largest first, each beside used frames that keep it from merging."""

    def __init__(self) -> None:
        self.at = _ALIGN
        self.free: list[tuple[_I64, int]] = []
        self.listed: list[tuple[_I64, int, int]] = []
        self.used: list[tuple[_I64, _I64, int]] = []
        self.types: list[tuple[int, int, int]] = []

    def zone(self, pieces: Sequence[_Piece]) -> tuple[int, int]:
        """Pack one zone's blocks; return its first frame and the one past its last."""
        begin = self.at
        for kind in sorted({piece.kind for piece in pieces}) or [int(MigrateType.MOVABLE)]:
            first = self.at
            alike = [piece for piece in pieces if piece.kind == kind and piece.nr]
            for piece in sorted(alike, key=lambda piece: -piece.order):
                self._lay(piece)
            end = -(-max(self.at, first + 1) // _ALIGN) * _ALIGN
            self._use(np.array([self.at]), np.array([end - self.at]), kind)
            self.types.append((first, end, kind))
            self.at = end
        return begin, self.at

    def _lay(self, piece: _Piece) -> None:
        """Lay blocks in pairs that are no buddies, a block at the end of a slot, one at the next's.

        A quarter of a pageblock is free where small blocks are, so that none is worth claiming.
        """
        size = 1 << piece.order
        slot = min(size * (4 if piece.order < PAGEBLOCK_ORDER - 1 else 2), _ALIGN)
        rest = slot - size
        number = np.arange(piece.nr, dtype=np.int64)
        start = self.at + number * slot + np.where(number % 2, 0, rest)
        end = self.at + slot * (piece.nr + (piece.nr % 2 if rest else 0))
        if rest:
            # Runs of used frames: before the first block, after each second one, after the last.
            after = start[1::2] + size
            before = np.append(start[2::2], end) if piece.nr % 2 == 0 else start[2::2]
            self._use(np.array([self.at]), np.array([rest]), piece.kind)
            self._use(after, before - after, piece.kind)
            if piece.nr % 2:
                self._use(start[-1:] + size, end - start[-1:] - size, piece.kind)
        self.at = end
        if piece.cpu < 0:
            self.free.append((start, piece.order))
        else:
            self.listed.append((start, piece.order, piece.cpu))

    def _use(self, start: _I64, nr: _I64, kind: int) -> None:
        self.used.append((start[nr > 0], nr[nr > 0], kind))


@dataclass(frozen=True, slots=True)
class ToldLists:
    """Free lists of all zones, ready to be booted with any content of the per-CPU lists."""

    evidence: Evidence
    free: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def of(cls, evidence: Evidence) -> ToldLists:
        """Return what a source told of its zones' free lists, zones from the lowest up."""
        zones = sorted(evidence.zones, key=lambda zone: (zone.node, zone.start_pfn))
        told = evidence.types[-1] if evidence.types else None
        rows = []
        for zone in zones:
            key = (zone.node, zone.name)
            counts = evidence.buddyinfo.get(key, [0] * (MAX_PAGE_ORDER + 1))
            by_type = told.free.get(key) if told else None
            rows.append(told_zone(zone, counts, by_type, None).free)
        return cls(replace(evidence, zones=tuple(zones)), tuple(rows))

    def boot(self, on_lists: Sequence[OnLists], *, seed: int) -> Memory:
        """Boot a machine with these lists; ``on_lists`` has an entry for each zone."""
        return self._boot(self.free, on_lists, seed=seed, pcp=True)

    def boot_type_blind(self) -> Memory:
        """Boot a machine whose blocks are all of one type, without per-CPU lists."""
        blind = []
        for row in self.free:
            one = np.zeros_like(row)
            one[MigrateType.MOVABLE] = row.sum(axis=0)
            blind.append(one)
        nothing = [np.zeros((0, _NR_PCPTYPES, MAX_PAGE_ORDER + 1), np.int64) for _ in blind]
        return self._boot(blind, nothing, seed=0, pcp=False)

    def _boot(
        self,
        free: Sequence[npt.NDArray[np.int64]],
        on_lists: Sequence[OnLists],
        *,
        seed: int,
        pcp: bool,
    ) -> Memory:
        packer, zones = _Packer(), []
        for zone, row, lists in zip(self.evidence.zones, free, on_lists, strict=True):
            begin, end = packer.zone(_pieces(row, lists))
            zones.append(_resized(zone, begin, end))
        described = MachineDescription(
            zones=tuple(zones),
            nr_cpus=self.evidence.nr_cpus,
            settings=self.evidence.settings,
            kernel=self.evidence.kernel,
        )
        spec = core_spec(described, seed=seed, cpus=None, costs=False)
        spec["direct_reclaim"] = False
        if not pcp:
            spec["pcp"] = {"enabled": False}
        memory = Memory.boot(json.dumps(spec, sort_keys=True))
        _import(memory, packer, zones, pcp=pcp)
        return memory


def match_cpus(run: OnLists, told: Sequence[int]) -> list[int]:
    """Return for each CPU of a run the one it stands for: the n-th fullest is the n-th fullest."""
    by_run = np.argsort(-run.sum(axis=(1, 2)), kind="stable").tolist()
    by_told = np.argsort(-np.array(told), kind="stable").tolist()
    pairs = dict(zip(by_run, by_told, strict=True))
    return [pairs[cpu] for cpu in range(len(told))]


def scale_lists(run: OnLists, told: Sequence[int]) -> OnLists:
    """Divide told totals, one a CPU, by order and type as in a run.

    Movable single frames, most of what lists hold, make up for the difference.
    """
    out = np.zeros((len(told), _NR_PCPTYPES, MAX_PAGE_ORDER + 1), np.int64)
    size = np.int64(1) << np.arange(MAX_PAGE_ORDER + 1)
    for theirs, mine in enumerate(match_cpus(run, told)):
        special = run[theirs].astype(np.int64)
        special[MigrateType.MOVABLE, 0] = 0
        total = int(special.sum())
        if total > told[mine]:
            special = special * told[mine] // total // size * size
        out[mine] = special
    out[:, MigrateType.MOVABLE, 0] += np.array(told) - out.sum(axis=(1, 2))
    return out


def told_totals(evidence: Evidence) -> Mapping[str, list[int]]:
    """Return what is told to be on each zone's lists, by CPU."""
    return {zone.key: [pcp.count for pcp in zone.pcp] for zone in evidence.zones}


def _pieces(free: npt.NDArray[np.int64], on_lists: OnLists) -> list[_Piece]:
    pieces = [
        _Piece(int(kind), int(order), int(free[kind, order]), -1)
        for kind, order in zip(*np.nonzero(free), strict=True)
    ]
    pieces += [
        _Piece(int(kind), int(order), int(on_lists[cpu, kind, order]) >> int(order), int(cpu))
        for cpu, kind, order in zip(*np.nonzero(on_lists), strict=True)
    ]
    return pieces


def _resized(zone: ZoneDescription, begin: int, end: int) -> ZoneDescription:
    size = end - begin
    return replace(zone, start_pfn=begin, spanned=size, present=size, managed=size, holes=())


def _import(
    memory: Memory, packer: _Packer, zones: Sequence[ZoneDescription], *, pcp: bool
) -> None:
    types = np.full(-(-packer.at // PAGEBLOCK_NR_PAGES), MigrateType.MOVABLE, np.uint8)
    for first, end, kind in packer.types:
        types[first >> PAGEBLOCK_ORDER : end >> PAGEBLOCK_ORDER] = kind
    start = np.concatenate([one for one, _, _ in packer.used])
    classes = np.concatenate([np.full(len(one), _class(kind)) for one, _, kind in packer.used])
    free = np.concatenate([np.zeros(0, np.int64), *(one for one, _ in packer.free)])
    order = np.concatenate([np.zeros(0, np.uint8), *(_filled(one, o) for one, o in packer.free)])
    pcp_pfn = np.concatenate([np.zeros(0, np.int64), *(one for one, _, _ in packer.listed)])
    pcp_order = [np.zeros(0, np.uint8), *(_filled(one, o) for one, o, _ in packer.listed)]
    pcp_cpu = [np.zeros(0, np.uint16), *(np.full(len(one), c) for one, _, c in packer.listed)]
    memory.import_frames(
        run_start=start.astype(np.uint32),
        run_nr=np.concatenate([nr for _, nr, _ in packer.used]).astype(np.uint32),
        run_class=classes.astype(np.uint8),
        run_order=np.zeros(len(start), np.uint8),
        free_pfn=free.astype(np.uint32),
        free_order=order.astype(np.uint8),
        pageblock_mt=types,
        pcp_pfn=pcp_pfn.astype(np.uint32),
        pcp_order=np.concatenate(pcp_order).astype(np.uint8),
        pcp_cpu=np.concatenate(pcp_cpu).astype(np.uint16),
        pcp_high=[
            (number, cpu, one.high)
            for number, zone in enumerate(zones)
            for cpu, one in enumerate(zone.pcp)
            if pcp
        ],
    )


def _class(kind: int) -> PageClass:
    return PageClass.ANON if kind == MigrateType.MOVABLE else PageClass.KERNEL


def _filled(like: _I64, order: int) -> npt.NDArray[np.uint8]:
    return np.full(len(like), order, np.uint8)
