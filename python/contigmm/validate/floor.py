"""Which part of the min watermark binds small folios, by kernel: a fitted parameter.

The source of 6.12 says all of it (mm/page_alloc.c:__zone_watermark_ok()). A kernel that was seen to
go deeper has a row in :data:`SHARES`, fitted on one of its records by ``contigmm validate
fit-floor`` and scored on the others by ``contigmm validate supply``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from contigmm.hosts import read
from contigmm.validate.supply import FloorShare, closed_form, read_record, step_evidence

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contigmm.description import ZoneDescription

_HUNDREDTHS: Final = 100
_SMALL_ORDERS: Final = range(2, 9)


@dataclass(frozen=True, slots=True)
class FittedShare:
    """The parameter of the kernels whose release matches a pattern."""

    release: str
    below_pmd: float
    source: str


#: The first row that matches counts; a kernel without a row does as the source says.
SHARES: Final = (FittedShare("6.18.*-fc-*", 0.29, "contigmm validate fit-floor d08.truth.json"),)


def share_of(release: str) -> FloorShare:
    """Return the share of the kernel with this release, as ``uname -r`` prints it."""
    for row in SHARES:
        if fnmatchcase(release, row.release):
            return FloorShare(row.below_pmd)
    return FloorShare()


def fit(path: Path) -> FloorShare:
    """Find the share, in hundredths, with which the closed form is nearest to a record.

    Only its never-steps of orders 2 to 8 that delivered something count; an error is relative to
    what was delivered.

    Raises:
        SourceError: the record or its snapshot cannot be read.
        ValueError: no step of the record tells anything.
    """
    record = read_record(path)
    snapshot = read(f"file:{path.with_name(record['snapshots']['pre'])}")
    steps = []
    for index, step in enumerate(record["measured"]):
        delivered = step.get("result", {}).get("success")
        if step.get("defrag") == "never" and step.get("order") in _SMALL_ORDERS and delivered:
            before = step_evidence(snapshot, step["before"], origin=f"{path}:measured[{index}]")
            told = {f"{node}/{name}": row for (node, name), row in before.buddyinfo.items()}
            steps.append((told, before.zones, step["order"], step["max"], delivered))
    if not steps:
        raise ValueError(f"{path}: no never-step of orders 2 to 8 delivered anything")
    shares = [FloorShare(n / _HUNDREDTHS) for n in range(_HUNDREDTHS + 1)]
    return min(shares, key=lambda share: sum(_error(*step, share) for step in steps))


def _error(
    told: dict[str, list[int]],
    zones: Sequence[ZoneDescription],
    order: int,
    most: int,
    delivered: int,
    share: FloorShare,
) -> float:
    return abs(min(closed_form(told, zones, order, share), most) - delivered) / delivered
