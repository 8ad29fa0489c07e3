"""A directory of /proc texts, as bug reports have them, or one such text."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from contigmm.hosts.evidence import Evidence, from_texts
from contigmm.hosts.source_error import SourceError

_WANTED: Final = ("buddyinfo", "pagetypeinfo", "zoneinfo", "meminfo", "iomem", "version")
_MAX_BYTES: Final = 64 << 20


def read_directory(path: Path) -> Evidence:
    """Read the texts in a directory, or in the ``proc`` directory in it.

    Raises:
        SourceError: there is no buddyinfo, or a text is malformed.
    """
    home = path if (path / "buddyinfo").exists() else path / "proc"
    texts, names = {}, {}
    for name in _WANTED:
        file = home / name
        if file.is_file():
            texts[name], names[name] = _read(file), str(file)
    if "buddyinfo" not in texts:
        raise SourceError("neither it nor its proc directory has a buddyinfo.", name=str(path))
    return from_texts(texts, origin=str(path), name_of=names)


def read_text_file(path: Path) -> Evidence:
    """Read one file: a buddyinfo, or several texts one behind the other, as ``head`` prints them.

    Raises:
        SourceError: it is neither, or a text in it is malformed.
    """
    text = _read(path)
    texts: dict[str, list[str]] = {}
    offset: dict[str, int] = {}
    lines = texts.setdefault("buddyinfo", [])
    for at, line in enumerate(text.splitlines()):
        if line.startswith("==> ") and line.endswith(" <=="):
            name = line[4:-4].rpartition("/")[2]
            # Empty lines keep the numbers of lines those of the file.
            lines = texts[name] = [""] * (at + 1)
            offset[name] = at
        else:
            lines.append(line)
    joined = {name: "\n".join(lines) for name, lines in texts.items() if name in _WANTED}
    return from_texts(joined, origin=str(path), name_of={name: str(path) for name in joined})


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SourceError(f"it has more than {_MAX_BYTES} bytes.", name=str(path))
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror}.", name=str(path)) from error
