"""What each ``Call`` does: one row a call, and the calls that are the machine's own.

A handler gets the machine's state, the process (``None`` for calls of the machine itself) and the
operation, and returns the answer's value, its data, or both. It raises ``SyscallError`` or
``MemoryFault``. Arguments reach the system calls as the 64-bit words that registers hold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from contigmm.abi import EFAULT, EINVAL, ESRCH, PAGE_MASK, PAGE_SHIFT, U64_MAX
from contigmm.errors import Reason, SyscallError
from contigmm.sim import lives
from contigmm.sim.operation import Call, Operation
from contigmm.sim.state import MachineState
from contigmm.sim.table import Entry
from contigmm.syscalls.brk import brk
from contigmm.syscalls.files import fallocate, fcntl, ftruncate, pread, pwrite
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.memfd_create import memfd_create
from contigmm.syscalls.mempolicy import get_mempolicy, mbind, set_mempolicy
from contigmm.syscalls.mincore import mincore
from contigmm.syscalls.mlock import mlock, mlock2
from contigmm.syscalls.mlockall import mlockall, munlockall
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.move_pages import check_flags, move_pages
from contigmm.syscalls.mprotect import mprotect, pkey_mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.mseal import mseal
from contigmm.syscalls.msync import msync
from contigmm.syscalls.munlock import munlock
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.open import close, open
from contigmm.syscalls.personality import personality
from contigmm.syscalls.prctl import prctl
from contigmm.syscalls.remap_file_pages import remap_file_pages
from contigmm.syscalls.rlimit import getrlimit, setrlimit
from contigmm.syscalls.touch import load, store, touch_read, touch_write

Result = int | bytes | tuple[int, bytes]
Handler = Callable[[MachineState, Any, Operation], Result]


@dataclass(slots=True, frozen=True)
class CallRow:
    """How an operation of one call is checked and carried out."""

    handler: Handler
    nr_args: int
    of_process: bool = True
    enters_kernel: bool = True  # False: the processor does it, or the machine


def _advance_clock(state: MachineState, _: None, operation: Operation) -> int:
    """Let time pass on every CPU."""
    (ns,) = operation.args
    if ns < 0 or state.memory.clock_ns() + ns > U64_MAX >> 1:
        raise SyscallError(EINVAL, Reason.BAD_DURATION)
    state.memory.advance_clock(ns)
    return state.memory.clock_ns()


def _touch(_: MachineState, entry: Entry, operation: Operation) -> int:
    """Read or write one byte of every page that the range touches."""
    addr, length, write = operation.args
    addr &= U64_MAX
    length &= U64_MAX
    nr = ((addr + length + ~PAGE_MASK) >> PAGE_SHIFT) - (addr >> PAGE_SHIFT) if length else 0
    if write:
        return touch_write(entry.task, addr, nr)
    return touch_read(entry.task, addr, nr)[0]


def _read(_: MachineState, entry: Entry, operation: Operation) -> bytes:
    """Load bytes."""
    addr, length = operation.args
    return load(entry.task, addr & U64_MAX, length & U64_MAX)


def _write(_: MachineState, entry: Entry, operation: Operation) -> int:
    """Store bytes."""
    (addr,) = operation.args
    return store(entry.task, addr & U64_MAX, operation.data)


def _named(call: Callable[[Any, int, bytes], int]) -> Handler:
    """Make the handler of a system call that takes flags and a name."""

    def handler(_: MachineState, entry: Entry, operation: Operation) -> int:
        (flags,) = operation.args
        return call(entry.task, flags & U64_MAX, operation.data)

    return handler


def _pwrite(_: MachineState, entry: Entry, operation: Operation) -> int:
    """Write bytes to a file."""
    fd, offset = operation.args
    return pwrite(entry.task, fd & U64_MAX, offset & U64_MAX, operation.data)


def _getrlimit(_: MachineState, entry: Entry, operation: Operation) -> tuple[int, bytes]:
    """Tell a limit: ``struct rlimit``."""
    (resource,) = operation.args
    pair = getrlimit(entry.task, resource & U64_MAX)
    return pair[0], np.array(pair, dtype="<u8").tobytes()


def _prctl(_: MachineState, entry: Entry, operation: Operation) -> int:
    """Control the process."""
    option, arg2, arg3, arg4, arg5 = (word & U64_MAX for word in operation.args)
    return prctl(entry.task, option, arg2, (arg3, arg4, arg5))


def _get_mempolicy(_: MachineState, entry: Entry, operation: Operation) -> tuple[int, bytes]:
    """Tell a policy: its mode, and the mask of its nodes."""
    addr, flags = operation.args
    mode, nodes = get_mempolicy(entry.task, addr & U64_MAX, flags & U64_MAX)
    return mode, nodes.to_bytes(8, "little")


def _move_pages(state: MachineState, entry: Entry, operation: Operation) -> tuple[int, bytes]:
    """Move pages of a process, or tell where they are: kernel_move_pages(), v6.18."""
    pid, count, flags = operation.args
    check_flags(entry.task, flags)
    target = state.table.find_pid(pid) if pid else entry
    if target is None:
        raise SyscallError(ESRCH, Reason.NO_SUCH_PROCESS)
    data, nodes = operation.data, None
    if count < 0 or len(data) not in (8 * count, 12 * count):
        raise SyscallError(EFAULT, Reason.BAD_POINTER)
    pages = np.frombuffer(data, dtype="<u8", count=count).tolist()
    if len(data) > 8 * count:
        nodes = np.frombuffer(data, dtype="<i4", offset=8 * count).tolist()
    left, status = move_pages(entry.task, target.task, pages, nodes, flags)
    return left, np.array(status, dtype="<i4").tobytes()


def _words(call: Callable[..., int | bytes]) -> Handler:
    """Make the handler of a system call whose arguments are all words."""

    def handler(_: MachineState, entry: Entry, operation: Operation) -> int | bytes:
        return call(entry.task, *[word & U64_MAX for word in operation.args])

    return handler


CALLS: Final[Mapping[int, CallRow]] = {
    Call.SPAWN: CallRow(lives.spawn, 3, of_process=False),
    Call.FORK: CallRow(lives.fork, 0),
    Call.EXIT: CallRow(lives.exit, 2),
    Call.ADVANCE_CLOCK: CallRow(_advance_clock, 1, of_process=False),
    Call.SETRLIMIT: CallRow(_words(setrlimit), 3),
    Call.EXECVE: CallRow(lives.execve, 0),
    Call.GETRLIMIT: CallRow(_getrlimit, 1),
    Call.PRCTL: CallRow(_prctl, 5),
    Call.PERSONALITY: CallRow(_words(personality), 1),
    Call.CLONE: CallRow(lives.clone, 1),
    Call.MMAP: CallRow(_words(mmap), 6),
    Call.MUNMAP: CallRow(_words(munmap), 2),
    Call.MPROTECT: CallRow(_words(mprotect), 3),
    Call.MREMAP: CallRow(_words(mremap), 5),
    Call.BRK: CallRow(_words(brk), 1),
    Call.MLOCK: CallRow(_words(mlock), 2),
    Call.MLOCK2: CallRow(_words(mlock2), 3),
    Call.MUNLOCK: CallRow(_words(munlock), 2),
    Call.MLOCKALL: CallRow(_words(mlockall), 1),
    Call.MUNLOCKALL: CallRow(_words(munlockall), 0),
    Call.MADVISE: CallRow(_words(madvise), 3),
    Call.MINCORE: CallRow(_words(mincore), 2),
    Call.MSYNC: CallRow(_words(msync), 3),
    Call.MSEAL: CallRow(_words(mseal), 3),
    Call.PKEY_MPROTECT: CallRow(_words(pkey_mprotect), 4),
    Call.REMAP_FILE_PAGES: CallRow(_words(remap_file_pages), 5),
    Call.MBIND: CallRow(_words(mbind), 5),
    Call.SET_MEMPOLICY: CallRow(_words(set_mempolicy), 2),
    Call.GET_MEMPOLICY: CallRow(_get_mempolicy, 2),
    Call.MOVE_PAGES: CallRow(_move_pages, 3),
    Call.TOUCH: CallRow(_touch, 3, enters_kernel=False),
    Call.READ: CallRow(_read, 2, enters_kernel=False),
    Call.WRITE: CallRow(_write, 1, enters_kernel=False),
    Call.MEMFD_CREATE: CallRow(_named(memfd_create), 1),
    Call.OPEN: CallRow(_named(open), 1),
    Call.CLOSE: CallRow(_words(close), 1),
    Call.FTRUNCATE: CallRow(_words(ftruncate), 2),
    Call.FALLOCATE: CallRow(_words(fallocate), 4),
    Call.PREAD: CallRow(_words(pread), 3),
    Call.PWRITE: CallRow(_pwrite, 2),
    Call.FCNTL: CallRow(_words(fcntl), 3),
}
