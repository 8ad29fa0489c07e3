"""Whatever a parser of foreign data is given, it parses or raises the one error that it names.

Each row of ``PARSERS`` spoils a sound sample, also within its packing, where the sums would else
refuse everything at the door. The core's snapshots have a property of their own
(rust/core/tests/soundness.rs), messages of clients tests/server/test_hostile.py and
tests/service/attacks.py, words in varints and runs tests/hosts/test_rle.py.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import members_of, packed
from spoiling import spoiled_bytes, spoiled_json

from contigmm import Machine
from contigmm.answers.request import RequestError, parse_gfp, parse_size
from contigmm.description import DescriptionError, MachineDescription
from contigmm.errors import SyscallError
from contigmm.hosts import build, describe, proc_text
from contigmm.hosts.archive import read_members
from contigmm.hosts.capture import read_capture
from contigmm.hosts.kmem import KmemEvent, read_kmem
from contigmm.hosts.maps_blocks import read_maps_blocks
from contigmm.hosts.source_error import SourceError
from contigmm.hosts.strace_log import read_strace
from contigmm.hosts.texts import read_text_file
from contigmm.load.arrival import Arrival
from contigmm.load.compare import compare
from contigmm.load.scenario import read_scenario
from contigmm.load.sizes import Hold, LoadInputError, SizeMix, parse_bytes
from contigmm.load.thresholds import Threshold
from contigmm.phys import default_costs
from contigmm.sim.costs import CostsError, read_costs
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import Answer, Call, Operation
from contigmm.sim.refusal import RefusalFileError, RefusedOperation
from contigmm.sim.snapshot import SnapshotError
from contigmm.validate import supply
from contigmm.validate.oracle_files import read_programs
from contigmm.validate.strace_calls import read_call
from contigmm_server.doors import tenants, tokens
from contigmm_server.doors.access import Access
from contigmm_server.durable import segment
from contigmm_server.failures import ServiceError
from contigmm_server.names import split_process
from contigmm_server.paging import cursor

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
GOLDEN = ROOT / "tests" / "hosts" / "golden"


@dataclass(frozen=True)
class Parser:
    """A sound sample, how to spoil it, and what reads it."""

    sample: bytes
    parse: Callable[[bytes, Path], object]
    """Gets the spoiled sample, and the name of a file that it may write."""
    refusals: tuple[type[Exception], ...]
    json: bool = False
    """The sample is JSON: values of other kinds are put into it."""


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def from_file(read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Let ``read`` read the sample from a file."""

    def parse(data: bytes, path: Path) -> object:
        path.write_bytes(data)
        return read(path)

    return parse


