"""Metrics, spans and logs: what they tell of calls whose course is known."""

import json
import logging
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from asking import ANON, DESCRIPTION, PAGE, RW, refused
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from test_serve import serving

from contigmm.abi import MAP_CONTIG, MAP_POPULATE
from contigmm.client import connect
from contigmm.client.aio import connect as connect_aio
from contigmm.hosts import describe
from contigmm.sim.machine import Machine
from contigmm.sim.operation import Answer, Call, Operation
from contigmm_server.durations import BOUNDS_S, Durations
from contigmm_server.main import main
from contigmm_server.service import Service
from contigmm_server.sight import logs
from contigmm_server.sight.calls import CallWatch, Ended
from contigmm_server.sight.metrics import EVENTS, FAMILIES
from contigmm_server.sight.options import SightError, loopback
from contigmm_server.sight.refusals import Refusals, errno_name
from contigmm_server.sight.spans import Spans

POPULATED = ANON | MAP_POPULATE
EVENT = "contigmm_events_total"
ALWAYS = (
    "rpc_calls_total",
    "rpc_seconds_count",
    "rpc_in_flight",
    "machines",
    "machine_seen",
    "queue_depth",
    "queue_depth_max",
    "queue_wait_seconds_count",
    "journal_bytes_total",
)
DOCS = Path(__file__).parents[2] / "docs" / "observability.md"


def _numbers(url: str) -> dict[tuple[str, tuple[str, ...]], float]:
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_tells_calls_queue_journal_and_machine(tmp_path: Path):
    arguments = ("--machine", "spec:small", "--metrics", "127.0.0.1:0", "--data", str(tmp_path))
    with serving(*arguments) as (process, address), connect(address) as client:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("metrics at ").strip()
        machine = client.machine("default")
        child = machine.spawn("x")
        child.mmap(0, PAGE, RW, ANON)
        with pytest.raises(OSError, match=r"length_is_zero"):
            child.mmap(0, 0, RW, ANON)
        numbers = _numbers(url)
        buddyinfo = machine.buddyinfo()
    mmap = "/contigmm.v1.MemoryService/Mmap"
    assert numbers["contigmm_rpc_calls_total", ("OK", mmap)] == 2
    assert numbers["contigmm_rpc_seconds_bucket", ("+Inf", mmap)] == 2
    assert numbers["contigmm_rpc_in_flight", (mmap,)] == 0
    assert numbers["contigmm_operations_total", ("default",)] == 3
    assert numbers["contigmm_journal_commands_total", ("default",)] == 3
    assert numbers["contigmm_journal_sync_seconds_count", ("default",)] >= 1
    assert numbers["contigmm_machine_seen", ("default",)] == 1
    refused_ = {key[1][0]: value for key, value in numbers.items() if "refusals_total" in key[0]}
    assert refused_ == {"EINVAL": 1}
    for zone, counts in buddyinfo.items():
        for order, count in enumerate(counts):
            key = ("contigmm_free_blocks", ("default", str(order), zone))
            assert numbers[key] == count


def _worn(machine: Any) -> None:
    """Use all memory in small pieces, free every second one, and ask for runs until refused."""
    child = machine.spawn("x", rlimits={"MEMLOCK": (1 << 40, 1 << 40)})
    pieces = [Operation(Call.MMAP, child.id, (0, 64 << 10, RW, POPULATED, -1, 0))] * 256
    answers = [answer for _ in range(14) for answer in machine.execute(pieces)]
    freed = [Operation(Call.MUNMAP, child.id, (answer.value, 64 << 10)) for answer in answers[::2]]
    for first in range(0, len(freed), 256):
        machine.execute(freed[first : first + 256])
    runs = [Operation(Call.MMAP, child.id, (0, 4 << 20, RW, ANON | MAP_CONTIG, -1, 0))] * 64
    refusals = [answer for answer in machine.execute(runs) if not answer.ok]
    assert refusals


