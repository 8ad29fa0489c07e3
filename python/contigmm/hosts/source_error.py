"""The one error of every reader: what is wrong, in which file, on which line."""

from __future__ import annotations

from contigmm.errors import ContigmmError


class SourceError(ContigmmError, ValueError):
    """A source cannot be read as what it should be.

    ``str()`` is one sentence; ``name`` and ``line`` (from 1; 0: the file as a whole) say where.
    """

    def __init__(self, sentence: str, *, name: str, line: int = 0) -> None:
        self.name = name
        self.line = line
        where = f"{name}:{line}" if line else name
        super().__init__(f"{where}: {sentence}")
