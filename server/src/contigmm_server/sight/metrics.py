"""What Prometheus reads. Numbers are taken where they are anyway, when somebody scrapes.

Cardinality is bounded: methods, codes, errno names, Reasons, orders and events are closed sets, and
a server has at most ``Limits.machines`` machines.
"""

import asyncio
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from contigmm import procfs
from contigmm_server.durations import Durations
from contigmm_server.failures import ServiceError
from contigmm_server.hosted import HostedMachine
from contigmm_server.registry import Registry
from contigmm_server.sight.calls import CallWatch
from contigmm_server.sight.refusals import Refusals, errno_name

PATIENCE_S: Final = 1.0
"""How long a scrape waits for its turn of a machine; then it goes without."""
_LOOK_US: Final = 200.0

EVENTS: Final = ("allocstall", "compact_", "oom_kill", "page", "pgmigrate", "pgscan", "pgsteal")
"""Beginnings of the names in /proc/vmstat that are told."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric, as docs/observability.md lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str

    def new(self) -> Metric:
        """An empty one, for one scrape."""
        return _KINDS[self.kind](self.name, self.help, labels=self.labels)


_KINDS: Final[dict[str, Callable[..., Metric]]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}

_M: Final = ("machine",)
_ZONE: Final = ("machine", "zone", "order")
FAMILIES: Final = tuple(
    Family(f"contigmm_{name}", kind, labels, text)
    for name, kind, labels, text in (
        ("rpc_calls", "counter", ("method", "code"), "Calls that have ended, by gRPC status."),
        ("rpc_seconds", "histogram", ("method",), "Time from a call's beginning to its end."),
        ("rpc_in_flight", "gauge", ("method",), "Calls that have begun and not ended."),
        ("machines", "gauge", (), "Machines of the server."),
        ("machine_seen", "gauge", _M, "1 if the machine had a turn for this scrape in time."),
        ("operations", "counter", _M, "Operations in the machine's order, since it was booted."),
        ("processes", "gauge", _M, "Live processes, background ones included."),
        ("clock_seconds", "gauge", _M, "Simulated time."),
        ("queue_depth", "gauge", _M, "Commands that wait for their turn."),
        ("queue_depth_max", "gauge", _M, "Most commands that ever waited at once."),
        ("queue_wait_seconds", "histogram", _M, "Waits of commands that could not begin at once."),
        ("journal_commands", "counter", _M, "Commands appended to the journal."),
        ("journal_bytes", "counter", _M, "Bytes appended to the journal, headers included."),
        ("journal_sync_seconds", "histogram", _M, "Syncs of the journal, and how long they took."),
        ("journal_commands_per_sync", "gauge", _M, "Commands appended for each sync, on average."),
        ("free_blocks", "gauge", _ZONE, "Free blocks, as /proc/buddyinfo counts them."),
        ("unusable_index", "gauge", _ZONE, "Share of free memory in blocks too small for order."),
        (
            "refusals",
            "counter",
            ("machine", "errno", "reason"),
            "Operations that were refused, or ended in a signal, since the server looks.",
        ),
        ("events", "counter", ("machine", "event"), "Counters of /proc/vmstat: room being made."),
    )
)


class Page(Collector):
    """The metrics of one scrape."""

    def __init__(self) -> None:
        self._families = {family.name: family.new() for family in FAMILIES}

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        return self._families.values()

    def text(self) -> bytes:
        """As Prometheus reads it."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def add(self, name: str, labels: Sequence[str], value: float) -> None:
        """One number of a counter or a gauge."""
        family = self._families[f"contigmm_{name}"]
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily), name
        family.add_metric(labels, value)

    def add_durations(self, name: str, labels: Sequence[str], durations: Durations) -> None:
        """The buckets of a histogram."""
        family = self._families[f"contigmm_{name}"]
        assert isinstance(family, HistogramMetricFamily), name
        family.add_metric(labels, durations.cumulative(), durations.total_s)


class Metrics:
    """The metrics of a server, read when they are asked for."""

    def __init__(
        self,
        registry: Registry,
        calls: CallWatch,
        refusals: MutableMapping[HostedMachine, Refusals],
    ) -> None:
        self._registry = registry
        self._calls = calls
        self._refusals = refusals

    async def text(self) -> bytes:
        """What a scrape gets."""
        page = Page()
        self._add_calls(page)
        machines = self._registry.machines()
        page.add("machines", (), len(machines))
        await asyncio.gather(*(self._add_machine(page, hosted) for hosted in machines))
        return page.text()

    def _add_calls(self, page: Page) -> None:
        for method, tally in self._calls.methods.items():
            if not (tally.codes or tally.in_flight):
                continue
            for code, count in tally.codes.items():
                page.add("rpc_calls", (method, code.name), count)
            page.add("rpc_in_flight", (method,), tally.in_flight)
            page.add_durations("rpc_seconds", (method,), tally.durations)

    async def _add_machine(self, page: Page, hosted: HostedMachine) -> None:
        machine = hosted.machine_id
        page.add("queue_depth", (machine,), hosted.queue.depth)
        page.add("queue_depth_max", (machine,), hosted.queue.depth_max)
        page.add_durations("queue_wait_seconds", (machine,), hosted.queue.waits)
        refusals = self._refusals.get(hosted)
        for (errno, reason), count in (refusals.counts if refusals else {}).items():
            page.add("refusals", (machine, errno_name(errno), reason), count)
        _add_journal(page, hosted)
        look = hosted.queue.run(lambda: _add_memory(page, hosted), cost_us=_LOOK_US)
        try:
            await asyncio.wait_for(look, PATIENCE_S)
        except (TimeoutError, ServiceError):
            page.add("machine_seen", (machine,), 0)
        else:
            page.add("machine_seen", (machine,), 1)


def _add_journal(page: Page, hosted: HostedMachine) -> None:
    if hosted.journal is None:
        return
    machine, kept = hosted.machine_id, hosted.journal.kept
    syncs = sum(kept.sync_durations.buckets)
    page.add("journal_commands", (machine,), kept.commands)
    page.add("journal_bytes", (machine,), kept.bytes)
    page.add("journal_commands_per_sync", (machine,), kept.commands / syncs if syncs else 0)
    page.add_durations("journal_sync_seconds", (machine,), kept.sync_durations)


def _add_memory(page: Page, hosted: HostedMachine) -> None:
    machine, name = hosted.machine, hosted.machine_id
    page.add("operations", (name,), machine.seq)
    page.add("processes", (name,), len(machine.processes()))
    page.add("clock_seconds", (name,), machine.clock_ns / 1e9)
    for zone, counts in machine.buddyinfo().items():
        unusable = procfs.unusable_index(counts)
        for order, (count, share) in enumerate(zip(counts, unusable, strict=True)):
            page.add("free_blocks", (name, zone, str(order)), count)
            page.add("unusable_index", (name, zone, str(order)), share)
    for event, count in machine.vmstat().items():
        if event.startswith(EVENTS):
            page.add("events", (name, event), count)
