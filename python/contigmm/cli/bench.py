"""``contigmm bench``: speed, beside peers."""

import json
from typing import Annotated, Any, Final

import typer

from contigmm.cli.failures import CommandError, needing

app: Final = typer.Typer(no_args_is_help=True, help="Measure speed beside peers.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; every way is measured once in each.")]


@app.callback()
def bench() -> None:
    """Measure speed beside peers."""


@app.command("core")
def core(
    json_: Json = False,
    rounds: Rounds = 9,
    frames: Annotated[str, typer.Option(help="Frames of the machines, as N,N.")] = "",
    order: Annotated[str, typer.Option(help="Orders, as N,N.")] = "",
    pattern: Annotated[str, typer.Option(help="Patterns, as NAME,NAME.")] = "",
) -> None:
    """What the allocator costs, beside two of crates.io; from a checkout, with cargo.

    Without options: all patterns on 2^21 frames, `bulk` on 2^18 and 2^24 too, orders 0, 3, 6, 9
    and 10, one thread and two; a few minutes.
    """
    from contigmm.bench.core_program import core_report

    wanted = {"--frames": frames, "--order": order, "--pattern": pattern}
    given = [word for pair in wanted.items() if pair[1] for word in pair]
    report = core_report(runs=rounds, arguments=tuple(given))
    if json_:
        print(json.dumps(report))
        return
    for row in report["results"]:
        print(
            f"{row['allocator']:24} {row['pattern']:15} order {row['order']:2} {row['op']:6}"
            f" {row['min_ns']:12.1f} ns least, {row['median_ns']:12.1f} ns median,"
            f" {row['frames']} frames"
            + (", per-CPU lists" if row["pcp"] else "")
            + (f", {row['threads']} threads" if row["threads"] > 1 else "")
            + (f", {row['bytes_per_frame']:.2f} B a frame" if "bytes_per_frame" in row else "")
        )


@app.command("python")
def python(json_: Json = False, rounds: Rounds = 15) -> None:
    """What the library's system calls cost, beside those of the kernel that runs it."""
    from contigmm.bench.python_report import python_report
    from contigmm.hosts import describe

    report = python_report(describe("spec:medium"), rounds=rounds)
    if json_:
        print(json.dumps(report))
        return
    for row in report["results"]:
        print(
            f"{row['name']:22} {row['min_us']:11.3f} us least, {row['median_us']:11.3f} us median"
        )


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


@app.command("dashboard")
def dashboard(
    json_: Json = False,
    rounds: Rounds = 9,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement.")] = 4.0,
) -> None:
    """What the dashboard costs the server, and how often Chromium sees a 64 GiB machine change."""
    with needing("grpc"):
        try:
            from contigmm.bench.dashboard import dashboard_report, lines
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "playwright":
                raise
            raise CommandError("playwright is not installed: pip install playwright") from error
    report = dashboard_report(rounds=rounds, phase_s=seconds)
    if json_:
        print(json.dumps(report))
        return
    for line in lines(report):
        print(line)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['name']:16} {row['server_cpu_us_per_op']:8.2f} us CPU/op"
        f" {row['ops_per_s']:8} ops/s, p50 {row['p50_us']:.0f} us, p99 {row['p99_us']:.0f} us,"
        f" {row['clients']} clients"
    )
