"""Physical memory as Python sees it: the one importer of the compiled core."""

from typing import TYPE_CHECKING

from contigmm._core import (
    CoreError,
    InvariantError,
    KmemReplay,
    Memory,
    ProgramReplay,
    VmaIndex,
    contention_study,
    default_costs,
    frag_study,
    tracepoints,
)

if TYPE_CHECKING:  # types of the stub only
    from contigmm._core import FragResult, Played, RangeUsage, Replayed, ZoneCounters

    __all__ = [
        "CoreError",
        "FragResult",
        "InvariantError",
        "KmemReplay",
        "Memory",
        "Played",
        "ProgramReplay",
        "RangeUsage",
        "Replayed",
        "VmaIndex",
        "ZoneCounters",
        "contention_study",
        "default_costs",
        "frag_study",
        "tracepoints",
    ]
else:
    __all__ = [
        "CoreError",
        "InvariantError",
        "KmemReplay",
        "Memory",
        "ProgramReplay",
        "VmaIndex",
        "contention_study",
        "default_costs",
        "frag_study",
        "tracepoints",
    ]
