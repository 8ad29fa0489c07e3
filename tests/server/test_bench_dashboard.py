"""``contigmm bench dashboard``: each way of looking is in the report, with figures that can be."""

import json

from browser import in_chromium

from contigmm.bench import dashboard
from contigmm.cli import main

WAYS = ["without_dashboard", "not_watched", "watched"]


@in_chromium
def test_the_report_has_each_way_of_looking_and_what_the_page_saw(monkeypatch, capsys):
    small = {"MACHINE": "spec:small", "WORN": 128 << 20, "SETTLE_S": 0.2, "CALLS_PER_S": 100}
    for name, value in (small | {"HELD": 4}).items():
        monkeypatch.setattr(dashboard, name, value)
    assert main(["bench", "dashboard", "--rounds", "1", "--seconds", "0.5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["machine"]) == ("bench-dashboard/1", "spec:small")
    assert report["console"] == []
    assert 0 < report["updates_per_s_min"] <= report["updates_per_s"]
    assert [row["name"] for row in report["results"]] == WAYS
    for row in report["results"]:
        assert row["rounds"] == 1
        assert row["server_cores"] > 0
        assert row["calls_per_s"] > 0


def test_a_missing_browser_is_said_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(dashboard, "_browser", lambda: "/nowhere/chromium")
    assert main(["bench", "dashboard", "--rounds", "1"]) == 1
    told = capsys.readouterr().err
    assert "No Chromium starts here" in told
    assert len(told.splitlines()) == 1
