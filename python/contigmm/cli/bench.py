"""``contigmm bench``: speed, beside peers."""

import json
from typing import Annotated, Any, Final

import typer

from contigmm.cli.failures import needing

app: Final = typer.Typer(no_args_is_help=True, help="Measure speed beside peers.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; every way is measured once in each.")]


@app.callback()
def bench() -> None:
    """Measure speed beside peers."""


@app.command("rpc")
def rpc(json_: Json = False, rounds: Rounds = 9) -> None:
    """What a call costs the server, beside a bare grpc.aio echo and beside no server at all."""
    with needing("grpc"):
        from contigmm.bench.rpc import rpc_report
    report = rpc_report(rounds=rounds)
    if json_:
        print(json.dumps(report))
        return
    for row in report["results"]:
        print(_line(row))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['name']:12} {row['server_cpu_us_per_op']:8.1f} us CPU/op"
        f" {row['ops_per_s']:8} ops/s, p50 {row['p50_us']:.0f} us, p99 {row['p99_us']:.0f} us,"
        f" {row['clients']} clients"
    )
