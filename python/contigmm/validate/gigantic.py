"""Gigantic pages: whether a range of 1 GiB can be emptied, as a chance over the draws.

A pool of gigantic pages grows page by page through ``alloc_contig_pages()`` until one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from contigmm.phys import CoreError, Memory
from contigmm.phys.gfp import GFP

#: mm/hugetlb.c:alloc_pool_huge_folio() with htlb_alloc_mask(): gigantic pages do not move, v6.12.
GIGANTIC_GFP: Final = GFP["GFP_HIGHUSER"] | GFP["__GFP_COMP"] | GFP["__GFP_THISNODE"]
_PAGE_KIB: Final = 4


def fill_gigantic(memory: Memory, kib: int, asked: int, cpu: int) -> int:
    """Grow a pool of pages of ``kib`` KiB until one is refused; empty it again."""
    nr = kib // _PAGE_KIB
    pool: list[int] = []
    while len(pool) < asked:
        try:
            pool.append(memory.alloc_contig_pages(nr=nr, gfp=GIGANTIC_GFP, cpu=cpu))
        except CoreError:
            break
    for first in pool:
        memory.free_batch(np.arange(first, first + nr, dtype=np.uint32), order=0, cpu=cpu)
    return len(pool)


def gigantic_row(step: Mapping[str, Any], delivered: Sequence[int]) -> dict[str, Any]:
    """Return the row of a step: what is told, and the mean over the draws.

    ``chance`` is the share of draws that delivered all that was asked.
    """
    asked = int(step["requested"])
    return {
        "asked": asked,
        "delivered": step.get("got"),
        "forecast": round(float(np.mean(delivered)), 3),
        "low": min(delivered),
        "high": max(delivered),
        "chance": round(sum(got == asked for got in delivered) / len(delivered), 3),
    }


def brier(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | int]:
    """Return the Brier score of the chances, beside that of the base rate of these rows.

    The base rate is the share of steps that delivered all: the best that a forecast can do which
    knows nothing of the machine. Steps whose outcome is not told are left out; without any,
    nothing is returned.
    """
    told = [row for row in rows if row["delivered"] is not None]
    if not told:
        return {}
    outcomes = [row["delivered"] == row["asked"] for row in told]
    rate = sum(outcomes) / len(outcomes)
    errors = [(row["chance"] - got) ** 2 for row, got in zip(told, outcomes, strict=True)]
    return {
        "steps": len(told),
        "brier": round(sum(errors) / len(errors), 4),
        "brier_base_rate": round(rate * (1 - rate), 4),
    }


def chance_lines(score: Mapping[str, float | int]) -> list[str]:
    """Return the score as a line for people, or none."""
    if not score:
        return []
    return [
        f"gigantic pages: Brier score {score['brier']} of {score['steps']} steps, "
        f"that of their base rate {score['brier_base_rate']}"
    ]
