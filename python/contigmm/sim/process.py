"""A handle on one process of a machine: system calls as methods."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from contigmm import procfs
from contigmm.errors import MemoryFault, Reason, SyscallError
from contigmm.sim.operation import Answer, Call, ExitCause, Operation

if TYPE_CHECKING:
    from contigmm.mm.task import Task
    from contigmm.sim.machine import Machine


def unwrap(answer: Answer) -> int:
    """Give the value of an answer, or raise what it says.

    Raises:
        SyscallError: The simulated kernel refused.
        MemoryFault: The access ended in a signal.
    """
    if answer.errno:
        raise SyscallError(answer.errno, Reason(answer.reason))
    if answer.signal:
        raise MemoryFault(answer.signal, answer.code, answer.address, answer.value)
    return answer.value


class Process:
    """One process. Methods that are system calls raise :class:`SyscallError` when refused.

    Arguments are what user space passes: any integer, taken modulo 2**64. After :meth:`exit` every
    call is refused with ESRCH.
    """

    __slots__ = ("_machine", "id", "pid")

    def __init__(self, machine: "Machine", process: int, pid: int) -> None:
        self._machine = machine
        self.id = process
        self.pid = pid

    def __repr__(self) -> str:
        return f"Process(id={self.id}, pid={self.pid})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Process):
            return NotImplemented
        return self.id == other.id and self._machine is other._machine

    def __hash__(self) -> int:
        return hash(self.id)

    def _call(self, call: int, *args: int, data: bytes = b"") -> int:
        return unwrap(self._machine.run(Operation(call, self.id, args, data)))

    # ---- system calls ----

    def mmap(
        self,
        addr: int = 0,
        length: int = 0,
        prot: int = 0,
        flags: int = 0,
        fd: int = -1,
        offset: int = 0,
    ) -> int:
        """Map memory as mmap does, and return the first address."""
        return self._call(Call.MMAP, addr, length, prot, flags, fd, offset)

    def munmap(self, addr: int, length: int) -> None:
        """Unmap a range, as munmap does."""
        self._call(Call.MUNMAP, addr, length)

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        """Change the protection of a range, as mprotect does."""
        self._call(Call.MPROTECT, addr, length, prot)

    def mlock(self, addr: int, length: int) -> None:
        """Lock a range into memory, as mlock does."""
        self._call(Call.MLOCK, addr, length)

    def munlock(self, addr: int, length: int) -> None:
        """Unlock a range, as munlock does."""
        self._call(Call.MUNLOCK, addr, length)

    def touch(self, addr: int, length: int, *, write: bool = True) -> int:
        """Read or write one byte of every page of a range; return how many pages.

        Raises:
            MemoryFault: SIGSEGV or SIGBUS; ``done`` pages had been touched.
            SyscallError: ENOMEM, no frame could be had.
        """
        return self._call(Call.TOUCH, addr, length, int(write))

    def read(self, addr: int, length: int) -> bytes:
        """Load ``length`` bytes.

        Raises:
            MemoryFault: SIGSEGV or SIGBUS; ``done`` bytes could be read.
        """
        answer = self._machine.run(Operation(Call.READ, self.id, (addr, length)))
        unwrap(answer)
        return answer.data

    def write(self, addr: int, data: bytes) -> int:
        """Store bytes; return how many.

        Raises:
            MemoryFault: SIGSEGV or SIGBUS; ``done`` bytes were written.
        """
        return self._call(Call.WRITE, addr, data=data)

    def fork(self) -> "Process":
        """Return a child that shares the frames copy-on-write, as fork does."""
        return self._machine.process(self._call(Call.FORK))

    def exit(self, status: int = 0, *, cause: ExitCause = ExitCause.EXITED) -> None:
        """End, and tear the address space down, as exit_group does."""
        self._call(Call.EXIT, status, cause)

    def setrlimit(self, resource: int, *, soft: int, hard: int) -> None:
        """Change a resource limit, as setrlimit does."""
        self._call(Call.SETRLIMIT, resource, soft, hard)

    # ---- views ----

    def _task(self) -> "Task":
        return self._machine.entry(self.id).task

    def maps(self) -> str:
        """Text of /proc/PID/maps."""
        with self._machine.held():
            return procfs.maps(self._task())

    def smaps(self) -> str:
        """Text of /proc/PID/smaps."""
        with self._machine.held():
            return procfs.smaps(self._task())

    def status(self) -> Mapping[str, int]:
        """The Vm*, Rss* and Hugetlb* lines of /proc/PID/status, in kB."""
        with self._machine.held():
            return procfs.status(self._task())

    def statm(self) -> str:
        """Text of /proc/PID/statm."""
        with self._machine.held():
            return procfs.statm(self._task())

    def pagemap(self, addr: int, length: int) -> npt.NDArray[np.uint64]:
        """Words of /proc/PID/pagemap for the pages of a range, as CAP_SYS_ADMIN sees them."""
        with self._machine.held():
            return procfs.pagemap(self._task(), addr, length)
