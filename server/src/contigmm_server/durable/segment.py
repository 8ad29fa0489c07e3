"""One file of a journal: a header, then one record a command, each length-prefixed and checksummed.

A record is ``MAGIC``, the CRC-32 of what follows, and ``_FRAME``: length of the body, position of
the machine before the command, the chain (CRC-32 over all answers given before it), how many bytes
of the file were known to last when it was appended, and its kind. Numbers are little-endian. The
rest of the file is zeros, for it is allocated ahead.

A crash may drop or tear whatever was not synced, so the first record that cannot be read ends the
journal, unless a later one tells that its bytes had lasted: then the file has been damaged.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from contigmm import foreign_json
from contigmm.errors import ContigmmError

FORMAT: Final = 1
MAGIC: Final = b"\xc0jrn"
HEADER: Final = 0
"""Kind of the first record; its body is JSON."""

_CRC: Final = struct.Struct("<4sI")
_FRAME: Final = struct.Struct("<IQIQB")
_PREFIX_BYTES: Final = _CRC.size + _FRAME.size
MAX_BODY_BYTES: Final = 16 << 20


class JournalError(ContigmmError, ValueError):
    """A journal cannot be read or does not lead to the answers that were given."""


@dataclass(slots=True)  # not frozen: four times as dear, and there are millions
class Record:
    """One command as the journal has it."""

    offset: int
    seq: int
    """Position of the machine before it."""
    chain: int
    """CRC-32 over all answers given before it, in order."""
    durable: int
    """Bytes of this file that were known to last when it was appended."""
    kind: int
    body: bytes


@dataclass(slots=True, frozen=True)
class Header:
    """What a segment begins with."""

    engine: str
    """Which engine wrote it: only that one replays it."""
    machine: str
    seq: int
    """Position of the machine at its start."""
    chain: int

    def encode(self) -> bytes:
        """Write canonical JSON."""
        facts = {
            "format": FORMAT,
            "engine": self.engine,
            "machine": self.machine,
            "seq": self.seq,
            "chain": self.chain,
        }
        return json.dumps(facts, sort_keys=True).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Header":
        """Read what :meth:`encode` wrote.

        Raises:
            JournalError: It is none, or of another format.
        """
        try:
            facts = foreign_json.loads(body)
            if facts["format"] != FORMAT:
                raise JournalError(
                    f"the journal has format {facts['format']}; this server reads {FORMAT}"
                )
            return cls(
                str(facts["engine"]), str(facts["machine"]), int(facts["seq"]), int(facts["chain"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"the journal's header cannot be read: {error!r}") from error


def frame(kind: int, body: bytes, *, seq: int, chain: int, durable: int) -> bytes:
    """One record as bytes."""
    inner = _FRAME.pack(len(body), seq, chain, durable, kind) + body
    return _CRC.pack(MAGIC, zlib.crc32(inner)) + inner


def _record_at(data: bytes, offset: int) -> Record | None:
    """The record at ``offset``, or nothing if none is there whole."""
    if len(data) - offset < _PREFIX_BYTES:
        return None
    magic, crc = _CRC.unpack_from(data, offset)
    if magic != MAGIC:
        return None
    start = offset + _CRC.size
    length, seq, chain, durable, kind = _FRAME.unpack_from(data, start)
    end = start + _FRAME.size + length
    if end > len(data) or zlib.crc32(memoryview(data)[start:end]) != crc:
        return None
    return Record(offset, seq, chain, durable, kind, data[start + _FRAME.size : end])


def end_of(record: Record) -> int:
    """Offset of the byte behind a record."""
    return record.offset + _PREFIX_BYTES + len(record.body)


def read(data: bytes, *, sealed: bool) -> tuple[Header | None, Iterator[Record]]:
    """Read a segment: its header, and its records as they are asked for.

    ``sealed``: another segment follows, so that all of this one had been synced. One that is not
    may have lost everything, its header too.

    Raises:
        JournalError: The header, or later a record that had lasted, cannot be read.
    """
    first = _record_at(data, 0)
    if first is None:
        _check_end(data, 0, sealed=sealed)
        return None, iter(())
    if first.kind != HEADER:
        raise JournalError("the journal does not begin with a header")
    return Header.decode(first.body), _records(data, end_of(first), sealed=sealed)


def _records(data: bytes, offset: int, *, sealed: bool) -> Iterator[Record]:
    while (record := _record_at(data, offset)) is not None:
        yield record
        offset = end_of(record)
    _check_end(data, offset, sealed=sealed)


def _check_end(data: bytes, offset: int, *, sealed: bool) -> None:
    """Hold that nothing that had lasted is lost at ``offset``, where reading ends."""
    if sealed and any(data[offset:]):
        raise JournalError(f"the journal is damaged at byte {offset}: a sealed segment goes on")
    later = data.find(MAGIC, offset + 1)
    while later >= 0:
        beyond = _record_at(data, later)
        if beyond is not None and beyond.durable > offset:
            raise JournalError(
                f"the journal is damaged at byte {offset}: its first {beyond.durable} bytes had "
                "been synced"
            )
        later = data.find(MAGIC, later + 1)
