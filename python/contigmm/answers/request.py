"""What is asked for: a size in bytes and the flags of the request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from contigmm.errors import ContigmmError

PAGE_SIZE: Final = 4096
MAX_PAGE_ORDER: Final = 10  # include/linux/mmzone.h, v6.12

# include/linux/gfp_types.h, v6.12
_BITS: Final = {
    "__GFP_DMA": 1 << 0,
    "__GFP_HIGHMEM": 1 << 1,
    "__GFP_DMA32": 1 << 2,
    "__GFP_MOVABLE": 1 << 3,
    "__GFP_RECLAIMABLE": 1 << 4,
    "__GFP_HIGH": 1 << 5,
    "__GFP_IO": 1 << 6,
    "__GFP_FS": 1 << 7,
    "__GFP_ZERO": 1 << 8,
    "__GFP_DIRECT_RECLAIM": 1 << 10,
    "__GFP_KSWAPD_RECLAIM": 1 << 11,
    "__GFP_WRITE": 1 << 12,
    "__GFP_NOWARN": 1 << 13,
    "__GFP_RETRY_MAYFAIL": 1 << 14,
    "__GFP_NOFAIL": 1 << 15,
    "__GFP_NORETRY": 1 << 16,
    "__GFP_MEMALLOC": 1 << 17,
    "__GFP_COMP": 1 << 18,
    "__GFP_NOMEMALLOC": 1 << 19,
    "__GFP_HARDWALL": 1 << 20,
    "__GFP_THISNODE": 1 << 21,
    "__GFP_ACCOUNT": 1 << 22,
}
DIRECT_RECLAIM: Final = _BITS["__GFP_DIRECT_RECLAIM"]
MOVABLE: Final = _BITS["__GFP_MOVABLE"]
HIGHMEM: Final = _BITS["__GFP_HIGHMEM"]
DMA: Final = _BITS["__GFP_DMA"]
DMA32: Final = _BITS["__GFP_DMA32"]
_RECLAIM: Final = DIRECT_RECLAIM | _BITS["__GFP_KSWAPD_RECLAIM"]
_KERNEL: Final = _RECLAIM | _BITS["__GFP_IO"] | _BITS["__GFP_FS"]
_HIGHUSER: Final = _KERNEL | _BITS["__GFP_HARDWALL"] | HIGHMEM
_THP: Final = _BITS["__GFP_COMP"] | _BITS["__GFP_NOMEMALLOC"] | _BITS["__GFP_NOWARN"]
GFP: Final = _BITS | {
    "__GFP_RECLAIM": _RECLAIM,
    "GFP_ATOMIC": _BITS["__GFP_HIGH"] | _BITS["__GFP_KSWAPD_RECLAIM"],
    "GFP_NOWAIT": _BITS["__GFP_KSWAPD_RECLAIM"] | _BITS["__GFP_NOWARN"],
    "GFP_NOIO": _RECLAIM,
    "GFP_NOFS": _RECLAIM | _BITS["__GFP_IO"],
    "GFP_KERNEL": _KERNEL,
    "GFP_USER": _KERNEL | _BITS["__GFP_HARDWALL"],
    "GFP_DMA": DMA,
    "GFP_DMA32": DMA32,
    "GFP_HIGHUSER": _HIGHUSER,
    "GFP_HIGHUSER_MOVABLE": _HIGHUSER | MOVABLE,
    "GFP_TRANSHUGE_LIGHT": (_HIGHUSER | MOVABLE | _THP) & ~_RECLAIM,
    "GFP_TRANSHUGE": (_HIGHUSER | MOVABLE | _THP) & ~_RECLAIM | DIRECT_RECLAIM,
}
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
        """Whether the piece fills its block, so that no tail is given back."""
        return self.nr_pages == 1 << self.order

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
