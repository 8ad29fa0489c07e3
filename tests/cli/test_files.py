"""Commands that read and write files: captures of this computer, snapshots of machines."""

import json
import os

import pytest

from contigmm.cli import main
from contigmm.description import MachineDescription
from contigmm.hosts import describe
from contigmm.sim.machine import Machine


def test_a_snapshot_tells_what_it_holds(tmp_path, capsys):
    machine = Machine.boot(describe("spec:small"), seed=5)
    machine.spawn("one")
    path = tmp_path / "machine.snap"
    path.write_bytes(machine.snapshot())
    assert main(["snapshot", "info", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "snapshot-info/1"
    assert (told["seed"], told["seq"], told["processes"]) == (5, 1, 1)
    assert told["digest"] == machine.digest()
    assert told["buddyinfo"] == machine.buddyinfo()
    assert main(["snapshot", "info", str(path)]) == 0
    assert machine.digest() in capsys.readouterr().out


def test_what_is_no_snapshot_is_unusable_input(tmp_path, capsys):
    path = tmp_path / "machine.snap"
    path.write_bytes(Machine.boot(describe("spec:small")).snapshot()[:100])
    assert main(["snapshot", "info", str(path)]) == 2
    assert capsys.readouterr().err == "contigmm: the snapshot is cut off\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read /proc/kpageflags")
def test_a_capture_of_this_computer_can_be_booted(tmp_path, capsys):
    path = tmp_path / "here.cap"
    assert main(["capture", str(path)]) == 0
    assert f"--machine file:{path}" in capsys.readouterr().out
    description = describe(f"file:{path}")
    assert isinstance(description, MachineDescription)
    machine = Machine.boot(description)
    machine.check()
    assert machine.buddyinfo() == description.buddyinfo()
