"""Physical memory as Python sees it: the one importer of the compiled core."""

from typing import TYPE_CHECKING

from contigmm._core import CoreError, InvariantError, KmemReplay, Memory, VmaIndex

if TYPE_CHECKING:  # types of the stub only
    from contigmm._core import RangeUsage, Replayed, ZoneCounters

    __all__ = [
        "CoreError",
        "InvariantError",
        "KmemReplay",
        "Memory",
        "RangeUsage",
        "Replayed",
        "VmaIndex",
        "ZoneCounters",
    ]
else:
    __all__ = ["CoreError", "InvariantError", "KmemReplay", "Memory", "VmaIndex"]
