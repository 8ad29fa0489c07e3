"""``contigmm load``: many processes contend for one machine."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from contigmm.cli.failures import UNUSABLE, CommandError, needing

if TYPE_CHECKING:
    from contigmm.description import MachineDescription
    from contigmm.load.coordinator import Plan
    from contigmm.load.export import Export
    from contigmm.load.report import Report
    from contigmm.load.scenario import Scenario
    from contigmm.load.shown import Shown

_STANDARD_OUTPUT: Final = Path("-")
_WIDTH: Final = 100
_MISSED: Final = 3
"""Exit status: the run went well, and its figures are not what was demanded."""

DEFAULT_SIZES: Final = "64K:30,256K:25,512K:15,1M:12,2M:10,4M:8"
_OF_SCENARIOS: Final = "age occupancy reclaim processes sizes hold pressure arrival memlock".split()
"""Options that a scenario file says itself."""

_PLANNING: Final = "What is asked for"
_MACHINE: Final = "The machine"
_OUTPUT: Final = "Output"


def load(
    context: typer.Context,
    *,
    scenario: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Who asks for what, and when; --machine, --duration and --seed may replace what"
            " it says.",
            rich_help_panel=_PLANNING,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR",
            help="HOST:PORT of a running server; without it one is started for this run.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="CONTIGMM_TLS_CA",
            help="Speak TLS to the target; certificates in PEM that vouch for it.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="CONTIGMM_TOKEN_FILE",
            help="File that holds the token for the target.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="What to boot: host:, file:PATH or spec:NAME.  [default: host:]",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    age: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="FRACTION",
            help="Share of free memory to break up by scattered pages of cache first.",
        ),
    ] = 0.0,
    occupancy: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="FRACTION", help="Fill the machine up to here with page cache."
        ),
    ] = 0.97,
    reclaim: Annotated[
        bool,
        typer.Option(
            "--reclaim", help="Let requests compact and reclaim before they are refused, as Linux."
        ),
    ] = False,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="Simulated processes.")] = 8,
    duration: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="Seconds to measure.")
    ] = 10.0,
    sizes: Annotated[
        str, typer.Option(metavar="SIZE:WEIGHT,...", help="Sizes to map, and how often each.")
    ] = DEFAULT_SIZES,
    hold: Annotated[
        str,
        typer.Option(
            metavar="auto|N|N-M",
            help="How many of its own next requests a process keeps a mapping for; auto: so that"
            " together they want more than there is, by --pressure.",
        ),
    ] = "auto",
    pressure: Annotated[
        float,
        typer.Option(
            min=0.01,
            metavar="X",
            help="What is wanted at once, as a multiple of what is free (--hold auto).",
        ),
    ] = 2.5,
    arrival: Annotated[
        str,
        typer.Option(
            metavar="closed|constant:N|poisson:N|ramp:N-M",
            help="When requests come: each after the one before, or so many a second in all.",
        ),
    ] = "closed",
    memlock: Annotated[
        str,
        typer.Option(
            metavar="unlimited|SIZE",
            help="RLIMIT_MEMLOCK of each process; what it refuses is EAGAIN, not ENOMEM.",
        ),
    ] = "unlimited",
    generators: Annotated[
        int,
        typer.Option(min=2, metavar="N", help="Operating-system processes that make the calls."),
    ] = 2,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Decides what is drawn: sizes, holds, placement.")
    ] = 0,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result as load/1; - is stdout."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw free memory before and after."),
    ] = None,
    export_refusals: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the first refusal of each size and Reason to DIR, with the machine before"
            " it, for `contigmm reproduce`.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    export_limit: Annotated[
        int,
        typer.Option(min=1, max=1000, metavar="N", help="Most refusals.", rich_help_panel=_OUTPUT),
    ] = 8,
    export_bytes: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="Most bytes of their files together.", rich_help_panel=_OUTPUT
        ),
    ] = "256M",
    dashboard: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Show the run, while it goes on and afterwards, on this dashboard of a server.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE<=BOUND",
            help="Exit with status 3 unless p50, p90, p99, p999, max, ops_per_s, refused or jain"
            " keeps a bound, such as p99<=20ms or refused<=5%.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A.json B.json",
            help="Run nothing: tell whether the second result is better than the first. Either may"
            " be a folder of results of five runs or more.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
) -> None:
    """Let processes contend for one machine, over gRPC, and report."""
    if compare is not None:
        _compare(*compare)
        return
    with needing("load"):
        from contigmm.client.door import Door
        from contigmm.load.coordinator import Plan
        from contigmm.load.scenario import scenario_of
        from contigmm.load.thresholds import Threshold

    thresholds = [Threshold.parse(text) for text in require or ()]
    if scenario is None:
        group = {"processes": processes, "sizes": sizes, "hold": hold, "memlock": memlock}
        wanted = scenario_of(
            {
                "machine": machine,
                "seed": seed,
                "ageing": age,
                "occupancy": occupancy,
                "pressure": pressure,
                "reclaim": reclaim,
                "groups": [group],
                "phases": [{"seconds": duration, "arrival": arrival}],
            }
        )
    else:
        wanted = _read(scenario, context, machine=machine, seed=seed, duration=duration)
    source = wanted.machine or ("host:" if target is None else None)
    plan = Plan(
        description=None if source is None else _describe(source),
        source=source or f"the machine of {target}",
        target=target,
        scenario=wanted,
        generators=generators,
        export=_export(export_refusals, export_limit, export_bytes),
        door=Door() if target is None else Door.of_files(tls_ca=tls_ca, token_file=token_file),
    )
    if plot is not None:
        with needing("plot"):  # before the run, not after it
            pass
    with _shown_on(dashboard) as shown:
        report = _run(plan, shown)
        _write(report, json_path, plot)
        if shown is not None:
            shown.end(report)
    if not report.integrity.ok:
        raise CommandError("the machine did not keep its promises: see the report")
    if missed := [miss for threshold in thresholds if (miss := threshold.miss(report))]:
        raise CommandError("; ".join(missed), status=_MISSED)


def _export(folder: Path | None, limit: int, size: str) -> "Export | None":
    """Return where refusals go; the folder is made now, before the run."""
    from contigmm.load.export import Export
    from contigmm.load.sizes import parse_bytes

    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Export(folder, limit, parse_bytes(size))


def _shown_on(dashboard: str | None) -> "AbstractContextManager[Shown | None]":
    from contigmm.load.shown import Shown

    return nullcontext() if dashboard is None else Shown(dashboard)


def _run(plan: "Plan", shown: "Shown | None") -> "Report":
    from contigmm.load.live import run_live

    return run_live(plan, Console(stderr=True), None if shown is None else shown.tell)


def _read(
    path: Path, context: typer.Context, *, machine: str | None, seed: int, duration: float
) -> "Scenario":
    """Read a scenario, and let the options that were given say otherwise where they may.

    Raises:
        CommandError: An option was given that the scenario is to say.
    """
    from contigmm.load.scenario import read_scenario

    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }
    if twice := [name for name in _OF_SCENARIOS if name in given]:
        raise CommandError(
            f"--{twice[0]} and --scenario exclude each other: {path} says it", status=UNUSABLE
        )
    scenario = read_scenario(path)
    if "duration" in given:
        scenario = scenario.lasting(duration)
    changed = {"machine": machine, "seed": seed}
    return scenario.model_copy(update={name: changed[name] for name in changed if name in given})


def _compare(before: Path, after: Path) -> None:
    """Print what changed from one result to another; a worse one is status 3."""
    with needing("load"):
        from contigmm.load.compare import compare

    comparison = compare(before, after)
    for warning in comparison.warnings:
        print(f"Mind: {warning}.")
    for change in comparison.changes:
        print(change)
    print(f"Verdict: {comparison.verdict}")
    if any(change.verdict == "worse" for change in comparison.changes):
        raise CommandError(f"{after} has figures worse than {before}", status=_MISSED)


def _describe(source: str) -> "MachineDescription":
    from contigmm.hosts import describe

    return describe(source)


def _write(report: "Report", json_path: Path | None, plot: Path | None) -> None:
    from contigmm.load.console import print_report

    if json_path is not None and json_path != _STANDARD_OUTPUT:
        json_path.write_text(report.as_json() + "\n", encoding="utf-8")
    if plot is not None:
        from contigmm.load.picture import draw

        draw(report, plot)
    # What is no terminal has no width: then wide enough for every line.
    console = Console(stderr=json_path == _STANDARD_OUTPUT)
    if not console.is_terminal:
        console.width = _WIDTH
    print_report(report, console)
    for written in (json_path, plot):
        if written is not None and written != _STANDARD_OUTPUT:
            console.print(f"Written: {written}", highlight=False)
    if json_path == _STANDARD_OUTPUT:
        print(report.as_json())
