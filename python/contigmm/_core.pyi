"""The compiled core: physical memory, page tables, and the index of an address space.

Only ``contigmm.phys`` imports this module. Numbers are plain ints: frame numbers count 4096-byte
frames, addresses count bytes, orders are log2 of frames. Objects may be shared between threads;
calls on many frames do their work without the GIL.
"""

from typing import TypedDict, final, type_check_only

import numpy as np
import numpy.typing as npt

__all__ = ["CoreError", "InvariantError", "Memory", "VmaIndex"]

class CoreError(OSError):
    """The core refused. ``errno`` is Linux's number, ``cause`` says which rule it was.

    Causes: ``order_too_large``, ``no_such_migrate_type``, ``no_such_cpu``, ``no_such_node``
    (EINVAL); ``below_watermark``, ``no_block``, ``out_of_memory`` (ENOMEM).
    """

    cause: str

class InvariantError(Exception):
    """An invariant of the core does not hold: a bug of the simulator, never an answer."""

@type_check_only
class ZoneCounters(TypedDict):
    """One zone, in frames, as :meth:`Memory.zones` tells it."""

    node: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    free: int
    free_cma: int
    free_highatomic: int
    watermark_min: int
    watermark_low: int
    watermark_high: int
    watermark_promo: int
    watermark_boost: int
    protection: list[int]
    pcp: list[tuple[int, int, int, int, int]]  # of each CPU: count, high, batch, high_min, high_max
    numa_hit: int
    numa_miss: int
    numa_foreign: int
    numa_local: int
    numa_other: int