def from_text(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda data, _: read(text_of(data))


def told(sample: str, read: Callable[[str], object], *refusals: type[Exception]) -> Parser:
    """A parser of one word on a command line."""
    return Parser(sample.encode(), from_text(read), refusals)


# ---- what is packed: spoiled within ----


def description_with(header: bytes, _: Path) -> object:
    plain = len(header).to_bytes(4, "little") + header + ARRAYS
    return MachineDescription.from_bytes(PACKED[:8] + zlib.compress(plain, 1))


def machine_with(section: bytes, _: Path) -> object:
    rest = zlib.compress(section, 1)
    head = SNAPSHOT[: HEAD_BYTES - 8] + len(rest).to_bytes(8, "big")
    return Machine.restore(head + SNAPSHOT[HEAD_BYTES : HEAD_BYTES + CORE_BYTES] + rest)


def capture_with(member: str) -> Callable[[bytes, Path], object]:
    def parse(data: bytes, path: Path) -> object:
        path.write_bytes(packed(CAPTURE | {member: data}))
        return build(read_capture(path), seed=1)

    return parse


def recording_with(member: str) -> Callable[[bytes, Path], object]:
    def parse(data: bytes, path: Path) -> object:
        path.write_bytes(packed(RECORDING | {member: data}))
        return read_kmem(path)

    return parse


def refusal_with(facts: bytes, _: Path) -> object:
    line = facts.replace(b"\n", b" ") + b"\n"
    total = hashlib.sha256(line + SNAPSHOT).hexdigest().encode() + b"\n"
    return RefusedOperation.from_bytes(line + total + SNAPSHOT)


def journal_with(body: bytes, _: Path) -> object:
    header, records = segment.read(
        segment.frame(segment.HEADER, body, seq=0, chain=0, durable=0), sealed=True
    )
    return header, list(records)


def packed_programs(data: bytes, path: Path) -> object:
    packed_path = path.with_suffix(".gz")
    packed_path.write_bytes(data)
    return list(read_programs(packed_path))


def calls_of(path: Path) -> object:
    return [read_call(event) for event in read_strace(path).events if hasattr(event, "args")]


MACHINE = Machine.boot(describe("spec:small"), seed=1)
CHILD = MACHINE.spawn()
CHILD.mmap(0, 1 << 16, 3, 0x22)
CHILD.touch(CHILD.mmap(0, 1 << 14, 3, 0x22), 1 << 14)
SNAPSHOT = MACHINE.snapshot()
HEAD_BYTES = 16 + 1 + 8 + 8
CORE_BYTES = int.from_bytes(SNAPSHOT[17:25], "big")
SECTION = zlib.decompress(SNAPSHOT[HEAD_BYTES + CORE_BYTES :])
PACKED = describe(f"file:{DATA / 'fragmented.snap.tar.xz'}").to_bytes()
PLAIN = zlib.decompress(PACKED[8:])
HEADER_END = 4 + int.from_bytes(PLAIN[:4], "little")
ARRAYS = PLAIN[HEADER_END:]
CAPTURE = read_members(DATA / "fragmented.snap.tar.xz")
EVENTS = [
    (KmemEvent.LOCKED, 600, 0, 1, 0),
    (KmemEvent.ALLOC, 600, 0, 1, 0),
    (KmemEvent.FREE, 600, 0, 0, 0),
    (KmemEvent.DRAIN, 600, 0, 1, 0),
]
RECORDING = members_of(EVENTS, t_cmd_start=0, t_cmd_end=4000)
REFUSAL = RefusedOperation.of(
    MACHINE, Operation(Call.MUNMAP, 1, (1, 1)), Answer(5, errno=22, reason="x"), "spec:small"
).to_bytes()
LOAD = {
    "schema": "load/1",
    "intervals": [{"ops_per_s": 9.0, "p50_us": 1.0, "p99_us": 2.0, "refused_share": 0.5}],
    "by_size": [{"bytes": 65536}],
    "generator": {"limited": False},
    "seed": 1,
}
RECORD = {
    "format": supply.FORMAT,
    "measured": [{"order": 9, "before": {"buddy": {}, "free_by_type": {}}}],
    "snapshots": {"pre": "x.snap.tar.xz"},
}
PROGRAM = json.dumps({"id": "x", "class": "anon", "ops": [{"op": "munmap"}]}).encode()
SPAWN = SpawnSpec("x", frozenset({"CAP_IPC_LOCK"}), {"MEMLOCK": (1, 2)}).encode()
HEADER = segment.Header(engine="e", machine="m", seq=0, chain=0).encode()
TOKENS = {
    "format": tokens.FORMAT,
    "tokens": [
        {"id": "a" * 16, "sha256": "a" * 64, "tenant": "t", "role": "USER"}
        | {"created": "2026-01-01T00:00:00+00:00", "expires": None}
    ],
}
TENANTS = b"""[tenants.a]
machines = 3
[[certificates]]
common_name = "x"
tenant = "a"
role = "user"
"""

PARSERS: dict[str, Parser] = {
    "description": Parser(
        PACKED, lambda data, _: MachineDescription.from_bytes(data), (DescriptionError,)
    ),
    "description's header": Parser(
        PLAIN[4:HEADER_END], description_with, (DescriptionError,), json=True
    ),
    "snapshot": Parser(SNAPSHOT, lambda data, _: Machine.restore(data), (SnapshotError,)),
    "snapshot's processes": Parser(SECTION, machine_with, (SnapshotError,), json=True),
    "refused operation": Parser(
        REFUSAL, lambda data, _: RefusedOperation.from_bytes(data), (RefusalFileError,)
    ),
    "refused operation's facts": Parser(
        REFUSAL.partition(b"\n")[0], refusal_with, (RefusalFileError,), json=True
    ),
    "capture": Parser(
        (DATA / "fragmented.snap.tar.xz").read_bytes(), from_file(read_capture), (SourceError,)
    ),
    "capture's meta.json": Parser(
        CAPTURE["meta.json"], capture_with("meta.json"), (SourceError,), json=True
    ),
    "capture's kpageflags.rle": Parser(
        CAPTURE["kpageflags.rle"], capture_with("kpageflags.rle"), (SourceError,)
    ),
    **{
        f"capture's {name}": Parser(CAPTURE[name], capture_with(name), (SourceError,))
        for name in sorted(CAPTURE)
        if name.startswith("text/")
    },
    "texts of one file": Parser(
        (GOLDEN / "buddyinfo").read_bytes()
        + b"==> /proc/zoneinfo <==\n"
        + (GOLDEN / "zoneinfo").read_bytes(),
        from_file(lambda path: build(read_text_file(path), seed=1)),
        (SourceError,),
    ),
    **{
        name: Parser(
            (GOLDEN / name).read_bytes(),
            from_text(lambda text, parse=parse: parse(text, name="f")),  # type: ignore[misc]
            (SourceError,),
        )
        for name, parse in (
            ("buddyinfo", proc_text.parse_buddyinfo),
            ("pagetypeinfo", proc_text.parse_pagetypeinfo),
            ("zoneinfo", proc_text.parse_zoneinfo),
            ("meminfo", proc_text.parse_meminfo),
            ("iomem", proc_text.parse_system_ram),
        )
    },
    "vmstat": Parser(
        b"nr_free_pages 5\ncompact_stall 1\n",
        from_text(lambda text: proc_text.parse_vmstat(text, name="f")),
        (SourceError,),
    ),
    "nodes that cannot be reclaimed": Parser(
        (GOLDEN / "zoneinfo").read_bytes(), from_text(proc_text.parse_unreclaimable), ()
    ),
    "recording": Parser(packed(RECORDING), from_file(read_kmem), (SourceError,)),
    **{
        f"recording's {name}": Parser(
            data, recording_with(name), (SourceError,), json=name.endswith(".json")
        )
        for name, data in RECORDING.items()
    },
    "record of supply": Parser(
        json.dumps(RECORD).encode(), from_file(supply.read_record), (SourceError,), json=True
    ),
    "a program of the oracle": Parser(
        PROGRAM, from_file(lambda path: list(read_programs(path))), (SourceError,), json=True
    ),
    "programs of the oracle, packed": Parser(
        gzip.compress(PROGRAM + b"\n" + PROGRAM), packed_programs, (SourceError,)
    ),
    "strace log": Parser(
        gzip.decompress((DATA / "strace" / "pipeline.log.gz").read_bytes())[:6000],
        from_file(calls_of),
        (SourceError,),
    ),
    "strace log, packed": Parser(
        (DATA / "strace" / "unfinished.log.gz").read_bytes(), from_file(calls_of), (SourceError,)
    ),
    "maps blocks": Parser(
        gzip.decompress((DATA / "strace" / "pipeline.maps.gz").read_bytes())[:4000],
        from_file(read_maps_blocks),
        (SourceError,),
    ),
    "scenario": Parser(
        (ROOT / "examples" / "scenarios" / "fork-server.yaml").read_bytes(),
        from_file(read_scenario),
        (LoadInputError,),
    ),
    "report of a load": Parser(
        json.dumps(LOAD).encode(),
        from_file(lambda path: compare(path, path)),
        (LoadInputError,),
        json=True,
    ),
    "costs": Parser(
        json.dumps({"schema": "costs/1", "costs": default_costs()}).encode(),
        from_file(read_costs),
        (CostsError,),
        json=True,
    ),
    "a size": told("64K", parse_bytes, LoadInputError),
    "sizes": told("64K:50,2M:30", SizeMix.parse, LoadInputError),
    "a hold": told("exponential:16", Hold.parse, LoadInputError),
    "an arrival": told("ramp:10-200.5", Arrival.parse, LoadInputError),
    "a threshold": told("p99<=20ms", Threshold.parse, LoadInputError),
    "a size asked about": told("4MiB", parse_size, RequestError),
    "gfp flags": told("GFP_KERNEL|0x800", parse_gfp, RequestError),
    "what to spawn": Parser(
        SPAWN, lambda data, _: SpawnSpec.decode(data), (SyscallError,), json=True
    ),
    "tokens": Parser(
        json.dumps(TOKENS).encode(), from_file(tokens.read), (tokens.TokenError,), json=True
    ),
    "tenants": Parser(TENANTS, from_file(tenants.read), (tenants.TenantsError,)),
    "grants": Parser(
        Access().encode(), lambda data, _: Access.decode(data), (ValueError,), json=True
    ),
    "a journal's header": Parser(HEADER, journal_with, (segment.JournalError,), json=True),
    "a segment of a journal": Parser(
        segment.frame(segment.HEADER, HEADER, seq=0, chain=0, durable=0)
        + segment.frame(2, b"body", seq=1, chain=0, durable=0),
        lambda data, _: list(segment.read(data, sealed=False)[1]),
        (segment.JournalError,),
    ),
    "a page token": told("MC8xL3g=", lambda text: cursor(text, 0, "x"), ServiceError),
    "the name of a process": told("machines/m/processes/1", split_process, ServiceError),
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_spoiled_is_read_or_refused(tmp_path_factory, name, data):
    parser = PARSERS[name]
    spoiled = data.draw((spoiled_json if parser.json else spoiled_bytes)(parser.sample))
    with suppress(*parser.refusals):
        parser.parse(spoiled, tmp_path_factory.getbasetemp() / "spoiled")


@pytest.mark.parametrize("name", PARSERS)
def test_the_sample_itself_is_sound(tmp_path, name):
    parser = PARSERS[name]
    parser.parse(parser.sample, tmp_path / "sample")


@pytest.mark.parametrize("word", [-1, 1 << 64])
def test_a_recording_tells_gfp_flags_in_words(tmp_path, word):
    parser = PARSERS["recording's meta.json"]
    meta = json.loads(parser.sample)
    spoiled = json.dumps({**meta, "gfps": [word, *meta["gfps"][1:]]}).encode()
    with pytest.raises(SourceError, match="no list of words"):
        parser.parse(spoiled, tmp_path / "recording")
