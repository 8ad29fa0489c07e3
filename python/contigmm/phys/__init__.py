"""Physical memory as Python sees it: the one importer of the compiled core."""

from typing import TYPE_CHECKING

from contigmm._core import CoreError, InvariantError, Memory, VmaIndex

if TYPE_CHECKING:  # types of the stub only
    from contigmm._core import RangeUsage, ZoneCounters

    __all__ = ["CoreError", "InvariantError", "Memory", "RangeUsage", "VmaIndex", "ZoneCounters"]
else:
    __all__ = ["CoreError", "InvariantError", "Memory", "VmaIndex"]
