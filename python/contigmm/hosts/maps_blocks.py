"""Reads blocks of /proc/PID/maps that were taken while a log was recorded.

Each block begins with ``@@ exec|fork|exit pid=N threads=N time=T line=L``: L lines of the log had
been written when it was taken.
"""

import gzip
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from contigmm.hosts.source_error import SourceError

_HEADER: Final = re.compile(
    r"@@ (?P<event>exec|fork|exit) pid=(?P<pid>\d{1,10}) .*?line=(?P<line>\d{1,15})"
)
_TIME: Final = re.compile(r"time=(\d{1,15}(?:\.\d{1,15})?)")
_LINE: Final = re.compile(
    r"(?P<start>[0-9a-f]{1,16})-(?P<end>[0-9a-f]{1,16}) (?P<perms>[rwxsp-]{4})"
    r" (?P<offset>[0-9a-f]{1,16}) \S+ \d+\s*(?P<name>.*)"
)
_STATUS: Final = re.compile(r"\w+:\s")


@dataclass(slots=True, frozen=True)
class MapsLine:
    """One line of maps, without device and inode. Addresses and the offset are in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    name: str

    def __str__(self) -> str:
        text = f"{self.start:x}-{self.end:x} {self.perms} {self.offset:x}"
        return f"{text} {self.name}" if self.name else text


@dataclass(slots=True)
class MapsBlock:
    """The mappings of process ``pid`` when ``log_lines`` lines of the log had been written."""

    event: str  # exec, fork or exit
    pid: int
    log_lines: int
    time: float
    maps: list[MapsLine] = field(default_factory=list)


def read_maps_blocks(path: Path) -> list[MapsBlock]:
    """Read the blocks of a file, plain or gzipped; [vsyscall] is left out.

    Raises:
        SourceError: a line that is no part of a block.
        OSError: the file cannot be opened.
    """
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise SourceError("is no complete file of maps blocks", name=str(path)) from error
    blocks: list[MapsBlock] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            time = _TIME.search(line)
            at = float(time[1]) if time else 0.0
            pid, lines = int(header["pid"]), int(header["line"])
            blocks.append(MapsBlock(header["event"], pid, lines, at))
            continue
        row = _LINE.fullmatch(line)
        if row is None or not blocks:
            if line and not _STATUS.match(line):
                raise SourceError("is no line of a maps block", name=str(path), line=number)
            continue
        start, end, offset = (int(row[key], 16) for key in ("start", "end", "offset"))
        if row["name"] != "[vsyscall]":
            blocks[-1].maps.append(MapsLine(start, end, row["perms"], offset, row["name"]))
    return blocks
