"""What is asked for: a size in bytes and the flags of the request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from contigmm.errors import ContigmmError
from contigmm.phys.gfp import DMA, DMA32, GFP, HIGHMEM, MOVABLE

PAGE_SIZE: Final = 4096
MAX_PAGE_ORDER: Final = 10  # include/linux/mmzone.h, v6.12

#: What ``mmap(MAP_CONTIG)`` asks with: RFC 3/3 of October 2017.
CONTIG_GFP: Final = "GFP_HIGHUSER|__GFP_ZERO"

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class RequestError(ContigmmError, ValueError):
    """A request that no kernel was ever asked: the sentence says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One contiguous piece of ``size_bytes``, asked for with ``gfp``."""

    size_bytes: int
    gfp: int
    gfp_text: str

    @property
    def nr_pages(self) -> int:
        """Frames that the piece needs."""
        return -(-self.size_bytes // PAGE_SIZE)

    @property
    def order(self) -> int:
        """Order of the smallest block that holds the piece: ``get_order()``."""
        return (self.nr_pages - 1).bit_length()

    @property
    def is_whole_block(self) -> bool:
        """Whether the piece fills a block of the buddy allocator, so that no tail is given back."""
        return self.nr_pages == 1 << self.order and not self.is_range

    @property
    def is_range(self) -> bool:
        """Whether no block is that large: a range has to be emptied."""
        return self.order > MAX_PAGE_ORDER

    @property
    def highest_zone(self) -> int:
        """Index of the highest zone that may serve it: ``gfp_zone()``, gfp.h v6.12."""
        if self.gfp & HIGHMEM and self.gfp & MOVABLE:
            return 3
        if self.gfp & DMA:
            return 0
        return 1 if self.gfp & DMA32 else 2

    @classmethod
    def parse(cls, size: str, gfp: str = CONTIG_GFP) -> Request:
        """Read a size such as ``4M`` and flags such as ``GFP_KERNEL|__GFP_COMP``.

        Raises:
            RequestError: the size is none, or a flag has no such name.
        """
        return cls(parse_size(size), parse_gfp(gfp), gfp)


def parse_size(text: str) -> int:
    """Read a size in bytes, with a suffix K, M, G or T (powers of 1024) if it has one.

    Raises:
        RequestError: it is none.
    """
    match = re.fullmatch(r"(\d{1,15})([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None or not int(match[1]):
        raise RequestError(f"{text!r} is no size; sizes are such as 64K, 2M or 4096.")
    return int(match[1]) * _UNITS[match[2].upper()]


def parse_gfp(text: str) -> int:
    """Read flags: names joined by ``|``, or a hexadecimal number.

    Raises:
        RequestError: a name is not one of v6.12.
    """
    gfp = 0
    for word in text.split("|"):
        name = word.strip()
        if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", name):
            gfp |= int(name, 16)
        elif name in GFP:
            gfp |= GFP[name]
        else:
            raise RequestError(f"there is no flag {name!r}; flags are such as GFP_KERNEL.")
    return gfp
