"""``contigmm validate``: agreement with what real kernels did."""

import sys
from contextlib import ExitStack
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
    show: Annotated[int, typer.Option(min=0, help="Differences to name.")] = 10,
) -> None:
    """Run recorded programs of system calls; compare where the truth is there."""
    from contigmm.validate.oracle_files import validate_files

    with ExitStack() as stack:
        out = None if output is None else stack.enter_context(output.open("w", encoding="utf-8"))
        agreement = validate_files(files, output=out, jobs=jobs or None)
    for kind, programs in sorted(agreement.programs.items()):
        compared = agreement.compared.get(kind, 0)
        equal = agreement.equal.get(kind, 0)
        verdict = f"{equal} of {compared} agree in everything" if compared else "no truth given"
        print(f"{kind}: {programs} programs, {verdict}", file=sys.stderr)
    for difference in agreement.differences[:show]:
        print(f"  {difference}", file=sys.stderr)
