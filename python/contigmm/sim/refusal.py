"""One refused operation as a file: the machine as it was before it, the operation, its answer.

The first line is JSON that a person can read; the second the SHA-256 of everything else; then comes
the machine's snapshot. Whoever carries the operation out on that machine gets the answer again.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from contigmm import foreign_json
from contigmm.errors import ContigmmError
from contigmm.sim.machine import Machine
from contigmm.sim.operation import Answer, Call, Operation
from contigmm.sim.snapshot import ENGINE

SCHEMA: Final = "refusal/1"
_MAX_LINE_BYTES: Final = 1 << 20


class RefusalFileError(ContigmmError, ValueError):
    """These bytes are no refused operation, were changed, or are another engine's."""


@dataclass(frozen=True)
class RefusedOperation:
    """What is needed to see a refusal again."""

    operation: Operation
    answer: Answer
    """``seq``, ``errno``, ``reason`` and ``detail`` as its caller got them."""
    source: str
    """What the machine was booted from."""
    seed: int
    snapshot: bytes
    """Of the machine before the operation."""

    @classmethod
    def of(
        cls, machine: Machine, operation: Operation, answer: Answer, source: str
    ) -> "RefusedOperation":
        """Take the machine down as it is now; the operation is not carried out."""
        return cls(operation, answer, source, machine.seed, machine.snapshot())

    def machine(self) -> Machine:
        """Make the machine as it was before the operation.

        Raises:
            SnapshotError: The snapshot is none.
        """
        return Machine.restore(self.snapshot)

    def to_bytes(self) -> bytes:
        """Write the file."""
        operation, answer = self.operation, self.answer
        facts = {
            "schema": SCHEMA,
            "engine": ENGINE,
            "source": self.source,
            "seed": self.seed,
            "machine_seq": answer.seq,
            "operation": {
                "call": Call(operation.call).name,
                "process": operation.process,
                "args": list(operation.args),
                "data": operation.data.hex(),
            },
            "answer": {"errno": answer.errno, "reason": answer.reason, "detail": answer.detail},
        }
        line = json.dumps(facts).encode() + b"\n"
        return b"".join((line, _sum(line, self.snapshot), self.snapshot))

    @classmethod
    def from_bytes(cls, data: bytes) -> "RefusedOperation":
        """Read a file that this engine has written.

        Raises:
            RefusalFileError: It is none, was changed or cut off since, or is another engine's.
        """
        line, end, rest = data[:_MAX_LINE_BYTES].partition(b"\n")
        facts = _facts(line)
        if not end or facts.get("schema") != SCHEMA:
            raise RefusalFileError("these bytes are no refused operation that was exported")
        if facts.get("engine") != ENGINE:
            raise RefusalFileError(
                f"{facts.get('engine')} wrote it, and only that carries operations out in the same"
                f" way; this is {ENGINE}"
            )
        total, _, _ = rest.partition(b"\n")
        snapshot = data[len(line) + 1 + len(total) + 1 :]
        if total + b"\n" != _sum(line + b"\n", snapshot):
            raise RefusalFileError("it was changed or cut off since it was written")
        try:
            return _taken(facts, snapshot)
        except (KeyError, TypeError, ValueError) as error:
            raise RefusalFileError(
                f"its first line does not say what was asked: {error!r}"
            ) from error


def _taken(facts: dict[str, Any], snapshot: bytes) -> RefusedOperation:
    asked, answered = facts["operation"], facts["answer"]
    words = asked["process"], *asked["args"], facts["machine_seq"], facts["seed"]
    if not all(isinstance(word, int) for word in words):
        raise TypeError(f"{words} are not all whole numbers")
    return RefusedOperation(
        Operation(
            Call[asked["call"]],
            asked["process"],
            tuple(asked["args"]),
            bytes.fromhex(asked["data"]),
        ),
        Answer(facts["machine_seq"], **answered),
        facts["source"],
        facts["seed"],
        snapshot,
    )


def _facts(line: bytes) -> dict[str, Any]:
    try:
        facts = foreign_json.loads(line)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _sum(line: bytes, snapshot: bytes) -> bytes:
    digest = hashlib.sha256(line)
    digest.update(snapshot)
    return digest.hexdigest().encode() + b"\n"
