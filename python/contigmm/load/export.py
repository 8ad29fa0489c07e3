"""Refused requests of a run as files, each with the machine exactly as it was before it.

A server goes on while a client reads its refusal, so no snapshot taken then would do. But the load
knows every operation of its machine with its place in the one order; so the machine as it was
before the load is restored here, in the library, and led through the same operations up to each
refusal that is wanted. Its answers must be those that the clients got.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contigmm.load.process import LoadError
from contigmm.load.samples import Logged
from contigmm.load.sizes import format_bytes
from contigmm.sim.machine import Machine
from contigmm.sim.operation import MAX_OPERATIONS as MAX_BATCH
from contigmm.sim.operation import Call
from contigmm.sim.refusal import RefusedOperation

MAX_OPERATIONS: Final = 2_000_000
"""Kept of one run: refusals after these are not exported."""

SUFFIX: Final = ".refusal"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    paths: tuple[Path, ...]
    left_out: tuple[str, ...] = ()
    """Sentences on what was not, and why."""

    def sentences(self) -> list[str]:
        """Say so."""
        lines = [
            f"Written: {path}; see it again with: contigmm reproduce {path}" for path in self.paths
        ]
        return [*lines, *self.left_out] or ["Nothing to export: no request was refused."]


@dataclass(frozen=True)
class Export:
    """Where refusals go, and how many."""

    folder: Path
    limit: int
    max_bytes: int
    """Of all files together."""

    def write(self, snapshot: bytes, logged: Sequence[Logged], source: str) -> Exported:
        """Write the first refusal of each size and Reason.

        Args:
            snapshot: The machine before the first of ``logged``.
            logged: Operations and answers, in any order.
            source: What the machine was booted from.

        Raises:
            LoadError: The library answers an operation otherwise than the server did.
            OSError: A file cannot be written.
        """
        machine = Machine.restore(snapshot)
        known = tuple(_without_gaps(sorted(logged, key=_place), machine.seq))
        wanted, left_out = self._chosen(known), []
        if len(known) < len(logged):
            left_out.append(
                f"Others changed the machine after its command {machine.seq + len(known):,}, or its"
                " commands were too many to be kept: what was refused later is not exported."
            )
        paths: list[Path] = []
        written, done = 0, 0
        for at in wanted:
            _lead(machine, known[done:at])
            done = at
            operation, answer = known[at]
            data = RefusedOperation.of(machine, operation, answer, source).to_bytes()
            if written + len(data) > self.max_bytes:
                left_out.append(
                    f"{len(wanted) - len(paths)} refusals are not exported: with them the files"
                    f" would have more than {format_bytes(self.max_bytes)}."
                )
                break
            size = format_bytes(operation.args[1])
            path = self.folder / f"{answer.seq:08}-{size}-{answer.reason}{SUFFIX}"
            path.write_bytes(data)
            paths.append(path)
            written += len(data)
        return Exported(tuple(paths), tuple(left_out))

    def _chosen(self, known: Sequence[Logged]) -> list[int]:
        """Return where the first refusals of each size and Reason are, at most ``limit``."""
        seen: dict[tuple[int, int, str], int] = {}
        for at, (operation, answer) in enumerate(known):
            if operation.call == Call.MMAP and answer.errno:
                seen.setdefault((operation.args[1], answer.errno, answer.reason), at)
        return list(seen.values())[: self.limit]


def _place(logged: Logged) -> int:
    return logged[1].seq


def _without_gaps(ordered: Sequence[Logged], before: int) -> Iterator[Logged]:
    """Yield operations as long as none between them is missing."""
    for number, logged in enumerate(ordered, before + 1):
        if _place(logged) != number:
            return
        yield logged


def _lead(machine: Machine, logged: Sequence[Logged]) -> None:
    """Carry operations out, and hold the answers against those of the server."""
    for first in range(0, len(logged), MAX_BATCH):
        batch = logged[first : first + MAX_BATCH]
        answers = machine.execute([operation for operation, _ in batch])
        for (operation, known), answer in zip(batch, answers, strict=True):
            if (answer.value, answer.errno, answer.reason) != (
                known.value,
                known.errno,
                known.reason,
            ):
                raise LoadError(
                    f"command {known.seq} of the machine, {Call(operation.call).name}, was answered"
                    f" otherwise by the server than by the library: {known} and {answer}"
                )
