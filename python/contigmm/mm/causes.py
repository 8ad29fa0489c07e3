"""Why physical memory stopped, in the words of the core, and what a caller makes of them."""

from typing import Final

from contigmm.abi import (
    BUS_ADRERR,
    ENOMEM,
    SEGV_MAPERR,
    SI_KERNEL,
    SIGBUS,
    SIGKILL,
    SIGSEGV,
)
from contigmm.errors import MemoryFault, Reason, SyscallError

#: Not of the core: the VMA allows no access at all.
NO_ACCESS: Final = "no_access"
BEYOND_EOF: Final = "beyond_eof"
GUARD: Final = "guard"
RUN_PAGE_ABSENT: Final = "run_page_absent"

#: AllocError::cause(), rust/core/src/error.rs; without room made, what Linux would have tried.
_REASONS: Final = {
    "order_too_large": Reason.CONTIG_ABOVE_MAX_ORDER,
    "no_range": Reason.CONTIG_NO_RANGE,
    "range_reserved": Reason.CONTIG_RANGE_RESERVED,
    "range_crosses_zones": Reason.CONTIG_RANGE_RESERVED,
    "range_in_cma": Reason.CONTIG_RANGE_RESERVED,
    "range_isolated": Reason.CONTIG_RANGE_BUSY,
    "range_has_hugetlb": Reason.CONTIG_RANGE_HUGETLB,
    "range_unmovable": Reason.CONTIG_RANGE_UNMOVABLE,
    "range_pinned": Reason.CONTIG_RANGE_PINNED,
    "range_busy": Reason.CONTIG_RANGE_BUSY,
    "range_no_target": Reason.CONTIG_RANGE_NO_TARGET,
    "compaction_failed": Reason.NO_CONTIGUOUS_BLOCK_AFTER_COMPACTION,
    "no_room": Reason.NO_ROOM_AFTER_RECLAIM,
    "no_block": Reason.NO_CONTIGUOUS_BLOCK_COMPACTION_NOT_SIMULATED,
    "below_watermark": Reason.BELOW_WATERMARK_RECLAIM_NOT_SIMULATED,
    "out_of_memory": Reason.OUT_OF_MEMORY_RECLAIM_NOT_SIMULATED,
    NO_ACCESS: Reason.NOT_PERMITTED_BY_MAPPING,
    BEYOND_EOF: Reason.BEYOND_END_OF_FILE,
    GUARD: Reason.GUARD_PAGE,
}
_FAULTS: Final = frozenset({NO_ACCESS, BEYOND_EOF, GUARD})


def is_fault(cause: str) -> bool:
    """Would the access have been a signal (EFAULT to the kernel), not a lack of memory?"""
    return cause in _FAULTS


def reason_of(cause: str) -> Reason:
    """Name the cause for the user."""
    return _REASONS.get(cause, Reason.OUT_OF_MEMORY_RECLAIM_NOT_SIMULATED)


def no_memory(cause: str, detail: str = "") -> SyscallError:
    """ENOMEM with the cause that physical memory named, and its sentence on it."""
    return SyscallError(ENOMEM, reason_of(cause), detail)


def fault_of(cause: str, address: int, done: int) -> MemoryFault:
    """What an access ends in: at a guard page, a missing file page, or by the OOM killer."""
    if cause == GUARD:
        return MemoryFault(SIGSEGV, SEGV_MAPERR, address, done)
    if cause == BEYOND_EOF:
        return MemoryFault(SIGBUS, BUS_ADRERR, address, done)
    return MemoryFault(SIGKILL, SI_KERNEL, address, done, reason_of(cause))
