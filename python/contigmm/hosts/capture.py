"""Captures: one ``.tar.xz`` file with /proc texts and the flags of every frame.

Format ``physmem-snapshot/1``: ``meta.json`` (format, npfn, uname, settings), ``text/NAME`` (texts
of /proc; those that were read around the scan as ``NAME.before`` and ``NAME.after``),
``kpageflags.rle`` and, where it was recorded, ``kpagecount.rle`` (PRL1, see `contigmm.hosts.rle`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from contigmm import foreign_json
from contigmm.description import MAX_NR_FRAMES
from contigmm.hosts import rle
from contigmm.hosts.archive import read_members
from contigmm.hosts.evidence import Evidence, from_texts
from contigmm.hosts.scan_clock import scan_clock
from contigmm.hosts.source_error import SourceError

FORMAT: Final = "physmem-snapshot/1"


def read_capture(path: Path) -> Evidence:
    """Read a capture.

    Raises:
        SourceError: the file is no capture, is damaged, or a text in it is malformed.
    """
    name = str(path)
    members = read_members(path)
    meta = _meta(members, name)
    try:
        flags = rle.decode(members["kpageflags.rle"], max_words=MAX_NR_FRAMES)
    except KeyError:
        raise SourceError("the capture has no kpageflags.rle.", name=name) from None
    except rle.CodecError as error:
        raise SourceError(f"{error}.", name=f"{name}:kpageflags.rle") from error
    texts = {
        member.removeprefix("text/"): octets.decode("utf-8", "replace")
        for member, octets in members.items()
        if member.startswith("text/")
    }
    nr_cpus, system = meta.get("ncpu"), meta.get("uname")
    evidence = from_texts(
        texts,
        origin=name,
        name_of={text: f"{name}:text/{text}" for text in texts},
        page_flags=flags,
        found_settings=meta.get("settings") if isinstance(meta.get("settings"), dict) else None,
        nr_cpus=nr_cpus if isinstance(nr_cpus, int) and 0 < nr_cpus <= 8192 else 0,
        kernel=str(system.get("release", "")) if isinstance(system, dict) else "",
    )
    return replace(evidence, scan=scan_clock(meta))


def _meta(members: dict[str, bytes], name: str) -> dict[str, Any]:
    try:
        meta = foreign_json.loads(members["meta.json"])
    except (KeyError, ValueError) as error:
        raise SourceError("it has no readable meta.json: no capture.", name=name) from error
    told = meta.get("format") if isinstance(meta, dict) else None
    if told != FORMAT:
        raise SourceError(f"its format is {told!r}, not {FORMAT!r}.", name=f"{name}:meta.json")
    if meta.get("page_size", 4096) != 4096:
        raise SourceError("only frames of 4096 bytes are known.", name=f"{name}:meta.json")
    return dict(meta)
