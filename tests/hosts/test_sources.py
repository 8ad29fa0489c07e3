"""host:, file: and spec: name machines; what a source does not tell is drawn and said."""

import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contigmm.description import MigrateType, PageClass
from contigmm.hosts import SPECS, SourceError, describe, read, save_capture
from contigmm.hosts.proc_text import parse_buddyinfo

DATA = Path(__file__).parents[1] / "data"
GOLDEN = Path(__file__).with_name("golden")
OWN_CAPTURES = [DATA / "fragmented.snap.tar.xz", DATA / "host.snap.tar.xz"]

pytestmark = pytest.mark.filterwarnings("error")


def frames_free_by_merging(description):
    """Tell whether two free buddies were left apart."""
    free = description.layout.free
    heads = set(zip(free.pfn.tolist(), free.order.tolist(), strict=True))
    return [
        (pfn, order) for pfn, order in heads if order < 10 and (pfn ^ (1 << order), order) in heads
    ]


def told(home):
    counts = parse_buddyinfo((home / "buddyinfo").read_text(), name="b")
    return {f"{node}/{zone}": blocks for (node, zone), blocks in counts.items()}


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_a_directory_of_texts_is_placed_as_counted(seed):
    described = describe(f"file:{GOLDEN}", seed=seed)
    assert described.buddyinfo() == told(GOLDEN)
    assert frames_free_by_merging(described) == []
    assert any("where every free block lies" in sentence for sentence in described.drawn)
    pcp = described.layout.pcp
    on_lists = sum(one.count for zone in described.zones for one in zone.pcp)
    assert int((1 << pcp.order.astype(np.int64)).sum()) == on_lists
    types = described.layout.pageblock_type
    normal = described.zones[2]
    of_zone = np.bincount(types[normal.start_pfn >> 9 : normal.end_pfn >> 9], minlength=3)
    evidence = read(f"file:{GOLDEN}")
    blocks = evidence.types[0].blocks[0, "Normal"]
    assert of_zone[MigrateType.UNMOVABLE] == blocks[MigrateType.UNMOVABLE]
    assert of_zone[MigrateType.RECLAIMABLE] == blocks[MigrateType.RECLAIMABLE]


def test_every_present_frame_is_described_once():
    described = describe(f"file:{GOLDEN}", seed=3)
    layout = described.layout
    total = int(layout.frames.nr.sum())
    for blocks in (layout.free, layout.pcp):
        total += int((1 << blocks.order.astype(np.int64)).sum())
    assert total == sum(zone.present for zone in described.zones)
    reserved = layout.frames.page_class == PageClass.RESERVED
    not_managed = sum(zone.present - zone.managed for zone in described.zones)
    assert int(layout.frames.nr[reserved].sum()) == not_managed


def test_buddyinfo_alone_is_enough(tmp_path):
    file = tmp_path / "buddyinfo"
    file.write_text((GOLDEN / "buddyinfo").read_text())
    described = describe(f"file:{file}", seed=1)
    assert described.buddyinfo() == told(GOLDEN)
    assert any("the zones' places and sizes" in sentence for sentence in described.drawn)


def test_texts_in_one_file_are_told_apart(tmp_path):
    file = tmp_path / "report.txt"
    names = ("buddyinfo", "zoneinfo", "pagetypeinfo")
    file.write_text("".join(f"==> /proc/{n} <==\n{(GOLDEN / n).read_text()}\n" for n in names))
    described = describe(f"file:{file}", seed=1)
    assert described.buddyinfo() == told(GOLDEN)
    assert described.zones[2].watermark_low is not None
    spoiled = file.read_text().replace("  start_pfn:           1\n", "  start_pfn:  one\n")
    file.write_text(spoiled)
    line = spoiled.splitlines().index("  start_pfn:  one") + 1
    with pytest.raises(SourceError, match=f"report.txt:{line}: 'one' is no number"):
        describe(f"file:{file}")


counts = st.lists(st.integers(0, 40), min_size=11, max_size=11)


@settings(max_examples=40)
@given(st.lists(counts, min_size=1, max_size=2), st.integers(0, 2**64 - 1))
def test_any_counts_are_placed_exactly(zones, seed):
    import tempfile

    lines = [
        f"Node {node}, zone Normal {' '.join(map(str, blocks))}"
        for node, blocks in enumerate(zones)
    ]
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "buddyinfo").write_text("\n".join(lines))
        described = describe(f"file:{home}", seed=seed)
    assert described.buddyinfo() == {f"{n}/Normal": blocks for n, blocks in enumerate(zones)}
    assert frames_free_by_merging(described) == []


