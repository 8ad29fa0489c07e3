"""The real kernel's own figures, through ctypes, in the same run as the library's."""

import ctypes
import sys
from typing import Final

from contigmm.abi import (
    MADV_NOHUGEPAGE,
    MAP_ANONYMOUS,
    MAP_POPULATE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
)
from contigmm.bench.library import KIB_64, MIB_4, MIB_64, page_subjects
from contigmm.bench.measure import Subject

_RW: Final = PROT_READ | PROT_WRITE
_PRIVATE: Final = MAP_PRIVATE | MAP_ANONYMOUS
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


def subjects() -> list[Subject]:
    """The same pairs asked of the kernel that runs us; none where it is not Linux."""
    if sys.platform != "linux":
        return []
    return [
        _pair("real_mmap_munmap_64k", KIB_64, _PRIVATE, number=500),
        _pair("real_populate_4m", MIB_4, _PRIVATE | MAP_POPULATE, number=5),
        *_pages(),
    ]


def _pages() -> list[Subject]:
    """As the library's, on small pages."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    word = ctypes.c_size_t
    libc.mmap.argtypes = [ctypes.c_void_p, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, word]
    libc.madvise.argtypes = [ctypes.c_void_p, word, ctypes.c_int]
    addr = libc.mmap(None, MIB_64, _RW, _PRIVATE, -1, 0)
    if addr == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")

    def advise(advice: int) -> None:
        if libc.madvise(addr, MIB_64, advice):
            raise OSError(ctypes.get_errno(), "madvise")

    advise(MADV_NOHUGEPAGE)
    return page_subjects("real_", advise)


def _pair(name: str, length: int, flags: int, *, number: int) -> Subject:
    libc = ctypes.CDLL(None, use_errno=True)
    mmap, munmap = libc.mmap, libc.munmap
    mmap.restype = ctypes.c_void_p
    word = ctypes.c_size_t
    mmap.argtypes = [ctypes.c_void_p, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, word]
    munmap.argtypes = [ctypes.c_void_p, word]

    def work() -> None:
        addr = mmap(None, length, _RW, flags, -1, 0)
        if addr == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "mmap")
        munmap(addr, length)

    return Subject(name, work, number)
