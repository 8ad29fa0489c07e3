"""When a program is supposed to have written to its memory: it shows in which VMAs merge later.

A log tells of calls, not of stores. What may be written is taken as written, but no sooner than
programs use to: not between a call and the same thread's madvise of the same memory with an advice
for pages to come, and what a loader maps behind a library's data, its .bss, not before the loader
is done with mapping and protecting, as constructors run after that.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_UNMERGEABLE,
    MADV_WIPEONFORK,
    MAP_FIXED,
)
from contigmm.mm.fault import anon_vma_prepare
from contigmm.mm.flags import VM_SHARED, VM_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contigmm.mm.mm_struct import MmStruct
    from contigmm.validate.strace_calls import MemoryCall, Outcome

_LOADING: Final = frozenset({"mmap", "mprotect"})
_OF_PAGES_TO_COME: Final = frozenset(
    {
        MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP, MADV_DONTFORK, MADV_HUGEPAGE, MADV_MERGEABLE,
        MADV_NOHUGEPAGE, MADV_UNMERGEABLE, MADV_WIPEONFORK,
    }
)  # fmt: skip


@dataclass(slots=True, frozen=True)
class _Range:
    """Memory that is to be written: by whom, and ``[start, end)`` in bytes."""

    pid: int
    start: int
    end: int
    is_bss: bool

    def waits_for(self, call: "MemoryCall") -> bool:
        """Is it still unwritten when ``call`` begins?"""
        if self.is_bss:
            return call.logged.name in _LOADING
        if call.logged.pid != self.pid:
            return True
        if call.logged.name != "madvise" or call.words[2] not in _OF_PAGES_TO_COME:
            return False
        start, end = call.span
        return start < self.end and self.start < end

    def without(self, start: int, end: int) -> "Iterator[_Range]":
        """Yield what is left outside of ``[start, end)``."""
        if self.start < min(start, self.end):
            yield replace(self, end=min(start, self.end))
        if max(end, self.start) < self.end:
            yield replace(self, start=max(end, self.start))


class SupposedWrites:
    """What one address space is still to write."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[_Range] = []

    def before(self, mm: "MmStruct", call: "MemoryCall") -> None:
        """Write what ``call`` finds written."""
        waiting = []
        for one in self._ranges:
            if one.waits_for(call):
                waiting.append(one)
            else:
                _write(mm, one.start, one.end)
        self._ranges = waiting

    def after(self, mm: "MmStruct", call: "MemoryCall", outcome: "Outcome") -> None:
        """Note what a call that gave ``outcome`` lets the program write."""
        name, words, value = call.logged.name, call.words, outcome.value
        is_bss = False
        if name in ("mmap", "mremap") and value is not None:
            start, end = value, value + (words[1] if name == "mmap" else words[2])
            if name == "mmap" and call.is_anonymous and words[3] & MAP_FIXED:
                is_bss = _follows_a_file(mm, value)
        elif name == "brk":
            start, end = mm.start_brk, mm.brk
        elif name in ("mprotect", "pkey_mprotect"):
            start, end = call.span
        else:
            return
        self._ranges = [left for one in self._ranges for left in one.without(start, end)]
        self._ranges.append(_Range(call.logged.pid, start, end, is_bss))

    def all(self, mm: "MmStruct") -> None:
        """Write everything: the space is copied, and what is unknown must not be copied too."""
        for one in self._ranges:
            _write(mm, one.start, one.end)
        self._ranges.clear()


def _follows_a_file(mm: "MmStruct", start: int) -> bool:
    prev = mm.prev_of(start)
    return prev is not None and prev.vm_end == start and prev.file is not None


def _write(mm: "MmStruct", start: int, end: int) -> None:
    """Give private writable memory of the range what its first write would give it."""
    for vma in mm.vmas_in(start, end):
        if vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE:
            anon_vma_prepare(mm, vma)
