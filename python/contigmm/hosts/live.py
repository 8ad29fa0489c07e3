"""This running Linux: its /proc texts and, where permitted, the flags of every frame."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from contigmm.hosts.evidence import SETTING_PATHS, Evidence, from_texts, readable
from contigmm.hosts.kpageflags import VOLATILE
from contigmm.hosts.proc_text import parse_zoneinfo
from contigmm.hosts.rle import U64, WordRuns, runs_of
from contigmm.hosts.source_error import SourceError

#: Texts that change while frames are scanned: read before and after.
TWICE: Final = ("buddyinfo", "pagetypeinfo", "zoneinfo", "vmstat")
ONCE: Final = ("meminfo", "iomem")
_CHUNK: Final = 1 << 20
_TRIES: Final = 2


@dataclass(slots=True)
class Reading:
    """One reading of a running Linux: texts by name, settings by path, flags of frames."""

    texts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    page_flags: WordRuns | None = None
    map_counts: WordRuns | None = None

    @property
    def quiet(self) -> bool:
        """Whether no free list changed during the scan."""
        return self.texts["buddyinfo.before"] == self.texts["buddyinfo.after"]


def read_host(*, proc: Path = Path("/proc")) -> Evidence:
    """Read this running Linux.

    Raises:
        SourceError: this is no Linux, or a text is malformed.
    """
    reading = read_quietly(proc=proc)
    texts = dict(reading.texts)
    return from_texts(
        texts,
        origin="host:",
        name_of={name: str(proc / name.partition(".")[0]) for name in texts},
        page_flags=reading.page_flags,
        found_settings=reading.settings,
        nr_cpus=os.cpu_count() or 1,
        kernel=os.uname().release,
    )


def read_quietly(*, proc: Path = Path("/proc"), counts: bool = False) -> Reading:
    """Read everything; again, a few times, if free lists changed during the scan.

    Raises:
        SourceError: this is no Linux.
    """
    if not (proc / "buddyinfo").exists():
        raise SourceError(
            f"this system ({sys.platform}) has no {proc / 'buddyinfo'}; give file:PATH or "
            "spec:NAME instead.",
            name="host:",
        )
    for _ in range(_TRIES):
        reading = _read_once(proc, counts)
        if reading.quiet:
            break
    return reading


def _read_once(proc: Path, counts: bool) -> Reading:
    reading = Reading()
    for name in ONCE:
        reading.texts[name] = _text(proc / name)
    reading.settings = _settings(proc)
    for name in TWICE:
        reading.texts[f"{name}.before"] = _text(proc / name)
    nr_frames = _nr_frames(reading.texts["zoneinfo.before"], proc)
    flags = _words(proc / "kpageflags", nr_frames) if nr_frames else None
    for name in TWICE:
        reading.texts[f"{name}.after"] = _text(proc / name)
    if flags is not None:
        reading.page_flags = runs_of(flags & ~np.uint64(VOLATILE))
        if counts:
            maps = _words(proc / "kpagecount", nr_frames)
            reading.map_counts = runs_of(maps) if maps is not None else None
    return reading


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        return f"!unreadable: {error.strerror}\n"


def _nr_frames(zoneinfo: str, proc: Path) -> int:
    if not readable(zoneinfo):
        return 0
    zones = parse_zoneinfo(zoneinfo, name=str(proc / "zoneinfo"))
    return max(zone.end_pfn for zone in zones)


def _words(path: Path, nr_frames: int) -> U64 | None:
    """Read one word a frame, or nothing where that is not permitted."""
    octets = bytearray(8 * nr_frames)
    view, at = memoryview(octets), 0
    try:
        with path.open("rb", buffering=0) as file:
            while at < len(view):
                got = file.readinto(view[at : at + _CHUNK])
                if not got:
                    break
                at += got
    except OSError:
        return None
    return np.frombuffer(octets, np.uint64, at // 8)


def _settings(proc: Path) -> dict[str, str]:
    out: dict[str, str] = {}
    for name in SETTING_PATHS:
        path = proc / name.removeprefix("/proc/") if name.startswith("/proc/") else Path(name)
        text = _text(path)
        if readable(text):
            out[name] = text.strip()
    return out
