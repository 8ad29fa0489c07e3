"""``contigmm reproduce``: a request that a load saw refused, once more."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

DIFFERS = 1
"""Exit status: the answer is not the one that the file tells."""


def reproduce(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="What contigmm load --export-refusals wrote.")
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Carry a refused request out again, on the machine as it was before it.

    The exit status is 0 when errno and Reason are the same, 1 when they differ.
    """
    from contigmm.answers.reproduce import in_words
    from contigmm.answers.reproduce import reproduce as again

    found = again(path)
    status = 0 if found.same else DIFFERS
    if as_json:
        answer = {"schema": "reproduce/1", "contigmm": version("contigmm"), **found.to_json()}
        print(json.dumps(answer))
        return status
    refused = found.refused
    print(
        f"{refused.source}, seed {refused.seed}, command {refused.answer.seq:,} of the machine:"
        f" mmap of {refused.operation.args[1]:,} bytes by process {refused.operation.process}"
    )
    print(f"then: {in_words(refused.answer)}")
    print(f"now:  {in_words(found.answer)}, {'the same' if found.same else 'which differs'}")
    for line in found.evidence:
        print(f"  {line}")
    return status
