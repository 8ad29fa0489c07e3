"""How an exception becomes an exit status and one sentence on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import typer

FAILED: Final = 1
"""The thing asked for failed."""
UNUSABLE: Final = 2
"""The arguments or the input are unusable."""
INTERRUPTED: Final = 130
"""Ctrl-C: 128 + SIGINT, as shells say it."""

_EXTRAS: Final = {
    "grpc": "grpc",
    "grpc_health": "grpc",
    "grpc_reflection": "grpc",
    "grpc_status": "grpc",
    "google": "grpc",
    "matplotlib": "plot",
    "hdrh": "load",
    "pydantic": "load",
    "yaml": "load",
}
"""The extra of contigmm that installs a package."""


@dataclass(frozen=True)
class Failure:
    """What the user is told."""

    status: int
    sentence: str


class CommandError(RuntimeError):
    """A command cannot do what it was asked; ``str()`` is the sentence for the user."""

    def __init__(self, sentence: str, *, status: int = FAILED) -> None:
        super().__init__(sentence)
        self.status = status


def describe(error: Exception) -> Failure | None:
    """Return what to tell the user of ``error``; None: it is a bug and deserves its traceback."""
    if isinstance(error, typer.TyperException):
        return Failure(getattr(error, "exit_code", UNUSABLE), _one_line(_message(error)))
    if isinstance(error, CommandError):
        return Failure(error.status, _one_line(str(error)))
    if isinstance(error, ImportError):
        return _missing_package(error)
    if isinstance(error, OSError):
        return _failed_file(error)
    return _from_a_room(error)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Say which extra to install where an import in the block finds a package missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "contigmm":
            raise
        raise CommandError(
            f"{error.name} is not installed: pip install 'contigmm[{extra}]'"
        ) from error


def _message(error: typer.TyperException) -> str:
    format_message = getattr(error, "format_message", None)
    return str(format_message()) if format_message else str(error)


def _missing_package(error: ImportError) -> Failure | None:
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    if extra is not None:
        return Failure(FAILED, f"{error.name} is not installed: pip install 'contigmm[{extra}]'")
    return None


def _failed_file(error: OSError) -> Failure:
    if isinstance(error, BrokenPipeError):
        return Failure(FAILED, "the reader of the output went away")
    if error.filename is None:
        return Failure(FAILED, _one_line(str(error)))
    status = UNUSABLE if isinstance(error, FileNotFoundError | IsADirectoryError) else FAILED
    return Failure(status, f"{error.filename}: {error.strerror}")


def _from_a_room(error: Exception) -> Failure | None:
    from contigmm.description import DescriptionError
    from contigmm.errors import ContigmmError
    from contigmm.hosts.source_error import SourceError

    if isinstance(error, SourceError | DescriptionError):
        return Failure(UNUSABLE, _one_line(str(error)))
    if isinstance(error, ContigmmError):
        status = UNUSABLE if isinstance(error, ValueError) else FAILED
        return Failure(status, _one_line(str(error)))
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())
