"""Supply: how many folios of each order a real kernel delivered, beside what is forecast.

A record (``contig-truth/1``) tells, step by step, how many anonymous folios of one order could be
faulted in, without reclaim and compaction (``defrag: never``), until the first fallback. Each step
is forecast twice by running its requests on a machine: one booted from the free lists read just
before the step, and one booted from the snapshot taken before all steps, on which the requests of
the earlier steps are run first. Outcomes are read for the comparison only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contigmm import foreign_json
from contigmm.abi import PAGE_SIZE
from contigmm.description import MigrateType, PcpDescription, ZoneDescription
from contigmm.hosts import Builder, Evidence, read
from contigmm.hosts.draft import Subject, stream
from contigmm.hosts.proc_text import MIGRATETYPE_NAMES, PageTypeInfo, ZoneKey
from contigmm.hosts.source_error import SourceError
from contigmm.phys import Memory
from contigmm.phys.free_lists import suitable_blocks
from contigmm.phys.gfp import GFP
from contigmm.sim.boot import boot_memory
from contigmm.validate.khugepaged import PMD_ORDER, enable_size, with_size_enabled
from contigmm.validate.supply_gap import (
    PAGE_GFP,
    RECORDER,
    code_snapshot,
    draw_cpus,
    recorders_cpu,
)
from contigmm.validate.supply_lists import ToldLists, match_cpus, scale_lists, told_totals

FORMAT: Final = "contig-truth/1"
#: Anonymous folios with ``defrag`` at never: mm/huge_memory.c:vma_thp_gfp_mask(), v6.12.
FOLIO_GFP: Final = GFP["GFP_TRANSHUGE_LIGHT"]
#: Page tables: include/asm-generic/pgalloc.h (``GFP_PGTABLE_USER``), v6.12.
TABLE_GFP: Final = GFP["GFP_KERNEL"] | GFP["__GFP_ZERO"] | GFP["__GFP_ACCOUNT"]
#: What the probing program notes of each folio: two times and a frame.
_WORD_ARRAYS: Final = 3
#: ``lowmem_reserve`` column of a movable request.
_MOVABLE_ZONE: Final = 3


@dataclass(frozen=True, slots=True)
class Ask:
    """What one step asks: folios of an order, at most ``limit``, given back afterwards."""

    order: int
    limit: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One figure of several draws."""

    values: tuple[int, ...]

    @property
    def middle(self) -> int:
        """The median."""
        return int(np.median(self.values))

    def to_json(self, name: str) -> dict[str, int]:
        """Return the median by ``name``, and beside it the least and the greatest."""
        return {
            name: self.middle,
            f"{name}_low": min(self.values),
            f"{name}_high": max(self.values),
        }


@dataclass(frozen=True, slots=True)
class StepForecast:
    """One never-step: what was delivered (if the record tells) and what is forecast."""

    record: str
    index: int
    order: int
    delivered: int | None
    from_step: Drawn
    from_snapshot: Drawn
    closed_form_step: int
    closed_form_snapshot: int
    type_blind_step: int
    type_blind_snapshot: int
    no_op: int

    def to_json(self) -> dict[str, Any]:
        """Return one row of ``steps`` in ``validate-supply/1``."""
        return {
            "record": self.record,
            "index": self.index,
            "order": self.order,
            "defrag": "never",
            "delivered": self.delivered,
            **self.from_step.to_json("from_step"),
            **self.from_snapshot.to_json("from_snapshot"),
            "closed_form_step": self.closed_form_step,
            "closed_form_snapshot": self.closed_form_snapshot,
            "type_blind_step": self.type_blind_step,
            "type_blind_snapshot": self.type_blind_snapshot,
            "no_op": self.no_op,
        }


@dataclass(frozen=True, slots=True)
class SnapshotRun:
    """One draw from the snapshot.

    By step: what it got, on which CPU it ran, and what per-CPU lists held before it.
    """

    got: tuple[int, ...]
    cpus: tuple[int, ...]
    on_lists: tuple[npt.NDArray[np.int64], ...]


