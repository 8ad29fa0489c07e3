"""The compiled core: physical memory, page tables, and the index of an address space.

Only ``contigmm.phys`` imports this module. Numbers are plain ints: frame numbers count 4096-byte
frames, addresses count bytes, orders are log2 of frames. Objects may be shared between threads;
calls on many frames do their work without the GIL.
"""

from typing import TypedDict, final, type_check_only

import numpy as np
import numpy.typing as npt

__all__ = [
    "CoreError",
    "InvariantError",
    "KmemReplay",
    "Memory",
    "ProgramReplay",
    "VmaIndex",
    "contention_study",
    "default_costs",
    "frag_study",
    "tracepoints",
]

class CoreError(OSError):
    """The core refused. ``errno`` is Linux's number, ``cause`` says which rule it was.

    Causes: ``order_too_large``, ``no_such_migrate_type``, ``no_such_cpu``, ``no_such_node``,
    ``unsupported_gfp`` (EINVAL); ``below_watermark``, ``no_block``, ``compaction_failed``,
    ``no_room``, ``out_of_memory`` (ENOMEM). Of ranges beyond the largest block ``no_range``, and
    what stood in most of them: ``range_reserved``, ``range_crosses_zones``, ``range_isolated``,
    ``range_in_cma``, ``range_has_hugetlb``, ``range_unmovable``, ``range_pinned``, ``range_busy``,
    ``range_no_target`` (ENOMEM); ``strerror`` names the first such frame.
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
    cma: int
    free_highatomic: int
    inactive_file: int
    active_file: int
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

@type_check_only
class RangeUsage(TypedDict):
    """Sizes of a range in bytes: ``struct mem_size_stats``."""

    rss: int
    pss: int
    pss_dirty: int
    shared_clean: int
    shared_dirty: int
    private_clean: int
    private_dirty: int
    referenced: int
    anonymous: int
    lazyfree: int
    anonymous_thp: int
    shmem_thp: int
    pss_anon: int
    pss_shmem: int

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

    def count_oom_kill(self) -> None:
        """Count a process that the out-of-memory killer ended."""

    def mark_used(self, pfns: npt.NDArray[np.uint32], *, active: bool) -> None:
        """Say that imported folios of files were mapped or ``active``.

        Their first frames name them. Reclaim passes a single mapped page by once, an active
        or a large one twice. Other frames are passed over.

        Raises:
            ValueError: A frame does not exist.
        """

    def write_pages(self, nr_bytes: int, *, index: int = 0, cpu: int = 0) -> int:
        """Put bytes of a file, from page ``index`` of it on, in the page cache by one write.

        They are dirty, in folios as large as alignment and free blocks allow, and have no owner.
        Returns the number of folios.

        Raises:
            CoreError: There is no frame for a page; those before it stay.
            ValueError: There is no such CPU, or the file would have over 2^32 pages.
        """

    def mark_dirty(self, pfns: npt.NDArray[np.uint32]) -> None:
        """Say that imported folios, named by their first frames, are not written back yet.

        Frames that have an owner, or are no user memory, are passed over.

        Raises:
            ValueError: a frame does not exist.
        """

    def compact_memory(self, *, cpu: int = 0) -> None:
        """Compact every zone as far as it goes, as ``echo 1 > /proc/sys/vm/compact_memory`` does.

        The simulated time of the work passes on ``cpu``; ``vmstat()`` counts it.

        Raises:
            CoreError: EINVAL, no such CPU.
        """

    def compact_proactively(
        self, *, node: int, proactiveness: int, cpu: int = 0
    ) -> tuple[int, int] | None:
        """Compact a node if it is more fragmented than ``proactiveness`` (0 to 100) tolerates.

        Returns the node's fragmentation score, in per cent, before and after; None when there
        was nothing to do.

        Raises:
            CoreError: EINVAL, no such CPU.
        """

    def decay_pcp(self, *, cpu: int = 0) -> None:
        """Do to a CPU's lists what the kernel does each second: lower ``high``, free what is over.

        Raises:
            CoreError: EINVAL, no such CPU.
        """

    def set_khugepaged(self, on: bool) -> None:
        """Start or stop khugepaged, as enabling or disabling huge pages of the PMD's size does.

        That sets ``min_free_kbytes`` anew; watermarks and the limits of per-CPU lists follow.
        """

    def set_direct_reclaim(self, on: bool) -> None:
        """Say whether requests that may wait compact and reclaim before they are refused."""

    def kswapd(self, *, node: int, budget: int, cpu: int = 0) -> int:
        """Let kswapd of a node work: reclaim at most ``budget`` frames up to the high marks.

        Takes back the watermark boost it found, and then has kcompactd make pageblocks. Returns
        how many frames were freed.

        Raises:
            CoreError: EINVAL, no such CPU.
        """

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

    # ---- address spaces ----
    #
    # A call on many pages that cannot go on says how far it came and why, (done, cause): cause is
    # "" or one of below_watermark, no_block, compaction_failed, no_room, out_of_memory, beyond_eof,
    # guard, run_page_absent.
    # Virtual pages are addresses >> 12. What the core must know of a VMA comes with the call: its
    # bytes, its vm_flags, the file behind it (obj, 0: none) with the page of the file at vm_start
    # (pgoff), and the first frame that the RFC's fault path maps from (prealloc, -1: none). A
    # number that names nothing, or a range outside its VMA, is a ValueError.

    def mm_create(self) -> int:
        """Make an empty address space and return its number, which may be given again later."""

    def mm_exit(self, mm: int, *, cpu: int) -> int:
        """Remove an address space; return the frames freed, page tables not counted."""

    def access(
        self,
        *,
        mm: int,
        cpu: int,
        addr: int,
        nr: int,
        stride: int,
        write: bool,
        value: int,
        vm_start: int,
        vm_end: int,
        vm_flags: int,
        obj: int,
        pgoff: int,
        prealloc: int,
    ) -> tuple[int, str, int]:
        """Touch one byte at each of ``nr`` addresses, ``stride`` apart: (done, cause, last byte).

        What is absent is faulted in. Store ``i`` writes ``(value + i) & 255``. Permissions are the
        caller's business.
        """

    def read_bytes(
        self,
        *,
        mm: int,
        cpu: int,
        addr: int,
        length: int,
        vm_start: int,
        vm_end: int,
        vm_flags: int,
        obj: int,
        pgoff: int,
        prealloc: int,
    ) -> tuple[bytes, str]:
        """Load ``length`` bytes of one VMA, faulting in what is absent: (bytes, cause)."""

    def write_bytes(
        self,
        *,
        mm: int,
        cpu: int,
        addr: int,
        data: bytes,
        vm_start: int,
        vm_end: int,
        vm_flags: int,
        obj: int,
        pgoff: int,
        prealloc: int,
    ) -> tuple[int, str]:
        """Store bytes into one VMA, faulting in what is absent: (bytes done, cause)."""

    def populate(
        self,
        *,
        mm: int,
        cpu: int,
        vpn: int,
        nr: int,
        vm_start: int,
        vm_end: int,
        vm_flags: int,
        obj: int,
        pgoff: int,
        prealloc: int,
        write: bool,
    ) -> tuple[int, str]:
        """Fault in ``nr`` pages of one VMA: (pages present now, cause)."""

    def zap(self, *, mm: int, cpu: int, vpn: int, nr: int, keep_guards: bool = False) -> int:
        """Unmap pages and return how many frames that freed; guard markers go or stay."""

    def free_pgtables(
        self, *, mm: int, cpu: int, start: int, end: int, floor: int, ceiling: int
    ) -> int:
        """Free the page tables that nothing between ``floor`` and ``ceiling`` needs; count them.

        All in bytes; a ``ceiling`` of 0 is the top: ``free_pgtables()``.
        """

    def fork(
        self, *, parent: int, child: int, cpu: int, ranges: list[tuple[int, int, int]]
    ) -> tuple[int, str]:
        """Copy page tables: ranges of (first page, one past the last, vm_flags): (ranges, cause).

        Private pages become copy-on-write in both, pinned ones are copied at once.
        """

    def hiwater_rss(self, mm: int) -> int:
        """Return the most pages that an address space ever had."""

    def rss(self, mm: int) -> tuple[int, int, int, int]:
        """Return (anon, file, shmem) in pages and the bytes of page tables."""

    def protect(self, *, mm: int, vpn: int, nr: int, vm_flags: int) -> None:
        """Give present entries the permissions of ``vm_flags``."""

    def mlock_range(self, *, mm: int, vpn: int, nr: int, vm_flags: int) -> None:
        """Count present pages as locked, or no longer, by VM_LOCKED in ``vm_flags``."""

    def move(self, *, mm: int, cpu: int, src: int, dst: int, nr: int) -> tuple[int, str]:
        """Move entries to other virtual pages: (pages done, cause)."""

    def guard_install(self, *, mm: int, cpu: int, vpn: int, nr: int) -> tuple[int, str]:
        """Zap pages and put guard markers there: (pages done, cause)."""

    def guard_remove(self, *, mm: int, vpn: int, nr: int) -> None:
        """Remove guard markers."""

    # ---- huge pages, and pages that were given up ----

    def thp_configure(
        self,
        *,
        enabled: str,
        defrag: str,
        shmem: str,
        use_zero_page: bool,
        always: int,
        madvise: int,
        inherit: int,
    ) -> None:
        """Set what /sys/kernel/mm/transparent_hugepage holds; what is mapped stays.

        ``enabled``, ``defrag`` and ``shmem`` are the words of the files there. The rest are masks
        of orders (bit n: folios of 2**n pages), from hugepages-*/enabled.

        Raises:
            ValueError: No such word.
        """

    def nr_shmem_pmdmapped(self) -> int:
        """Count the frames of shared memory that somebody maps huge."""

    def split_huge_at(self, *, mm: int, vpn: int) -> None:
        """Map page by page the huge page that begins before ``vpn`` and ends behind it."""

    def lazy_free(self, *, mm: int, cpu: int, vpn: int, nr: int) -> None:
        """Mark anonymous pages as given up: MADV_FREE."""

    def cold(self, *, mm: int, cpu: int, vpn: int, nr: int) -> None:
        """Make pages look unused: MADV_COLD."""

    def page_out(self, *, mm: int, cpu: int, vpn: int, nr: int) -> int:
        """Reclaim pages that were given up or are a file's; return the frames freed."""

    def collapse(self, *, mm: int, cpu: int, vpn: int, vm_flags: int) -> str:
        """Make one huge page of 512 private anonymous pages: '' or unfit, busy, out_of_memory.

        Raises:
            ValueError: ``vpn`` is no multiple of 512.
        """

    def collapse_file(
        self,
        *,
        mm: int,
        cpu: int,
        vpn: int,
        vm_start: int,
        vm_end: int,
        vm_flags: int,
        obj: int,
        pgoff: int,
    ) -> str:
        """Make one huge page of 512 pages of shared memory and map it; causes as ``collapse``.

        Raises:
            ValueError: ``vpn``, or the object's page there, is no multiple of 512.
        """

    def node_of_page(self, *, mm: int, vpn: int) -> tuple[int, str]:
        """Tell the node of a page: (node, cause); the cause is "", ``absent`` or ``zero_page``."""

    def move_to_node(self, *, mm: int, cpu: int, vpn: int, node: int, shared_too: bool) -> str:
        """Move the folio of a page to a node; return why it stays elsewhere, or "".

        Causes: ``absent``, ``zero_page``, ``shared`` (others map it, and only with ``shared_too``
        may it move), ``busy``, ``no_memory``.
        """

    def place(self, kind: str, *, nodes: int = 0) -> None:
        """Say from which nodes the next call that faults pages in, or moves some, takes frames.

        ``kind`` is local, preferred, preferred_many, bind or interleave, ``nodes`` a mask.

        Raises:
            ValueError: no such kind, or no node where it needs one.
        """

    def move_misplaced(
        self,
        *,
        mm: int,
        cpu: int,
        vpn: int,
        nr: int,
        index: int,
        nodes: int,
        move_own: bool,
        move_all: bool,
    ) -> int:
        """Move the folios of a range that lie on none of ``nodes`` to where ``place`` has them.

        ``index`` is the page's index in its object at ``vpn``, by which pages are interleaved.
        Without ``move_own`` and ``move_all`` nothing moves; without ``move_all`` what others map
        stays and counts for nothing. Return how many folios stay where they should not be.
        """

    def pagemap(self, *, mm: int, vpn: int, nr: int) -> npt.NDArray[np.uint64]:
        """Return the words of /proc/PID/pagemap as a privileged reader sees them."""

    def mincore(self, *, mm: int, vpn: int, nr: int, obj: int, index: int) -> bytes:
        """Tell for each page whether it is in memory, 1 or 0; ``index`` is the file's at vpn."""

    def usage(self, *, mm: int, vpn: int, nr: int) -> RangeUsage:
        """Return the sizes of a range, in bytes, as smaps counts them."""

    def anon_adopt(
        self, *, mm: int, cpu: int, vpn: int, pfns: npt.NDArray[np.uint32]
    ) -> tuple[int, str]:
        """Map imported frames as anonymous memory from ``vpn`` on: (done, cause).

        Raises:
            ValueError: A frame is not used, or has an owner; those before it are mapped.
        """

    def adopt_pgtables(self, mm: int, pfns: npt.NDArray[np.uint32]) -> None:
        """Give an address space imported frames for its page tables."""

    # ---- contiguous runs ----

    def run_alloc(
        self, *, nr: int, cpu: int, node: int | None = None, gfp: int | None = None
    ) -> tuple[int, int]:
        """Allocate exactly ``nr`` contiguous frames, zeroed, held and pinned: (run, first pfn).

        ``gfp`` is GFP_HIGHUSER unless given. Up to 4 MiB a block is taken, and what it has too much
        goes back in the largest aligned blocks; beyond, a range is emptied.

        Raises:
            CoreError: ENOMEM, no block or range could be had; EINVAL, flags that do not go with a
                range.
        """

    def alloc_contig_pages(
        self, *, nr: int, gfp: int, cpu: int = 0, node: int | None = None
    ) -> int:
        """Empty a range of ``nr`` frames for a gigantic page, and return its first pfn.

        Its frames are of class ``HUGETLB``, one reference each: :meth:`free_batch` with order 0
        gives them back.

        Raises:
            CoreError: ENOMEM or EINVAL, as :meth:`run_alloc` for large runs.
        """

    def cma_alloc(
        self, *, area: int, nr: int, align: int = 0, cpu: int = 0, gfp: int | None = None
    ) -> int:
        """Take ``nr`` frames of a CMA area (by its place in the boot description), first pfn.

        The first frame is aligned to ``2**align``; ``gfp`` is GFP_KERNEL unless given.

        Raises:
            CoreError: ENOMEM, ``no_range`` where so many are not left, else what stood in the way;
                EINVAL, flags that do not go with a range.
            ValueError: there is no such area.
        """

    def cma_release(self, *, area: int, pfn: int, nr: int, cpu: int = 0) -> bool:
        """Give frames of an area back; False, and nothing is done, if they are not all taken.

        Raises:
            ValueError: there is no such area.
        """

    def run_alloc_batch(
        self, *, nr: int, most: int, cpu: int, node: int | None = None, gfp: int | None = None
    ) -> int:
        """Allocate up to ``most`` runs beyond 4 MiB, until one is refused; return how many.

        Each search goes on behind the run that was found last.

        Raises:
            CoreError: not even one could be had; as :meth:`run_alloc`.
        """

    def break_for_test(self, *, every: int) -> None:
        """Make this core hand out frames twice: for tests of those who should notice, only.

        From now on every ``every``-th run of :meth:`run_alloc` is one that somebody else holds, if
        there is one of the same length. The machine lives on; :meth:`check` fails.
        """

    def run_map(
        self, *, mm: int, cpu: int, vpn: int, run: int, offset: int, nr: int, vm_flags: int
    ) -> int:
        """Map frames of a run where nothing is mapped; return how many pages that were.

        Raises:
            CoreError: ENOMEM, no frame for a page table; what was mapped stays mapped.
        """

    def run_hold(self, *, run: int, offset: int, nr: int) -> None:
        """Count one more VMA that holds these frames."""

    def run_release(self, *, run: int, offset: int, nr: int, cpu: int) -> int:
        """Let a VMA's hold of these frames go; return how many were freed."""

    def rfc_alloc(self, *, length_pages: int, cpu: int, node: int | None = None) -> int:
        """Allocate as RFC 3/3 of October 2017 did: a block, split, its tail freed page by page.

        Raises:
            CoreError: ENOMEM, no block could be had; EINVAL, above MAX_PAGE_ORDER.
        """

    def rfc_free(self, *, base: int, nr: int, cpu: int) -> int:
        """Put the frames that still wait for their first fault; return how many were freed."""

    # ---- files: numbers from 1 on, never given again; indexes are pages of the file ----

    def file_create(self, *, shmem: bool, size: int | None = None, fill: int | None = None) -> int:
        """Make a file, nothing of it cached; ``size`` in bytes, by default the largest.

        Byte ``(fill + i) & 255`` fills page ``i``; without ``fill`` it reads as zeros.
        """

    def file_drop(self, file: int, *, cpu: int = 0) -> int:
        """Remove a file with its cache; return the frames freed."""

    def file_truncate(self, file: int, *, size: int, cpu: int = 0) -> int:
        """Set a file's size; drop and unmap the pages behind it; return the frames freed."""

    def file_punch(self, file: int, *, index: int, nr: int, cpu: int = 0) -> int:
        """Make pages zero and drop them; return the frames freed."""

    def file_read(self, file: int, *, offset: int, cpu: int = 0) -> int | None:
        """Read one byte through the cache; ``None`` behind the end.

        Raises:
            CoreError: ENOMEM, no frame for the page.
        """

    def file_write(self, file: int, *, offset: int, value: int, cpu: int = 0) -> None:
        """Write one byte through the cache; the file grows to hold it.

        Raises:
            CoreError: ENOMEM, no frame for the page.
        """

    def file_nr_pages(self, file: int) -> int:
        """Return the number of cached pages."""

    def cache_insert(self, file: int, *, index: int, nr: int, cpu: int = 0) -> tuple[int, str]:
        """Bring absent pages into the cache: (pages done, cause)."""

    def cache_reserve(self, file: int, *, index: int, nr: int, cpu: int = 0) -> tuple[int, str]:
        """Bring absent pages of shared memory in that nobody has filled: (pages done, cause)."""

    def cache_drop(self, file: int, *, index: int, nr: int, cpu: int = 0) -> int:
        """Unmap and drop cached pages; return the frames freed."""

    def cache_adopt(self, file: int, *, index: int, pfns: npt.NDArray[np.uint32]) -> None:
        """Make imported frames the cached pages from ``index`` on.

        Raises:
            ValueError: A frame is not used, or has an owner; those before it are cached.
        """

    # ---- views ----

    def buddyinfo(self) -> npt.NDArray[np.uint64]:
        """Count free blocks: [zone, order], zones as in :meth:`zones`."""

    def pcp_frames(self) -> npt.NDArray[np.uint64]:
        """Count frames on per-CPU lists: [zone, CPU, migratetype, order of the blocks].

        Migratetypes are the three that have lists; no CPU without lists.
        """

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

    def frame_classes(self, *, first: int = 0, nr: int = ...) -> npt.NDArray[np.uint8]:
        """Return the class of every frame, as ``contigmm.description.PageClass`` numbers them.

        ``first`` and ``nr`` choose some frames; those that do not exist are left out.
        """

    def frame_files(self) -> npt.NDArray[np.uint32]:
        """Return the file that every frame caches a page of; 2**32 - 1: none."""

    def user_stat(self) -> dict[str, int]:
        """Return what user memory counts, in frames, by the names of /proc/vmstat."""

    def pageblock_types(self) -> npt.NDArray[np.uint8]:
        """Return the migratetype of every pageblock, from frame 0 on."""

    def class_counts(self, *, first: int = 0, nr: int = ...) -> npt.NDArray[np.uint16]:
        """Count frames: [pageblock, page class], classes as in ``PageClass``.

        ``first`` and ``nr`` choose some pageblocks; those that do not exist are left out.
        """

    def class_counts_of(self, pageblocks: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
        """Count frames as :meth:`class_counts` does, of some pageblocks by number.

        One row for each, zeros for one that does not exist.

        Raises:
            TypeError: ``pageblocks`` are not contiguous uint32.
        """

    def pageblock_fingerprints(self, *, first: int = 0, nr: int = ...) -> npt.NDArray[np.uint32]:
        """Return a number for each pageblock, another one once its counts may be others.

        ``first`` and ``nr`` as in :meth:`class_counts`. One byte a frame is read, far less than
        counting reads; what mlock(2) does is not seen by it.
        """

    def contig_runs(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """Return (first pfn, frames) of every contiguous run that still holds a frame."""

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

    def trace_start(self, capacity: int) -> bool:
        """Keep the last ``capacity`` events from now on; False: somebody listens already."""

    def trace_stop(self) -> None:
        """Keep no events any more."""

    def trace_take(
        self,
    ) -> tuple[
        npt.NDArray[np.uint64],
        npt.NDArray[np.uint16],
        npt.NDArray[np.uint8],
        npt.NDArray[np.uint32],
        int,
    ]:
        """Take the events out, oldest first: time, CPU, tracepoint, fields; how many were dropped.

        One row of fields an event, as :func:`tracepoints` names them, then zeros.
        """

    def enter_syscall(self, *, cpu: int) -> None:
        """Let the time pass on a CPU that entering and leaving the kernel takes."""

    def advance_clock(self, ns: int) -> None:
        """Let ``ns`` pass on every CPU."""

@type_check_only
class Replayed(TypedDict):
    """What a replay came upon so far, as :meth:`KmemReplay.run` tells it."""

    taken: int
    silent: int
    missing: int
    unknown_frees: int
    claims: int
    steals: int

@final
class KmemReplay:
    """A forced replay of recorded events on one memory, whose frames in use stand for themselves.

    While it lasts, nothing else may use the memory: frames on per-CPU lists count as in use.
    """

    def __new__(cls, memory: Memory) -> KmemReplay:
        """Begin a replay.

        Raises:
            ValueError: The memory has address spaces, files or runs.
        """

    def run(
        self,
        *,
        step: npt.NDArray[np.uint8],
        cpu: npt.NDArray[np.uint8],
        zone: npt.NDArray[np.uint8],
        order: npt.NDArray[np.uint8],
        migratetype: npt.NDArray[np.uint8],
        handle: npt.NDArray[np.uint32],
    ) -> Replayed:
        """Apply events in order; columns as ``Recorded``, rust/core/src/kmem_replay.rs.

        Returns what was come upon since the beginning.

        Raises:
            ValueError: An event cannot be; those before it have been applied.
        """

@type_check_only
class Played(TypedDict):
    """What a free replay came upon: ``Played``, rust/core/src/program_replay.rs."""

    allocs: int
    refused: int
    frees: int
    unknown_frees: int
    redrawn: int
    reclaimed_before: int
    left_behind: int
    refilled: int
    drained: int
    claims: int
    steals: int
    migrated: int
    reclaimed: int

@final
class ProgramReplay:
    """A free replay of programs' requests on one memory, whose frames in use stand for themselves.

    While it lasts, nothing else may use the memory or listen to its tracepoints.
    """

    def __new__(
        cls,
        memory: Memory,
        *,
        boosts: list[int],
        hopeless: list[bool],
        inactive: list[int],
        young: list[bool],
        at_ns: int,
        seed: int,
    ) -> ProgramReplay:
        """Begin a replay.

        ``boosts`` are the ``watermark_boost`` of the zones in frames, ``hopeless`` tells of each
        node whether kswapd has given up, ``inactive`` names the mapped large folios of files on the
        inactive list by their first frames, ``young`` tells of each whether it was used lately,
        ``at_ns`` is the time of CLOCK_MONOTONIC, ``seed`` decides what is drawn.

        Raises:
            ValueError: The memory has address spaces, files or runs, or is listened to.
        """

    def run(
        self,
        *,
        alloc: npt.NDArray[np.uint8],
        cpu: npt.NDArray[np.uint8],
        order: npt.NDArray[np.uint8],
        gfp: npt.NDArray[np.uint32],
        handle: npt.NDArray[np.uint32],
        at_ns: npt.NDArray[np.uint64],
    ) -> Played:
        """Apply requests in order; columns as ``Requests``, rust/core/src/program_replay.rs.

        Returns what was come upon since the beginning.

        Raises:
            ValueError: An event cannot be; those before it have been applied.
        """

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

@type_check_only
class FragResult(TypedDict):
    """What the fragmentation experiment ended in, as :func:`frag_study` tells it."""

    system: int
    huge: list[int]
    free: list[int]
    histogram_start: list[int]
    histogram_end: list[int]

def frag_study(
    *,
    policy: str,
    nr_huge: int,
    nr_cpus: int,
    filled: int,
    freed: int,
    churned: int,
    rounds: int,
    start_huge: int,
    seed: int,
) -> FragResult:
    """Run the fragmentation experiment of ``FragSpec``, rust/core/src/frag_study.rs.

    ``policy`` is ``linux`` or ``trees``; shares are in thousandths.

    Raises:
        ValueError: A share is above 1000, there is no such policy, or no machine is so large.
    """

def tracepoints() -> list[tuple[str, list[str]]]:
    """Return name and field names of every tracepoint, by number: ``events.rs``."""

def default_costs() -> dict[str, int]:
    """Return what each step costs unless a machine is told otherwise.

    ``CostModel``, rust/core/src/cost.rs: in simulated nanoseconds, ``*_ps`` in picoseconds.
    """

def contention_study(
    *,
    frames: int,
    cpu_nodes: list[int],
    order: int,
    blocks: int,
    batch: int | None,
    costs: str,
) -> tuple[int, int, int]:
    """Let CPUs allocate ``blocks`` blocks of 2^order frames each from one zone on node 0.

    ``batch``: frames of a refill of single frames, fixed; None for Linux's tuning since 6.7.
    ``costs``: ``CostModel`` as JSON.

    Returns:
        Simulated ns of all CPUs together, blocks, and how often the zone's lock was taken.

    Raises:
        ValueError: No such machine, too little memory for the blocks, or unusable costs.
    """
