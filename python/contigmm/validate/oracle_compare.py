"""Compares what a simulated program did with what the kernel did, aspect by aspect.

The same rules as the oracle's own ``diff``: an operation has a result, and perhaps a vector, page
bits or a snapshot; of smaps and status only the fields below count; of the recorder's own image
only what the program can influence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

SMAPS_FIELDS: Final = ("Rss", "Anonymous", "AnonHugePages", "ShmemPmdMapped", "Locked")
STATUS_FIELDS: Final = ("VmSize", "VmLck", "VmRSS", "VmData", "VmStk")
_RESULT: Final = ("ret", "err", "sig", "code", "n", "val", "skip")
#: The recorder's own image lies below.
_IMAGE_END: Final = 0x48_2000


def _parents(ops: list[dict[str, Any]], *, child: bool = False) -> Iterator[tuple[str, bool]]:
    """Operations in preorder: name, and whether a forked child runs it."""
    for op in ops:
        yield op["op"], child
        yield from _parents(op.get("ops", []), child=True)


def _counts(line: str, *, child: bool) -> bool:
    """Do the figures of this VMA count, and not only its flags?"""
    in_image = int(line.split("-", maxsplit=1)[0], 16) < _IMAGE_END and not line.endswith("[heap]")
    return not (in_image and child)


def _same_smaps(truth: dict[str, Any], ours: dict[str, Any], *, child: bool) -> bool:
    if len(truth["smaps"]) != len(ours["smaps"]):
        return False
    for line, real, simulated in zip(truth["maps"], truth["smaps"], ours["smaps"], strict=True):
        if sorted(real["VmFlags"].split()) != sorted(simulated["VmFlags"].split()):
            return False
        in_image = int(line.split("-")[0], 16) < _IMAGE_END and not line.endswith("[heap]")
        fields = SMAPS_FIELDS if _counts(line, child=child) else ()
        for name in fields:
            if in_image and name not in real and name not in ("Rss", "Anonymous"):
                continue  # masked when recorded
            if real.get(name, 0) != simulated.get(name, 0):
                return False
    return True


def _snapshot_differs(
    truth: dict[str, Any], ours: dict[str, Any], *, child: bool, counters: bool
) -> str:
    if truth.get("maps") != ours.get("maps"):
        return "maps"
    if not counters:
        return ""
    if "smaps" in truth and not _same_smaps(truth, ours, child=child):
        return "smaps"
    if "status" in truth:
        real, simulated = truth["status"], ours["status"]
        if any(real[name] != simulated[name] for name in STATUS_FIELDS if name in real):
            return "status"
    return ""


def _entry_differs(truth: Any, ours: Any, *, child: bool, counters: bool) -> str:
    if truth is None or ours is None:
        return "" if truth is ours else "result"
    if "snap" in truth:
        snap = ours.get("snap", {})
        return _snapshot_differs(truth["snap"], snap, child=child, counters=counters)
    if any(truth.get(key) != ours.get(key) for key in _RESULT):
        return "result"
    for aspect in ("vec", "bits"):
        if aspect in truth and truth[aspect] != ours.get(aspect):
            return aspect
    return ""


@dataclass(slots=True)
class Comparison:
    """How one program's run compares with its truth."""

    first: str = ""
    """Where the simulated run first parts from the recorded one; '' where nowhere."""
    cells: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """By call and recorded outcome: operations compared, and of those equal."""

    def count(self, call: str, outcome: str, *, equal: bool) -> None:
        """Count one operation."""
        compared, agreeing = self.cells.get((call, outcome), (0, 0))
        self.cells[call, outcome] = compared + 1, agreeing + equal


def _outcome(truth: Any) -> str:
    """What the kernel answered, in a word: ``ok``, an errno or a signal with its code."""
    if truth is None:
        return "not run"
    if "sig" in truth:
        return f"{truth['sig']} {truth['code']}"
    return str(truth.get("err", "skipped" if "skip" in truth else "ok"))


def compare(program: dict[str, Any], ours: dict[str, Any]) -> Comparison:
    """Compare every operation of a program, and what is left at its end."""
    counters = not program.get("unstable")
    truths, mine = program["truth"], ours["truth"]
    comparison = Comparison()
    for number, (name, child) in enumerate(_parents(program["ops"])):
        aspect = _entry_differs(truths[number], mine[number], child=child, counters=counters)
        comparison.count(name, _outcome(truths[number]), equal=not aspect)
        if aspect and not comparison.first:
            comparison.first = f"{program['id']} operation {number}, {name}: {aspect}"
    final = program.get("final", {})
    aspect = _snapshot_differs(final, ours["final"], child=False, counters=counters)
    comparison.count("end", "ok", equal=not aspect)
    if aspect and not comparison.first:
        comparison.first = f"{program['id']} at its end: {aspect}"
    return comparison


def has_truth(program: dict[str, Any]) -> bool:
    """Was it recorded, or has the truth been taken out?"""
    return "truth" in program and "final" in program
