"""Request flags by name, ``gfp_t``: what a caller of the page allocator allows it to do."""

from typing import Final

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
