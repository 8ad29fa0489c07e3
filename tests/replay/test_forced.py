"""A forced replay asks what was asked, sees no block that the real kernel chose, and ends alike."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import members_of, packed

from contigmm.cli import main
from contigmm.hosts import SourceError, read
from contigmm.hosts.kmem import KmemEvent, read_kmem
from contigmm.hosts.rle import runs_of
from contigmm.replay.closure import closure_residual
from contigmm.replay.distance import distance
from contigmm.replay.forced import buddy_events, run_forced, run_type_blind
from contigmm.replay.recording import free_blocks, free_counts, read_recording
from contigmm.replay.reporting import reported_blocks

CAPTURE = Path(__file__).parents[1] / "data" / "fragmented.snap.tar.xz"
HOME = Path(os.environ.get("CONTIGMM_SHARED", Path(__file__).parents[3] / "shared"))
TRACES = sorted((HOME / "realmem" / "data" / "dev").glob("trace_*.kmem.tar.xz"))


def write(folder, events, *, after=None, **meta):
    """Put a recording that begins with the test machine into ``folder``; return its stem."""
    stem = folder / "made_up"
    shutil.copy(CAPTURE, f"{stem}.before.snap.tar.xz")
    Path(f"{stem}.kmem.tar.xz").write_bytes(packed(members_of(events, **meta)))
    if after is not None:
        shutil.copy(after, f"{stem}.after.snap.tar.xz")
    return str(stem)


def frames(order, nr):
    """The first ``nr`` free blocks of an order in the test machine's larger zone."""
    pfn, orders = free_blocks(read(f"file:{CAPTURE}"))
    return pfn[(orders == order) & (pfn >= 4096)][:nr].tolist()


def there_and_back(nr=40):
    """Take single frames that were free and give them back again."""
    taken = [(KmemEvent.LOCKED, pfn, 0, 1, 0) for pfn in frames(0, nr)]
    return taken + [(KmemEvent.DRAIN, pfn, 0, 1, 0) for _, pfn, *_ in taken]


def test_what_was_taken_and_given_back_leaves_the_free_lists_as_they_were(tmp_path):
    recording = read_recording(write(tmp_path, there_and_back()))
    run = run_forced(recording, buddy_events(recording), seed=3)
    assert run.free == free_counts(recording.before)
    assert run.taken == 40


def test_the_same_seed_ends_in_the_same_state(tmp_path):
    events = [(KmemEvent.LOCKED, pfn, 2, 0, 1) for pfn in frames(2, 300)]
    recording = read_recording(write(tmp_path, events))
    rows = buddy_events(recording)
    runs = [run_forced(recording, rows, seed=seed) for seed in (1, 1)]
    assert runs[0].by_type == runs[1].by_type


def test_frames_that_the_kernel_chose_are_not_seen(tmp_path):
    """Which free blocks stand in the recording makes no difference, nor do its fallbacks."""
    chosen = frames(1, 400)
    ends = []
    for pfns in (chosen, chosen[::-1]):
        events = [(KmemEvent.LOCKED, pfn, 1, 2, 0) for pfn in pfns]
        events.insert(200, (KmemEvent.EXTFRAG, pfns[0], 1, 0, 0))
        folder = tmp_path / str(pfns[0])
        folder.mkdir()
        recording = read_recording(write(folder, events))
        ends.append(run_forced(recording, buddy_events(recording), seed=0).by_type)
    assert ends[0] == ends[1]


def test_blocks_that_page_reporting_held_come_back():
    """A blank block of order 9 counts as free if the lists had one more around the scan."""
    evidence = read(f"file:{CAPTURE}")
    zones = tuple(sorted(evidence.zones, key=lambda zone: zone.start_pfn))
    assert len(reported_blocks(evidence, zones, seed=0).pfn) == 0
    flags = evidence.page_flags
    words = flags.expand()
    pfn, order = free_blocks(evidence)
    held = int(pfn[(order == 9) & (pfn >= 4096)][0])
    words[held : held + 512] = 0  # as a scan sees a block that is being reported
    scanned = replace(evidence, page_flags=runs_of(words))
    found = reported_blocks(scanned, zones, seed=0)
    assert (found.pfn.tolist(), found.order.tolist(), found.zone.tolist()) == ([held], [9], [1])


