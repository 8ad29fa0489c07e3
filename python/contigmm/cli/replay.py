"""``contigmm replay``: what was recorded, done again on simulated memory."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer

app: Final = typer.Typer(no_args_is_help=True, help="Do again what was recorded.")


@app.callback()
def replay() -> None:
    """Do again what was recorded."""


@app.command("strace")
def strace(
    log: Annotated[
        Path,
        typer.Argument(metavar="LOG", help="Of strace -f -e trace=memory,process; .gz or not."),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Replay a log of strace: which results agree, and what could not be used, by line."""
    from contigmm.validate.strace_report import find_log, log_report, replay_files, summary

    files = find_log(log)
    report = log_report(files.name, replay_files(files))
    if as_json:
        head = {"schema": "replay-strace/1", "contigmm": version("contigmm")}
        print(json.dumps({**head, **report}))
        return
    print(summary(report))
    for kind in ("mismatches", "remarks"):
        for entry in report[kind]:
            text = entry.get("sentence") or (
                f"{entry['call']} = {entry['logged']}, simulated {entry['simulated']}"
            )
            print(f"  {files.log}:{entry['line']}: {text}", file=sys.stderr)
