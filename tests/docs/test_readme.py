"""The README's examples run as they are printed there."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
ADDRESS = "127.0.0.1:50051"  # what the README's reader types; the test's server has another port


def run(program: str, folder: Path) -> str:
    """Run ``program`` by an interpreter of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def address() -> Iterator[str]:
    """Address of a server of this test's own, gone when the test is."""
    contigmm = Path(sys.executable).with_name("contigmm")
    command = [str(contigmm), "serve", "--listen", "127.0.0.1:0", "--machine", "spec:small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            listening = re.search(r"127\.0\.0\.1:\d+", server.stdout.readline())
            assert listening, "the first line says where the server listens"
            yield listening[0]
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()


def test_there_are_two_examples_of_about_ten_lines():
    assert len(BLOCKS) == 2
    assert all(len(block.splitlines()) <= 16 for block in BLOCKS)


def test_the_library_example(tmp_path: Path):
    assert run(BLOCKS[0], tmp_path)


def test_the_client_example(address: str, tmp_path: Path):
    assert ADDRESS in BLOCKS[1]
    assert run(BLOCKS[1].replace(ADDRESS, address), tmp_path)
