"""Physical memory as Python sees it: the one importer of the compiled core."""

from contigmm._core import CoreError, InvariantError, Memory, VmaIndex

__all__ = ["CoreError", "InvariantError", "Memory", "VmaIndex"]
