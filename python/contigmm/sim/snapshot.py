"""A machine as bytes: one versioned, canonical encoding in two sections.

The core's section is the core's own format. The other one holds address spaces and processes as
canonical JSON: sorted keys, no spaces, objects that several others refer to (files, inodes,
anonymous families, runs) numbered in the order in which processes, oldest first, lead to them.
Equal machines have equal bytes. The digest is taken before compression.
"""

import hashlib
import json
import zlib
from dataclasses import fields
from importlib.metadata import version
from typing import Any, Final

from contigmm import foreign_json
from contigmm.description import MAX_NR_NODES
from contigmm.errors import ContigmmError
from contigmm.mm.config import MmConfig
from contigmm.mm.limits import Overcommit
from contigmm.phys import InvariantError, Memory
from contigmm.sim.background import BackgroundFile
from contigmm.sim.graph import GraphReader, GraphWriter
from contigmm.sim.state import ClockMode, MachineState
from contigmm.sim.table import ProcessTable

VERSION: Final = 3
_READ: Final = (2, VERSION)
"""Versions that are read: 2 knew no huge pages of shared memory."""
ENGINE: Final = f"contigmm {version('contigmm')}, snapshots {VERSION}"
"""What must be equal for operations to be carried out again with the same answers."""
MAX_SNAPSHOT_BYTES: Final = 1 << 36
"""What a section may unpack to unless the caller says less."""
_MAGIC: Final = b"contigmm-machine"
_HEADER_BYTES: Final = len(_MAGIC) + 1 + 8 + 8
_ZLIB_LEVEL: Final = 6
_SETTINGS: Final = (
    "max_map_count",
    "stack_guard_gap",
    "mmap_min_addr",
    "dac_mmap_min_addr",
    "mmap_base",
    "mmap_legacy_base",
    "thp_always",
    "thp_madvise",
    "thp_shmem",
    "hugetlb_free",
)
_FACTS: Final = (
    "profile",
    "seed",
    "clock",
    "origin",
    "known",
    "drawn",
    "files",
    "nodes",
    "seq",
)


_MALFORMED: Final = (
    *(zlib.error, KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError),
)


class SnapshotError(ContigmmError, ValueError):
    """These bytes are no snapshot of a machine, or of another version; the sentence says which."""


def encode(state: MachineState) -> bytes:
    """Write a snapshot."""
    core = state.memory.snapshot()
    rest = zlib.compress(_plain(state), _ZLIB_LEVEL)
    head = _MAGIC + bytes([VERSION]) + len(core).to_bytes(8, "big") + len(rest).to_bytes(8, "big")
    return b"".join((head, core, rest))


def digest(state: MachineState) -> str:
    """Hash what :func:`encode` writes, before compression: SHA-256 in hexadecimal."""
    plain = hashlib.sha256(_plain(state)).digest()
    return hashlib.sha256(_MAGIC + bytes([VERSION]) + state.memory.digest() + plain).hexdigest()


def decode(snapshot: bytes, *, max_bytes: int) -> MachineState:
    """Read a snapshot; what is read is checked in full.

    Raises:
        SnapshotError: These bytes are no snapshot of this version, or describe no sound machine,
            or one of the sections unpacks to more than ``max_bytes``.
    """
    core, rest = _sections(snapshot)
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(rest, max_bytes)
        if not unpacker.eof:
            raise SnapshotError("the snapshot is cut off, or too large")
        memory = Memory.restore(core, max_bytes=max_bytes)
        state = _read(memory, foreign_json.loads(plain))
        state.check()
    except SnapshotError:
        raise
    except _MALFORMED as error:
        raise SnapshotError(f"the snapshot cannot be read: {error!r}") from error
    except InvariantError as error:
        raise SnapshotError(f"the snapshot describes no sound machine: {error}") from error
    return state


def _sections(snapshot: bytes) -> tuple[bytes, bytes]:
    if snapshot[: len(_MAGIC)] != _MAGIC or len(snapshot) < _HEADER_BYTES:
        raise SnapshotError("these bytes are no snapshot of a machine")
    version = snapshot[len(_MAGIC)]
    if version not in _READ:
        raise SnapshotError(
            f"the snapshot has version {version}; this engine reads {_READ[0]} to {VERSION}"
        )
    at = len(_MAGIC) + 1
    lengths = [int.from_bytes(snapshot[at + 8 * i : at + 8 * i + 8], "big") for i in range(2)]
    if len(snapshot) != _HEADER_BYTES + sum(lengths):
        raise SnapshotError("the snapshot is cut off")
    middle = _HEADER_BYTES + lengths[0]
    return snapshot[_HEADER_BYTES:middle], snapshot[middle:]


def _plain(state: MachineState) -> bytes:
    """Write the section of address spaces and processes."""
    graph = GraphWriter()
    config = state.config
    section = {
        "facts": {name: getattr(state, name) for name in _FACTS},
        "settings": {name: getattr(config, name) for name in _SETTINGS},
        "overcommit": {f.name: getattr(config.overcommit, f.name) for f in fields(Overcommit)},
        "contig": graph.policy(config.contig),
        "next_process": state.table.next_id,
        "last_pid": state.table.last_pid,
        "directory": graph.directory(config.directory),
        "processes": [graph.process(entry) for entry in state.table],
    }
    section["objects"] = graph.objects()
    return json.dumps(section, sort_keys=True, separators=(",", ":")).encode()


def _node(number: int) -> int:
    if not 0 <= number < MAX_NR_NODES:
        raise SnapshotError(f"there is no node {number}")
    return number


def _read(memory: Memory, section: dict[str, Any]) -> MachineState:
    facts = section["facts"]
    overcommit = Overcommit(**section["overcommit"])
    config = MmConfig(memory, profile=facts["profile"], total_ram_pages=overcommit.total_ram_pages)
    config.overcommit = overcommit
    told = {"thp_shmem": config.thp_shmem} | section["settings"]
    for name in _SETTINGS:
        setattr(config, name, told[name])
    graph = GraphReader(config, section["objects"])
    graph.policy(section["contig"])
    config.nodes = sum(1 << _node(node) for node in facts["nodes"])
    config.directory = graph.directory(section["directory"])
    table = ProcessTable(next_id=section["next_process"], last_pid=section["last_pid"])
    for process in section["processes"]:
        table.enter(graph.process(process))
    graph.finish()
    return MachineState(
        memory=memory,
        config=config,
        table=table,
        profile=facts["profile"],
        seed=facts["seed"],
        clock=ClockMode(facts["clock"]),
        origin=facts["origin"],
        known=tuple(facts["known"]),
        drawn=tuple(facts["drawn"]),
        files=tuple(BackgroundFile(*file) for file in facts["files"]),
        nodes=tuple(facts["nodes"]),
        seq=facts["seq"],
    )
