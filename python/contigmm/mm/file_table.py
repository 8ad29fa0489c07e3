"""Open files of a task, by descriptor: ``struct files_struct``, fs/file.c, v6.12."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from contigmm.abi import EBADF, EMFILE
from contigmm.errors import Reason, SyscallError

if TYPE_CHECKING:
    from contigmm.mm.config import MmConfig
    from contigmm.mm.files import Backing


class FileTable:
    """Descriptors of one task, or of several that share them (CLONE_FILES).

    A nameless file ends when its last descriptor and its last mapping are gone.
    """

    __slots__ = ("_config", "_files", "close_on_exec", "users")

    def __init__(self, config: "MmConfig") -> None:
        self._config = config
        self._files: dict[int, Backing] = {}
        self.close_on_exec: set[int] = set()  # FD_CLOEXEC
        self.users = 1  # tasks that share it

    def get(self, fd: int) -> "Backing | None":
        """Return the file behind a descriptor, a word of which the low 32 bits count."""
        return self._files.get(fd & 0xFFFF_FFFF)

    def __setitem__(self, fd: int, file: "Backing") -> None:
        """Install ``file`` at a free descriptor."""
        self._files[fd] = file
        file.inode.nr_open += 1

    def install(self, file: "Backing", *, limit: int, close_on_exec: bool) -> int:
        """Give ``file`` the lowest free descriptor: alloc_fd(), v6.12.

        Raises:
            SyscallError: EMFILE, none is free below ``limit``, RLIMIT_NOFILE.
        """
        fd = self.lowest_free(limit)
        self[fd] = file
        if close_on_exec:
            self.close_on_exec.add(fd)
        return fd

    def lowest_free(self, limit: int) -> int:
        """Return the descriptor that :meth:`install` would give.

        Raises:
            SyscallError: EMFILE, none is free below ``limit``.
        """
        fd = 0
        while fd in self._files:
            fd += 1
        if fd >= limit:
            raise SyscallError(EMFILE, Reason.TOO_MANY_OPEN_FILES)
        return fd

    def close(self, fd: int) -> None:
        """Free a descriptor.

        Raises:
            SyscallError: EBADF, it is not open.
        """
        fd &= 0xFFFF_FFFF
        file = self._files.pop(fd, None)
        if file is None:
            raise SyscallError(EBADF, Reason.BAD_FILE_DESCRIPTOR)
        self.close_on_exec.discard(fd)
        file.inode.nr_open -= 1
        if not file.inode.i_mmap:
            self._config.last_unmapped(file)

    def copy(self) -> "FileTable":
        """Return a table of its own with the same open files: dup_fd()."""
        twin = FileTable(self._config)
        for fd, file in self._files.items():
            twin[fd] = file
        twin.close_on_exec = set(self.close_on_exec)
        return twin

    def leave(self) -> None:
        """One task less shares the table; the last one closes everything: exit_files()."""
        self.users -= 1
        if self.users == 0:
            for fd in list(self._files):
                self.close(fd)

    def items(self) -> Iterator[tuple[int, "Backing"]]:
        """Descriptors and files, by descriptor."""
        return iter(sorted(self._files.items()))
