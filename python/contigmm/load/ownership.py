"""Who owns which frame, rebuilt from views alone, and whether any frame was lost or given twice.

Nothing here trusts the allocator: frames are told from pagemaps as an outsider reads them, and
compared with what every frame was before the load began.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contigmm.abi import PAGE_SIZE
from contigmm.client.views import Pagemaps

PM_PRESENT: Final = 1 << 63  # fs/proc/task_mmu.c, v6.12
PM_PFRAME_MASK: Final = (1 << 55) - 1  # fs/proc/task_mmu.c, v6.12

FREE_CLASSES: Final = frozenset({"free", "pcp"})
"""Frames that belong to nobody: on a buddy list, or on a CPU's list in front of it."""

Pfns = NDArray[np.uint64]

Canonical = tuple[NDArray[np.uint64], NDArray[np.uint64], tuple[str, ...], NDArray[np.uint32]]
"""Runs of frames in columns: first frame, number of frames, class, file."""


@dataclass(frozen=True)
class FrameStates:
    """What every frame of a machine is at one moment: runs of one class and file, by pfn."""

    first: NDArray[np.uint64]
    count: NDArray[np.uint64]
    frame_class: NDArray[np.uint8]
    """Index in ``class_names``."""
    class_names: tuple[str, ...]
    file: NDArray[np.uint32]
    """The file that the frames cache pages of; the same number for all that cache none."""

    @property
    def nr_frames(self) -> int:
        """Frames described, each as often as it is."""
        return int(self.count.sum())

    def nr_in_two_states(self) -> int:
        """Count the frames that two runs describe."""
        order = np.argsort(self.first, kind="stable")
        first = self.first[order].astype(np.int64)
        end = first + self.count[order].astype(np.int64)
        covered_to = np.maximum.accumulate(end)[:-1]
        shared = np.minimum(covered_to, end[1:]) - first[1:]
        return int(np.maximum(shared, 0).sum())

    def is_free(self, pfns: Pfns) -> NDArray[np.bool_]:
        """Tell of each frame whether nobody has it. A frame that is in no run is not free."""
        order = np.argsort(self.first, kind="stable")
        first, count = self.first[order], self.count[order]
        place = np.searchsorted(first, pfns, side="right").astype(np.int64) - 1
        inside = place >= 0
        safe = place.clip(min=0)
        inside &= pfns < first[safe] + count[safe]
        free: NDArray[np.bool_] = inside & self._free_classes()[self.frame_class[order][safe]]
        return free

    def canonical(self) -> "Canonical":
        """Return maximal runs: first frames, counts, classes with both kinds of free as one, files.

        Equal states give equal results, however the view cut its runs.
        """
        names = np.array(
            ["free" if name in FREE_CLASSES else name for name in self.class_names], dtype=object
        )
        order = np.argsort(self.first, kind="stable")
        first, count = self.first[order], self.count[order]
        labels, file = names[self.frame_class[order]], self.file[order]
        if not len(first):
            return first, count, (), file
        joins = (first[1:] == first[:-1] + count[:-1]) & (labels[1:] == labels[:-1])
        joins &= file[1:] == file[:-1]
        starts = np.concatenate([[True], ~joins])
        ends = np.flatnonzero(np.concatenate([~joins, [True]]))
        run_first = first[starts]
        run_count = first[ends] + count[ends] - run_first
        return run_first, run_count, tuple(labels[starts]), file[starts]

    def _free_classes(self) -> NDArray[np.bool_]:
        return np.array([name in FREE_CLASSES for name in self.class_names], dtype=np.bool_)


def present_frames(entries: NDArray[np.uint64]) -> Pfns:
    """Return the frames that entries of ``/proc/PID/pagemap`` name, in the entries' order."""
    present = entries[(entries & np.uint64(PM_PRESENT)) != 0]
    frames: Pfns = present & np.uint64(PM_PFRAME_MASK)
    return frames


