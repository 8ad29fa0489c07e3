"""Which system calls of a log are simulated, and how their arguments are read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_MASK,
    U64_MAX,
)
from contigmm.errors import ERRNO_NAMES, SyscallError
from contigmm.hosts.strace_log import LoggedCall
from contigmm.hosts.strace_words import descriptor, number
from contigmm.mm.remap import Remap, expandable, set_new_addr
from contigmm.mm.unmapped_area import get_unmapped_area
from contigmm.syscalls.brk import brk
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mincore import mincore
from contigmm.syscalls.mlock import mlock, mlock2
from contigmm.syscalls.mlockall import mlockall, munlockall
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect, pkey_mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.mseal import mseal
from contigmm.syscalls.msync import msync
from contigmm.syscalls.munlock import munlock
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.remap_file_pages import remap_file_pages
from contigmm.validate.strace_space import DescriptorUse

if TYPE_CHECKING:
    from contigmm.mm.task import Task
    from contigmm.validate.strace_space import Files, Space


@dataclass(slots=True, frozen=True)
class Outcome:
    """What a call returned: a value, or the name of an errno. Neither: the log does not tell."""

    value: int | None
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"-1 {self.error}"
        if self.value is None:
            return "?"
        return hex(self.value) if self.value > 9 else str(self.value)

    @property
    def is_told(self) -> bool:
        """Is there a result at all?"""
        return self.value is not None or bool(self.error)


@dataclass(slots=True)
class MemoryCall:
    """A logged call whose arguments could be read."""

    logged: LoggedCall
    words: tuple[int, ...]
    path: str = ""  # of the descriptor, where the log has it

    @property
    def result(self) -> Outcome:
        """Return what the log says."""
        return Outcome(self.logged.value, self.logged.error)

    @property
    def span(self) -> tuple[int, int]:
        """Return the bytes that it names: first, and one past the last."""
        if self.logged.name in _WITHOUT_RANGE:
            return 0, 0
        return self.words[0], self.words[0] + self.words[1]

    @property
    def is_anonymous(self) -> bool:
        """Is it an anonymous mmap?"""
        return bool(self.words[3] & MAP_ANONYMOUS)

    @property
    def chooses_address(self) -> bool:
        """Does the kernel pick the address? A hint may be taken or not."""
        name, words = self.logged.name, self.words
        if name == "mremap":
            return words[2] > words[1] and not words[3] & (MREMAP_FIXED | MREMAP_DONTUNMAP)
        return name == "mmap" and not words[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE)

    @property
    def starts_at_random(self) -> bool:
        """Does the kernel begin its search at a random place?

        find_start_end(), arch/x86/kernel/sys_x86_64.c, v6.12: MAP_32BIT, within 32 MiB.
        """
        return self.logged.name == "mmap" and bool(self.words[3] & MAP_32BIT)


#: Simulated calls by name: the function and the words it takes of those that strace prints.
SIMULATED: Final[dict[str, tuple[Callable[..., object], int]]] = {
    "mmap": (mmap, 6),
    "munmap": (munmap, 2),
    "mprotect": (mprotect, 3),
    "pkey_mprotect": (pkey_mprotect, 4),
    "mremap": (mremap, 5),
    "brk": (brk, 1),
    "madvise": (madvise, 3),
    "mincore": (mincore, 2),
    "mlock": (mlock, 2),
    "mlock2": (mlock2, 3),
    "munlock": (munlock, 2),
    "mlockall": (mlockall, 1),
    "munlockall": (munlockall, 0),
    "msync": (msync, 3),
    "mseal": (mseal, 3),
    "remap_file_pages": (remap_file_pages, 5),
}
_WITHOUT_RANGE: Final = frozenset({"brk", "mlockall", "munlockall"})
#: Calls that fail without their range being mapped whole.
NEEDS_MAPPED: Final = frozenset(
    {"mprotect", "pkey_mprotect", "mremap", "madvise", "mincore", "mlock", "mlock2", "munlock"}
    | {"msync", "mseal", "remap_file_pages"}
)
#: Refusals for reasons that lie in a file, not in memory.
FILE_ERRORS: Final = frozenset(
    {"EACCES", "EAGAIN", "EBADF", "ENFILE", "ENODEV", "EOPNOTSUPP", "ENOTSUP", "EPERM"}
    | {"EOVERFLOW", "ETXTBSY", "EIO", "ENXIO", "EINVAL", "ESTALE"}
)


def read_call(logged: LoggedCall) -> MemoryCall:
    """Read the arguments of a simulated call.

    Raises:
        ValueError: too few arguments, or one that cannot be read.
    """
    _, nr = SIMULATED[logged.name]
    texts = logged.arguments()
    least = 4 if logged.name == "mremap" else nr
    if len(texts) < least:
        raise ValueError(f"{logged.name} has {len(texts)} arguments, not {least}")
    if logged.name == "mmap":
        fd, path = descriptor(texts[4])
        words = [number(text) for text in (*texts[:4], texts[5])]
        return MemoryCall(logged, (*words[:4], fd & U64_MAX, words[4]), path)
    words = [number(text) for text in texts[:nr]]
    return MemoryCall(logged, (*words, *[0] * (nr - len(words))))


def bind_descriptor(space: "Space", call: MemoryCall, files: "Files") -> None:
    """Put the file behind a mmap's descriptor where the call will look for it."""
    if call.logged.name != "mmap" or call.is_anonymous:
        return
    addr, _, _, flags, fd, offset = call.words
    fixed = bool(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
    use = DescriptorUse(fd, call.path, addr, offset, fixed)
    space.task.files[fd & 0xFFFF_FFFF] = files.of_descriptor(space, use)


def predicted_address(space: "Space", call: MemoryCall, files: "Files") -> int | None:
    """Say where a call that chooses its address would go now; nothing is changed."""
    task = space.task
    if call.logged.name == "mremap":
        return _predicted_move(task, call)
    addr, length, _, flags, fd, offset = call.words
    length = (length + 0xFFF) & PAGE_MASK
    file = None
    if not call.is_anonymous:
        file = space.files.get(fd)
        if file is None or offset == 0:
            file = files.of_path(task.mm.config, call.path or "/a file just opened")
    try:
        return get_unmapped_area(task, file, addr & PAGE_MASK, length, offset >> 12, flags)
    except SyscallError:
        return None


def _predicted_move(task: "Task", call: MemoryCall) -> int | None:
    """Say where a growing mremap would go: mremap_at(), mm/mremap.c, v6.18."""
    addr, old_len, new_len, flags = (
        call.words[0],
        *((length + 0xFFF) & PAGE_MASK for length in call.words[1:3]),
        call.words[3],
    )
    vma = task.mm.vma_lookup(addr)
    if vma is None or addr + old_len > vma.vm_end:
        return None
    if addr + old_len == vma.vm_end and expandable(task, vma, new_len - old_len):
        return addr
    if not flags & MREMAP_MAYMOVE:
        return None
    remap = Remap(vma, addr, old_len, new_len, flags, 0)
    try:
        set_new_addr(task, remap)
    except SyscallError:
        return None
    return remap.new_addr


def carry_out(task: "Task", call: MemoryCall) -> Outcome:
    """Make the system call."""
    function, nr = SIMULATED[call.logged.name]
    try:
        value = function(task, *call.words[:nr])
    except SyscallError as refusal:
        return Outcome(None, ERRNO_NAMES[refusal.errno])
    return Outcome(value if isinstance(value, int) else 0)
