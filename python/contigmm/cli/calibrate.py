"""``contigmm calibrate``: costs of steps, measured on this computer."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from contigmm.cli.failures import CommandError


def calibrate(
    *,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to put the costs, for --costs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit what steps cost in simulated time to this computer, by small measurements."""
    from contigmm.study.calibrate import CalibrationError, summary_lines
    from contigmm.study.calibrate import calibrate as measure

    try:
        result = measure()
    except CalibrationError as error:
        raise CommandError(str(error)) from error
    text = json.dumps(result.report(version("contigmm")), indent=None if as_json else 2)
    if write is not None:
        try:
            write.write_text(text + "\n")
        except OSError as error:
            raise CommandError(f"{write}: {error.strerror}.") from error
    if as_json:
        print(text)
    for line in summary_lines(result):
        print(line, file=sys.stderr if as_json else sys.stdout)
