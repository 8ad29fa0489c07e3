"""How many pieces of a size a machine would deliver, one after the other."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Final

from contigmm.answers.arithmetic import sizes, unknowns, zone_lines
from contigmm.answers.request import CONTIG_GFP, Request, RequestError
from contigmm.answers.trial import Trial, drawn_machines, run_until_refused

DRAWS: Final = 20
_AFTER: Final = ("nothing", "compact")


@dataclass(frozen=True, slots=True)
class HowMany:
    """The answer: ``count`` pieces, between ``low`` and ``high`` over the draws.

    ``confidence`` is the chance that one more draw falls between them: (n - 1) / (n + 1) of n
    draws, 1 where nothing was drawn.
    """

    request: Request
    after: str
    count: int
    low: int
    high: int
    confidence: float
    trials: tuple[Trial, ...]
    arithmetic: tuple[str, ...]
    unknown: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the keys of ``howmany/1``."""
        return {
            "size_bytes": self.request.size_bytes,
            "after": self.after,
            "count": self.count,
            "low": self.low,
            "high": self.high,
            "confidence": self.confidence,
            "gfp": self.request.gfp_text,
            "draws": len(self.trials),
            "evidence": list(self.arithmetic),
            "unknown": list(self.unknown),
        }

    def sentence(self) -> str:
        """Return the answer in one sentence."""
        spread = "" if self.low == self.high else f" (between {self.low:,} and {self.high:,})"
        last = self.trials[0]
        when = "after compaction" if self.after == "compact" else "now"
        return (
            f"{self.count:,} pieces of {sizes(self.request.size_bytes)} are there {when}{spread}; "
            f"the next one would be refused: {last.sentence}."
        )


def howmany(
    source: str,
    size: str,
    *,
    gfp: str = CONTIG_GFP,
    after: str = "nothing",
    draws: int = DRAWS,
    seed: int = 0,
) -> HowMany:
    """Ask a machine booted from ``source`` for pieces of ``size`` until one is refused.

    Raises:
        SourceError: the source cannot be read.
        RequestError: the request is none.
    """
    request = Request.parse(size, gfp)
    if after not in _AFTER:
        raise RequestError(f"only {' or '.join(_AFTER)} can go before, not {after!r}.")
    if not 1 <= draws <= 1000:
        raise RequestError(f"{draws} draws; 1 to 1000 can be.")
    trials: list[Trial] = []
    arithmetic: list[str] = []
    unknown: tuple[str, ...] = ()
    for description, memory in drawn_machines(source, draws=draws, seed=seed):
        if not trials:
            arithmetic = zone_lines(memory, request)
            unknown = unknowns(description)
        if after == "compact":
            memory.compact_memory()
        trials.append(run_until_refused(memory, request))
        if len(trials) == 1:
            arithmetic += [f"afterwards, {line}" for line in zone_lines(memory, request)]
    counts = [trial.count for trial in trials]
    nr = len(counts)
    return HowMany(
        request,
        after,
        count=int(statistics.median_low(counts)),
        low=min(counts),
        high=max(counts),
        confidence=1.0 if not unknown else round((nr - 1) / (nr + 1), 3),
        trials=tuple(trials),
        arithmetic=tuple(arithmetic),
        unknown=unknown,
    )
