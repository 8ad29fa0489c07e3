"""``contigmm study``: experiments with an interface or a policy."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
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


@app.command("contention")
def contention(
    *,
    cpus: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of CPUs, 1 to 1024.")
    ] = "1,2,4,8,16,26,32,64,128,256",
    orders: Annotated[str, typer.Option(metavar="N,N,...", help="Orders, 0 to 10.")] = "0,9",
    costs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What steps cost, as `contigmm calibrate` writes it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Simulate CPUs that want one zone's lock: ns per allocation, beside a published curve."""
    from contigmm.sim.costs import CostsError, read_costs
    from contigmm.study.contention import ContentionError, dumps, summary_lines
    from contigmm.study.contention import contention as run

    try:
        report = run(
            cpus=_numbers(cpus, 1, 1024),
            orders=_numbers(orders, 0, 10),
            costs=None if costs is None else read_costs(costs),
        )
    except (ContentionError, CostsError) as error:
        raise CommandError(str(error), status=UNUSABLE) from error
    if as_json:
        print(dumps(report, version=version("contigmm")))
    for line in summary_lines(report):
        print(line, file=sys.stderr if as_json else sys.stdout)


def _numbers(text: str, low: int, high: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise CommandError(f"{text!r} is no list of numbers.", status=UNUSABLE) from error
    if any(not low <= number <= high for number in numbers):
        raise CommandError(
            f"{text!r} must be numbers from {low} to {high}, separated by commas.", status=UNUSABLE
        )
    return numbers
