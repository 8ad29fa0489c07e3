"""``contigmm bench rpc``: every way of calling is in the report, with figures that can be."""

import json

import numpy as np
import pytest

from contigmm.bench import rpc
from contigmm.cli import main

WAYS = {
    "empty_unary",
    "mmap_unary",
    "mmap_unary_none",
    "mmap_unary_group",
    "mmap_unary_full",
    "stream_1",
    "stream_256",
    "columnar",
    "kmem_columns",
    "in_process",
}


def test_the_report_has_every_way_of_calling(monkeypatch, capsys):
    for name, few in {"CLIENTS": 2, "UNARY_CALLS": 32, "STREAM_MESSAGES": 8}.items():
        monkeypatch.setattr(rpc, name, few)
    for name in ("BATCHES", "PACKED_BATCHES", "EVENT_BATCHES"):
        monkeypatch.setattr(rpc, name, 1)
    assert main(["bench", "rpc", "--rounds", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "bench-rpc/1"
    assert report["contigmm"]
    assert {row["name"] for row in report["results"]} == WAYS
    for row in report["results"]:
        assert row["rounds"] == 2
        assert row["server_cpu_us_per_op"] > 0
        assert row["ops_per_s"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"]


def test_columns_are_the_pairs_of_a_batch():
    from contigmm_server import columns

    decoded = columns.decode(rpc.columns(5, 6))
    assert [(o.call, o.process, o.args, o.addr_from) for o in decoded] == [
        (int(o.call), o.process, o.args, o.addr_from) for o in rpc.pairs(5, 6)
    ]


def test_a_server_that_does_not_start_is_said():
    with (
        pytest.raises(RuntimeError, match="did not start"),
        rpc.serving("contigmm_server.main", "--machine", "spec:nothing"),
    ):
        pass


def test_recorded_events_are_what_a_kernel_could_have_told():
    from contigmm.hosts import describe
    from contigmm.phys import KmemReplay
    from contigmm.sim.boot import boot_memory

    events = rpc.kmem_events(8 * 4 * 63)
    memory = boot_memory(describe(rpc.MACHINE), seed=0, cpus=None, costs=False)
    free = memory.buddyinfo().tolist()
    found = KmemReplay(memory).run(
        step=np.frombuffer(events.steps, "u1"),
        cpu=np.frombuffer(events.cpus, "u1"),
        zone=np.frombuffer(events.zones, "u1"),
        order=np.zeros(len(events.steps), "u1"),
        migratetype=np.frombuffer(events.migratetypes, "u1"),
        handle=np.frombuffer(events.handles, "<u4"),
    )
    assert found["taken"] == 8 * 63
    assert (found["silent"], found["missing"], found["unknown_frees"]) == (0, 0, 0)
    assert memory.buddyinfo().tolist() == free, "all that was taken has come back"
