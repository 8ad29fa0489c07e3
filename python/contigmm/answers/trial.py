"""Requests run on a machine that was booted from a source: one trial a draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from contigmm.answers.request import Request
from contigmm.description import MAX_NR_FRAMES, MachineDescription
from contigmm.hosts import build, read, spec_of
from contigmm.phys import CoreError, Memory
from contigmm.sim.boot import boot_memory

#: Blocks asked for in one crossing; a batch ends at the first refusal.
_BATCH: Final = 4096
_ENOMEM: Final = 12


@dataclass(frozen=True, slots=True)
class Trial:
    """What one drawn machine delivered: pieces until the first refusal, and who refused."""

    count: int
    cause: str
    sentence: str


def drawn_machines(
    source: str, *, draws: int, seed: int
) -> Iterator[tuple[MachineDescription, Memory]]:
    """Boot the machine of a source, once for each draw of what the source does not tell.

    A source that leaves nothing to chance is booted once. Requests make no room for themselves:
    what goes before them is the caller's to do.

    Raises:
        SourceError: the source cannot be read.
    """
    fixed = spec_of(source, seed=seed)
    evidence = None if fixed is not None else read(source)
    for number in range(1 if evidence is None else draws):
        description = fixed
        if evidence is not None:
            description = build(evidence, seed=seed + number)
        if description is not None:
            memory = boot_memory(description, seed=seed, cpus=None, costs=False)
            memory.set_direct_reclaim(False)
            yield description, memory


def run_until_refused(memory: Memory, request: Request, *, limit: int | None = None) -> Trial:
    """Ask for the same piece again and again, keeping each, until one is refused."""
    if request.nr_pages > MAX_NR_FRAMES:
        return Trial(0, "no_range", f"no machine has {request.nr_pages:,} frames")
    count = 0
    while limit is None or count < limit:
        try:
            count += _ask(memory, request, _BATCH if limit is None else limit - count)
        except CoreError as refusal:
            if refusal.errno != _ENOMEM and refusal.cause != "unsupported_gfp":
                raise
            return Trial(count, refusal.cause, _sentence(refusal, request))
    return Trial(count, "", "")


def _sentence(refusal: CoreError, request: Request) -> str:
    """Say what a refusal of the core means for this request."""
    sentences = {
        "below_watermark": "every zone that may serve it is at its mark, and nothing was "
        "reclaimed for it",
        "no_block": f"frames are free above the marks, but no block of order {request.order} is in "
        "a zone that may give it, and nothing was moved for it",
        "compaction_failed": "frames are free above the marks, but no block of order "
        f"{request.order} is in a zone that may give it, and compaction made none",
        "no_room": "every zone that may serve it is at its mark, and reclaim made no more room",
        "out_of_memory": "no zone that may serve it has a free frame",
    }
    return sentences.get(refusal.cause, str(refusal.strerror))


def _ask(memory: Memory, request: Request, nr: int) -> int:
    """Ask once, or a batch where the pieces are whole blocks; return how many came.

    What is larger than any block is asked for as mmap(MAP_CONTIG) asks: a range that is emptied.
    """
    if request.is_whole_block and nr > 1:
        got = memory.alloc_batch(nr, order=request.order, gfp=request.gfp)
        if len(got):
            return len(got)
    if request.is_range:
        return memory.run_alloc_batch(nr=request.nr_pages, most=nr, cpu=0, gfp=request.gfp)
    if request.is_whole_block:
        memory.alloc_pages(order=request.order, gfp=request.gfp)
    else:
        memory.run_alloc(nr=request.nr_pages, cpu=0, gfp=request.gfp)
    return 1