def validate_record(path: Path, *, draws: int = 1, seed: int = 0) -> Iterator[StepForecast]:
    """Forecast every never-step of one record.

    Raises:
        SourceError: the record or its snapshot cannot be read.
    """
    record = read_record(path)
    source = path.with_name(record["snapshots"]["pre"])
    snapshot, written = read(f"file:{source}"), source.stat().st_size
    steps = [
        (index, step)
        for index, step in enumerate(record["measured"])
        if step.get("step") == "fault" and step.get("defrag") == "never"
    ]
    asks = [Ask(int(step["order"]), int(step["max"])) for _, step in steps]
    builder = Builder(snapshot)
    runs = [
        _run_from_snapshot(builder, snapshot, asks, written=written, seed=seed + n)
        for n in range(draws)
    ]
    limited = {ask.order: with_size_enabled(snapshot, ask.order) for ask in asks}
    first = _named(snapshot)
    for at, (index, step) in enumerate(steps):
        ask = asks[at]
        start = limited[ask.order]
        before = step_evidence(start, step["before"], origin=f"{path}:measured[{index}]")
        told, here = _named(before), ToldLists.of(before)
        yield StepForecast(
            record=str(record.get("name", path.name)),
            index=index,
            order=ask.order,
            delivered=step.get("result", {}).get("success"),
            from_step=Drawn(
                tuple(
                    _run_from_step(here, run, at, ask, seed=seed + n) for n, run in enumerate(runs)
                )
            ),
            from_snapshot=Drawn(tuple(run.got[at] for run in runs)),
            closed_form_step=min(closed_form(told, before.zones, ask.order), ask.limit),
            closed_form_snapshot=min(closed_form(first, start.zones, ask.order), ask.limit),
            type_blind_step=probe(here.boot_type_blind(), ask),
            type_blind_snapshot=probe(ToldLists.of(start).boot_type_blind(), ask),
            no_op=sum(sum(counts[ask.order :]) for counts in told.values()),
        )


def _named(evidence: Evidence) -> dict[str, list[int]]:
    return {f"{node}/{name}": counts for (node, name), counts in evidence.buddyinfo.items()}


def _run_from_snapshot(
    builder: Builder, snapshot: Evidence, asks: Sequence[Ask], *, written: int, seed: int
) -> SnapshotRun:
    """Run the requests of all steps, one after the other, on one machine."""
    memory = boot_memory(builder.build(seed=seed), seed=seed, cpus=None, costs=False)
    memory.set_direct_reclaim(False)
    rng = stream(seed, Subject.BETWEEN)
    recorder = recorders_cpu(snapshot, memory.nr_cpus(), rng)
    clock = code_snapshot(memory, snapshot, rng, cpu=recorder, written=written)
    got, on_lists = [], []
    cpus = tuple(draw_cpus(len(asks), memory.nr_cpus(), rng, first=recorder))
    for ask, cpu in zip(asks, cpus, strict=True):
        on_lists.append(memory.pcp_frames().astype(np.int64))
        enable_size(memory, ask.order)
        got.append(probe(memory, ask, cpu=cpu))
        clock.pass_by(RECORDER.seconds_a_step)
    return SnapshotRun(tuple(got), cpus, tuple(on_lists))


def _run_from_step(lists: ToldLists, run: SnapshotRun, at: int, ask: Ask, *, seed: int) -> int:
    """Run one step's request on its own lists; what their totals consist of is as in a run."""
    totals = told_totals(lists.evidence)
    zones = lists.evidence.zones
    content = [
        scale_lists(held, totals[zone.key])
        for held, zone in zip(run.on_lists[at], zones, strict=True)
    ]
    memory = lists.boot(content, seed=seed)
    largest = max(range(len(zones)), key=lambda number: zones[number].managed)
    cpu = match_cpus(run.on_lists[at][largest], totals[zones[largest].key])[run.cpus[at]]
    return probe(memory, ask, cpu=cpu)


