"""What a run shows: live progress on standard error, the report on standard output."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from contigmm.load.coordinator import Tick
from contigmm.load.fragmentation import PAGE_BYTES
from contigmm.load.report import LIMITS, Report, errno_name, what_decided
from contigmm.load.samples import WINDOW_COMMANDS, Kind
from contigmm.load.sizes import format_bytes
from contigmm.load.tally import Refusal

_KIND_NAMES: Final = {
    Kind.MAP: "mmap",
    Kind.TOUCH: "touch",
    Kind.UNMAP: "munmap",
    Kind.PIN: "mlock",
    Kind.FORK: "fork",
    Kind.EXIT: "exit",
}


_LOCK_COSTS: Final = ("alloc_ns", "pcp_ns", "lock_ns", "handover_ns", "buddy_ns", "zero_ns")
"""Costs that allocations of one zone, on one socket, consist of."""


def mib(nr_bytes: int) -> str:
    """Write an amount of memory for a person."""
    if nr_bytes < 10 << 30:
        return f"{nr_bytes / (1 << 20):,.0f} MiB"
    return f"{nr_bytes / (1 << 30):,.1f} GiB"


def print_report(report: Report, console: Console) -> None:
    """Print everything a user wants to know of a run, the verdict last."""
    for heading, table in (
        ("Requests", _sizes_table(report)),
        ("Requests by group", _groups_table(report)),
        ("Requests by phase, in which they were due", _phases_table(report)),
        ("Refusals", _refusals_table(report)),
        ("Time of a call, from when it was due to its answer", _latency_table(report)),
        (
            "Simulated, not measured: an allocation while CPUs want one lock",
            _contention_table(report),
        ),
        ("Free blocks: captured, filled, measured from began to ended", _stages_table(report)),
        ("Unusable index: share of free memory in blocks too small", _unusable_table(report)),
    ):
        if not table.row_count:
            continue
        console.print(Text(heading, style="bold"))
        console.print(Padding(table, (0, 0, 0, 2), expand=False))
        console.print()
    for sentence in _sentences(report):
        console.print(sentence, highlight=False, markup=False)
    for sentence in () if report.exported is None else report.exported.sentences():
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print()
    if report.notes:
        console.print(Text("What the machine was made from", style="bold"))
    for note in report.notes:
        console.print(Padding(Text(note), (0, 0, 0, 2), expand=False))
    console.print()
    console.print(Text(report.verdict(), style="bold"))


def progress_view(tick: Tick) -> Group:
    """Return what is shown while the load runs."""
    if not tick.done_s:
        return Group(Text(f"{tick.phase} ..."))
    line = f"{tick.phase}: {tick.done_s:4.1f} s"
    if not tick.sizes:
        return Group(Text(line))
    line += f" of {tick.of_s:g} s, {tick.calls_per_s:,.0f} calls/s, {tick.in_flight:.1f} in flight"
    table = _plain_table("size", "attempts", "refused", "")
    for size in tick.sizes:
        bar = "#" * round(size.refused_share * 30)
        table.add_row(
            format_bytes(size.size_bytes), f"{size.attempts:,}", f"{size.refused_share:.1%}", bar
        )
    table.columns[-1].justify = "left"
    return Group(Text(line), table)


def _plain_table(*headings: str, padding: tuple[int, int, int, int] = (0, 2, 0, 0)) -> Table:
    table = Table(box=None, pad_edge=False, padding=padding)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _sizes_table(report: Report) -> Table:
    table = _plain_table("size", "attempts", "mapped", "refused", "for memory", "by a limit")
    for size in report.sizes:
        limits = sum(
            times for refusal, times in size.refusals.items() if errno_name(refusal.errno) in LIMITS
        )
        table.add_row(
            format_bytes(size.size_bytes),
            f"{size.attempts:,}",
            f"{size.successes:,}",
            f"{size.refused_share:.1%}",
            f"{size.refusals.total() - limits:,}",
            f"{limits:,}",
        )
    return table


def _groups_table(report: Report) -> Table:
    table = _plain_table("group", "processes", "attempts", "mapped", "refused")
    for part in report.groups if len(report.groups) > 1 else ():
        figures = (part.group.processes, part.attempts, part.successes)
        table.add_row(
            part.group.name, *(f"{figure:,}" for figure in figures), f"{part.refused_share:.1%}"
        )
    return table


def _phases_table(report: Report) -> Table:
    table = _plain_table("phase", "arrival", "seconds", "attempts", "refused", "p50 µs", "p99 µs")
    for part in report.phases if len(report.phases) > 1 else ():
        table.add_row(
            part.phase.name,
            str(part.phase.arrival),
            f"{part.phase.seconds:g}",
            f"{part.attempts:,}",
            f"{part.refused_share:.1%}",
            f"{part.latency.p50:,}",
            f"{part.latency.p99:,}",
        )
    return table


def _refusals_table(report: Report) -> Table:
    table = _plain_table("refused with", "times", "because")
    table.columns[-1].justify = "left"
    refusals: Counter[Refusal] = sum((size.refusals for size in report.sizes), Counter())
    for refusal, times in refusals.most_common():
        table.add_row(errno_name(refusal.errno), f"{times:,}", refusal.reason)
    return table


def _latency_table(report: Report) -> Table:
    table = _plain_table("call", "calls", "p50 µs", "p90 µs", "p99 µs", "p99.9 µs", "max µs")
    for kind, name in _KIND_NAMES.items():
        latency = report.latency[kind]
        if not latency.calls:
            continue
        row = (latency.calls, latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
        table.add_row(name, *(f"{figure:,}" for figure in row))
    if any(phase.arrival.open for phase in report.scenario.phases):
        sent = report.service
        row = (sent.calls, sent.p50, sent.p90, sent.p99, sent.p999, sent.max)
        table.add_row("mmap, from sending it", *(f"{figure:,}" for figure in row))
    return table


def _contention_table(report: Report) -> Table:
    table = _plain_table("CPUs", "mean ns", "p99 ns", "mean by that of 1 CPU")
    rows = () if report.contention is None else report.contention.rows
    for row in rows:
        table.add_row(
            f"{row.cpus}",
            f"{row.mean_ns:,.0f}",
            f"{row.p99_ns:,.0f}",
            f"{row.mean_ns / rows[0].mean_ns:.1f}",
        )
    return table


def _stages_table(report: Report) -> Table:
    """Free blocks of the whole machine by order, at the stations of the run."""
    stages = report.stages
    columns = (stages.captured, stages.filled, stages.loaded, stages.end, stages.emptied)
    table = _plain_table("blocks of", "captured", "filled", "began", "ended", "all exited")
    for order in range(len(stages.captured.total)):
        counts = (f"{stage.total[order]:,}" for stage in columns)
        table.add_row(format_bytes(PAGE_BYTES << order), *counts)
    table.add_row("free", *(mib(stage.free_bytes) for stage in columns))
    table.add_row("on CPU lists", *(mib(stage.pcp_bytes) for stage in columns))
    in_use = (1 - (stage.free_bytes + stage.pcp_bytes) / report.managed_bytes for stage in columns)
    table.add_row("in use", *(f"{share:.1%}" for share in in_use))
    return table


def _unusable_table(report: Report) -> Table:
    """The unusable index, without order 0 for which all that is free is usable."""
    stages = report.stages
    orders = range(1, len(stages.captured.total))
    names = [format_bytes(PAGE_BYTES << order) for order in orders]
    table = _plain_table("zone", "when", *names, padding=(0, 1, 0, 0))
    for zone, counts in stages.captured.zones.items():
        if not any(counts):
            continue
        for when, stage in (
            ("captured", stages.captured),
            ("filled", stages.filled),
            ("ended", stages.end),
        ):
            shares = stage.unusable[zone][1:]
            table.add_row(zone if when == "captured" else "", when, *(f"{s:.3f}" for s in shares))
    return table


def _sentences(report: Report) -> list[str]:
    traffic, integrity = report.traffic, report.integrity
    lines = [
        f"{traffic.calls:,} calls in {traffic.duration_s:.1f} s, {traffic.ops_per_s:,.0f} a second,"
        f" from {traffic.generator_processes} generator processes;"
        f" {traffic.in_flight_mean:.1f} in flight on average, {traffic.in_flight_max} at most;"
        f" queue of the machine {traffic.queue_depth_max} deep at most.",
        _arrival_sentence(report),
        f"Among any {WINDOW_COMMANDS} commands in a row at least"
        f" {traffic.processes_in_window_min} processes (half of the time"
        f" {traffic.processes_in_window_median} or more) of {report.scenario.nr_processes};"
        f" Jain's fairness of what was mapped {report.fairness:.3f}.",
        f"Invariants {integrity.invariants}. Pagemaps read at {integrity.observations} random"
        f" moments named {integrity.observed_frames:,} frames, {integrity.observed_twice} of them"
        f" owned twice.",
    ]
    if report.contention is not None:
        lines.append(_contention_sentence(report, report.contention.costs))
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


def _contention_sentence(report: Report, costs: Mapping[str, int]) -> str:
    """Say what is measured and what is simulated, and from which costs."""
    measured = report.latency[Kind.MAP]
    told = ", ".join(f"{name} {costs[name]}" for name in _LOCK_COSTS)
    return (
        f"Measured, mmap through the server took {measured.p50:,} µs (p50) and {measured.p99:,} µs"
        f" (p99): gRPC and a queue for one machine. Simulated, what its allocations would take"
        f" in a kernel while many CPUs want one zone's lock, from costs in ns: {told}."
    )


def _arrival_sentence(report: Report) -> str:
    """Say how requests came, and whether what made them could keep up."""
    traffic = report.traffic
    effort = traffic.effort
    asked = f"Requests came by {report.arrival}"
    arrival = report.scenario.phases[0].arrival
    if len(report.scenario.phases) == 1 and arrival.open:
        mapped_per_s = report.attempts / traffic.duration_s
        asked += f": {arrival.mean_per_s:,.0f} asked for a second, {mapped_per_s:,.0f} made"
    limit = (
        "the generator may have been the limit, not the server"
        if effort.was_the_limit
        else "the generator was not the limit"
    )
    return (
        f"{asked}; {limit}: its busiest process used {effort.busy_share:.0%} of a core, and 1 % of"
        f" its wake-ups were over {effort.late_us_p99:,} µs late."
    )
