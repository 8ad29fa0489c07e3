"""What can go wrong, as values: errno numbers are Linux's, never the host's.

A simulated system call that fails raises :class:`SyscallError`; an access that the simulated
hardware refuses raises :class:`MemoryFault`. Everything derives from :class:`ContigmmError`.
"""

from enum import StrEnum
from typing import Final

from contigmm import abi

#: Names of the errno numbers that a simulated call can return.
ERRNO_NAMES: Final = {
    value: name for name, value in vars(abi).items() if name[0] == "E" and isinstance(value, int)
}


class Reason(StrEnum):
    """Which check of the kernel said no: stable words, one a check."""

    # arguments
    LENGTH_IS_ZERO = "length_is_zero"
    LENGTH_OVERFLOWS = "length_overflows"
    RANGE_OVERFLOWS = "range_overflows"
    ADDRESS_UNALIGNED = "address_unaligned"
    OFFSET_UNALIGNED = "offset_unaligned"
    OFFSET_OVERFLOWS = "offset_overflows"
    BEYOND_TASK_SIZE = "beyond_task_size"
    UNKNOWN_FLAGS = "unknown_flags"
    FLAGS_CONFLICT = "flags_conflict"
    UNKNOWN_PROT = "unknown_prot"
    UNKNOWN_ADVICE = "unknown_advice"
    BAD_MAP_TYPE = "bad_map_type"
    BAD_POINTER = "bad_pointer"
    BAD_FILE_DESCRIPTOR = "bad_file_descriptor"
    BAD_PKEY = "bad_pkey"
    NO_SUCH_HUGE_PAGE_SIZE = "no_such_huge_page_size"
    NOT_IMPLEMENTED_BY_KERNEL = "not_implemented_by_kernel"
    NO_SUCH_PROCESS = "no_such_process"
    TOO_MANY_PROCESSES = "too_many_processes"
    BAD_SPAWN_SPEC = "bad_spawn_spec"
    NO_SUCH_NODE = "no_such_node"
    PAGE_ON_ANOTHER_NODE = "page_on_another_node"
    BAD_DURATION = "bad_duration"
    # permissions and limits
    ADDRESS_BELOW_MIN = "address_below_min"
    MAY_NOT_LOCK = "may_not_lock"
    MEMLOCK_LIMIT = "memlock_limit"
    ADDRESS_SPACE_LIMIT = "address_space_limit"
    DATA_LIMIT = "data_limit"
    LIMIT_NOT_RAISABLE = "limit_not_raisable"
    OVERCOMMIT = "overcommit"
    TOO_MANY_MAPPINGS = "too_many_mappings"
    NO_GAP = "no_gap"
    ALREADY_MAPPED = "already_mapped"
    NOT_MAPPED = "not_mapped"
    WRITE_EXEC_DENIED = "write_exec_denied"
    MISSING_CAPABILITY = "missing_capability"
    MAY_NOT_TRACE = "may_not_trace"
    TOO_MANY_OPEN_FILES = "too_many_open_files"
    # what the mapping is
    NOT_PERMITTED_BY_MAPPING = "not_permitted_by_mapping"
    SEALED = "sealed"
    NOT_GROWSDOWN = "not_growsdown"
    MAPPING_MAY_NOT_EXPAND = "mapping_may_not_expand"
    MAPPING_MAY_NOT_SPLIT = "mapping_may_not_split"
    RANGES_OVERLAP = "ranges_overlap"
    SPANS_SEVERAL_MAPPINGS = "spans_several_mappings"
    MAPPING_LOCKED = "mapping_locked"
    WRONG_KIND_OF_MAPPING = "wrong_kind_of_mapping"
    PRIVATE_MAPPING = "private_mapping"
    GUARD_PAGE = "guard_page"
    NOTHING_TO_COLLAPSE = "nothing_to_collapse"
    # files
    NO_SUCH_FILE = "no_such_file"
    FILE_EXISTS = "file_exists"
    FILE_NAME_TOO_LONG = "file_name_too_long"
    FILE_NOT_READABLE = "file_not_readable"
    FILE_NOT_SEEKABLE = "file_not_seekable"
    FILE_NOT_WRITABLE = "file_not_writable"
    FILE_NOT_MAPPABLE = "file_not_mappable"
    FILE_SEALED = "file_sealed"
    FILE_BUSY = "file_busy"
    FILE_TOO_BIG = "file_too_big"
    BEYOND_END_OF_FILE = "beyond_end_of_file"
    SYNC_NOT_SUPPORTED = "sync_not_supported"
    # memory
    HUGE_PAGE_POOL_EMPTY = "huge_page_pool_empty"
    OUT_OF_MEMORY_RECLAIM_NOT_SIMULATED = "out_of_memory_reclaim_not_simulated"
    BELOW_WATERMARK_RECLAIM_NOT_SIMULATED = "below_watermark_reclaim_not_simulated"
    NO_CONTIGUOUS_BLOCK_COMPACTION_NOT_SIMULATED = "no_contiguous_block_compaction_not_simulated"
    NO_CONTIGUOUS_BLOCK_AFTER_COMPACTION = "no_contiguous_block_after_compaction"
    NO_ROOM_AFTER_RECLAIM = "no_room_after_reclaim"
    # MAP_CONTIG
    CONTIG_NOT_ANONYMOUS = "contig_not_anonymous"
    CONTIG_CONTRADICTORY_FLAGS = "contig_contradictory_flags"
    CONTIG_ABOVE_MAX_ORDER = "contig_above_max_order"
    CONTIG_USER_LIMIT = "contig_user_limit"
    CONTIG_NO_RANGE = "contig_no_range"
    CONTIG_RANGE_RESERVED = "contig_range_reserved"
    CONTIG_RANGE_HUGETLB = "contig_range_hugetlb"
    CONTIG_RANGE_UNMOVABLE = "contig_range_unmovable"
    CONTIG_RANGE_PINNED = "contig_range_pinned"
    CONTIG_RANGE_BUSY = "contig_range_busy"
    CONTIG_RANGE_NO_TARGET = "contig_range_no_target"
    CONTIG_RUN_IS_PINNED = "contig_run_is_pinned"