@pytest.mark.parametrize("path", OWN_CAPTURES, ids=lambda path: path.name.partition(".")[0])
def test_a_captured_machine_can_be_captured_again(path, tmp_path):
    described = describe(f"file:{path}", seed=4)
    copy = tmp_path / "copy.snap.tar.xz"
    copy.write_bytes(save_capture(described))
    again = describe(f"file:{copy}", seed=4)
    assert again.zones == described.zones
    assert again.buddyinfo() == described.buddyinfo()
    kinds = [
        np.bincount(one.layout.frames.page_class, one.layout.frames.nr)
        for one in (again, described)
    ]
    assert np.array_equal(*kinds)


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_is_a_machine(name):
    described = describe(f"spec:{name}")
    described.check()
    assert described.layout is None
    sizes = {"small": 256, "medium": 4096, "numa": 8192, "large": 65536, "huge": 1 << 20}
    assert sum(zone.present for zone in described.zones) * 4 == sizes[name] * 1024


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "a source is host:, file:PATH or spec:NAME"),
        ("host:x", "a source is"),
        ("file:", "a source is"),
        ("spec:tiny", "spec:tiny: there is no such machine; there are small"),
        ("file:/no/such/file", "/no/such/file: it cannot be read: No such file"),
    ],
)
def test_a_source_that_is_none_is_refused(source, sentence):
    with pytest.raises(SourceError, match=sentence):
        describe(source)


def repacked(path, change):
    """The capture at ``path`` with its members changed."""
    with tarfile.open(path) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}
    change(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, octets in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(octets)
            tar.addfile(entry, io.BytesIO(octets))
    return lzma.compress(out.getvalue(), preset=0)


def set_to(name, octets):
    return lambda members: members.update({name: octets})


def replaced(name, old, new):
    return lambda members: members.update({name: members[name].replace(old, new)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda members: members.pop("meta.json"), "no readable meta.json"),
        (set_to("meta.json", b"[]"), "its format is None"),
        (replaced("meta.json", b"snapshot/1", b"snapshot/9"), "its format is 'physmem-snapshot/9'"),
        (lambda members: members.pop("kpageflags.rle"), "has no kpageflags.rle"),
        (replaced("kpageflags.rle", b"PRL1", b"PRL0"), "kpageflags.rle: it does not begin"),
        (
            replaced("text/zoneinfo.before", b"spanned  4095", b"spanned  40x5"),
            r"before:\d+: '40x5'",
        ),
        (
            replaced("text/zoneinfo.before", b":           4096", b": 9999"),
            "lies in no zone",
        ),
        (replaced("text/zoneinfo.before", b"present  3998", b"present  9998"), "must not decrease"),
        (lambda members: members.pop("text/zoneinfo.before"), "no zoneinfo"),
        (lambda members: members.pop("text/buddyinfo.before"), "no buddyinfo"),
    ],
)
def test_a_spoiled_capture_is_refused_with_a_sentence(tmp_path, change, sentence):
    file = tmp_path / "spoiled.snap.tar.xz"
    file.write_bytes(repacked(OWN_CAPTURES[0], change))
    with pytest.raises(SourceError, match=sentence):
        describe(f"file:{file}")


@pytest.mark.parametrize("octets", [b"\xfd7zXZ\0", b"\xfd7zXZ\0garbage", lzma.compress(b"no tar")])
def test_a_damaged_archive_is_refused(tmp_path, octets):
    file = tmp_path / "damaged.snap.tar.xz"
    file.write_bytes(octets)
    with pytest.raises(SourceError, match="damaged"):
        describe(f"file:{file}")


needs_linux = pytest.mark.skipif(
    not Path("/proc/buddyinfo").exists(), reason="this computer has no /proc/buddyinfo"
)


@needs_linux
def test_this_computer_can_be_read():
    described = describe("host:", seed=1)
    described.check()
    assert sum(sum(blocks) for blocks in described.buddyinfo().values()) > 0
    assert described.known
    assert described.drawn


@needs_linux
def test_a_user_who_may_not_read_frames_gets_a_drawn_placement(tmp_path, monkeypatch):
    from contigmm.hosts import live

    for name in ("buddyinfo", "zoneinfo", "meminfo"):
        (tmp_path / name).write_text((GOLDEN / name).read_text())
    evidence = live.read_host(proc=tmp_path)
    assert evidence.page_flags is None
    monkeypatch.setattr(live, "read_quietly", lambda **_: live._read_once(tmp_path, False))
    described = describe("host:", seed=1)
    assert described.buddyinfo() == told(GOLDEN)
    assert any("no pagetypeinfo" in s or "migratetype" in s for s in described.drawn)
