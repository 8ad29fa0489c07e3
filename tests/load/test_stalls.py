"""A server and generators that are stopped on purpose: the report shows both, and which it was."""

import json
import os
import signal
import subprocess
import threading
from contextlib import contextmanager

from test_run import AGED, COMMAND, alive, mark  # noqa: F401 - a fixture

STALL_S = 1.0


@contextmanager
def measuring(*arguments):
    """A run that has begun to measure."""
    with subprocess.Popen(
        [*COMMAND, *AGED, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as load:
        try:
            for line in load.stderr:
                if line.startswith("measuring"):
                    break
            yield load
            assert load.wait(timeout=120) == 0, load.stderr.read()
        finally:
            load.kill()


def stopped(pids, seconds):
    """Hold processes still for so long: the stall is what is tested."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def children(mark, word):  # noqa: F811
    return [pid for pid, command in alive(mark).items() if word in command]


def test_a_stall_of_the_server_is_charged_to_every_request_that_it_held_up(mark, tmp_path):  # noqa: F811
    path = tmp_path / "load.json"
    arguments = ("--arrival", "constant:60", "--duration", "4", "--json", str(path))
    with measuring(*arguments) as load:
        stopped(children(mark, "own_server"), STALL_S)
        load.stderr.read()
    result = json.loads(path.read_text())
    due, sent = result["latency_us"], result["service_us"]
    assert due["p999"] >= 0.8 * STALL_S * 1e6
    # A quarter of the requests were due within the stall; of those one a process was on its way.
    assert due["p90"] >= 0.4 * STALL_S * 1e6
    assert sent["p90"] < due["p90"] / 2


def test_generators_that_do_not_get_to_run_are_named_as_the_limit(mark, tmp_path):  # noqa: F811
    path = tmp_path / "load.json"
    with measuring("--arrival", "constant:40", "--json", str(path)) as load:
        ended = threading.Event()
        reader = threading.Thread(target=lambda: (load.stderr.read(), ended.set()))
        reader.start()
        generators = children(mark, "load.generator")
        while not ended.wait(0.03):
            try:
                stopped(generators, 0.1)
            except ProcessLookupError:
                break
        reader.join()
    effort = json.loads(path.read_text())["generator"]
    assert effort["limited"] is True
    assert effort["late_us_p99"] >= 50_000
