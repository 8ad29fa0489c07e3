"""``contigmm study``: experiments with an interface or a policy."""

import json
from typing import Annotated, Final

import typer

from contigmm.cli.failures import UNUSABLE, CommandError

app: Final = typer.Typer(no_args_is_help=True, help="What an interface does to everyone else.")


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
