"""What this room asks of physical memory and of the index of VMAs, as types.

``contigmm.phys`` has the real ones; the tests have a page-at-a-time model of the same shape.
Positions are in pages (``vpn``, ``pfn``, ``nr``), addresses in bytes. A bulk call that cannot go
on returns how far it came and a word that says why, '' if it finished: see ``causes``.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


class VmaIndexPort(Protocol):
    """Ordered, gap-augmented map from address ranges to VMA ids. No policy."""

    def insert(self, *, start: int, end: int, id: int, gap_below: int = 0) -> None:
        """Add a range; ``gap_below`` bytes under it are no gap for others."""

    def remove(self, start: int) -> int:
        """Take a range out by its start and return its id."""

    def replace(self, start: int, *, new_start: int, new_end: int) -> None:
        """Move the ends of the range that begins at ``start``."""

    def find(self, addr: int) -> int | None:
        """Return the id of the first range that ends above ``addr``: find_vma()."""

    def lookup(self, addr: int) -> int | None:
        """Return the id of the range that holds ``addr``: vma_lookup()."""

    def prev(self, addr: int) -> int | None:
        """Return the id of the last range that begins below ``addr``."""

    def next(self, addr: int) -> int | None:
        """Return the id of the first range that begins above ``addr``."""

    def range(self, start: int, end: int) -> Sequence[int]:
        """Return the ids of the ranges that touch ``[start, end)``, in order."""

    def highest_gap(self, *, length: int, low: int, high: int, align_mask: int = 0) -> int | None:
        """Return the highest address where ``length`` bytes fit between ``low`` and ``high``."""

    def lowest_gap(self, *, length: int, low: int, high: int, align_mask: int = 0) -> int | None:
        """Return the lowest address where ``length`` bytes fit between ``low`` and ``high``."""

    def __len__(self) -> int:
        """Count the ranges."""


class MemoryPort(Protocol):
    """Page tables, page cache, runs: ``contigmm.phys.Memory`` as address spaces use it."""

    def mm_create(self) -> int:
        """Make an empty address space."""

    def mm_exit(self, mm: int, *, cpu: int) -> int:
        """Unmap all and free the page tables; return the frames freed."""

    def access(
        self, *, mm: int, cpu: int, addr: int, nr: int, stride: int, write: bool, value: int,
        vm_start: int, vm_end: int, vm_flags: int, obj: int, pgoff: int, prealloc: int,
    ) -> tuple[int, str, int]:  # fmt: skip
        """Read or write one byte at ``nr`` addresses of one VMA: (done, cause, last byte)."""

    def read_bytes(
        self, *, mm: int, cpu: int, addr: int, length: int, vm_start: int, vm_end: int,
        vm_flags: int, obj: int, pgoff: int, prealloc: int,
    ) -> tuple[bytes, str]:  # fmt: skip
        """Load bytes of one VMA: (bytes, cause)."""

    def write_bytes(
        self, *, mm: int, cpu: int, addr: int, data: bytes, vm_start: int, vm_end: int,
        vm_flags: int, obj: int, pgoff: int, prealloc: int,
    ) -> tuple[int, str]:  # fmt: skip
        """Store bytes into one VMA: (bytes done, cause)."""

    def populate(
        self, *, mm: int, cpu: int, vpn: int, nr: int, vm_start: int, vm_end: int, vm_flags: int,
        obj: int, pgoff: int, prealloc: int, write: bool,
    ) -> tuple[int, str]:  # fmt: skip
        """Fault in pages of one VMA: (done, cause)."""

    def zap(self, *, mm: int, cpu: int, vpn: int, nr: int, keep_guards: bool = False) -> int:
        """Unmap pages; guard markers go too unless kept."""

    def free_pgtables(
        self, *, mm: int, cpu: int, start: int, end: int, floor: int, ceiling: int
    ) -> int:
        """Free page tables of a range that neighbours do not need; a ceiling of 0 is the top."""

    def fork(
        self, *, parent: int, child: int, cpu: int, ranges: list[tuple[int, int, int]]
    ) -> tuple[int, str]:
        """Copy page tables of (first page, one past the last, vm_flags), copy on write."""

    def hiwater_rss(self, mm: int) -> int:
        """Return the most pages that were resident at once."""

    def rss(self, mm: int) -> tuple[int, int, int, int]:
        """Return resident anonymous, file and shmem pages, and the bytes of page tables."""

    def protect(self, *, mm: int, vpn: int, nr: int, vm_flags: int) -> None:
        """Give present entries the permissions of ``vm_flags``."""

    def mlock_range(self, *, mm: int, vpn: int, nr: int, vm_flags: int) -> None:
        """Count present pages as locked, or no longer."""

    def move(self, *, mm: int, cpu: int, src: int, dst: int, nr: int) -> tuple[int, str]:
        """Move entries to other virtual pages."""

    def guard_install(self, *, mm: int, cpu: int, vpn: int, nr: int) -> tuple[int, str]:
        """Replace pages by guard markers."""

    def guard_remove(self, *, mm: int, vpn: int, nr: int) -> None:
        """Take guard markers away."""

    def node_of_page(self, *, mm: int, vpn: int) -> tuple[int, str]:
        """Tell a page's node: (node, cause); the cause is '', absent or zero_page."""

    def move_to_node(self, *, mm: int, cpu: int, vpn: int, node: int, shared_too: bool) -> str:
        """Move a page: '' or absent, zero_page, shared, busy, no_memory."""

    def place(self, kind: str, *, nodes: int = 0) -> None:
        """Say from which nodes the next call that faults pages in, or moves some, takes frames."""

    def move_misplaced(
        self, *, mm: int, cpu: int, vpn: int, nr: int, index: int, nodes: int, move_own: bool,
        move_all: bool,
    ) -> int:  # fmt: skip
        """Count, or move as ``place`` has it, the folios on none of ``nodes``; those that stay."""

    def pagemap(self, *, mm: int, vpn: int, nr: int) -> Any:
        """Return words of /proc/PID/pagemap."""

    def mincore(self, *, mm: int, vpn: int, nr: int, obj: int, index: int) -> bytes:
        """Tell page by page whether it is resident; ``index`` is the object's page at ``vpn``."""

    def usage(self, *, mm: int, vpn: int, nr: int) -> Any:
        """Return what smaps counts of a range, in bytes by name."""

    def run_alloc(self, *, nr: int, cpu: int, node: int) -> tuple[int, int]:
        """Allocate exactly ``nr`` frames next to each other, zeroed and pinned: (run, pfn)."""

    def run_map(
        self, *, mm: int, cpu: int, vpn: int, run: int, offset: int, nr: int, vm_flags: int
    ) -> int:
        """Map frames of a run where nothing is mapped."""

    def run_hold(self, *, run: int, offset: int, nr: int) -> None:
        """Hold frames of a run once more."""

    def run_release(self, *, run: int, offset: int, nr: int, cpu: int) -> int:
        """Let frames of a run go; return how many were freed."""

    def rfc_alloc(self, *, length_pages: int, cpu: int, node: int) -> int:
        """Allocate as the RFC did; return the first pfn."""

    def rfc_free(self, *, base: int, nr: int, cpu: int) -> int:
        """Put the pages of an RFC run, as its error path did."""

    def file_create(self, *, shmem: bool, size: int | None = None, fill: int | None = None) -> int:
        """Make an object with a page cache and return its number, from 1 on.

        Byte ``(fill + i) & 255`` fills its page ``i``; without ``fill`` it reads as zeros.
        """

    def file_drop(self, file: int, *, cpu: int = 0) -> int:
        """Remove an object that nobody maps."""

    def file_truncate(self, file: int, *, size: int, cpu: int = 0) -> int:
        """Set the size; drop and unmap the object's own pages behind it."""

    def file_punch(self, file: int, *, index: int, nr: int, cpu: int = 0) -> int:
        """Drop and unmap the object's own pages of a range; they read as zero from then on."""

    def file_read(self, file: int, *, offset: int, cpu: int = 0) -> int | None:
        """Read one byte through the cache, None behind the end."""

    def file_write(self, file: int, *, offset: int, value: int, cpu: int = 0) -> None:
        """Write one byte through the cache."""

    def cache_insert(self, file: int, *, index: int, nr: int, cpu: int = 0) -> tuple[int, str]:
        """Bring pages into the cache."""


