"""A run that is shown on a dashboard: while it goes on, and afterwards."""

import json
import subprocess
import sys
import time
import urllib.request

import pytest

from contigmm.load.coordinator import Tick
from contigmm.load.process import LoadError
from contigmm.load.shown import Shown

SERVE = (sys.executable, "-m", "contigmm_server.main", "--listen", "127.0.0.1:0")
LOAD = (sys.executable, "-m", "contigmm.cli", "load", "--duration", "1", "--processes", "2")


@pytest.fixture
def served():
    """Address of a server with a small machine, and of its dashboard."""
    command = (*SERVE, "--machine", "spec:small", "--dashboard", "127.0.0.1:0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield [server.stdout.readline().split()[-1] for _ in range(2)]
        finally:
            server.kill()


def runs(dashboard):
    with urllib.request.urlopen(f"{dashboard}api/loads", timeout=10) as response:
        return json.load(response)["loads"]


def test_a_run_is_told_of_while_it_goes_on_and_then_its_result(served, tmp_path):
    target, dashboard = served
    result = tmp_path / "result.json"
    command = (*LOAD, "--target", target, "--dashboard", dashboard, "--json", str(result))
    states = set()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as load:
        while load.poll() is None:
            states |= {run["state"].partition(",")[0] for run in runs(dashboard)}
            time.sleep(0.05)
        assert load.returncode == 0, load.stderr.read().decode()
    assert len(states) >= 3, states
    (run,) = runs(dashboard)
    assert run["state"] == "ended"
    assert run["load"] == json.loads(result.read_text())


def test_a_dashboard_that_is_not_there_is_said_before_the_run():
    for address in ("http://127.0.0.1:9/", "127.0.0.1:9", "file:///etc/passwd"):
        with pytest.raises(LoadError, match="dashboard"):
            Shown(address)


def test_a_dashboard_that_has_gone_does_not_hold_the_run_up(served):
    with Shown(served[1]) as shown:
        shown._url = "http://127.0.0.1:9/"
        for _ in range(3):
            shown.tell(Tick("measuring", done_s=1.0, of_s=2.0))
            shown._told_s = -1.0
