"""PRL1 gives back what it was given, and refuses what it is not."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contigmm.hosts import rle

words = st.lists(
    st.tuples(st.sampled_from([0, 1, 5, 2**63, 2**64 - 1]), st.integers(1, 300)), max_size=40
)


@given(words)
def test_what_is_encoded_is_decoded(pieces):
    array = np.repeat(
        np.array([word for word, _ in pieces], np.uint64), [count for _, count in pieces]
    )
    runs = rle.runs_of(array)
    again = rle.decode(rle.encode(runs))
    assert again.total == len(array)
    assert np.array_equal(again.word.repeat(again.nr), array)


def plain_decode(stream):
    """Read the stream byte by byte: the definition."""
    total, size = struct.unpack_from("<QI", stream, 4)
    dictionary = struct.unpack_from(f"<{size}Q", stream, 16)
    numbers, value, shift = [], 0, 0
    for octet in stream[16 + 8 * size :]:
        value |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            numbers.append(value)
            value, shift = 0, 0
    out = [
        dictionary[i] for i, n in zip(numbers[::2], numbers[1::2], strict=True) for _ in range(n)
    ]
    assert len(out) == total
    return out


@given(words)
def test_a_byte_by_byte_reader_agrees(pieces):
    array = np.repeat(
        np.array([word for word, _ in pieces], np.uint64), [count for _, count in pieces]
    )
    assert plain_decode(rle.encode(rle.runs_of(array))) == array.tolist()


def test_the_most_frequent_word_has_the_shortest_index():
    runs = rle.runs_of(np.array([7, 9, 7, 9, 7, 1], np.uint64))
    stream = rle.encode(runs)
    assert struct.unpack_from("<3Q", stream, 16) == (7, 9, 1)


def test_long_runs_take_long_numbers():
    stream = b"PRL1" + struct.pack("<QIQ", 2**31, 1, 42) + b"\x00\x80\x80\x80\x80\x08"
    runs = rle.decode(stream)
    assert runs.total == 2**31
    assert rle.encode(runs) == stream


good = rle.encode(rle.runs_of(np.array([1, 1, 2], np.uint64)))


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (b"", "does not begin"),
        (b"PRL2" + good[4:], "does not begin"),
        (good[:20], "dictionary is cut off"),
        (good[:-1], "has no length"),
        (good[:-1] + b"\x80", "number is cut off"),
        (good[:-1] + b"\x02", "covers 4 words, its header says 3"),
        (good[:-2] + b"\x05\x01", "beyond its dictionary"),
        (good + b"\x80\x80\x80\x80\x80\x80\x01\x01", "more than 5 bytes"),
        (b"PRL1" + struct.pack("<QI", 2**40, 0), "more than 4294967295"),
    ],
)
def test_bad_streams_are_refused_with_a_sentence(stream, sentence):
    with pytest.raises(rle.CodecError, match=sentence):
        rle.decode(stream)


@given(st.binary(max_size=60))
def test_no_bytes_do_anything_but_decode_or_be_refused(octets):
    with contextlib.suppress(rle.CodecError):
        rle.decode(b"PRL1" + octets, max_words=10_000)
