"""``contigmm snapshot``: what a saved machine is."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer

SCHEMA: Final = "snapshot-info/1"

app: Final = typer.Typer(help="Look into saved machines.", no_args_is_help=True)


@app.callback()
def snapshot() -> None:
    """Look into saved machines."""


@app.command()
def info(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What Machine.snapshot() gave.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what machine a snapshot holds, and hold its invariants against it."""
    facts = _facts(path.read_bytes())
    if as_json:
        print(json.dumps({"schema": SCHEMA, "contigmm": version("contigmm"), **facts}, indent=2))
        return
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        if not isinstance(value, dict):
            print(f"{name.replace('_', ' '):12} {text}")
    for zone, counts in facts["buddyinfo"].items():
        print(f"{zone:12} {' '.join(f'{count:6}' for count in counts)}")


def _facts(snapshot_bytes: bytes) -> dict[str, Any]:
    from contigmm.sim.machine import Machine

    machine = Machine.restore(snapshot_bytes)
    machine.check()
    return {
        "source": machine.description,
        "profile": machine.profile,
        "seed": machine.seed,
        "seq": machine.seq,
        "clock": machine.clock,
        "clock_ns": machine.clock_ns,
        "cpus": machine.cpus,
        "frames": machine.nr_frames,
        "processes": len(machine.processes()),
        "digest": machine.digest(),
        "drawn": list(machine.drawn),
        "buddyinfo": machine.buddyinfo(),
    }