@runtime_checkable
class HugePort(Protocol):
    """Huge pages and lazy freeing: what a memory may lack; ``MmConfig.huge`` is None then."""

    def thp_configure(
        self, *, enabled: str, defrag: str, shmem: str, use_zero_page: bool, always: int,
        madvise: int, inherit: int,
    ) -> None:  # fmt: skip
        """Set what /sys/kernel/mm/transparent_hugepage holds; the last three mask orders."""

    def split_huge_at(self, *, mm: int, vpn: int) -> None:
        """Map page by page the huge page that straddles ``vpn``."""

    def lazy_free(self, *, mm: int, cpu: int, vpn: int, nr: int) -> None:
        """MADV_FREE."""

    def cold(self, *, mm: int, cpu: int, vpn: int, nr: int) -> None:
        """MADV_COLD: split what the range cuts."""

    def page_out(self, *, mm: int, cpu: int, vpn: int, nr: int) -> int:
        """MADV_PAGEOUT; return the frames freed."""

    def collapse(self, *, mm: int, cpu: int, vpn: int, vm_flags: int) -> str:
        """Make one huge page of what is mapped: '' or unfit, busy, out_of_memory."""

    def collapse_file(
        self, *, mm: int, cpu: int, vpn: int, vm_start: int, vm_end: int, vm_flags: int, obj: int,
        pgoff: int,
    ) -> str:  # fmt: skip
        """Make one huge page of the object's pages at ``vpn`` and map it; answers as collapse."""

    def cache_reserve(self, file: int, *, index: int, nr: int, cpu: int = 0) -> tuple[int, str]:
        """Bring pages into the cache that have not been filled yet: shmem_fallocate()."""
