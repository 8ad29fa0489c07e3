"""Costs measured on this computer are written, read again, and used by machines."""

import json

import pytest

from contigmm.cli import main
from contigmm.hosts import describe
from contigmm.phys import default_costs
from contigmm.sim.costs import CostsError, read_costs, with_costs
from contigmm.sim.machine import Machine
from contigmm.study import calibrate

COSTS = default_costs() | {"fault_ns": 3000, "zero_ns": 400, "pte_ns": 50}


def test_a_fault_takes_what_its_steps_cost():
    """The sum that a measured fault is taken apart by; page tables and refills come on top."""
    steps = ("fault_ns", "zero_ns", "pte_ns", "alloc_ns", "pcp_ns")
    simulated = calibrate.simulated_fault_ns(COSTS)
    assert simulated == pytest.approx(sum(COSTS[name] for name in steps), rel=0.03)


def test_what_was_measured_can_be_read_and_the_rest_says_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibrate, "_REPEATS", 1)
    monkeypatch.setattr(calibrate, "_CALLS", 100)
    path = tmp_path / "costs.json"
    assert main(["calibrate", "--json", "--write", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(path.read_text())
    assert report["schema"] == "costs/1"
    assert set(report["costs"]) == set(default_costs())
    assert report["measured"].keys() | report["kept"].keys() == set(default_costs())
    assert not report["measured"].keys() & report["kept"].keys()
    assert {"fault_ns", "copy_ns", "pte_ns", "syscall_ns"} <= report["measured"].keys()
    for name in report["kept"]:
        assert report["costs"][name] == default_costs()[name]
    assert read_costs(path) == report["costs"]


def test_a_file_that_cannot_be_written_is_told_in_a_sentence(tmp_path, capsys, monkeypatch):
    costs = calibrate.Calibration(dict(COSTS))
    monkeypatch.setattr(calibrate, "calibrate", lambda: costs)
    assert main(["calibrate", "--write", str(tmp_path)]) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_a_machine_keeps_its_costs_in_a_snapshot():
    machine = Machine.boot(with_costs(describe("spec:small"), {**COSTS, "fault_ns": 70_000}))
    machine = Machine.restore(machine.snapshot())
    process = machine.spawn()
    address = process.mmap(0, 4096, 3, 0x22)
    start = machine.clock_ns
    process.touch(address, 4096, write=True)
    assert 70_000 < machine.clock_ns - start < 80_000


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [({"cost_tea_ns": 1}, "no step is called 'tea_ns'"), ({"cost_pte_ns": "x"}, "no number")],
)
def test_settings_that_are_no_costs_are_refused(setting, sentence):
    description = describe("spec:small")
    description.settings.update(setting)
    with pytest.raises(CostsError, match=sentence):
        Machine.boot(description)
