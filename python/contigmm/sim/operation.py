"""What enters a machine's one order and what comes back: ``Operation`` and ``Answer``.

Everything that changes a machine is an operation with a sequence number of its own: system calls,
and also the birth and death of processes, the passing of time and the end of a lease. Whoever
repeats the same operations in the same order on a machine of the same seed gets the same machine,
bit for bit. Views (maps, pagemap, counters) change nothing and are no operations.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAX_OPERATIONS: Final = 4096
"""Operations that one ``Machine.execute`` takes: a bound on how long the machine is held."""


class Call(IntEnum):
    """What an operation does. The number is also the field number on the wire and never changes.

    The comment behind each member names ``Operation.args``, then what ``Answer.value`` is.
    """

    SPAWN = 10  # uid, cpu, node; data: canonical JSON {name, caps, rlimits} -> process id
    FORK = 11  # -> the child's process id
    EXIT = 12  # status, ExitCause -> 0
    ADVANCE_CLOCK = 13  # ns; of the machine: process 0 -> the clock afterwards
    SETRLIMIT = 14  # resource, soft, hard -> 0
    EXECVE = 15  # data: the new name in UTF-8 -> 0
    GETRLIMIT = 16  # resource -> soft; data: struct rlimit
    PRCTL = 17  # option, arg2, arg3, arg4, arg5 -> by option
    PERSONALITY = 18  # persona -> the old one
    CLONE = 19  # flags -> the new task's process id

    MMAP = 20  # addr, length, prot, flags, fd, offset -> address
    MUNMAP = 21  # addr, length -> 0
    MPROTECT = 22  # addr, length, prot -> 0
    MREMAP = 23  # old_addr, old_length, new_length, flags, new_addr -> address
    BRK = 24  # addr -> the break
    MLOCK = 25  # addr, length -> 0
    MLOCK2 = 26  # addr, length, flags -> 0
    MUNLOCK = 27  # addr, length -> 0
    MLOCKALL = 28  # flags -> 0
    MUNLOCKALL = 29  # -> 0
    MADVISE = 30  # addr, length, advice -> 0
    MINCORE = 31  # addr, length -> 0; data: one byte a page
    MSYNC = 32  # addr, length, flags -> 0
    MSEAL = 33  # addr, length, flags -> 0
    PKEY_MPROTECT = 34  # addr, length, prot, pkey -> 0
    REMAP_FILE_PAGES = 35  # addr, length, prot, pgoff, flags -> 0
    MBIND = 36  # addr, length, mode, nodes (a bit each), flags -> 0
    SET_MEMPOLICY = 37  # mode, nodes (a bit each) -> 0
    GET_MEMPOLICY = 38  # addr, flags -> mode; data: the nodes' mask, one u64
    MOVE_PAGES = 39  # pid, count, flags; data: u64 a page, then i32 a node if they are to move
    #                  -> pages left where they were; data: i32 a page, its node or -errno

    TOUCH = 40  # addr, length, write; one byte a page is read or written -> pages touched
    READ = 41  # addr, length -> bytes read; data: the bytes
    WRITE = 42  # addr; data: the bytes -> bytes written

    MEMFD_CREATE = 50  # flags; data: the name in UTF-8 -> fd
    OPEN = 51  # flags; data: the path in UTF-8 -> fd
    CLOSE = 52  # fd -> 0
    FTRUNCATE = 53  # fd, length -> 0
    FALLOCATE = 54  # fd, mode, offset, length -> 0
    PREAD = 55  # fd, offset, length -> bytes read; data: the bytes
    PWRITE = 56  # fd, offset; data: the bytes -> bytes written
    FCNTL = 57  # fd, cmd, arg: F_ADD_SEALS, F_GET_SEALS -> by cmd


class ExitCause(IntEnum):
    """Why a process ended: the second argument of ``Call.EXIT``."""

    EXITED = 0  # it called exit_group(2)
    KILLED = 1  # somebody deleted it
    LEASE_EXPIRED = 2  # nobody renewed its lease
    STREAM_CLOSED = 3  # the stream that it belonged to is gone
    OOM = 4  # chosen by the out-of-memory killer


@dataclass(slots=True)  # not frozen: four times as dear, and there is one an operation
class Operation:
    """One change asked of a machine.

    ``args`` are what user space would put into registers: any 64-bit value, checked nowhere before
    the simulated kernel sees it. ``process`` is an id given by the machine, 0 for the machine
    itself. With ``addr_from`` = k at least 0, ``args[0]`` is replaced by the result of operation k
    of the same batch, and the operation is skipped if that one was refused.
    """

    call: int
    process: int = 0
    args: tuple[int, ...] = ()
    data: bytes = b""
    addr_from: int = -1


@dataclass(slots=True)
class Answer:
    """What came of one operation: a value, or the refusal of the simulated kernel, or a signal."""

    seq: int
    """Position in the machine's one order, from 1; 0 if the operation never reached it."""
    value: int = 0
    errno: int = 0
    """Linux's number of the refusal, positive; 0 if there was none."""
    reason: str = ""
    """``contigmm.Reason`` of the refusal: which check it was, or why the OOM killer came."""
    data: bytes = b""
    signal: int = 0
    """SIGSEGV or SIGBUS if the process touched what it may not; 0 otherwise."""
    code: int = 0
    """``si_code`` of the signal."""
    address: int = 0
    """``si_addr`` of the signal."""
    skipped: bool = False
    """Not carried out: an earlier operation of the batch, which it depended on, was refused."""
    detail: str = ""
    """Of a refusal, what was met where that is known: a sentence, such as which frame is pinned."""

    @property
    def ok(self) -> bool:
        """Whether the operation was carried out and nothing refused it."""
        return not (self.errno or self.signal or self.skipped)