def frames_of(pagemaps: Pagemaps) -> dict[int, Pfns]:
    """Return the frames that each process maps."""
    return {
        process: present_frames(np.concatenate([entries for _, entries in stretches]))
        for process, stretches in pagemaps.by_process.items()
    }


def frames_of_families(pagemaps: Pagemaps, families: Mapping[int, int]) -> dict[int, Pfns]:
    """Return the frames that each family of processes maps, a page shared by a fork once.

    A fork shares a frame at one virtual page; the same frame at another page counts again.
    ``families`` names the family of each process; one that is in none is a family of its own.
    """
    found: dict[int, list[NDArray[np.uint64]]] = {}
    for process, stretches in pagemaps.by_process.items():
        family = families.get(process, -process)
        for address, entries in stretches:
            present = np.flatnonzero(entries & np.uint64(PM_PRESENT))
            frames = entries[present] & np.uint64(PM_PFRAME_MASK)
            pages = present.astype(np.uint64) + np.uint64(address // PAGE_SIZE)
            found.setdefault(family, []).append(np.stack([frames, pages], axis=1))
    return {
        family: np.unique(np.concatenate(parts), axis=0)[:, 0] for family, parts in found.items()
    }


def owned_twice(frames_by_process: Mapping[int, Pfns], start: FrameStates | None) -> Pfns:
    """Return the frames that have more than one owner among processes that share nothing.

    A second owner is another process, another page of the same process, or whoever had the frame
    at the ``start``, when these processes had none; None: whoever had it may have given it up.
    """
    if not frames_by_process:
        return np.zeros(0, dtype=np.uint64)
    frames, times = np.unique(np.concatenate(list(frames_by_process.values())), return_counts=True)
    again = times > 1
    if start is not None:
        again |= ~start.is_free(frames)
    twice: Pfns = frames[again]
    return twice


@dataclass(frozen=True)
class Closing:
    """The machine before the load and after it, when all its processes have exited."""

    start: FrameStates
    end: FrameStates
    start_owners: Mapping[int, Pfns]
    """Frames of each process that the machine came with, in the order of its addresses."""
    end_owners: Mapping[int, Pfns]

    survivors: tuple[int, ...] = ()
    """Processes of clients that are still there at the end."""

    def violations(self, *, moved: bool = False) -> list[str]:
        """Say what was not conserved, a sentence each; nothing if all was.

        ``moved``: frames were migrated or reclaimed meanwhile, so that owners may have others now.
        """
        found = [f"process {process} has outlived the load" for process in self.survivors]
        if nr_twice := self.end.nr_in_two_states():
            found.append(f"{nr_twice} frames are in two states at once")
        if self.end.nr_frames != self.start.nr_frames:
            found.append(
                f"the machine had {self.start.nr_frames} frames and has {self.end.nr_frames}"
            )
        if not moved:
            found += _changed_states(self.start, self.end)
            found += _changed_owners(self.start_owners, self.end_owners)
        return found


def _changed_states(start: FrameStates, end: FrameStates) -> list[str]:
    before, after = start.canonical(), end.canonical()
    if len(before[0]) == len(after[0]) and all(
        np.array_equal(np.asarray(one), np.asarray(other))
        for one, other in zip(before, after, strict=True)
    ):
        return []
    return [f"frame {_first_difference(before, after)} is not what it was before the load"]


def _first_difference(before: Canonical, after: Canonical) -> int:
    rows = zip(zip(*before, strict=True), zip(*after, strict=True), strict=False)
    for (first, count, *whose), (other_first, other_count, *other_whose) in rows:
        if first != other_first or whose != other_whose:
            return int(min(first, other_first))
        if count != other_count:
            return int(first + min(count, other_count))
    longer = max(before[0], after[0], key=len)
    return int(longer[min(len(before[0]), len(after[0]))])


def _changed_owners(start: Mapping[int, Pfns], end: Mapping[int, Pfns]) -> list[str]:
    return [
        f"process {process}, which the machine came with, no longer has the frames it had"
        for process in sorted(start)
        if process not in end or not np.array_equal(start[process], end[process])
    ]