def test_a_scrape_is_what_the_library_says_of_the_same_operations(tmp_path: Path):
    arguments = ("--machine", "spec:small", "--metrics", "127.0.0.1:0", "--data", str(tmp_path))
    library, refusals = Machine.boot(describe("spec:small")), Refusals()
    library.journal = refusals.note
    _worn(library)
    with serving(*arguments) as (process, address), connect(address) as client:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("metrics at ").strip()
        _worn(client.machine("default"))
        numbers = _numbers(url)

    def told(name: str, *labels: str) -> float:
        return numbers[f"contigmm_{name}", ("default", *labels)]

    assert told("operations_total") == library.seq
    assert told("processes") == len(library.processes())
    assert told("clock_seconds") == library.clock_ns / 1e9
    for zone, counts in library.buddyinfo().items():
        unusable = library.unusable_index()[zone]
        for order, (count, share) in enumerate(zip(counts, unusable, strict=True)):
            assert told("free_blocks", str(order), zone) == count
            assert told("unusable_index", str(order), zone) == share
    events = {name: count for name, count in library.vmstat().items() if name.startswith(EVENTS)}
    assert events["compact_stall"] > 0, "nothing was compacted"
    assert {key[1][0]: value for key, value in numbers.items() if key[0] == EVENT} == events
    assert refusals.counts, "nothing was refused"
    for (errno, reason), count in refusals.counts.items():
        # Labels come in alphabetical order: errno, machine, reason.
        assert numbers["contigmm_refusals_total", (errno_name(errno), "default", reason)] == count
    syncs = told("journal_sync_seconds_count")
    assert told("journal_commands_per_sync") == told("journal_commands_total") / syncs
    assert {key[0] for key in numbers} >= {f"contigmm_{name}" for name in ALWAYS}


def test_the_table_of_metrics_is_what_the_code_has():
    rows = re.findall(
        r"^\| `(contigmm_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", DOCS.read_text(), re.M
    )
    assert rows == [
        (family.name, family.kind, ", ".join(family.labels) or "none", family.help)
        for family in FAMILIES
    ]


@pytest.mark.asyncio
async def test_every_call_has_a_span_with_position_request_id_errno_and_parent():
    exporter = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(exporter))
    service = Service(wrappers=(CallWatch([spans.observe]).wrap,))
    address = await service.start("127.0.0.1:0")
    try:
        async with connect_aio(address) as client:
            machine = await client.create_machine(DESCRIPTION, name="m")
            process = await machine.spawn("x")
            with pytest.raises(OSError, match=r"length_is_zero"):
                await process.mmap(0, 0, RW, ANON)
            await refused(client.machine("nowhere").info())
    finally:
        await service.stop(grace_s=1)
        spans.close()
    by_name = {span.name: span for span in exporter.get_finished_spans()}
    attributes = by_name["contigmm.v1.MemoryService/Mmap"].attributes
    assert attributes is not None
    assert attributes["contigmm.errno"] == "EINVAL"
    assert attributes["contigmm.machine_seq"] == 2
    assert attributes["contigmm.request_id"]
    missing = by_name["contigmm.v1.MachineService/GetMachine"].attributes
    assert missing is not None
    assert missing["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_span_is_the_child_of_who_called():
    exporter = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(exporter))
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),)
    spans.observe(Ended("/s/M", None, None, metadata, grpc.StatusCode.UNKNOWN, 5, 7))
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == trace
    assert (span.start_time, span.end_time) == (5, 12)
    assert not span.status.is_ok


def test_a_log_line_is_json_and_says_in_which_call_it_was_written(capsys):
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logs.JsonFormatter())
    logs.log.addHandler(handler)
    try:
        logs.observe(Ended("/s/M", None, None, (), grpc.StatusCode.OK, 5, 7000))  # not verbose
        logs.observe(Ended("/s/M", None, None, (), grpc.StatusCode.INTERNAL, 5, 7000))
    finally:
        logs.log.removeHandler(handler)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["code"], told["took_us"]) == ("ERROR", "INTERNAL", 7)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", "example.org:1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"]
)
def test_only_loopback_is_shown_metrics(address):
    with pytest.raises(SightError):
        loopback(address)
    assert loopback("127.0.0.1:0") == ("127.0.0.1", 0)
    assert loopback("[::1]:80") == ("::1", 80)


@pytest.mark.parametrize("door", ["--tokens", "--tls-client-ca"])
@pytest.mark.parametrize("shown", ["--metrics", "--dashboard"])
def test_tenants_are_not_shown_to_each_other_unasked(door, shown, capsys):
    arguments = ["--tls-cert", "c", "--tls-key", "k", door, "file", shown, "127.0.0.1:0"]
    assert main(arguments) == 2
    assert "--show-all-tenants" in capsys.readouterr().err


def test_a_missing_file_is_a_word_of_its_own():
    refusals = Refusals()
    refusals.watched = True
    refusals.note(1, Operation(Call.MMAP, 7, (0, 4096, 3, 0x22, -1, 0)), Answer(1, 0x7000))
    (told,) = refusals.latest(0, 1)
    assert told["args"] == ["0x0", "0x1000", "0x3", "0x22", "-1", "0x0"]


def test_durations_fall_in_the_bucket_that_they_do_not_exceed():
    durations = Durations()
    for seconds in (0.0, BOUNDS_S[3], 99.0):
        durations.add(seconds)
    counts = [count for _, count in durations.cumulative()]
    assert counts == [1.0] * 3 + [2.0] * (len(BOUNDS_S) - 3) + [3.0]
