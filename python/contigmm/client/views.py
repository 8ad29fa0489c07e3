"""Bulk views, put together from the messages that they come in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from contigmm.phys import InvariantError
from contigmm.v1 import view_pb2 as pb

T_co = TypeVar("T_co", covariant=True)


class Reader(Protocol[T_co]):
    """Puts the messages of a bulk answer together."""

    def add(self, part: Any) -> None:
        """Take the next message."""

    def result(self) -> T_co:
        """What the messages say."""
        ...


Stretch = tuple[int, npt.NDArray[np.uint64]]
"""First address, and one pagemap entry a page."""


@dataclass(slots=True, frozen=True)
class Pagemaps:
    """Pagemaps of several processes at one moment of their machine."""

    seq: int
    by_process: Mapping[int, list[Stretch]]
    """Mapped stretches by the process's number, in the order of their addresses."""


class PagemapsReader:
    """Puts pagemaps together."""

    def __init__(self) -> None:
        self._seq = 0
        self._by_process: dict[int, list[Stretch]] = {}

    def add(self, part: pb.ReadPagemapsResponse) -> None:
        """Take the next message."""
        self._seq = part.machine_seq
        if part.process:
            entries = np.frombuffer(part.entries, "<u8")
            self._by_process.setdefault(part.process, []).append((part.address, entries))

    def result(self) -> Pagemaps:
        """What the messages say."""
        return Pagemaps(self._seq, self._by_process)


@dataclass(slots=True, frozen=True)
class FrameRuns:
    """What every frame of a machine is at one moment: runs of one class and file, by pfn."""

    seq: int
    first: npt.NDArray[np.uint32]
    count: npt.NDArray[np.uint32]
    frame_class: npt.NDArray[np.uint8]
    """Index in ``class_names``."""
    class_names: tuple[str, ...]
    file: npt.NDArray[np.uint32]
    """Number of the file of which they cache pages; 2**32 - 1: none."""


class FramesReader:
    """Puts runs of frames together."""

    def __init__(self) -> None:
        self._parts: list[pb.ReadFramesResponse] = []

    def add(self, part: pb.ReadFramesResponse) -> None:
        """Take the next message."""
        self._parts.append(part)

    def result(self) -> FrameRuns:
        """What the messages say."""
        parts = self._parts
        return FrameRuns(
            parts[0].machine_seq,
            np.frombuffer(b"".join(part.first for part in parts), "<u4"),
            np.frombuffer(b"".join(part.count for part in parts), "<u4"),
            np.frombuffer(b"".join(part.frame_class for part in parts), "u1"),
            tuple(parts[0].class_names),
            np.frombuffer(b"".join(part.file for part in parts), "<u4"),
        )


@dataclass(slots=True, frozen=True)
class FreeBlocks:
    """The free lists of a machine at one moment, in list order."""

    seq: int
    pfn: npt.NDArray[np.uint32]
    order: npt.NDArray[np.uint8]
    migratetype: npt.NDArray[np.uint8]


class FreeBlocksReader:
    """Puts free blocks together."""

    def __init__(self) -> None:
        self._parts: list[pb.ReadFreeBlocksResponse] = []

    def add(self, part: pb.ReadFreeBlocksResponse) -> None:
        """Take the next message."""
        self._parts.append(part)

    def result(self) -> FreeBlocks:
        """What the messages say."""
        parts = self._parts
        return FreeBlocks(
            parts[0].machine_seq,
            np.frombuffer(b"".join(part.pfn for part in parts), "<u4"),
            np.frombuffer(b"".join(part.order for part in parts), "u1"),
            np.frombuffer(b"".join(part.migratetype for part in parts), "u1"),
        )


@dataclass(slots=True, frozen=True)
class WatchedState:
    """One message of a watch."""

    seq: int
    passed: int
    """Commands since the message before."""
    clock_ns: int
    process_count: int
    queue_depth: int
    buddyinfo: Mapping[str, list[int]]


def watched(state: pb.WatchMachineResponse) -> WatchedState:
    """Read a message of a watch."""
    return WatchedState(
        seq=state.machine_seq,
        passed=state.passed,
        clock_ns=state.clock_ns,
        process_count=state.process_count,
        queue_depth=state.queue_depth,
        buddyinfo={zone.zone: list(zone.free_blocks) for zone in state.zones},
    )


def joined(parts: Iterable[pb.ReadProcessFileResponse | pb.ReadMachineFileResponse]) -> str:
    """The text of a file that came in parts."""
    return b"".join(part.chunk for part in parts).decode()


def status_kib(text: str) -> dict[str, int]:
    """The numbers of /proc/PID/status, in kB."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if unit == "kB":
            found[name] = int(number)
    return found


PAGE_BYTES = 4096


def dense(stretches: Iterable[Stretch], addr: int, length: int) -> npt.NDArray[np.uint64]:
    """One entry for every page of a range, 0 where nothing is mapped."""
    first = addr // PAGE_BYTES
    entries = np.zeros(-(-(addr + length) // PAGE_BYTES) - first, np.uint64)
    for address, stretch in stretches:
        start = address // PAGE_BYTES - first
        entries[start : start + len(stretch)] = stretch
    return entries


def raise_violation(violation: str) -> None:
    """Raise what the invariant checker of a machine found, if it found something.

    Raises:
        InvariantError: The violation.
    """
    if violation:
        raise InvariantError(violation)
