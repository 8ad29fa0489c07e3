"""Takes a capture of this running Linux, in the format that `contigmm.hosts.capture` reads."""

from __future__ import annotations

import io
import json
import lzma
import os
import tarfile
from pathlib import Path

from contigmm.hosts.capture import FORMAT
from contigmm.hosts.kpageflags import VOLATILE
from contigmm.hosts.live import Reading, read_quietly
from contigmm.hosts.rle import encode
from contigmm.hosts.source_error import SourceError


def take_capture(path: Path, *, note: str = "", proc: Path = Path("/proc")) -> int:
    """Capture this machine into ``path`` and return the file's size in bytes.

    Raises:
        SourceError: frames may not be read (that takes root), or the file not be written.
    """
    reading = read_quietly(proc=proc, counts=True)
    if reading.page_flags is None:
        raise SourceError("only root may read it, and a capture needs it.", name="/proc/kpageflags")
    system = os.uname()
    meta = {
        "format": FORMAT,
        "note": note,
        "page_size": 4096,
        "npfn": reading.page_flags.total,
        "ncpu": os.cpu_count(),
        "flags_masked_out": VOLATILE,
        "quiet": reading.quiet,
        "uname": {
            "sysname": system.sysname,
            "release": system.release,
            "version": system.version,
            "machine": system.machine,
        },
        "settings": reading.settings,
    }
    packed = pack(meta, reading)
    try:
        path.write_bytes(packed)
    except OSError as error:
        raise SourceError(f"it cannot be written: {error.strerror}.", name=str(path)) from error
    return len(packed)


def pack(meta: dict[str, object], reading: Reading) -> bytes:
    """Return the bytes of a capture: the same for the same reading."""
    members = {"meta.json": json.dumps(meta, indent=1, sort_keys=True).encode()}
    for name, text in sorted(reading.texts.items()):
        members[f"text/{name}"] = text.encode()
    if reading.page_flags is not None:
        members["kpageflags.rle"] = encode(reading.page_flags)
    if reading.map_counts is not None:
        members["kpagecount.rle"] = encode(reading.map_counts)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, octets in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(octets)
            tar.addfile(entry, io.BytesIO(octets))
    return lzma.compress(plain.getvalue(), preset=6)
