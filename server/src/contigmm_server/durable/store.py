"""Where machines are kept: a directory a machine, in it numbered snapshots and segments.

``N.snapshot`` and ``N.service`` are the machine and what the service knows beside it at the start
of ``N.log``. The highest N with a snapshot is where recovery begins; it goes on through all later
segments. A snapshot is put in place whole and last, so that it alone decides.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contigmm_server.durable.disk import Disk, OsDisk, sync_directory
from contigmm_server.durable.segment import Header, JournalError, Record, read

_NAME: Final = re.compile(r"(\d{8})\.(snapshot|service|log)")
_ACCESS: Final = "access.json"
_MACHINE: Final = re.compile(r"[a-z0-9-]{1,63}")


@dataclass(slots=True, frozen=True)
class Segment:
    """One segment as it is on the disk."""

    index: int
    header: Header | None
    """Absent: nothing of it lasted."""
    records: Iterator[Record]


class MachineStore:
    """The files of one machine."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self.disk = disk

    @property
    def machine_id(self) -> str:
        """M of machines/M."""
        return self.path.name

    def file(self, index: int, kind: str) -> Path:
        """Path of a file."""
        return self.path / f"{index:08d}.{kind}"

    def _indices(self, kind: str) -> list[int]:
        found = (_NAME.fullmatch(path.name) for path in self.path.iterdir())
        return sorted(int(match[1]) for match in found if match and match[2] == kind)

    @property
    def base(self) -> int:
        """Number of the snapshot from which recovery begins.

        Raises:
            JournalError: There is none.
        """
        indices = self._indices("snapshot")
        if not indices:
            raise JournalError(f"{self.path} holds no snapshot of a machine")
        return indices[-1]

    @property
    def next(self) -> int:
        """Number of the segment to begin: behind the last one, or at the newest snapshot.

        Raises:
            JournalError: There is no snapshot.
        """
        behind = [index + 1 for index in self._indices("log")]
        return max([self.base, *behind])

    def save(self, index: int, snapshot: bytes, service: bytes) -> None:
        """Put a snapshot in place, what the service knows first.

        Raises:
            OSError: It is not in place; what was there is.
        """
        self.disk.write_whole(self.file(index, "service"), service)
        self.disk.write_whole(self.file(index, "snapshot"), snapshot)

    def save_access(self, access: bytes) -> None:
        """Put in place whose the machine is and who else may use it.

        Raises:
            OSError: What was there is.
        """
        self.disk.write_whole(self.path / _ACCESS, access)

    def load_access(self) -> bytes | None:
        """What :meth:`save_access` put there; nothing: it was made before there were tenants.

        Raises:
            OSError: It cannot be read.
        """
        path = self.path / _ACCESS
        return path.read_bytes() if path.exists() else None

    def load(self) -> tuple[int, bytes, bytes]:
        """The newest snapshot: its number, the machine, what the service knew.

        Raises:
            JournalError: There is none.
            OSError: It cannot be read.
        """
        base = self.base
        service = self.file(base, "service").read_bytes()
        return base, self.file(base, "snapshot").read_bytes(), service

    def segments(self, first: int, until: int | None = None) -> Iterator[Segment]:
        """The segments from number ``first`` on, in order, up to ``until``, not included.

        Raises:
            JournalError: One is missing or damaged; what was torn by a crash is not.
            OSError: One cannot be read.
        """
        indices = [index for index in self._indices("log") if index >= first]
        last = self._last_begun(indices)
        for expected, index in enumerate(indices, start=first):
            if index == until:
                return
            if index != expected:
                raise JournalError(f"{self.file(expected, 'log')} is missing")
            data = self.file(index, "log").read_bytes()
            header, records = read(data, sealed=index < last)
            yield Segment(index, header, records)

    def _last_begun(self, indices: list[int]) -> int:
        """Number of the last segment that has a header: those before it had been synced by then."""
        for index in reversed(indices):
            if read(self.file(index, "log").read_bytes(), sealed=False)[0] is not None:
                return index
        return -1

    def prune(self) -> None:
        """Remove what recovery no longer needs."""
        base = self.base
        for path in sorted(self.path.iterdir()):
            match = _NAME.fullmatch(path.name)
            if (match and int(match[1]) < base) or path.suffix == ".new":
                self.disk.remove(path)


class Store:
    """The directory of all machines of a server."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        """Use ``path``, which is made if it is not there.

        Raises:
            OSError: It cannot be made.
        """
        self._path = path
        self._disk = disk or OsDisk()
        path.mkdir(parents=True, exist_ok=True)
        for left in path.glob(".*-machine"):  # not yet there, or gone already
            shutil.rmtree(left)

    def machines(self) -> list[MachineStore]:
        """All machines that are kept, by name."""
        found = sorted(path for path in self._path.iterdir() if path.is_dir())
        return [MachineStore(p, self._disk) for p in found if _MACHINE.fullmatch(p.name)]

    def create(
        self, machine_id: str, snapshot: bytes, service: bytes, access: bytes
    ) -> MachineStore:
        """Keep a machine from now on.

        Raises:
            OSError: It is not kept.
        """
        fresh = self._path / f".{machine_id}-machine"
        fresh.mkdir()
        store = MachineStore(fresh, self._disk)
        store.save_access(access)
        store.save(0, snapshot, service)
        path = self._path / machine_id
        fresh.rename(path)
        sync_directory(self._path)
        return MachineStore(path, self._disk)

    def remove(self, store: MachineStore) -> None:
        """Keep a machine no longer.

        Raises:
            OSError: It may still be kept.
        """
        gone = self._path / f".{store.machine_id}-machine"
        store.path.rename(gone)
        sync_directory(self._path)
        shutil.rmtree(gone)
