"""What a machine answers, seen from beside it: refusals counted, the latest answers kept."""

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from contigmm.errors import ERRNO_NAMES
from contigmm.sim.operation import Answer, Call, Operation

KEPT: Final = 64
"""Refusals, and other answers, that are kept for whoever looks."""

_Seen = tuple[int, Operation, Answer]


class Refusals:
    """The journal hook of one machine: what it refused since the server began to look."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, str], int] = {}
        """By errno, or minus the signal that a fault ended in, and Reason."""
        self.watched = False
        """Whether somebody looks at single operations."""
        self._refused: deque[_Seen] = deque(maxlen=KEPT)
        self._carried_out: deque[_Seen] = deque(maxlen=KEPT)

    def note(self, seq: int, operation: Operation, answer: Answer) -> None:
        """See one operation: a ``contigmm.sim.machine.Journal``."""
        if answer.errno or answer.signal:
            key = (answer.errno or -answer.signal, str(answer.reason or ""))
            self.counts[key] = self.counts.get(key, 0) + 1
            if self.watched:
                self._refused.append((seq, operation, answer))
        elif self.watched:
            self._carried_out.append((seq, operation, answer))

    def latest(self, after: int, most: int) -> list[dict[str, Any]]:
        """The latest operations after position ``after``, refusals first kept, in order."""
        refused = list(_after(self._refused, after))[-most:]
        room = most - len(refused)
        others = list(_after(self._carried_out, after))[-room:] if room else []
        return [_shown(*seen) for seen in sorted(refused + others, key=lambda seen: seen[0])]


def errno_name(number: int) -> str:
    """``ENOMEM``, or ``SIGNAL 7`` for what is below zero."""
    return f"SIGNAL {-number}" if number < 0 else ERRNO_NAMES.get(number, str(number))


def _after(seen: deque[_Seen], seq: int) -> Iterator[_Seen]:
    return (one for one in tuple(seen) if one[0] > seq)


def _shown(seq: int, operation: Operation, answer: Answer) -> dict[str, Any]:
    return {
        "seq": seq,
        "call": Call(operation.call).name.lower(),
        "process": operation.process,
        "args": [_word(argument) for argument in operation.args],
        "value": f"{answer.value:#x}",
        "errno": "" if answer.ok else errno_name(answer.errno or -answer.signal),
        "reason": str(answer.reason or ""),
    }


def _word(argument: int) -> str:
    """An argument as strace prints one: addresses, lengths and flags in hex, -1 for no file."""
    return f"{argument:#x}" if argument >= 0 else str(argument)
