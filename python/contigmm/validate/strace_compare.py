"""Compares the mappings of a simulated space with a block of /proc/PID/maps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from contigmm.hosts.maps_blocks import MapsBlock, MapsLine
from contigmm.validate.strace_space import Files, Space, maps_of

if TYPE_CHECKING:
    from contigmm.mm.files import Backing


@dataclass(slots=True, frozen=True)
class BlockVerdict:
    """How one block compares; ``difference`` is empty where it is equal."""

    event: str
    pid: int
    log_lines: int
    difference: str
    explanation: str  # what no system call of the log could show, such as a stack that grew


class FileNames:
    """Paths of files that the log shows as descriptors only, learned from the first block."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._paths: dict[int, str] = {}

    def agreeing(self, file: "Backing | None", line: MapsLine) -> "Callable[[str], bool]":
        """Return the test whether a real name may be that of our ``line``."""
        if not self._files.is_unnamed(file):
            return lambda real: _kept(real) == _kept(line.name)
        assert file is not None, "unnamed files are files"
        core_id, paths = file.inode.core_id, self._paths
        return lambda real: (
            real.startswith("/") and paths.setdefault(core_id, _kept(real)) == _kept(real)
        )


def _kept(path: str) -> str:
    """Return a path without the note that its file is gone."""
    return path.removesuffix(" (deleted)")


def compare_block(block: MapsBlock, space: Space, names: FileNames) -> BlockVerdict:
    """Compare addresses, permissions, offsets and names.

    Two things no system call shows, and the verdict says where they explain what it found: how
    far faults have grown the stack, which is no difference then; and which pages were written,
    on which it depends whether neighbours merge, which is one.
    """
    ours = [(line, names.agreeing(vma.file, line)) for line, vma in maps_of(space.task.mm)]
    real_lines = list(block.maps)
    notes = []
    stack = next((line for line, _ in ours if line.name == "[stack]"), None)
    for at, real in enumerate(real_lines):
        if stack is not None and _grown_stack(stack, real):
            notes.append(f"the stack grew by {(stack.start - real.start) >> 10} KiB, by faults")
            real_lines[at] = stack
    difference = _first_difference(ours, real_lines)
    if difference and _joined([line for line, _ in ours]) == _joined(real_lines):
        notes.append("the same memory, cut differently: merging depends on what was written")
    return BlockVerdict(block.event, block.pid, block.log_lines, difference, "; ".join(notes))


def _first_difference(
    ours: list[tuple[MapsLine, "Callable[[str], bool]"]], real_lines: list[MapsLine]
) -> str:
    for (line, agrees), real in zip(ours, real_lines, strict=False):
        if replace(line, name="") != replace(real, name="") or not agrees(real.name):
            return f"simulated {line}, real {real}"
    if len(ours) > len(real_lines):
        return f"simulated {ours[len(real_lines)][0]}, real nothing"
    if len(ours) < len(real_lines):
        return f"simulated nothing, real {real_lines[len(ours)]}"
    return ""


def _joined(lines: list[MapsLine]) -> list[tuple[int, int, str]]:
    """Join adjoining lines of equal permissions: what does not depend on merging."""
    joined: list[tuple[int, int, str]] = []
    for line in lines:
        if joined and joined[-1][1:] == (line.start, line.perms):
            joined[-1] = (joined[-1][0], line.end, line.perms)
        else:
            joined.append((line.start, line.end, line.perms))
    return joined


def _grown_stack(ours: MapsLine, real: MapsLine) -> bool:
    return (
        ours.name == real.name == "[stack]"
        and ours.end == real.end
        and ours.perms == real.perms
        and real.start < ours.start
    )
