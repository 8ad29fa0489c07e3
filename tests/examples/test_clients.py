"""What every client prints, and that it depends on retrying as the service config says.

`scripts/clients` holds the other languages to the same transcript.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLIENTS = Path(__file__).resolve().parents[2] / "examples/clients"
SERVICE_CONFIG = CLIENTS / "service_config.json"
TRANSCRIPT = (CLIENTS / "transcript.txt").read_text()


@contextmanager
def listening(*command: str | Path) -> Iterator[str]:
    """Run a program that says where it listens, for the block; the value is its address."""
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        try:
            assert program.stdout is not None
            found = re.search(r"127\.0\.0\.1:\d+", program.stdout.readline())
            assert found, "the first line says where the program listens"
            yield found[0]
        finally:
            program.kill()


@pytest.fixture
def server() -> Iterator[str]:
    with listening("-m", "contigmm_server.main", "--listen", "127.0.0.1:0") as address:
        yield address


@pytest.fixture
def lossy(server: str) -> Iterator[str]:
    with listening(CLIENTS / "lossy.py", server) as address:
        yield address


def ran(address: str, service_config: Path = SERVICE_CONFIG) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CLIENTS / "python/client.py", address, service_config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_client_prints_the_canonical_transcript(server: str):
    client = ran(server)
    assert client.returncode == 0, client.stderr
    assert client.stdout == TRANSCRIPT


def test_lost_answers_change_nothing_for_a_client_that_retries(lossy: str):
    client = ran(lossy)
    assert client.returncode == 0, client.stderr
    assert client.stdout == TRANSCRIPT


def test_a_client_that_does_not_retry_fails_when_an_answer_is_lost(lossy: str, tmp_path: Path):
    without_retries = tmp_path / "service_config.json"
    without_retries.write_text("{}")
    client = ran(lossy, without_retries)
    assert client.returncode == 1
    assert client.stderr == "client: UNAVAILABLE: the answer was lost on purpose\n"
    assert client.stdout == ""


@pytest.mark.parametrize("language", ["python", "go", "node", "java", "rust"])
def test_every_client_is_one_command(language: str):
    assert (CLIENTS / language / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("lock", "forbidden"),
    [
        pytest.param("node/package-lock.json", '"resolved"', id="npm"),
        pytest.param("rust/Cargo.lock", "registry+sparse", id="cargo: another registry's index"),
    ],
)
def test_locks_name_no_host_that_packages_came_from(lock: str, forbidden: str):
    assert forbidden not in (CLIENTS / lock).read_text()
