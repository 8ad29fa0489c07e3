"""pkey_alloc(2) and pkey_free(2) on a processor without protection keys: mm/mprotect.c, v6.18."""

from typing import TYPE_CHECKING

from contigmm.abi import EINVAL
from contigmm.errors import Reason, SyscallError

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def pkey_alloc(task: "Task", flags: int, rights: int) -> int:
    """Refuse: there are no keys.

    Raises:
        SyscallError: EINVAL, always.
    """
    del task, flags, rights
    raise SyscallError(EINVAL, Reason.BAD_PKEY)


def pkey_free(task: "Task", pkey: int) -> int:
    """Refuse: there are no keys.

    Raises:
        SyscallError: EINVAL, always.
    """
    del task, pkey
    raise SyscallError(EINVAL, Reason.BAD_PKEY)