@final
class Memory:
    """All physical memory of one machine, and who uses it."""

    @staticmethod
    def boot(spec_json: str) -> Memory:
        """Boot a machine, all of its managed memory free.

        ``spec_json`` is an object with the keys of ``BootSpec``, rust/core/src/boot.rs.

        Raises:
            ValueError: It is no such object, or it contradicts itself.
        """

    def import_frames(
        self,
        *,
        run_start: npt.NDArray[np.uint32],
        run_nr: npt.NDArray[np.uint32],
        run_class: npt.NDArray[np.uint8],
        run_order: npt.NDArray[np.uint8],
        free_pfn: npt.NDArray[np.uint32],
        free_order: npt.NDArray[np.uint8],
        pageblock_mt: npt.NDArray[np.uint8],
        pcp_pfn: npt.NDArray[np.uint32],
        pcp_order: npt.NDArray[np.uint8],
        pcp_cpu: npt.NDArray[np.uint16],
        pcp_high: list[tuple[int, int, int]],
    ) -> None:
        """Replace the state of every frame: those that no column names are holes.

        Used frames are runs of blocks of one class and order; free blocks and blocks on per-CPU
        lists stand in the order of their lists; ``pcp_high`` has (zone, cpu, frames). Zones,
        limits, counters and clocks stay as booted.

        Raises:
            ValueError: The columns contradict each other or the zones; nothing has changed.
        """

    # ---- the whole ----

    def snapshot(self) -> bytes:
        """Encode the whole state, compressed: one canonical encoding with a version."""

    @staticmethod
    def restore(snapshot: bytes, *, max_bytes: int) -> Memory:
        """Make a memory in the state that was saved, which is checked in full.

        Raises:
            ValueError: These bytes are no snapshot, are damaged, or unpack to more than
                ``max_bytes``.
        """

    def digest(self) -> bytes:
        """Hash the state, SHA-256: equal states have equal digests."""

    # ---- blocks of frames for callers without an address space ----

    def alloc_pages(self, *, order: int, gfp: int, cpu: int = 0, node: int | None = None) -> int:
        """Allocate ``2**order`` contiguous frames and return the first pfn.

        ``gfp`` holds ``__GFP_*`` bits; ``node`` is the preferred one, ``None`` for the CPU's own.

        Raises:
            CoreError: ENOMEM, no block could be had; EINVAL, no such order, CPU or node.
        """

    def free_pages(self, pfn: int, *, order: int, cpu: int = 0) -> None:
        """Free a block of :meth:`alloc_pages`.

        Raises:
            CoreError: EINVAL, no such order or CPU.
            ValueError: No block of that order is allocated there.
        """

    def alloc_batch(
        self, nr: int, *, order: int, gfp: int, cpu: int = 0, node: int | None = None
    ) -> npt.NDArray[np.uint32]:
        """Allocate up to ``nr`` blocks, as so many calls of :meth:`alloc_pages`.

        The array is shorter than ``nr`` if a block was refused.

        Raises:
            CoreError: EINVAL, no such order, CPU or node.
        """

    def free_batch(self, pfns: npt.NDArray[np.uint32], *, order: int, cpu: int = 0) -> None:
        """Free blocks of one order, in this order.

        Raises:
            CoreError: EINVAL, no such order or CPU.
            ValueError: No block of that order is allocated at one of them; those before are free.
        """

    # ---- views ----

    def buddyinfo(self) -> npt.NDArray[np.uint64]:
        """Count free blocks: [zone, order], zones as in :meth:`zones`."""

    def free_by_type(self) -> npt.NDArray[np.uint64]:
        """Count free blocks: [zone, migratetype, order]."""

    def free_blocks(
        self,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return (pfn, order, migratetype) of every free block.

        Zone by zone, order by order, migratetype by migratetype, each list from its head.
        """

    def check(self) -> None:
        """Hold every invariant against the whole state.

        Raises:
            InvariantError: One does not hold; the message says which.
        """

    def pageblock_types(self) -> npt.NDArray[np.uint8]:
        """Return the migratetype of every pageblock, from frame 0 on."""

    def class_counts(self) -> npt.NDArray[np.uint16]:
        """Count frames: [pageblock, page class], classes as in ``PageClass``."""

    def zones(self) -> list[ZoneCounters]:
        """Return the zones, node by node, low zones first."""

    def vmstat(self) -> dict[str, int]:
        """Return the event counters by their names in /proc/vmstat."""

    def nr_frames(self) -> int:
        """Return one past the highest frame."""

    def nr_cpus(self) -> int:
        """Return the number of CPUs."""

    def node_of_cpu(self, cpu: int) -> int | None:
        """Return the node of a CPU, if there is such a CPU."""

    def clock_ns(self, cpu: int | None = None) -> int:
        """Return the simulated time on ``cpu``, or the latest of all CPUs.

        Raises:
            CoreError: EINVAL, no such CPU.
        """

    def advance_clock(self, ns: int) -> None:
        """Let ``ns`` pass on every CPU."""

@final
class VmaIndex:
    """Ordered map of disjoint address ranges, start -> (end, id), that knows its gaps.

    It holds no policy: what a range means is its owner's business, and ``id`` is the owner's name
    for it. Every operation is O(log n); gaps are found in one descent.
    """

    def __new__(cls) -> VmaIndex:
        """Make an empty index."""

    def insert(self, *, start: int, end: int, id: int, gap_below: int = 0) -> None:
        """Add the range ``start <= addr < end``.

        ``gap_below`` bytes under it count as taken when a gap is searched: the guard gap of a
        growsdown VMA.

        Raises:
            ValueError: The range is empty or overlaps another.
        """

    def remove(self, start: int) -> int:
        """Remove the range that begins at ``start`` and return its id.

        Raises:
            KeyError: None begins there.
        """

    def replace(self, start: int, *, new_start: int, new_end: int) -> None:
        """Move the ends of the range that begins at ``start``; it stays between its neighbours.

        Raises:
            KeyError: None begins there.
            ValueError: The new range is empty or overlaps a neighbour.
        """

    def find(self, addr: int) -> int | None:
        """Return the id of the first range that ends above ``addr``: ``find_vma()``."""

    def lookup(self, addr: int) -> int | None:
        """Return the id of the range that holds ``addr``: ``vma_lookup()``."""

    def prev(self, addr: int) -> int | None:
        """Return the id of the last range that begins below ``addr``."""

    def next(self, addr: int) -> int | None:
        """Return the id of the first range that begins above ``addr``."""

    def range(self, start: int, end: int) -> list[int]:
        """Return the ids of the ranges that overlap ``start <= addr < end``, in order."""

    def highest_gap(
        self,
        *,
        length: int,
        low: int,
        high: int,
        align_mask: int = 0,
        align_offset: int = 0,
        start_gap: int = 0,
    ) -> int | None:
        """Return the highest address of ``low..high`` with ``length`` free bytes behind it.

        ``align_mask`` and ``align_offset`` are those of ``struct vm_unmapped_area_info``;
        ``start_gap`` bytes are kept free below the result.
        """

    def lowest_gap(
        self,
        *,
        length: int,
        low: int,
        high: int,
        align_mask: int = 0,
        align_offset: int = 0,
        start_gap: int = 0,
    ) -> int | None:
        """Return the lowest such address; see :meth:`highest_gap`."""

    def copy(self) -> VmaIndex:
        """Return an index of its own with the same ranges and ids."""

    def __len__(self) -> int:
        """Return the number of ranges."""
