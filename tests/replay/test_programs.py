"""A free replay knows what programs asked and gave back, and nothing that the kernel made of it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from recordings import members_of, packed

from contigmm.cli import main
from contigmm.hosts import read
from contigmm.hosts.kmem import KmemEvent
from contigmm.hosts.proc_text import parse_unreclaimable
from contigmm.replay.distance import distance
from contigmm.replay.programs import FreeReplay, program_requests, unboosted
from contigmm.replay.recording import free_blocks, free_counts, read_recording
from contigmm.validate.replay_band import Band
from contigmm.validate.replay_free import closed_form, free_report, real_counts

CAPTURE = Path(__file__).parents[1] / "data" / "fragmented.snap.tar.xz"
HOME = Path(os.environ.get("CONTIGMM_SHARED", Path(__file__).parents[3] / "shared"))
FRAGMENTED = sorted((HOME / "realmem" / "data" / "dev").glob("trace_frag_*.kmem.tar.xz"))


def recording(folder, events, *, after=None, **meta):
    """Put a recording that begins with the test machine into ``folder``; return it."""
    folder.mkdir(exist_ok=True)
    stem = folder / "made_up"
    shutil.copy(CAPTURE, f"{stem}.before.snap.tar.xz")
    Path(f"{stem}.kmem.tar.xz").write_bytes(packed(members_of(events, **meta)))
    if after is not None:
        shutil.copy(after, f"{stem}.after.snap.tar.xz")
    return read_recording(str(stem))


def free_frames(nr):
    """The first ``nr`` single frames that are free in the test machine's larger zone."""
    pfn, order = free_blocks(read(f"file:{CAPTURE}"))
    return pfn[(order == 0) & (pfn >= 4096)][:nr].tolist()


def asked(pfns, cpu=0):
    return [(KmemEvent.ALLOC, pfn, 0, 1, cpu) for pfn in pfns]


def given_back(pfns, cpu=0):
    return [(KmemEvent.FREE, pfn, 0, 0, cpu) for pfn in pfns]


def test_what_the_kernel_made_of_the_requests_is_not_seen(tmp_path):
    """Refills, drains and fallbacks of the recording change nothing; nor do the frames chosen."""
    pfns = free_frames(900)
    requests = asked(pfns) + given_back(pfns[::2], cpu=1)
    told = requests.copy()
    for at in range(0, 900, 30):
        told.insert(at, (KmemEvent.LOCKED, pfns[at], 0, 1, 0))
        told.insert(at, (KmemEvent.EXTFRAG, pfns[at], 0, 0, 0))
    told.append((KmemEvent.DRAIN, pfns[0], 0, 1, 0))
    others = asked(pfns[::-1]) + given_back(pfns[::-2], cpu=1)
    ends = [
        FreeReplay(recording(tmp_path / name, events)).run(seed=4).by_type
        for name, events in (("plain", requests), ("told", told), ("others", others))
    ]
    assert ends[0] == ends[1] == ends[2]


def test_frees_of_threads_that_make_room_are_the_kernels_own(tmp_path):
    pfns = free_frames(3)
    events = asked(pfns) + given_back(pfns)
    made = recording(tmp_path, events, pids=[[7, "kswapd0"], [8, "kcompactd1"], [9, "tar"]])
    task = made.trace.task.copy()
    task[:] = [2, 2, 0, 0, 1, 2]  # an allocation of kswapd's is a program's request as any
    requests = program_requests(replace(made, trace=replace(made.trace, task=task)))
    assert requests.alloc.tolist() == [1, 1, 1, 0]
    assert requests.handle.tolist() == [*pfns, pfns[2]]
    assert requests.at_ns.tolist() == [0, 1000, 2000, 5000]


def test_a_recording_without_names_of_tasks_has_programs_only(tmp_path):
    pfns = free_frames(2)
    assert len(program_requests(recording(tmp_path, given_back(pfns))).alloc) == 2


def test_the_same_seed_ends_in_the_same_state(tmp_path):
    replay = FreeReplay(recording(tmp_path, asked(free_frames(3000))))
    runs = [replay.run(seed=1) for _ in range(2)]
    assert (runs[0].by_type, runs[0].played) == (runs[1].by_type, runs[1].played)


def test_per_cpu_lists_are_simulated(tmp_path):
    run = FreeReplay(recording(tmp_path, asked(free_frames(1)))).run(seed=0)
    assert run.played["allocs"] == 1
    assert run.played["refilled"] != 1, "a list was refilled by a batch, or had a frame"