class ContigmmError(Exception):
    """Anything that contigmm itself raises."""


class SyscallError(ContigmmError, OSError):
    """A simulated system call returned ``-errno``, which is what user space sees.

    ``reason`` says which check it was: ours, stable, what tests, clients and docs/fidelity.md
    refer to. Several checks may share one errno. ``detail`` is a sentence on what was met, such as
    a frame that stood in the way, or empty.
    """

    errno: int
    reason: Reason
    detail: str

    def __init__(self, errno: int, reason: Reason, detail: str = "") -> None:
        OSError.__init__(self, errno, reason.value)
        self.reason = reason
        self.detail = detail

    @property
    def errno_name(self) -> str:
        """Linux's name of ``errno``."""
        return ERRNO_NAMES[self.errno]

    def __reduce__(self) -> tuple[type["SyscallError"], tuple[int, Reason, str]]:
        return type(self), (self.errno, self.reason, self.detail)


class MemoryFault(ContigmmError):
    """An access that ended in a signal instead of a value.

    ``done`` accesses of the same call had succeeded before it. ``reason`` says why there was no
    memory for a page, a :class:`Reason`; '' if that is not what ended it.
    """

    def __init__(self, signal: int, code: int, address: int, done: int, reason: str = "") -> None:
        super().__init__(f"signal {signal}, code {code}, at {address:#x} after {done} accesses")
        self.signal = signal
        self.code = code
        self.address = address
        self.done = done
        self.reason = reason

    def __reduce__(self) -> tuple[type["MemoryFault"], tuple[int, int, int, int, str]]:
        return type(self), (self.signal, self.code, self.address, self.done, self.reason)
