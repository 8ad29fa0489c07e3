"""Whether one piece of a size is to be had on a machine, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from contigmm.answers.arithmetic import sizes, unknowns, zone_lines
from contigmm.answers.request import CONTIG_GFP, MAX_PAGE_ORDER, Request
from contigmm.answers.trial import Trial, drawn_machines, run_until_refused
from contigmm.description import MachineDescription, PageClass
from contigmm.phys import Memory

DRAWS: Final = 5
SUCCEEDS: Final = "succeeds"
FAILS: Final = "fails"
UNKNOWN: Final = "unknown"

_MOVABLE: Final = (
    PageClass.ANON,
    PageClass.ANON_THP,
    PageClass.SHMEM,
    PageClass.SHMEM_THP,
    PageClass.FILE,
    PageClass.FILE_LARGE,
)
_CACHE: Final = (PageClass.FILE, PageClass.FILE_LARGE)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict, its cause in one stable word, the numbers behind it, and what would help.

    Causes: ``served``, ``below_watermark``, ``no_block``, ``out_of_memory``,
    ``compaction_failed``, ``no_room`` where the request made room in vain,
    and ``draws_differ`` where what the source does not tell decides. Above 4 MiB those of ranges:
    ``no_range``, ``range_unmovable``, ``range_pinned`` and the others of :class:`CoreError`, and
    ``unsupported_gfp``.
    """

    request: Request
    verdict: str
    cause: str
    refusal: str
    evidence: tuple[str, ...]
    would_help: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the keys of ``explain/1``."""
        return {
            "verdict": self.verdict,
            "cause": self.cause,
            "size_bytes": self.request.size_bytes,
            "gfp": self.request.gfp_text,
            "evidence": list(self.evidence),
            "would_help": list(self.would_help),
        }

    def sentence(self) -> str:
        """Return the verdict in one sentence."""
        piece = f"{sizes(self.request.size_bytes)} in one piece (order {self.request.order})"
        if self.verdict == SUCCEEDS:
            return f"{piece} would be there."
        if self.cause == "draws_differ":
            return f"{piece}: what the source does not tell decides; {self.refusal}."
        if self.verdict == UNKNOWN:
            return f"{piece} is not there now: {self.refusal}."
        return f"{piece} would be refused: {self.refusal}."


def explain(
    source: str,
    size: str,
    *,
    gfp: str = CONTIG_GFP,
    draws: int = DRAWS,
    seed: int = 0,
) -> Explanation:
    """Ask a machine booted from ``source`` for one piece of ``size``, and say what decided.

    Raises:
        SourceError: the source cannot be read.
        RequestError: the request is none.
    """
    request = Request.parse(size, gfp)
    trials: list[Trial] = []
    evidence: list[str] = []
    would_help: tuple[str, ...] = ()
    for description, memory in drawn_machines(source, draws=draws, seed=seed):
        if not trials:
            evidence = [
                *zone_lines(memory, request),
                *(f"unknown: {sentence}" for sentence in unknowns(description)),
            ]
            would_help = _remedies(description, memory, request)
        memory.set_direct_reclaim(True)
        trials.append(run_until_refused(memory, request, limit=1))
        if len(trials) == 1:
            evidence += efforts(memory)
    refused = [trial for trial in trials if not trial.count]
    verdict, cause = _judge(trials, refused)
    return Explanation(
        request,
        verdict,
        cause,
        refusal=_refusal(trials, refused),
        evidence=tuple(evidence),
        would_help=would_help if refused else (),
    )


def _judge(trials: list[Trial], refused: list[Trial]) -> tuple[str, str]:
    if not refused:
        return SUCCEEDS, "served"
    if len(refused) < len(trials):
        return UNKNOWN, "draws_differ"
    return FAILS, refused[0].cause


def efforts(memory: Memory, *, since: Mapping[str, int] | None = None) -> list[str]:
    """Say what a request did to make room for itself, if it had to.

    ``since``: counters before it; None: they were all 0.
    """
    done = {name: times - (since or {}).get(name, 0) for name, times in memory.vmstat().items()}
    if not any(done[name] for name in ("compact_stall", "pgsteal_direct", "pgmigrate_success")):
        return []
    return [
        f"to make room, the request compacted {done['compact_stall']:,} times, moved "
        f"{done['pgmigrate_success']:,} frames and reclaimed {done['pgsteal_direct']:,}"
    ]


def _refusal(trials: list[Trial], refused: list[Trial]) -> str:
    if not refused:
        return ""
    if len(refused) < len(trials):
        return f"{len(refused)} of {len(trials)} draws are refused: {refused[0].sentence}"
    return refused[0].sentence


def _remedies(description: MachineDescription, memory: Memory, request: Request) -> tuple[str, ...]:
    """Return what could make room, with how much there is of it."""
    totals = memory.class_counts().sum(axis=0, dtype=np.int64)
    movable = int(totals[list(_MOVABLE)].sum())
    cache = int(totals[list(_CACHE)].sum())
    on_lists = int(totals[PageClass.PCP])
    remedies = []
    if request.is_range:
        return (
            "a CMA area or a hugetlb pool reserved at boot: a range is emptied only where every "
            "page can move",
            f"smaller pieces, such as {sizes(4096 << MAX_PAGE_ORDER)}",
        )
    if movable:
        remedies.append(f"compaction: {movable:,} frames in use can be moved")
    if cache:
        remedies.append(f"reclaim: {cache:,} frames are page cache")
    if on_lists:
        remedies.append(f"draining per-CPU lists: {on_lists:,} frames wait there")
    if request.order:
        smaller = 4096 << (request.order - 1)
        remedies.append(f"a smaller piece, such as {sizes(smaller)}")
    return tuple(remedies)
