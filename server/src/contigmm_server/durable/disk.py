"""The files of a journal: the one place that writes to disk, and the seam where tests break it."""

import os
from pathlib import Path
from typing import Protocol


class File(Protocol):
    """A file that grows at its end."""

    def allocate(self, size: int) -> None:
        """Make room for ``size`` bytes from the start, as zeros.

        Raises:
            OSError: There is none; what was written before is untouched.
        """

    def write(self, data: bytes, offset: int) -> None:
        """Write ``data`` at ``offset``; it lasts after the next :meth:`sync` only.

        Raises:
            OSError: It could not be written whole.
        """

    def sync(self) -> None:
        """Return when everything written so far lasts.

        Raises:
            OSError: It may not last, and asking again would not tell.
        """

    def close(self) -> None:
        """Let go of the file."""


class Disk(Protocol):
    """A file system."""

    def create(self, path: Path) -> File:
        """Create a file that does not exist.

        Raises:
            OSError: It cannot be created.
        """

    def write_whole(self, path: Path, data: bytes) -> None:
        """Put a file under ``path`` that has ``data`` whole, or leave what was there.

        Raises:
            OSError: The latter.
        """

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there.

        Raises:
            OSError: It cannot be removed.
        """


class OsFile:
    """A file of the operating system."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def allocate(self, size: int) -> None:
        """See :class:`File`."""
        os.posix_fallocate(self._fd, 0, size)

    def write(self, data: bytes, offset: int) -> None:
        """See :class:`File`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def sync(self) -> None:
        """See :class:`File`."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """See :class:`File`."""
        os.close(self._fd)


class OsDisk:
    """The operating system's file system."""

    def create(self, path: Path) -> File:
        """See :class:`Disk`."""
        file = OsFile(path)
        sync_directory(path.parent)
        return file

    def write_whole(self, path: Path, data: bytes) -> None:
        """See :class:`Disk`."""
        fresh = path.with_name(f"{path.name}.new")
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        sync_directory(path.parent)

    def remove(self, path: Path) -> None:
        """See :class:`Disk`."""
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make names that were entered into a directory last.

    Raises:
        OSError: They may not.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
