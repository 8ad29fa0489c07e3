"""``contigmm study``: experiments with an interface or a policy."""

import json
import sys
from importlib.metadata import version
from typing import Annotated, Final

import typer

from contigmm.cli.failures import UNUSABLE, CommandError

app: Final = typer.Typer(no_args_is_help=True, help="What an interface does to everyone else.")

_Share = Annotated[int, typer.Option(min=0, max=1000, metavar="THOUSANDTHS")]


@app.callback()
def study() -> None:
    """What an interface does to everyone else."""


@app.command("rfc-defects")
def rfc_defects(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Scenarios by name or number; default: all."),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show each defect of the 2017 RFC, and what is left of it under the finished policy."""
    from contigmm.study.rfc_defects import report, study

    try:
        findings = study(names)
    except ValueError as error:
        raise CommandError(str(error), status=UNUSABLE) from error
    if as_json:
        print(json.dumps(report(findings)))
        return
    for finding in findings:
        scenario = finding.scenario
        verdict = "gone" if finding.disappears else "still there"
        print(f"{scenario.defect:4} {scenario.name:18} {finding.found.sentence}")
        print(f"{'':23} {verdict} with policy contig: {finding.swapped.sentence}")


@app.command("llfree-frag")
def llfree_frag(
    *,
    huge_frames: Annotated[
        int, typer.Option(min=64, max=1 << 22, help="Size of the zone, in frames of 2 MiB.")
    ] = 64_000,
    cpus: Annotated[int, typer.Option(min=1, max=1024, help="CPUs that take turns.")] = 8,
    filled: _Share = 900,
    freed: _Share = 500,
    churned: _Share = 100,
    rounds: Annotated[int, typer.Option(min=0, max=100_000, help="Rounds of churn.")] = 100,
    start_huge: Annotated[
        int, typer.Option(min=0, help="Free 2 MiB frames at the start; the system uses the rest.")
    ] = 5108,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choices.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fill a zone with single frames, free half at random, churn: do huge frames come back?"""
    from contigmm.study.llfree_frag import FragSettings, dumps, summary_lines
    from contigmm.study.llfree_frag import llfree_frag as run

    report = run(FragSettings(huge_frames, cpus, filled, freed, churned, rounds, start_huge, seed))
    if as_json:
        print(dumps(report, version=version("contigmm")))
    for line in summary_lines(report):
        print(line, file=sys.stderr if as_json else sys.stdout)
