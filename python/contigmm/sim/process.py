"""A handle on one process of a machine: system calls as methods."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from contigmm import procfs
from contigmm.abi import MPOL_MF_MOVE
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
        raise SyscallError(answer.errno, Reason(answer.reason), answer.detail)
    if answer.signal:
        raise MemoryFault(answer.signal, answer.code, answer.address, answer.value, answer.reason)
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

    def _data(self, call: int, *args: int) -> bytes:
        answer = self._machine.run(Operation(call, self.id, args))
        unwrap(answer)
        return answer.data

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

    def pkey_mprotect(self, addr: int, length: int, prot: int, pkey: int) -> None:
        """Change the protection of a range and give it a key, as pkey_mprotect does."""
        self._call(Call.PKEY_MPROTECT, addr, length, prot, pkey)

    def mremap(
        self, old_addr: int, old_length: int, new_length: int, flags: int = 0, new_addr: int = 0
    ) -> int:
        """Resize or move a mapping as mremap does, and return where it is now."""
        return self._call(Call.MREMAP, old_addr, old_length, new_length, flags, new_addr)

    def brk(self, addr: int) -> int:
        """Move the end of the heap, as brk does, and return where it is now."""
        return self._call(Call.BRK, addr)

    def mlock2(self, addr: int, length: int, flags: int) -> None:
        """Lock a range, with MLOCK_ONFAULT only what is touched, as mlock2 does."""
        self._call(Call.MLOCK2, addr, length, flags)

    def mlockall(self, flags: int) -> None:
        """Lock everything that is or will be mapped, as mlockall does."""
        self._call(Call.MLOCKALL, flags)

    def munlockall(self) -> None:
        """Unlock everything, as munlockall does."""
        self._call(Call.MUNLOCKALL)

    def madvise(self, addr: int, length: int, advice: int) -> None:
        """Tell what a range will be used for, as madvise does."""
        self._call(Call.MADVISE, addr, length, advice)

    def mincore(self, addr: int, length: int) -> bytes:
        """Tell page by page whether it is resident: one byte each, as mincore does."""
        return self._data(Call.MINCORE, addr, length)

    def msync(self, addr: int, length: int, flags: int) -> None:
        """Write a range back, as msync does."""
        self._call(Call.MSYNC, addr, length, flags)

    def mseal(self, addr: int, length: int, flags: int = 0) -> None:
        """Seal a range against changes, as mseal does."""
        self._call(Call.MSEAL, addr, length, flags)

    def remap_file_pages(self, addr: int, length: int, prot: int, pgoff: int, flags: int) -> None:
        """Map another part of the same object over a range, as remap_file_pages does."""
        self._call(Call.REMAP_FILE_PAGES, addr, length, prot, pgoff, flags)

    # ---- NUMA: masks of nodes are ints, a bit each ----

    def mbind(self, addr: int, length: int, mode: int, nodes: int, flags: int = 0) -> None:
        """Give a range a memory policy, as mbind does."""
        self._call(Call.MBIND, addr, length, mode, nodes, flags)

    def set_mempolicy(self, mode: int, nodes: int = 0) -> None:
        """Set the task's own memory policy, as set_mempolicy does."""
        self._call(Call.SET_MEMPOLICY, mode, nodes)

    def get_mempolicy(self, addr: int = 0, flags: int = 0) -> tuple[int, int]:
        """Tell mode and nodes of a policy, as get_mempolicy does."""
        answer = self._machine.run(Operation(Call.GET_MEMPOLICY, self.id, (addr, flags)))
        return unwrap(answer), int.from_bytes(answer.data, "little")

    def move_pages(
        self,
        pages: Sequence[int],
        nodes: Sequence[int] | None = None,
        *,
        pid: int = 0,
        flags: int = MPOL_MF_MOVE,
    ) -> tuple[int, list[int]]:
        """Move pages to nodes, or tell where they are, as move_pages does.

        Returns how many stayed, and each page's node or negative errno. ``pid`` 0 is the caller.

        Raises:
            ValueError: ``nodes`` has not one node a page, or a number does not fit its type.
        """
        data = np.array(pages, dtype="<u8").tobytes()
        if nodes is not None:
            if len(nodes) != len(pages):
                raise ValueError(f"{len(pages)} pages, but {len(nodes)} nodes")
            data += np.array(nodes, dtype="<i4").tobytes()
        args = (pid, len(pages), flags)
        answer = self._machine.run(Operation(Call.MOVE_PAGES, self.id, args, data))
        return unwrap(answer), np.frombuffer(answer.data, dtype="<i4").tolist()

    # ---- files ----

    def memfd_create(self, name: str, flags: int = 0) -> int:
        """Make a nameless file of shared memory, as memfd_create does; return a descriptor."""
        return self._call(Call.MEMFD_CREATE, flags, data=name.encode())

    def open(self, path: str, flags: int = 0) -> int:
        """Open a file of the machine, as open does; return a descriptor."""
        return self._call(Call.OPEN, flags, data=path.encode())

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        self._call(Call.CLOSE, fd)

    def ftruncate(self, fd: int, length: int) -> None:
        """Set the size of a file, as ftruncate does."""
        self._call(Call.FTRUNCATE, fd, length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        """Make room in a file or punch a hole into it, as fallocate does."""
        self._call(Call.FALLOCATE, fd, mode, offset, length)

    def fcntl(self, fd: int, cmd: int, arg: int = 0) -> int:
        """Add or get the seals of a memfd, as fcntl does."""
        return self._call(Call.FCNTL, fd, cmd, arg)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Read from a file, as pread does: up to 65,536 bytes at once."""
        return self._data(Call.PREAD, fd, offset, length)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write to a file, as pwrite does; return how many bytes."""
        return self._call(Call.PWRITE, fd, offset, data=data)

    # ---- what the processor does ----

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
        return self._data(Call.READ, addr, length)

    def write(self, addr: int, data: bytes) -> int:
        """Store bytes; return how many.

        Raises:
            MemoryFault: SIGSEGV or SIGBUS; ``done`` bytes were written.
        """
        return self._call(Call.WRITE, addr, data=data)

    # ---- lives and limits ----

    def fork(self) -> "Process":
        """Return a child that shares the frames copy-on-write, as fork does."""
        return self._machine.process(self._call(Call.FORK))

    def clone(self, flags: int) -> "Process":
        """Return a new task that shares what the CLONE_* ``flags`` say, as clone does."""
        return self._machine.process(self._call(Call.CLONE, flags))

    def execve(self, name: str = "") -> None:
        """Begin anew under another name: an empty address space, the other threads gone."""
        self._call(Call.EXECVE, data=name.encode())

    def exit(self, status: int = 0, *, cause: ExitCause = ExitCause.EXITED) -> None:
        """End, and tear the address space down, as exit_group does."""
        self._call(Call.EXIT, status, cause)

    def setrlimit(self, resource: int, *, soft: int, hard: int) -> None:
        """Change a resource limit, as setrlimit does."""
        self._call(Call.SETRLIMIT, resource, soft, hard)

    def getrlimit(self, resource: int) -> tuple[int, int]:
        """Tell a resource limit: (soft, hard), as getrlimit does."""
        soft, hard = np.frombuffer(self._data(Call.GETRLIMIT, resource), dtype="<u8").tolist()
        return soft, hard

    def prctl(self, option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
        """Control the process as far as its memory feels it, as prctl does."""
        return self._call(Call.PRCTL, option, arg2, arg3, arg4, arg5)

    def personality(self, persona: int) -> int:
        """Set the personality, as personality does, and return the old one."""
        return self._call(Call.PERSONALITY, persona)

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

    def smaps_rollup(self) -> str:
        """Text of /proc/PID/smaps_rollup."""
        with self._machine.held():
            return procfs.smaps_rollup(self._task())

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
