"""The reports of ``contigmm bench``: what CONTRACTS promise is in them."""

import json
import time

import pytest

from contigmm.bench import core_program
from contigmm.bench.measure import Subject, interleaved
from contigmm.bench.python_report import python_report
from contigmm.cli import main
from contigmm.hosts import describe

NAMES = {
    "mmap_munmap_64k",
    "contig_64k",
    "contig_4m",
    "fault",
    "fork_1000_vmas",
    "populate_4m",
    "populate_page",
    "zap_page",
    "mmap_munmap_64k_100k",
    "fault_100k",
    "real_populate_page",
    "real_zap_page",
    "real_populate_4m",
    "real_mmap_munmap_64k",
}


def test_the_library_is_measured_beside_the_kernel():
    report = python_report(describe("spec:medium"), rounds=2)
    assert (report["schema"], bool(report["contigmm"])) == ("bench-python/1", True)
    rows = {row["name"]: row for row in report["results"]}
    assert set(rows) == NAMES
    for row in rows.values():
        assert set(row) == {"name", "vmas", "min_us", "median_us", "runs"}
        assert 0 < row["min_us"] <= row["median_us"]
        assert row["runs"] == 2
    ours = {name: row["vmas"] for name, row in rows.items() if not name.startswith("real_")}
    assert {vmas for name, vmas in ours.items() if not name.endswith("_100k")} == {1000}
    assert {vmas for name, vmas in ours.items() if name.endswith("_100k")} == {100_000}
    assert rows["populate_page"]["min_us"] < rows["populate_4m"]["min_us"] / 10, "of one page"


def test_the_command_prints_one_json_object(capsys):
    assert main(["bench", "python", "--json", "--rounds", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "bench-python/1"


def test_rounds_are_interleaved_and_times_are_of_one_call():
    order = []

    def worker(name, us):
        def work():
            order.append(name)
            end_ns = time.thread_time_ns() + us * 1000
            while time.thread_time_ns() < end_ns:
                pass

        return Subject(name, work, 2, before=lambda: order.append("before"))

    rows = interleaved([worker("a", 2000), worker("b", 4000)], rounds=3)
    assert order == ["before", "a", "a", "before", "b", "b"] * 3
    least = [row["min_us"] for row in rows]
    assert least[0] >= 2000
    assert least[1] >= 4000


def test_time_spent_waiting_does_not_count():
    (row,) = interleaved([Subject("asleep", lambda: time.sleep(0.02), 1)], rounds=1)
    assert row["min_us"] < 20_000


def test_the_core_is_measured_by_its_own_program(tmp_path, monkeypatch):
    """With a cargo that prints its arguments, as the program would print rows."""
    cargo = tmp_path / "cargo"
    cargo.write_text('#!/bin/sh\necho "{\\"results\\": [{\\"arguments\\": \\"$*\\"}]}"\n')
    cargo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    report = core_program.core_report(runs=2, arguments=("--pattern", "boot"))
    assert report["schema"] == "bench-core/1"
    (row,) = report["results"]
    assert row["arguments"].startswith("run --release --quiet --manifest-path")
    assert row["arguments"].endswith("-- --runs 2 --pattern boot")


def test_without_cargo_or_a_checkout_a_sentence_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(core_program, "find_checkout", lambda start: None)
    with pytest.raises(core_program.NoCheckoutError, match="checkout"):
        core_program.core_report()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(core_program.NoCheckoutError, match="cargo"):
        core_program.core_report()


def test_a_program_that_fails_is_an_error(tmp_path, monkeypatch):
    cargo = tmp_path / "cargo"
    cargo.write_text("#!/bin/sh\nexit 3\n")
    cargo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RuntimeError, match="status 3"):
        core_program.core_report()
