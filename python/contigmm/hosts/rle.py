"""PRL1, the run-length codec of captures: one 64-bit word a frame, many alike in a row.

Little-endian: magic ``PRL1``, u64 number of words, u32 size of the dictionary, the dictionary (u64
words, most frequent run value first), then pairs of unsigned LEB128 varints (dictionary index,
length of the run) to the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAGIC: Final = b"PRL1"
_HEADER: Final = 16
_MAX_VARINT: Final = 5  # bytes: 35 bits, more than the 2^32 - 1 frames that can be

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


class CodecError(ValueError):
    """The bytes are no PRL1 stream; the sentence says what is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class WordRuns:
    """Runs of equal words: ``nr[i]`` words ``dictionary[index[i]]`` from ``start[i]`` on."""

    start: I64
    nr: I64
    index: I64
    dictionary: U64

    @property
    def word(self) -> U64:
        """The word of each run."""
        return self.dictionary[self.index]

    @property
    def total(self) -> int:
        """Number of words that the runs cover."""
        return int(self.start[-1] + self.nr[-1]) if len(self.nr) else 0

    def expand(self) -> U64:
        """Return the words one by one."""
        return np.repeat(self.word, self.nr)


def runs_of(words: U64) -> WordRuns:
    """Split an array into its runs of equal words."""
    change = np.flatnonzero(words[1:] != words[:-1]) + 1
    start = np.concatenate([np.zeros(min(1, len(words)), np.int64), change])
    nr = np.diff(np.append(start, len(words)))
    dictionary, index = np.unique(words[start], return_inverse=True)
    return WordRuns(start, nr, index, dictionary)


def encode(runs: WordRuns) -> bytes:
    """Return the PRL1 stream of ``runs``."""
    by_count = np.lexsort((runs.dictionary, -np.bincount(runs.index)))
    rank = np.empty_like(by_count)
    rank[by_count] = np.arange(len(by_count))
    pairs = np.column_stack([rank[runs.index], runs.nr]).reshape(-1)
    header = MAGIC + runs.total.to_bytes(8, "little") + len(by_count).to_bytes(4, "little")
    return header + runs.dictionary[by_count].astype("<u8").tobytes() + _encode_varints(pairs)


def decode(stream: bytes, *, max_words: int = 2**32 - 1) -> WordRuns:
    """Read a PRL1 stream.

    Raises:
        CodecError: it is none, is cut off, or covers more than ``max_words`` words.
    """
    if stream[:4] != MAGIC or len(stream) < _HEADER:
        raise CodecError("it does not begin as a PRL1 stream")
    total = int.from_bytes(stream[4:12], "little")
    nr_words = int.from_bytes(stream[12:16], "little")
    if total > max_words:
        raise CodecError(f"it claims {total} words, more than {max_words}")
    begin = _HEADER + 8 * nr_words
    if begin > len(stream):
        raise CodecError("its dictionary is cut off")
    dictionary = np.frombuffer(stream, "<u8", nr_words, _HEADER).astype(np.uint64)
    pairs = decode_varints(np.frombuffer(stream, np.uint8, -1, begin))
    if len(pairs) % 2:
        raise CodecError("its last run has no length")
    index, nr = pairs[0::2], pairs[1::2]
    if len(index) and int(index.max()) >= nr_words:
        raise CodecError("a run refers beyond its dictionary")
    if int(nr.sum()) != total:
        raise CodecError(f"it covers {int(nr.sum())} words, its header says {total}")
    return WordRuns(np.cumsum(nr) - nr, nr, index, dictionary)


def _encode_varints(values: I64) -> bytes:
    """Write each value as an unsigned LEB128 varint."""
    length = np.ones(len(values), np.int64)
    for extra in range(1, _MAX_VARINT):
        length += values >= (1 << 7 * extra)
    first = np.cumsum(length) - length
    out = np.zeros(int(length.sum()), np.uint8)
    for byte in range(_MAX_VARINT):
        has = length > byte
        low = (values[has] >> (7 * byte)) & 0x7F
        out[first[has] + byte] = low | np.where(length[has] > byte + 1, 0x80, 0)
    return out.tobytes()


def decode_varints(octets: npt.NDArray[np.uint8]) -> I64:
    """Read unsigned LEB128 varints until the end."""
    last = np.flatnonzero(octets < 0x80)
    if len(octets) and (not len(last) or last[-1] != len(octets) - 1):
        raise CodecError("its last number is cut off")
    first = np.concatenate([np.zeros(min(1, len(last)), np.int64), last[:-1] + 1])
    length = last - first + 1
    if len(length) and int(length.max()) > _MAX_VARINT:
        raise CodecError(f"a number has more than {_MAX_VARINT} bytes")
    values: I64 = (octets[first] & 0x7F).astype(np.int64)
    for byte in range(1, _MAX_VARINT):
        has = np.flatnonzero(length > byte)
        values[has] |= (octets[first[has] + byte].astype(np.int64) & 0x7F) << (7 * byte)
    return values
