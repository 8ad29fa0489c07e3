"""Steps that make room are forecast from the last snapshot before them, by their requests only."""

import json
import shutil
from pathlib import Path

import pytest

from contigmm.cli import main
from contigmm.validate.room_report import room_rows

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def record(tmp_path):
    """A record over the small capture: one step before its second snapshot, two after."""
    for when in ("pre", "mid"):
        shutil.copy(DATA / "fragmented.snap.tar.xz", tmp_path / f"small.{when}.snap.tar.xz")
    path = tmp_path / "small.truth.json"
    body = {
        "format": "contig-truth/1",
        "name": "small",
        "snapshots": {when: f"small.{when}.snap.tar.xz" for when in ("pre", "mid")},
        "measured": [
            {"step": "fault", "defrag": "never", "order": 9, "max": 100},
            {"step": "compact_memory"},
            {"step": "fault", "defrag": "always", "order": 9, "max": 16},
            {"step": "hugetlb", "kib": 1048576, "requested": 1},
        ],
    }
    path.write_text(json.dumps(body))
    return path


def rows_of(path, **draws):
    return list(room_rows(path, **({"draws": 2, "seed": 0} | draws)))


def test_every_step_has_its_row_and_counters(record):
    rows = rows_of(record)
    assert [(kind, row["index"]) for kind, row in rows] == [
        ("compaction", 1),
        ("always9", 2),
        ("gigantic", 3),
    ]
    compaction = rows[0][1]
    assert compaction["low"] <= compaction["forecast"] <= compaction["high"]
    assert compaction["compact_migrate_scanned"]["forecast"] > 0
    assert 0 < rows[1][1]["forecast"] <= 16
    gigantic = rows[2][1]
    assert (gigantic["forecast"], gigantic["chance"]) == (0, 0), "every GiB has pages of the kernel"


def test_steps_before_the_second_snapshot_are_not_run_again(record):
    body = json.loads(record.read_text())
    first = rows_of(record)
    body["measured"][0]["max"] = 1
    record.write_text(json.dumps(body))
    assert rows_of(record) == first
    del body["snapshots"]["mid"]
    record.write_text(json.dumps(body))
    assert [row["index"] for _, row in rows_of(record)] == [1, 2, 3]


def test_outcomes_are_compared_and_never_used(record):
    blind = rows_of(record)
    body = json.loads(record.read_text())
    counts = {"buddy": {"0/Normal": [0] * 9 + [7, 1]}}
    body["measured"][1] |= {"before": counts, "after": counts, "vmstat": {"pgmigrate_success": 5}}
    body["measured"][2]["result"] = {"success": 3}
    record.write_text(json.dumps(body))
    rows = rows_of(record)
    assert rows[0][1]["blocks9_after"] == 9
    assert rows[0][1]["pgmigrate_success"]["told"] == 5
    for (_, row), (_, before) in zip(rows[:2], blind[:2], strict=True):
        assert [row[key] for key in ("forecast", "low", "high", "no_op")] == [
            before[key] for key in ("forecast", "low", "high", "no_op")
        ]


def test_the_command_line_prints_them(record, capfd):
    body = json.loads(record.read_text())
    body["measured"] = body["measured"][1:]
    record.write_text(json.dumps(body))
    assert main(["validate", "supply", str(record), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [len(report[kind]) for kind in ("compaction", "always9", "gigantic")] == [1, 1, 1]
