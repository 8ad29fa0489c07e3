"""A description in the making: where every block lies, but not yet whose it is."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contigmm.hosts.evidence import Evidence
from contigmm.hosts.kpageflags import UsedRuns
from contigmm.hosts.rle import I64


class Subject(enum.IntEnum):
    """What is drawn. A stream of numbers each, so that a change to one leaves the others alone."""

    TYPES = 0
    PCP = 1
    OWNERS = 2
    LIST_ORDER = 3
    PLACEMENT = 4
    REPORTED = 5
    BETWEEN = 6
    YOUNG = 7


def stream(seed: int, subject: Subject) -> np.random.Generator:
    """Return the generator of one subject."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(subject)])))


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """Free blocks, used frames and pageblock types of a machine, and how far they were told."""

    evidence: Evidence
    pfn: I64
    order: npt.NDArray[np.uint8]
    used: UsedRuns
    types: npt.NDArray[np.uint8]
    known: tuple[str, ...]
    drawn: tuple[str, ...]
