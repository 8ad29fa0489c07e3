"""What a run shows: live progress on standard error, the report on standard output."""

from collections.abc import Iterable
from typing import Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from contigmm.load.fragmentation import PAGE_BYTES, Fragmentation
from contigmm.load.report import LIMITS, Report, errno_name, what_decided
from contigmm.load.samples import WINDOW_COMMANDS, Kind
from contigmm.load.sizes import format_bytes
from contigmm.load.tally import SizeTally

_KIND_NAMES: Final = {Kind.MAP: "mmap(MAP_CONTIG)", Kind.TOUCH: "touch", Kind.UNMAP: "munmap"}


def mib(nr_bytes: float) -> str:
    """Write an amount of memory for a person."""
    return (
        f"{nr_bytes / (1 << 20):,.0f} MiB"
        if nr_bytes < 10 << 30
        else f"{nr_bytes / (1 << 30):,.1f} GiB"
    )


def print_report(report: Report, console: Console) -> None:
    """Print everything a user wants to know of a run, the verdict last."""
    console.print()
    console.print(Text("Requests", style="bold"))
    console.print(_sizes_table(report))
    console.print(Text("Time of a call, from sending it to its answer", style="bold"))
    console.print(_latency_table(report))
    console.print(Text("Free memory", style="bold"))
    console.print(_stages_table(report))
    console.print(_unusable_table(report))
    for line in _sentences(report):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(Text(report.verdict(), style="bold"), soft_wrap=True)


def progress_view(
    *,
    phase: str,
    done_s: float,
    of_s: float,
    sizes: Iterable[SizeTally],
    calls_per_s: float,
    in_flight: int,
) -> Group:
    """Return what is shown while the load runs."""
    line = Text(
        f"{phase}: {done_s:4.1f} of {of_s:.0f} s   {calls_per_s:,.0f} calls/s"
        f"   {in_flight} in flight"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("size", justify="right")
    table.add_column("attempts", justify="right")
    table.add_column("refused", justify="right")
    table.add_column("")
    for size in sizes:
        bar = "█" * round(size.refused_share * 30)
        table.add_row(
            format_bytes(size.size_bytes), f"{size.attempts:,}", f"{size.refused_share:.1%}", bar
        )
    return Group(line, table)


def _plain_table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _sizes_table(report: Report) -> Table:
    table = _plain_table("size", "attempts", "mapped", "refused", "memory", "limit", "decided by")
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = False
    table.columns[-1].overflow = "fold"
    for size in report.sizes:
        limits = sum(
            times for refusal, times in size.refusals.items() if errno_name(refusal.errno) in LIMITS
        )
        refused = size.refusals.total()
        reasons = [
            f"{errno_name(refusal.errno)} {refusal.reason} {times:,}"
            for refusal, times in size.refusals.most_common()
        ]
        table.add_row(
            format_bytes(size.size_bytes),
            f"{size.attempts:,}",
            f"{size.successes:,}",
            f"{size.refused_share:.1%}",
            f"{refused - limits:,}",
            f"{limits:,}",
            "\n".join(reasons),
        )
    return table


def _latency_table(report: Report) -> Table:
    table = _plain_table("call", "calls", "p50 µs", "p90 µs", "p99 µs", "p99.9 µs", "max µs")
    for kind, name in _KIND_NAMES.items():
        latency = report.latency[kind]
        row = (latency.calls, latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
        table.add_row(name, *(f"{figure:,}" for figure in row))
    return table


def _stages(report: Report) -> list[tuple[str, Fragmentation]]:
    stages = report.stages
    return [
        ("as captured", stages.captured),
        ("filled", stages.filled),
        ("measuring began", stages.loaded),
        ("measuring ended", stages.end),
        ("all exited", stages.emptied),
    ]


def _orders(report: Report) -> range:
    return range(len(report.stages.captured.total))


def _stages_table(report: Report) -> Table:
    names = [format_bytes(PAGE_BYTES << order) for order in _orders(report)]
    table = _plain_table("blocks of", "free", "in use", *names)
    for name, stage in _stages(report):
        used = 1 - stage.free_bytes / report.managed_bytes
        table.add_row(
            name, mib(stage.free_bytes), f"{used:.1%}", *(f"{count:,}" for count in stage.total)
        )
    return table


def _unusable_table(report: Report) -> Table:
    names = [format_bytes(PAGE_BYTES << order) for order in _orders(report)]
    table = _plain_table("unusable for", "zone", *names)
    for name, stage in _stages(report):
        for zone, shares in stage.unusable.items():
            if any(report.stages.captured.zones[zone]):
                table.add_row(name, zone, *(f"{share:.3f}" for share in shares))
                name = ""
    return table


def _sentences(report: Report) -> list[str]:
    traffic, integrity = report.traffic, report.integrity
    lines = [
        f"{traffic.calls:,} calls in {traffic.duration_s:.1f} s, {traffic.ops_per_s:,.0f} a second,"
        f" from {traffic.generator_processes} generator processes;"
        f" {traffic.in_flight_mean:.1f} in flight on average, {traffic.in_flight_max} at most;"
        f" queue of the machine {traffic.queue_depth_max} deep at most.",
        f"Among any {WINDOW_COMMANDS} commands in a row at least"
        f" {traffic.processes_in_window_min} processes (half of the time"
        f" {traffic.processes_in_window_median} or more) of {report.nr_processes};"
        f" Jain's fairness of what was mapped {report.fairness:.3f}.",
        f"Invariants {integrity.invariants}. Pagemaps read at {integrity.observations} random"
        f" moments named {integrity.observed_frames:,} frames, {integrity.observed_twice} of them"
        f" owned twice.",
    ]
    if integrity.conserved:
        lines.append(
            f"Conserved: after all had exited every frame is what it was, and whose it was"
            f" ({integrity.migrated} migrated, {integrity.reclaimed} reclaimed)."
        )
    else:
        lines.append("Not conserved: " + "; ".join(integrity.violations) + ".")
    for (kind, refusal), times in report.failed_calls.items():
        lines.append(
            f"{times} calls of {_KIND_NAMES[kind]} failed with {errno_name(refusal.errno)}"
            f" ({what_decided(refusal.reason)})."
        )
    return lines