def read_record(path: Path) -> dict[str, Any]:
    """Read a record's JSON.

    Raises:
        SourceError: it is none.
    """
    try:
        record = foreign_json.loads(path.read_bytes())
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror}.", name=str(path)) from error
    except ValueError as error:
        raise SourceError(f"it is no JSON: {error}.", name=str(path)) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise SourceError(f"it is no record of the format {FORMAT!r}.", name=str(path))
    snapshots = record.get("snapshots")
    told = isinstance(snapshots, dict) and isinstance(snapshots.get("pre"), str)
    if not told or not isinstance(record.get("measured"), list):
        raise SourceError("it lacks its steps or the name of its snapshot.", name=str(path))
    return record


def step_evidence(snapshot: Evidence, before: dict[str, Any], *, origin: str) -> Evidence:
    """Return what a step's own reading tells: its counts, in the snapshot's zones.

    Raises:
        SourceError: it is malformed.
    """
    try:
        buddy = {_zone_key(name): [int(n) for n in row] for name, row in before["buddy"].items()}
        free: dict[ZoneKey, dict[MigrateType, list[int]]] = {}
        for name, row in before["free_by_type"].items():
            zone, _, kind = name.rpartition("/")
            free.setdefault(_zone_key(zone), {})[MIGRATETYPE_NAMES[kind]] = [int(n) for n in row]
        blocks = {
            _zone_key(name): {MIGRATETYPE_NAMES[kind]: int(n) for kind, n in row.items()}
            for name, row in before["pageblocks"].items()
        }
        zones = tuple(_zone_before(zone, before) for zone in snapshot.zones)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"its reading is malformed: {error!r}.", name=origin) from error
    types = PageTypeInfo(PMD_ORDER, free, blocks, frozenset())
    return replace(
        snapshot, origin=origin, zones=zones, buddyinfo=buddy, types=(types,), page_flags=None
    )


def _zone_key(name: str) -> ZoneKey:
    node, _, zone = name.partition("/")
    return int(node), zone


def _zone_before(zone: ZoneDescription, before: dict[str, Any]) -> ZoneDescription:
    counts = before["pcp"].get(zone.key, [pcp.count for pcp in zone.pcp])
    pcp: tuple[PcpDescription, ...] = tuple(
        replace(one, count=int(count)) for one, count in zip(zone.pcp, counts, strict=False)
    )
    return replace(zone, pcp=pcp, watermark_boost=int(before["boost"].get(zone.key, 0)))


def probe(memory: Memory, ask: Ask, *, cpu: int = 0) -> int:
    """Fault in folios of one order until the first fallback, then give all back.

    The program first writes to three arrays with a word for each folio that it may get. Each 2 MiB
    of address space needs a page table: mm/memory.c:do_anonymous_page(), v6.12.
    """
    a_table = 1 << max(0, PMD_ORDER - ask.order)
    words = _WORD_ARRAYS * 8 * ask.limit // PAGE_SIZE
    own = memory.alloc_batch(words, order=0, gfp=PAGE_GFP, cpu=cpu)
    tables, folios = [], []
    got = 0
    while got < ask.limit:
        tables.append(memory.alloc_batch(1, order=0, gfp=TABLE_GFP, cpu=cpu))
        wanted = min(a_table, ask.limit - got)
        batch = memory.alloc_batch(wanted, order=ask.order, gfp=FOLIO_GFP, cpu=cpu)
        folios.append(batch)
        got += len(batch)
        if len(batch) < wanted:
            break
    for batch in folios:
        memory.free_batch(batch, order=ask.order, cpu=cpu)
    for batch in (*tables, own):
        memory.free_batch(batch, order=0, cpu=cpu)
    return got


def closed_form(
    counts: dict[str, list[int]],
    zones: Sequence[ZoneDescription],
    order: int,
) -> int:
    """Return what the free lists alone allow: per zone, carvable blocks or frames above the floor.

    This is the arithmetic that a simulation has to beat.
    """
    total = 0
    for zone in zones:
        row: npt.NDArray[np.uint64] = np.array(counts.get(zone.key, [0] * 11), np.uint64)
        reserve = (zone.protection or (0, 0, 0, 0))[_MOVABLE_ZONE]
        floor = (zone.watermark_min or 0) + zone.watermark_boost + reserve
        spare = int((suitable_blocks(row, 0) - floor) // (1 << order))
        total += max(0, min(suitable_blocks(row, order), spare))
    return total
