"""JSON of anyone: whatever is wrong with it is a ValueError."""

import json
import math
from typing import Any, NoReturn


def loads(text: str | bytes) -> Any:
    """Read JSON as ``json.loads`` does, without what JSON does not have.

    Raises:
        ValueError: It is none, or nested too deeply, or has a number that is none or not finite.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number
