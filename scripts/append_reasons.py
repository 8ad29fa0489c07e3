"""Appends to reason.proto the members of ``contigmm.errors.Reason`` that it lacks.

Numbers are given in order of appearance and are never used again: a member that the library has
lost keeps its line. With ``--check`` nothing is written and a missing member is an error.
"""

import re
import sys
from pathlib import Path

from contigmm.errors import Reason

PROTO = Path(__file__).resolve().parent.parent / "protos/contigmm/v1/reason.proto"
VALUE = re.compile(r"^  REASON_(\w+) = (\d+);$", re.MULTILINE)


def missing(text: str) -> list[Reason]:
    """Members of ``Reason`` that the proto ``text`` does not name, in the library's order."""
    named = {name for name, _ in VALUE.findall(text)}
    return [reason for reason in Reason if reason.name not in named]


def appended(text: str, reasons: list[Reason]) -> str:
    """The proto ``text`` with ``reasons`` behind its last value."""
    last = max(int(value) for _, value in VALUE.findall(text))
    lines = ""
    for number, reason in enumerate(reasons, last + 1):
        lines += f"  // {sentence(reason)}\n  REASON_{reason.name} = {number};\n"
    end = text.rindex("}")
    return text[:end] + lines + text[end:]


def sentence(reason: Reason) -> str:
    """The member's name as words: ``LENGTH_IS_ZERO`` reads "Length is zero."."""
    return f"{reason.name.replace('_', ' ').capitalize()}."


def main() -> int:
    """Exit status: 1 if ``--check`` found a member missing."""
    text = PROTO.read_text(encoding="utf-8")
    reasons = missing(text)
    if "--check" in sys.argv[1:]:
        for reason in reasons:
            print(f"{PROTO.name} lacks {reason.name}: run scripts/generate", file=sys.stderr)
        return 1 if reasons else 0
    if reasons:
        PROTO.write_text(appended(text, reasons), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