def test_marks_are_taken_without_the_boost_that_zoneinfo_adds():
    zone = read(f"file:{CAPTURE}").zones[-1]
    boosted = replace(
        zone,
        watermark_boost=100,
        watermark_min=zone.watermark_min + 100,
        watermark_low=zone.watermark_low + 100,
        watermark_high=zone.watermark_high + 100,
        watermark_promo=None,
    )
    assert replace(unboosted(boosted), watermark_promo=0) == replace(
        zone, watermark_boost=100, watermark_promo=0
    )


def test_a_node_where_kswapd_gave_up_is_told():
    text = (
        "Node 0, zone   Normal\n  node_unreclaimable:  0\n"
        "Node 1, zone   Normal\n  node_unreclaimable:  1\n"
    )
    assert parse_unreclaimable(text) == {1}


def test_a_band_leaves_out_one_draw_in_ten():
    states = [{"0/Normal": [n, 7] + [0] * 9} for n in range(21)]
    band = Band.of(states)
    told = band.to_json({"0/Normal": [0, 7] + [0] * 9})
    assert told["end_state_low"]["0/Normal"][:2] == [1.0, 7.0]
    assert told["end_state_high"]["0/Normal"][:2] == [19.0, 7.0]
    assert told["in_band"] == pytest.approx(10 / 11, abs=1e-4)
    assert told["in_band_pages"] == 1.0
    assert band.to_json({"0/Normal": [5, 8] + [0] * 9})["in_band_pages"] == pytest.approx(
        5 / 21, abs=1e-4
    )


def test_the_closed_form_scales_the_lists_by_the_balance_of_the_requests(tmp_path):
    made = recording(tmp_path, asked(free_frames(30)) + given_back(free_frames(10)))
    assert closed_form({"0/Normal": [40] + [0] * 10}, program_requests(made)) == {
        "0/Normal": [20.0] + [0.0] * 10
    }


def test_real_traffic_is_counted_in_frames(tmp_path):
    pfns = free_frames(4)
    events = [
        (KmemEvent.LOCKED, pfns[0], 2, 1, 0),
        (KmemEvent.DRAIN, pfns[1], 1, 1, 0),
        (KmemEvent.EXTFRAG, pfns[2], 0, 0, 0),
        (KmemEvent.ALLOC, 0xFFFF_FFFF, 9, 1, 0),
    ]
    assert real_counts(recording(tmp_path, events)) == {
        "refilled_real": 4,
        "drained_real": 2,
        "claims_real": 0,
        "steals_real": 1,
        "refused_real": 1,
    }


def test_the_command_prints_forecast_truth_and_baselines(tmp_path, capsys):
    pfns = free_frames(50)
    made = recording(tmp_path, asked(pfns) + given_back(pfns), after=CAPTURE)
    out = tmp_path / "end.json"
    command = ["validate", "replay", made.stem, "--mode", "free", "--draws", "3", "--json"]
    assert main([*command, "--end-state", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["mode"], report["draws"]) == ("validate-replay/1", "free", 3)
    (trace,) = report["traces"]
    assert {"no_change", "closed_form", "type_blind", "in_band", "refilled", "drained"} <= set(
        trace
    )
    assert trace["no_change"]["free_pages_l1"] == 0
    assert json.loads(out.read_text()) == {made.stem: trace["end_state"]}


def test_the_command_forecasts_without_the_capture_afterwards(tmp_path, capsys):
    made = recording(tmp_path, asked(free_frames(5)), t_cmd_start=0, t_cmd_end=10**9)
    assert main(["validate", "replay", made.stem, "--mode", "free", "--draws", "2"]) == 0
    assert "refilled" in capsys.readouterr().out
    row = free_report(made, draws=2, seed=0)
    assert "free_pages_l1" not in row
    assert "in_band" not in row


def test_a_mode_that_is_not_there_is_refused_in_a_sentence(capsys):
    assert main(["validate", "replay", "nowhere", "--mode", "loose"]) == 2
    assert "none of forced, free" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(not FRAGMENTED, reason="no recordings of a real kernel beside the checkout")
def test_a_real_recording_ends_nearer_than_if_nothing_had_changed():
    made = read_recording(str(FRAGMENTED[1]).removesuffix(".kmem.tar.xz"))
    real = free_counts(made.after)
    unchanged = distance(free_counts(made.before), real).free_pages_l1
    run = FreeReplay(made).run(seed=5)
    assert distance(run.free, real).free_pages_l1 <= unchanged / 2
