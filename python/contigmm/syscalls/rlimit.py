"""setrlimit(2) and getrlimit(2): do_prlimit(), kernel/sys.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import EINVAL, EPERM, RLIM_NLIMITS
from contigmm.errors import Reason, SyscallError

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def setrlimit(task: "Task", resource: int, soft: int, hard: int) -> int:
    """Set a resource limit.

    Raises:
        SyscallError: EINVAL or EPERM; ``reason`` names the check.
    """
    resource &= 0xFFFF_FFFF
    if resource >= RLIM_NLIMITS:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    if soft > hard:
        raise SyscallError(EINVAL, Reason.FLAGS_CONFLICT)
    if hard > task.rlimits[resource][1] and "CAP_SYS_RESOURCE" not in task.caps:
        raise SyscallError(EPERM, Reason.LIMIT_NOT_RAISABLE)
    task.rlimits[resource] = (soft, hard)
    return 0


def getrlimit(task: "Task", resource: int) -> tuple[int, int]:
    """Return (soft, hard) of a resource limit.

    Raises:
        SyscallError: EINVAL, no such resource.
    """
    resource &= 0xFFFF_FFFF
    if resource >= RLIM_NLIMITS:
        raise SyscallError(EINVAL, Reason.UNKNOWN_FLAGS)
    return task.rlimits[resource]
