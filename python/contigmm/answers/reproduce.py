"""Seeing a refusal again: the same operation on the machine as it was before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contigmm.abi import MAP_CONTIG, PAGE_SHIFT, PAGE_SIZE, RLIMIT_NUMBERS
from contigmm.answers.arithmetic import zone_lines
from contigmm.answers.explain import efforts
from contigmm.answers.request import Request
from contigmm.errors import ERRNO_NAMES
from contigmm.sim.operation import Answer, Call
from contigmm.sim.refusal import RefusalFileError, RefusedOperation
from contigmm.sim.snapshot import SnapshotError

if TYPE_CHECKING:
    from contigmm.sim.machine import Machine
    from contigmm.sim.operation import Operation

_MEMLOCK = RLIMIT_NUMBERS["MEMLOCK"]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A refusal and what came of the same operation now."""

    refused: RefusedOperation
    answer: Answer
    evidence: tuple[str, ...]
    """The numbers that decided, as ``contigmm explain`` gives them."""

    @property
    def same(self) -> bool:
        """Whether errno and Reason, and what stood in the way, are those of the file."""
        return said(self.answer) == said(self.refused.answer)

    def to_json(self) -> dict[str, Any]:
        """Return the keys of ``reproduce/1``."""
        refused = self.refused
        return {
            "same": self.same,
            "machine_seq": refused.answer.seq,
            "seed": refused.seed,
            "source": refused.source,
            "call": Call(refused.operation.call).name,
            "process": refused.operation.process,
            "args": list(refused.operation.args),
            "then": _answer_json(refused.answer),
            "now": _answer_json(self.answer),
            "evidence": list(self.evidence),
        }


def reproduce(path: Path) -> Reproduction:
    """Carry the operation of an exported refusal out on the machine before it.

    Raises:
        RefusalFileError: The file is none, was changed, or is another engine's.
        OSError: It cannot be read.
    """
    try:
        refused = RefusedOperation.from_bytes(path.read_bytes())
        machine = refused.machine()
    except (RefusalFileError, SnapshotError) as error:
        raise RefusalFileError(f"{path}: {error}") from error
    operation = refused.operation
    evidence = _before(machine, operation)
    vmstat = machine.vmstat()
    answer = machine.run(operation)
    with machine.held() as memory:
        evidence += efforts(memory, since=vmstat)
    if answer.detail:
        evidence.append(answer.detail)
    return Reproduction(refused, answer, tuple(evidence))


def said(answer: Answer) -> tuple[int, str, str]:
    """Return what an answer says, as values to compare."""
    return answer.errno, answer.reason, answer.detail


def in_words(answer: Answer) -> str:
    """Return what an answer says, for a person."""
    if not answer.errno:
        return f"mapped at {answer.value:#x}"
    return f"{ERRNO_NAMES.get(answer.errno, answer.errno)}, {answer.reason}"


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {"errno": answer.errno, "reason": answer.reason, "detail": answer.detail}


def _before(machine: Machine, operation: Operation) -> list[str]:
    """Return the arithmetic of the zones and of the process's limit, before the operation."""
    if operation.call != Call.MMAP or not operation.args[3] & MAP_CONTIG:
        return []
    length = operation.args[1]
    lines = []
    if machine.is_alive(operation.process):
        task = machine.entry(operation.process).task
        limit = task.rlimits[_MEMLOCK][0] >> PAGE_SHIFT
        lines.append(
            f"the process has {task.mm.locked_vm:,} pages locked, asks for "
            f"{-(-length // PAGE_SIZE):,} and may lock {limit:,}"
        )
        if task.mm.locked_vm + -(-length // PAGE_SIZE) > limit:
            return lines  # decided before any frame is looked for
    with machine.held() as memory:
        return lines + zone_lines(memory, Request.parse(str(length)))
