"""Supply forecasts come from requests on a machine, use no outcome, and equal the arithmetic."""

import json
import os
import shutil
from pathlib import Path

import pytest

from contigmm.cli import main
from contigmm.hosts import SourceError, read
from contigmm.validate.khugepaged import with_size_enabled
from contigmm.validate.supply import closed_form, step_evidence, validate_record
from contigmm.validate.supply_report import error_lines, supply_report

DATA = Path(__file__).parents[1] / "data"
HOME = Path(os.environ.get("CONTIGMM_SHARED", Path(__file__).parents[3] / "shared")) / "realmem"
RECORDS = sorted((HOME / "data" / "dev").glob("d0*.truth.json"))


def reading_of(capture):
    """What a step's reading would tell of this machine."""
    evidence = read(f"file:{capture}")
    types = evidence.types[0]
    named = {key: f"{key[0]}/{key[1]}" for key in evidence.buddyinfo}
    titles = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate")
    return {
        "buddy": {named[key]: row for key, row in evidence.buddyinfo.items()},
        "free_by_type": {
            f"{named[key]}/{titles[kind]}": row
            for key, rows in types.free.items()
            for kind, row in rows.items()
        },
        "pageblocks": {
            named[key]: {titles[kind]: n for kind, n in rows.items()}
            for key, rows in types.blocks.items()
        },
        "pcp": {zone.key: [pcp.count for pcp in zone.pcp] for zone in evidence.zones},
        "boost": {},
    }


@pytest.fixture
def record(tmp_path):
    """A record over the small capture; its outcomes are left to each test."""
    capture = tmp_path / "small.pre.snap.tar.xz"
    shutil.copy(DATA / "fragmented.snap.tar.xz", capture)
    steps = [
        {"step": "fault", "defrag": "never", "order": order, "max": 5000}
        | {"before": reading_of(capture)}
        for order in (9, 6, 4)
    ]
    path = tmp_path / "small.truth.json"
    body = {"format": "contig-truth/1", "name": "small", "snapshots": {"pre": capture.name}}
    path.write_text(json.dumps(body | {"measured": steps}))
    return path


def rows_of(path):
    return [row.to_json() for row in validate_record(path)]


def test_forecasts_are_near_the_arithmetic_where_nothing_else_runs(record):
    rows = rows_of(record)
    assert [row["order"] for row in rows] == [9, 6, 4]
    for row in rows:
        slack = max(2, row["closed_form_step"] // 20)
        assert abs(row["from_step"] - row["closed_form_step"]) <= slack
    assert abs(rows[0]["from_snapshot"] - rows[0]["from_step"]) <= 2


def test_each_forecast_has_an_interval_and_stands_beside_three_others(record):
    rows = [row.to_json() for row in validate_record(record, draws=3)]
    for row in rows:
        for name in ("from_step", "from_snapshot"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        for name in ("closed_form", "type_blind"):
            assert row[f"{name}_step"] > 0
            assert row[f"{name}_snapshot"] > 0
        slack = max(2, row["closed_form_step"] // 20)
        assert abs(row["type_blind_step"] - row["closed_form_step"]) <= slack
        assert row["no_op"] < row["closed_form_step"] or row["order"] == 9


def test_processes_that_share_the_records_do_not_change_the_report(record, tmp_path):
    other = tmp_path / "other.truth.json"
    other.write_text(json.dumps(json.loads(record.read_text()) | {"name": "other"}))
    reports = [supply_report([record, other], draws=1, seed=0, jobs=jobs) for jobs in (1, 2)]
    assert reports[0] == reports[1]
    assert [row["record"] for row in reports[0]["steps"]] == ["small"] * 3 + ["other"] * 3


def test_errors_are_told_of_steps_that_delivered_ten_or_more(record):
    rows = rows_of(record)
    told = [row | {"delivered": row["from_step"] * 100 // 99} for row in rows]
    lines = error_lines([*told, rows[0] | {"delivered": 9}])
    assert lines[0].startswith("from_step: median 0.")
    assert lines[0].endswith(f"of {sum(row['delivered'] >= 10 for row in told)} steps")
    assert error_lines(rows) == []


def test_outcomes_are_compared_and_never_used(record):
    blind = rows_of(record)
    body = json.loads(record.read_text())
    for step in body["measured"]:
        step["result"] = {"success": 77}
        step["after"] = step["held"] = step["before"]
    record.write_text(json.dumps(body))
    told = rows_of(record)
    assert [row.pop("delivered") for row in told] == [77, 77, 77]
    assert [row.pop("delivered") for row in blind] == [None, None, None]
    assert told == blind


def test_small_folios_go_deeper_because_khugepaged_does_not_raise_the_marks():
    evidence = read(f"file:{DATA / 'fragmented.snap.tar.xz'}")
    told = {f"{node}/{name}": row for (node, name), row in evidence.buddyinfo.items()}
    small, large = (with_size_enabled(evidence, order) for order in (8, 9))
    for low, high in zip(small.zones, large.zones, strict=True):
        assert low.watermark_min < high.watermark_min
        assert low.pcp[0].high_min < high.pcp[0].high_min
        assert low.protection == high.protection
    assert closed_form(told, small.zones, 1) > closed_form(told, large.zones, 1)


def test_the_command_line_prints_the_schema(record, capfd):
    assert main(["validate", "supply", str(record), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["schema"] == "validate-supply/1"
    assert {"steps", "compaction", "always9", "gigantic"} <= set(report)
    keys = {"record", "index", "order", "defrag", "delivered", "from_step", "from_snapshot"}
    assert keys <= set(report["steps"][0])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda body: body.update(format="other"), "no record of the format"),
        (lambda body: body.pop("measured"), "lacks its steps"),
        (lambda body: body["measured"][0]["before"].pop("pcp"), r"measured\[0\]: .*malformed"),
        (lambda body: body["snapshots"].update(pre="gone"), "gone: it cannot be read"),
    ],
)
def test_a_spoiled_record_is_refused_with_a_sentence(record, spoil, sentence):
    body = json.loads(record.read_text())
    spoil(body)
    record.write_text(json.dumps(body))
    with pytest.raises(SourceError, match=sentence):
        rows_of(record)


def test_what_is_no_json_is_refused(tmp_path):
    path = tmp_path / "x.truth.json"
    path.write_text("{")
    with pytest.raises(SourceError, match="no JSON"):
        rows_of(path)
    with pytest.raises(SourceError, match="cannot be read"):
        rows_of(tmp_path / "missing")


@pytest.mark.skipif(not RECORDS, reason=f"recorded supply is not there: {HOME}")
def test_a_step_is_read_as_recorded():
    body = json.loads(RECORDS[-2].read_bytes())
    snapshot = read(f"file:{RECORDS[-2].with_name(body['snapshots']['pre'])}")
    before = body["measured"][0]["before"]
    evidence = step_evidence(snapshot, before, origin="r")
    assert {f"{n}/{z}": row for (n, z), row in evidence.buddyinfo.items()} == before["buddy"]
    assert [[p.count for p in zone.pcp] for zone in evidence.zones] == list(before["pcp"].values())
