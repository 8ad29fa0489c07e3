"""The application: its commands, and how any of them fails.

Each command is a small module that imports its room when it runs, so that starting is quick and a
room whose extra is not installed hinders no other.
"""

import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Final

import typer

from contigmm.cli import (
    answers,
    bench,
    calibrate,
    capture,
    journal,
    load,
    replay,
    reproduce,
    serve,
    snapshot,
    study,
    validate,
)
from contigmm.cli.failures import INTERRUPTED, describe
from contigmm.errors import ContigmmError

app: Final = typer.Typer(
    name="contigmm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"contigmm {version('contigmm')}")
        raise typer.Exit


@app.callback()
def contigmm(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Simulate Linux physical memory, and the processes that ask it for contiguous pieces.

    SOURCE and MACHINE are host: (this computer), file:PATH (a capture, a dump, or a directory of
    /proc files) or spec:NAME (small, medium, numa, large, huge). The exit status is 0 when done, 1
    when what was asked for failed, 2 when the arguments or the input are unusable.
    """


app.command(
    "serve",
    add_help_option=False,  # the server's own help is the one that helps
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(serve.serve)
app.command(
    "journal",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(journal.journal)
app.command("load")(load.load)
app.command("reproduce")(reproduce.reproduce)
app.command("capture")(capture.capture)
app.command("calibrate")(calibrate.calibrate)
app.add_typer(validate.app, name="validate")
app.add_typer(replay.app, name="replay")
app.add_typer(study.app, name="study")
app.add_typer(bench.app, name="bench")
app.add_typer(snapshot.app, name="snapshot")
app.command("howmany")(answers.howmany)
app.command("explain")(answers.explain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; errors are one sentence on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        status = app(
            [word for word in given if word != "--debug"],
            prog_name="contigmm",
            standalone_mode=False,
        )
    except (
        typer.TyperException,
        ContigmmError,
        RuntimeError,
        ValueError,
        OSError,
        ImportError,
    ) as error:
        failure = describe(error)
        if failure is None:
            raise
        if debug:
            traceback.print_exception(error)
        print(f"contigmm: {failure.sentence}", file=sys.stderr)
        return failure.status
    if status == INTERRUPTED:  # what typer makes of KeyboardInterrupt
        print("contigmm: interrupted", file=sys.stderr)
    return status if isinstance(status, int) else 0
