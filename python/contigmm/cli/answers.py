"""``contigmm howmany`` and ``contigmm explain``: will my N MiB be there, and if not, why?"""

import json
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer

VERDICT: Final = 3
"""The verdict is the one that ``--fail-if`` names."""

_SOURCE: Final = typer.Argument(metavar="SOURCE", help="host:, file:PATH or spec:NAME.")
_SIZE: Final = typer.Option("--size", metavar="S", help="Bytes of one piece, such as 64K or 2M.")
_GFP: Final = typer.Option(
    metavar="FLAGS", help="Flags of the request, such as 'GFP_KERNEL|__GFP_COMP'."
)
_DRAWS: Final = typer.Option(
    min=1, max=1000, metavar="N", help="How often to draw what the source does not tell."
)
_SEED: Final = typer.Option(metavar="N", help="Seed of the draws.")
_JSON: Final = typer.Option("--json", help="Print one JSON object instead of sentences.")


class FailIf(StrEnum):
    """Verdicts that can be made a failure."""

    FAILS = "fails"
    UNKNOWN = "unknown"


class After(StrEnum):
    """What may go before the requests."""

    NOTHING = "nothing"
    COMPACT = "compact"


def howmany(
    source: Annotated[str, _SOURCE],
    size: Annotated[str, _SIZE],
    *,
    gfp: Annotated[str, _GFP] = "GFP_HIGHUSER|__GFP_ZERO",
    after: Annotated[After, typer.Option(help="What goes before.")] = After.NOTHING,
    draws: Annotated[int, _DRAWS] = 20,
    seed: Annotated[int, _SEED] = 0,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Count the pieces of one size that a machine would deliver, one after the other."""
    from contigmm.answers import howmany as ask

    answer = ask(source, size, gfp=gfp, after=after, draws=draws, seed=seed)
    if as_json:
        _print_json("howmany/1", answer.to_json())
        return
    print(answer.sentence())
    for line in answer.arithmetic:
        print(f"  {line}")
    for line in answer.unknown:
        print(f"  not told: {line}")


def explain(
    source: Annotated[str, _SOURCE],
    size: Annotated[str, _SIZE],
    *,
    gfp: Annotated[str, _GFP] = "GFP_HIGHUSER|__GFP_ZERO",
    draws: Annotated[int, _DRAWS] = 5,
    seed: Annotated[int, _SEED] = 0,
    fail_if: Annotated[
        list[FailIf] | None, typer.Option(help="End with status 3 on this verdict; repeatable.")
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> int:
    """Say whether one piece is to be had on a machine, and what stands in the way."""
    from contigmm.answers import explain as ask

    answer = ask(source, size, gfp=gfp, draws=draws, seed=seed)
    if as_json:
        _print_json("explain/1", answer.to_json())
    else:
        print(answer.sentence())
        for line in answer.evidence:
            print(f"  {line}")
        for line in answer.would_help:
            print(f"  would help: {line}")
    return VERDICT if answer.verdict in (fail_if or ()) else 0


def _print_json(schema: str, answer: dict[str, Any]) -> None:
    print(json.dumps({"schema": schema, "contigmm": version("contigmm"), **answer}))
