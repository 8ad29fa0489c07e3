"""Reads what strace wrote: calls with their results, in the order in which they ended.

Understands ``-f`` (a pid first, or ``[pid N]``), any of ``-t -tt -ttt -r``, ``-T``, ``-y``, calls
that were interrupted in print (``<unfinished ...>``, ``resumed``), signals and ends of processes.
What cannot be read is a :class:`Remark` with its line; a log never stops the reader.
"""

import gzip
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from contigmm.abi import U64_MAX
from contigmm.hosts.source_error import SourceError

_HEAD: Final = re.compile(
    r"\s*(?:\[pid\s+(?P<bracket>\d{1,10})\]\s+|(?P<pid>\d{1,10})\s+(?![=.\d:]*\())?"
    r"(?:(?P<clock>\d\d):(?P<min>\d\d):(?P<sec>\d\d(?:\.\d+)?)\s+|(?P<time>\d+\.\d+)\s+)?"
)
_CALL: Final = re.compile(r"(?P<name>\w+)\((?P<rest>.*)", re.DOTALL)
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>\w+) resumed>\s?(?P<rest>.*)", re.DOTALL)
_UNFINISHED: Final = " <unfinished ...>"
_RESULT: Final = re.compile(
    r"\)\s*=\s*(?P<ret>\?|-?0x[0-9a-f]{1,16}|-?\d{1,20})(?:<[^>]*>)?"
    r"(?:\s+(?P<err>E[A-Z0-9]+))?(?P<note>.*?)(?:\s*<(?P<took>\d+\.\d+)>)?$"
)
_ENDED: Final = re.compile(r"\+\+\+ (?:exited with \d+|killed by \S+.*) \+\+\+")
_QUIET: Final = ("--- ", "strace: ", "+++ superseded", "[ Process PID=")
_OPENING: Final = "([{"
_CLOSING: Final = ")]}"


@dataclass(slots=True, frozen=True)
class Remark:
    """What the reader, or whoever uses the log, has to say about a line (from 1)."""

    line: int
    sentence: str


@dataclass(slots=True)
class LoggedCall:
    """One system call. ``value`` is None and ``error`` empty where the log tells no result.

    ``began`` and ``ended`` are seconds where the log tells times and durations, else lines; calls
    of two threads overlap where these intervals do.
    """

    line: int  # where it ended in print, from 1
    pid: int
    name: str
    text: str  # between the parentheses
    value: int | None
    error: str  # name of the errno
    began: float
    ended: float

    def arguments(self) -> list[str]:
        """Split the arguments at commas that no bracket or quote holds."""
        return split_arguments(self.text)


@dataclass(slots=True, frozen=True)
class ProcessEnd:
    """``+++ exited +++`` or ``+++ killed +++``."""

    line: int
    pid: int


@dataclass(slots=True)
class StraceLog:
    """A whole log: events in order of their end, and what could not be read."""

    events: list[LoggedCall | ProcessEnd] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    nr_lines: int = 0


@dataclass(slots=True)
class _Begun:
    """A call whose end has not been printed yet."""

    line: int
    name: str
    text: str
    time: float | None


def read_strace(path: Path) -> StraceLog:
    """Read the file of a log, plain or gzipped.

    Raises:
        SourceError: it cannot be unpacked, or nothing in it is a line of strace.
        OSError: it cannot be opened.
    """
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError("is no complete gzip file", name=str(path)) from error
    log = parse_strace(text.decode("utf-8", errors="replace").splitlines())
    if not log.events and not (log.nr_lines == 0 and not log.remarks):
        raise SourceError("no line of it is one that strace writes", name=str(path))
    return log


def parse_strace(lines: Iterable[str]) -> StraceLog:
    """Read the lines of a log; never fails."""
    log = StraceLog()
    begun: dict[int, _Begun] = {}
    for number, line in enumerate(lines, start=1):
        log.nr_lines = number
        _parse_line(log, begun, number, line.rstrip())
    for pid, call in sorted(begun.items(), key=lambda item: item[1].line):
        log.remarks.append(Remark(call.line, f"{call.name} of pid {pid} has no end in this log"))
    log.remarks.sort(key=lambda remark: remark.line)
    return log


def _parse_line(log: StraceLog, begun: dict[int, _Begun], number: int, line: str) -> None:
    head = _HEAD.match(line)
    assert head is not None, "every part of it is optional"
    pid = int(head["bracket"] or head["pid"] or 0)
    body = line[head.end() :]
    if not body or body.startswith(_QUIET):
        return
    if _ENDED.fullmatch(body):
        log.events.append(ProcessEnd(number, pid))
        return
    if resumed := _RESUMED.match(body):
        call = begun.pop(pid, None)
        if call is None or call.name != resumed["name"]:
            sentence = f"{resumed['name']} of pid {pid} is resumed, but its beginning is not here"
            log.remarks.append(Remark(number, sentence))
            return
        _finish(log, number, pid, call, call.text + resumed["rest"])
        return
    called = _CALL.match(body)
    if called is None:
        log.remarks.append(Remark(number, "is no line that strace writes"))
        return
    call = _Begun(number, called["name"], called["rest"], _seconds(head))
    if call.text.endswith(_UNFINISHED.strip()):
        call.text = call.text.removesuffix(_UNFINISHED.strip()).rstrip()
        begun[pid] = call
        return
    _finish(log, number, pid, call, call.text)


def _finish(log: StraceLog, number: int, pid: int, call: _Begun, rest: str) -> None:
    result = None
    for found in _RESULT.finditer(rest):
        result = found  # the last ") = " is the call's own
    began, ended = float(call.line), float(number)
    if result is None:
        text = rest.rstrip().removesuffix("= ?").rstrip().removesuffix("=").rstrip()
        if not text.endswith(")"):
            log.remarks.append(Remark(number, f"{call.name} is cut off"))
            return
        event = LoggedCall(number, pid, call.name, text[:-1], None, "", began, ended)
        log.events.append(event)
        return
    if call.time is not None and result["took"]:
        began, ended = call.time, call.time + float(result["took"])
    ret = result["ret"]
    value = None if ret == "?" else int(ret, 16 if "x" in ret else 10) & U64_MAX
    error = result["err"] or ""
    event = LoggedCall(
        number,
        pid,
        call.name,
        rest[: result.start()],
        None if error else value,
        error if ret != "?" else "",
        began,
        ended,
    )
    log.events.append(event)


def _seconds(head: re.Match[str]) -> float | None:
    if head["time"] is not None:
        time = float(head["time"])
        return time if time > 1e6 else None  # -r counts from the line before
    if head["clock"] is None:
        return None
    return int(head["clock"]) * 3600 + int(head["min"]) * 60 + float(head["sec"])


def split_arguments(text: str) -> list[str]:
    """Split at top-level commas; quotes and brackets hold theirs together."""
    parts: list[str] = []
    depth = start = 0
    quoted = escaped = False
    for at, letter in enumerate(text):
        if quoted:
            if escaped:
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == '"':
                quoted = False
        elif letter == '"':
            quoted = True
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append(text[start:at].strip())
            start = at + 1
    last = text[start:].strip()
    return [*parts, last] if last or parts else []
