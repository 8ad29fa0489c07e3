"""What happens in a machine's allocator, under the names of the kernel's tracepoints.

To listen changes nothing that happens, takes no number, and is in no snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import numpy.typing as npt

from contigmm.errors import ContigmmError
from contigmm.phys import gfp, tracepoints

if TYPE_CHECKING:
    from contigmm.sim.machine import Machine

DEFAULT_CAPACITY: Final = 1 << 16
MAX_CAPACITY: Final = 1 << 24
#: Tracepoints by number: name and fields.
TRACEPOINTS: Final = tuple((name, tuple(fields)) for name, fields in tracepoints())
_NUMBERS: Final = {name: number for number, (name, _) in enumerate(TRACEPOINTS)}
#: The frame of a request that was refused.
NO_PFN: Final = 2**32 - 1
# include/linux/pageblock-flags.h, v6.12, with huge pages of 2 MiB.
_PAGEBLOCK_ORDER: Final = 9
# Bytes of a struct page, and where their array begins: Documentation/arch/x86/x86_64/mm.rst, v6.12.
_STRUCT_PAGE: Final = 64
_VMEMMAP: Final = 0xFFFFEA0000000000
# include/trace/events/mmflags.h, v6.12: compound names first, then bits from the lowest up.
_COMPOUND: Final = (
    "GFP_TRANSHUGE",
    "GFP_TRANSHUGE_LIGHT",
    "GFP_HIGHUSER_MOVABLE",
    "GFP_HIGHUSER",
    "GFP_USER",
    "GFP_KERNEL",
    "GFP_NOFS",
    "GFP_ATOMIC",
    "GFP_NOIO",
    "GFP_NOWAIT",
    "GFP_DMA",
    "GFP_DMA32",
)
# enum compact_result, include/linux/compaction.h, v6.12.
_STATUS: Final = (
    "not_suitable_zone",
    "skipped",
    "deferred",
    "no_suitable_page",
    "continue",
    "complete",
    "partial_skipped",
    "contended",
    "success",
)


class TraceError(ContigmmError):
    """A trace cannot be had so; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class TraceEvents:
    """Events in columns, the oldest first."""

    time_ns: npt.NDArray[np.uint64]
    """When the operation began that an event is part of, on its CPU's clock."""
    cpu: npt.NDArray[np.uint16]
    tracepoint: npt.NDArray[np.uint8]
    """Position in :data:`TRACEPOINTS`."""
    fields: npt.NDArray[np.uint32]
    """One row an event; its tracepoint names the first columns, the others are 0."""
    dropped: int
    """Older events that had to make room."""

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.tracepoint)

    def count(self, name: str) -> int:
        """Return how many events of a tracepoint there are.

        Raises:
            TraceError: there is no such tracepoint.
        """
        return int(np.count_nonzero(self.tracepoint == _number(name)))

    def of(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return the events of one tracepoint as columns by the kernel's names.

        ``time_ns`` and ``cpu`` are among them.

        Raises:
            TraceError: there is no such tracepoint.
        """
        number = _number(name)
        rows = self.tracepoint == number
        columns: dict[str, npt.NDArray[np.generic]] = {
            "time_ns": self.time_ns[rows],
            "cpu": self.cpu[rows],
        }
        for at, field in enumerate(TRACEPOINTS[number][1]):
            columns[field] = self.fields[rows, at]
        return columns

    def last(self, most: int) -> TraceEvents:
        """Return the newest ``most`` events, or all if there are fewer."""
        first = max(0, len(self) - most)
        return TraceEvents(
            self.time_ns[first:],
            self.cpu[first:],
            self.tracepoint[first:],
            self.fields[first:],
            self.dropped,
        )

    def text(self) -> Iterator[str]:
        """Yield the lines that /sys/kernel/tracing/trace_pipe has; the task is ``simulated-0``."""
        for at, number in enumerate(self.tracepoint.tolist()):
            name, fields = TRACEPOINTS[number]
            seconds, ns = divmod(int(self.time_ns[at]), 1_000_000_000)
            values = dict(zip(fields, self.fields[at].tolist(), strict=False))
            yield (
                f"{'simulated':>16}-{0:<7d} [{int(self.cpu[at]):03d}] ..... "
                f"{seconds:5d}.{ns // 1000:06d}: {name}: {_told(name, values)}"
            )


class Trace:
    """Listens to a machine from ``with`` on; see ``Machine.trace``."""

    def __init__(self, machine: Machine, capacity: int) -> None:
        if not 0 < capacity <= MAX_CAPACITY:
            raise TraceError(f"A trace keeps 1 to {MAX_CAPACITY} events, not {capacity}.")
        self._machine = machine
        self._capacity = capacity

    def __enter__(self) -> Self:
        """Begin to listen.

        Raises:
            TraceError: somebody else listens to the machine.
        """
        with self._machine.held() as memory:
            if not memory.trace_start(self._capacity):
                raise TraceError("The machine is being traced already.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Listen no more; events that were not read are gone."""
        with self._machine.held() as memory:
            memory.trace_stop()

    def read(self) -> TraceEvents:
        """Take the events since the last reading out."""
        with self._machine.held() as memory:
            return TraceEvents(*memory.trace_take())


def _number(name: str) -> int:
    if name not in _NUMBERS:
        raise TraceError(f"No tracepoint is called {name!r}.")
    return _NUMBERS[name]


def gfp_text(flags: int) -> str:
    """Name request flags as ``show_gfp_flags()`` does, include/trace/events/mmflags.h, v6.12."""
    names = []
    left = flags
    singles = [name for name in gfp.GFP if name.startswith("__GFP") and name != "__GFP_RECLAIM"]
    for name in (*_COMPOUND, "__GFP_RECLAIM", *singles):
        if left & gfp.GFP[name] == gfp.GFP[name]:
            names.append(name)
            left &= ~gfp.GFP[name]
    if left:
        names.append(f"{left:#x}")
    return "|".join(names) or "none"


def _page(pfn: int) -> str:
    if pfn == NO_PFN:
        return f"page={0:016x} pfn=0x0"
    return f"page={_VMEMMAP + pfn * _STRUCT_PAGE:016x} pfn={pfn:#x}"


def _told(name: str, values: dict[str, int]) -> str:
    """Print the fields as the tracepoint's ``TP_printk`` does."""
    if name.startswith("mm_compaction"):
        return _told_compaction(name, values)
    page = _page(values.pop("pfn"))
    if name == "mm_page_free_batched":
        return f"{page} order=0"
    if name == "mm_page_alloc":
        flags = values.pop("gfp_flags")
        return f"{page} {_pairs(values)} gfp_flags={gfp_text(flags)}"
    if name == "mm_page_alloc_extfrag":
        changed = values.pop("change_ownership")
        orders = {key: values.pop(key) for key in ("alloc_order", "fallback_order")}
        fragmenting = int(orders["fallback_order"] < _PAGEBLOCK_ORDER)
        return (
            f"{page} {_pairs(orders)} pageblock_order={_PAGEBLOCK_ORDER} {_pairs(values)} "
            f"fragmenting={fragmenting} change_ownership={changed}"
        )
    return f"{page} {_pairs(values)}"


def _told_compaction(name: str, values: dict[str, int]) -> str:
    if name == "mm_compaction_migratepages":
        return _pairs(values)
    places = " ".join(
        f"{key}={values[key]:#x}" for key in ("zone_start", "migrate_pfn", "free_pfn", "zone_end")
    )
    told = f"{places}, mode={'sync' if values['sync'] else 'async'}"
    return f"{told} status={_STATUS[values['status']]}" if "status" in values else told


def _pairs(values: dict[str, int]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())
