"""``contigmm validate``: agreement with what real kernels did."""

import json
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer

app: Final = typer.Typer(no_args_is_help=True, help="Compare with what real kernels did.")


@app.callback()
def validate() -> None:
    """Compare with what real kernels did."""


@app.command("oracle")
def oracle(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Programs, JSON Lines, .gz or not.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where the results go, one a line.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes at work; 0: one a CPU.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the agreement as one JSON object.")
    ] = False,
    show: Annotated[int, typer.Option(min=0, help="Differences to name.")] = 10,
    cells: Annotated[
        bool, typer.Option("--cells", help="Print a line for each call and outcome, too.")
    ] = False,
) -> None:
    """Run recorded programs of system calls; compare where the truth is there."""
    from contigmm.validate.oracle_files import summary_lines, validate_files

    with ExitStack() as stack:
        out = None if output is None else stack.enter_context(output.open("w", encoding="utf-8"))
        agreement = validate_files(files, output=out, jobs=jobs or None)
    if as_json:
        print(json.dumps(agreement.report()))
    for line in summary_lines(agreement, cells=cells):
        print(line, file=sys.stderr)
    for difference in agreement.differences[:show]:
        print(f"  {difference}", file=sys.stderr)


@app.command("supply")
def supply(
    records: Annotated[
        list[Path], typer.Argument(metavar="RECORD...", help="NAME.truth.json, snapshots beside.")
    ],
    *,
    draws: Annotated[
        int, typer.Option(min=1, max=1000, help="How often to draw what is not told.")
    ] = 20,
    room_draws: Annotated[
        int,
        typer.Option(min=1, max=1000, help="The same for steps that compact or reclaim."),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the records.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Forecast how many folios of each order a real machine delivered, from its free lists."""
    from contigmm.validate.gigantic import chance_lines
    from contigmm.validate.supply_report import dumps, error_lines, supply_report

    report = supply_report(records, draws=draws, room_draws=room_draws, seed=seed, jobs=jobs)
    if as_json:
        print(dumps(report, version=version("contigmm")))
    for line in [*error_lines(report["steps"]), *chance_lines(report["gigantic_score"])]:
        print(line, file=sys.stderr if as_json else sys.stdout)


@app.command("replay")
def replay(
    stems: Annotated[
        list[str],
        typer.Argument(
            metavar="STEM...",
            help="STEM.before.snap.tar.xz, STEM.kmem.tar.xz and, to compare, STEM.after….",
        ),
    ],
    *,
    end_state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the forecast free blocks go, as JSON."),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=1, max=1000, help="How often to draw what is not told.")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the first draw.")] = 0,
    mode: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="forced: the recording's refills, drains and direct requests are asked; free: "
            "only what programs asked and gave back, the rest is simulated.",
        ),
    ] = "forced",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask the simulated allocator what a real one was asked; compare what is left free."""
    from contigmm.validate.replay import (
        MODES,
        dumps,
        replay_report,
        summary_lines,
        write_end_states,
    )

    if mode not in MODES:
        raise typer.BadParameter(f"{mode!r} is none of {', '.join(MODES)}", param_hint="--mode")
    report = replay_report(stems, mode=mode, draws=draws, seed=seed)
    if end_state is not None:
        write_end_states(report, end_state)
    if as_json:
        print(dumps(report, version=version("contigmm")))
    for line in summary_lines(report):
        print(line, file=sys.stderr if as_json else sys.stdout)


@app.command("strace")
def strace(
    names: Annotated[
        list[Path],
        typer.Argument(metavar="NAME...", help="NAME.log, NAME.maps beside; .gz or not."),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Replay logs of real programs; compare each result, and mappings at fork and exit."""
    from contigmm.validate.strace_report import (
        find_logs,
        log_report,
        replay_files,
        summary,
        validation,
    )

    logs = []
    for files in find_logs(names):
        logs.append(log_report(files.name, replay_files(files)))
        print(summary(logs[-1]), file=sys.stderr)
    if as_json:
        print(json.dumps(validation(logs)))
