"""The audit log: who was shut out, or changed what others may do. One JSON object a line."""

import json
from datetime import UTC, datetime
from logging import INFO, Formatter, LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

BYTES: Final = 16 << 20
"""A file of this size is followed by another."""
FILES: Final = 8
"""Older ones that are kept: FILE.1 … FILE.8."""
_MOST: Final = 300
"""Characters of one value: what a stranger sent must not fill the disk."""


class _Lines(Formatter):
    def format(self, record: LogRecord) -> str:
        """The message is the line."""
        return record.getMessage()


class Audit:
    """Writes what matters to security; without a file it is forgotten."""

    def __init__(self, path: Path | None = None, *, most_bytes: int = BYTES) -> None:
        """Append to ``path``.

        Raises:
            OSError: It cannot be written.
        """
        self._handler: RotatingFileHandler | None = None
        if path is not None:
            self._handler = RotatingFileHandler(
                path, maxBytes=most_bytes, backupCount=FILES, encoding="utf-8"
            )
            self._handler.setFormatter(_Lines())

    def note(self, act: str, **facts: str) -> None:
        """Write one act down, with the time."""
        if self._handler is None:
            return
        row = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "act": act}
        row.update((name, value[:_MOST]) for name, value in facts.items())
        self._handler.emit(makeLogRecord({"levelno": INFO, "msg": json.dumps(row)}))

    def close(self) -> None:
        """Let go of the file."""
        if self._handler is not None:
            self._handler.close()
