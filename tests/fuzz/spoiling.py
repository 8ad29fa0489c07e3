"""How sound data is spoiled: bytes by cutting and mixing, JSON also by values of another kind."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

NASTY = (
    *(None, True, False, 0, -1, 1, 255, 2**31, 2**32, 2**63, 2**64, -(2**64), 10**30),
    *(0.5, float("nan"), float("inf"), "", "x", "0", "\0", "é" * 70, "9" * 5000, "../x"),
    *([], [None], [[]], [-1, 2**70], {}, {"": None}, {"x": {"y": []}}),
)
"""Values that a field may have in a file that somebody else has written."""
DEEP = b"[" * 100_000
"""JSON that no parser descends into."""


@st.composite
def spoiled_bytes(draw: st.DrawFn, sample: bytes) -> bytes:
    """``sample`` after a few edits: cut off, cut out, said twice, overwritten, mixed with noise."""
    data = bytearray(sample)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from((0, 1, 2, 8, 100, 1 << 40))))
        noise = draw(
            st.binary(max_size=6)
            | st.sampled_from((b"\xff" * 8, bytes(8), b"\n", b"-1", b"9" * 5000, b" ", DEEP))
        )
        data[at:end] = draw(st.sampled_from((b"", noise, bytes(data[at:end] * 2))))
    return bytes(data)


def _places(document: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value of a document."""
    inner: list[Any] = []
    if isinstance(document, dict):
        inner = list(document.items())
    elif isinstance(document, list):
        inner = list(enumerate(document[:4]))
    here = [so_far] if so_far else []
    return here + [way for key, value in inner for way in _places(value, (*so_far, key))]


@st.composite
def spoiled_json(draw: st.DrawFn, sample: bytes) -> bytes:
    """``sample``, which is JSON, with one or two values of another kind, or gone, or as bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(spoiled_bytes(sample))
    document = copy.deepcopy(json.loads(sample))
    for _ in range(draw(st.integers(1, 2))):
        places = _places(document)
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        holder = document
        for key in way:
            holder = holder[key]
        if draw(st.integers(0, 5)) == 0:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(draw(st.sampled_from(NASTY)))
    return json.dumps(document).encode()