def test_migratetypes_matter(tmp_path):
    events = [(KmemEvent.LOCKED, pfn, 0, 0, 0) for pfn in frames(0, 3000)]
    recording = read_recording(write(tmp_path, events))
    rows = buddy_events(recording)
    typed, blind = (run(recording, rows, seed=0) for run in (run_forced, run_type_blind))
    assert typed.free != blind.free


def test_the_command_forecasts_without_the_capture_afterwards(tmp_path, capsys):
    stem = write(tmp_path, there_and_back(), t_cmd_start=0, t_cmd_end=10**9)
    out = tmp_path / "end.json"
    assert (
        main(["validate", "replay", stem, "--json", "--draws", "2", "--end-state", str(out)]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "validate-replay/1"
    (trace,) = report["traces"]
    assert trace["events"] == 80
    assert "free_pages_l1" not in trace
    assert json.loads(out.read_text()) == {stem: free_counts(read(f"file:{CAPTURE}"))}


def test_the_command_compares_with_the_capture_afterwards(tmp_path, capsys):
    stem = write(tmp_path, there_and_back(), after=CAPTURE)
    assert main(["validate", "replay", stem, "--json", "--draws", "1", "--mode", "forced"]) == 0
    (trace,) = json.loads(capsys.readouterr().out)["traces"]
    assert trace["free_pages_l1"] == trace["emd_orders"] == trace["closure_residual"] == 0
    assert trace["claims_real"] == trace["steals_real"] == 0
    assert trace["no_change"]["free_pages_l1"] == 0


def test_events_after_the_last_reading_of_their_frame_do_not_count(tmp_path):
    """Closure: a frame taken in the recording but free afterwards is on the wrong side."""
    events = [(KmemEvent.LOCKED, pfn, 0, 1, 0) for pfn in frames(0, 30)]
    recording = read_recording(write(tmp_path, events, after=CAPTURE))
    free = sum(n << k for row in free_counts(recording.before).values() for k, n in enumerate(row))
    assert closure_residual(recording) == pytest.approx(30 / free)


def test_distances_are_those_of_two_known_states():
    ours, real = {"0/Normal": [4] + [0] * 10}, {"0/Normal": [0, 0, 1] + [0] * 8}
    found = distance(ours, real)
    assert found.free_pages_l1 == pytest.approx(2.0)
    assert found.emd_orders == pytest.approx(2.0)
    assert found.unusable_max == pytest.approx(1.0)


DAMAGE = {
    "another format": ("meta.json", b'{"format": "kmem-trace/1"}', "its format is"),
    "no meta data": ("meta.json", b"{", "no readable meta.json"),
    "a type that is none": ("col/type.u8", bytes([9] * 80), "no known type"),
    "a cut column": ("col/cpu.u8", b"", "its column 'cpu' holds 0, not 80"),
    "a cut number": ("col/time.vlq", b"\x80", "cut off"),
    "an order above the largest": ("col/order.u8", bytes([11] * 80), "an order above 10"),
}


@pytest.mark.parametrize(("member", "octets", "sentence"), DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_recording_is_refused(tmp_path, member, octets, sentence):
    path = tmp_path / "x.kmem.tar.xz"
    path.write_bytes(packed(members_of(there_and_back()) | {member: octets}))
    with pytest.raises(SourceError, match=sentence):
        read_kmem(path)


def test_times_and_frames_are_read_as_written(tmp_path):
    path = tmp_path / "x.kmem.tar.xz"
    events = [(KmemEvent.ALLOC, 0xFFFF_FFFF, 3, 1, 1), (KmemEvent.FREE, 77, 9, 0, 0)]
    path.write_bytes(packed(members_of(events)))
    trace = read_kmem(path)
    assert trace.t_ns.tolist() == [1000, 2000]
    assert trace.pfn.tolist() == [0xFFFF_FFFF, 77]
    assert trace.gfp.tolist() == [0x100CCA, 0]
    assert trace.order.tolist() == [3, 9]
    assert np.array_equal(trace.migratetype, [1, 0])


@pytest.mark.skipif(not TRACES, reason="no recordings of a real kernel beside the checkout")
@pytest.mark.parametrize("path", TRACES[::4], ids=lambda path: path.name.split(".")[0])
def test_real_recordings_end_nearer_than_the_baselines(path):
    recording = read_recording(str(path).removesuffix(".kmem.tar.xz"))
    real = free_counts(recording.after)
    run = run_forced(recording, buddy_events(recording), seed=11)
    unchanged = distance(free_counts(recording.before), real).free_pages_l1
    assert distance(run.free, real).free_pages_l1 <= max(0.004, unchanged / 3)
