"""Readers of real machines: each yields a :class:`contigmm.description.MachineDescription`.

A source is named ``host:`` (this running Linux), ``file:PATH`` (a capture, a directory of /proc
texts, or one such text) or ``spec:NAME`` (a machine by name, freshly booted).
"""

from __future__ import annotations

from pathlib import Path

from contigmm.description import MachineDescription
from contigmm.hosts.build import Builder, build
from contigmm.hosts.capture import read_capture
from contigmm.hosts.evidence import Evidence
from contigmm.hosts.live import read_host
from contigmm.hosts.save_capture import save_capture
from contigmm.hosts.source_error import SourceError
from contigmm.hosts.specs import SPECS, spec
from contigmm.hosts.take_capture import take_capture
from contigmm.hosts.texts import read_directory, read_text_file
from contigmm.sim.machine import Machine

__all__ = [
    "SPECS",
    "Builder",
    "Evidence",
    "SourceError",
    "build",
    "describe",
    "open_machine",
    "read",
    "save_capture",
    "spec_of",
    "take_capture",
]

_XZ_MAGIC = b"\xfd7zXZ\0"


def describe(source: str, *, seed: int = 0) -> MachineDescription:
    """Return the machine that ``source`` names; what it does not tell is drawn from ``seed``.

    Raises:
        SourceError: there is no such source, or it cannot be read as what it should be.
    """
    described = spec_of(source, seed=seed)
    return build(read(source), seed=seed) if described is None else described


def spec_of(source: str, *, seed: int) -> MachineDescription | None:
    """Return the machine of ``spec:NAME``, or nothing if this is another kind of source.

    Raises:
        SourceError: there is no machine of that name.
    """
    kind, colon, name = source.partition(":")
    return spec(name, seed=seed) if colon and kind == "spec" else None


def open_machine(
    source: str,
    *,
    profile: str = "contig",
    seed: int = 0,
    clock: str = "per_op",
    cpus: int | None = None,
) -> Machine:
    """Boot the machine that ``source`` names; the arguments are those of ``Machine.boot``.

    Raises:
        SourceError: as :func:`describe`.
        ValueError: there is no such profile or clock.
    """
    description = describe(source, seed=seed)
    return Machine.boot(description, profile=profile, seed=seed, clock=clock, cpus=cpus)


def read(source: str) -> Evidence:
    """Return what ``host:`` or ``file:PATH`` tells, before anything is inferred or drawn.

    Raises:
        SourceError: there is no such source, or it cannot be read as what it should be.
    """
    kind, colon, rest = source.partition(":")
    if source == "host:":
        return read_host()
    if colon and kind == "file" and rest:
        return _read_file(Path(rest))
    raise SourceError("a source is host:, file:PATH or spec:NAME.", name=source or "''")


def _read_file(path: Path) -> Evidence:
    if path.is_dir():
        return read_directory(path)
    try:
        with path.open("rb") as file:
            magic = file.read(len(_XZ_MAGIC))
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror}.", name=str(path)) from error
    return read_capture(path) if magic == _XZ_MAGIC else read_text_file(path)
