"""A client in another language prints the transcript that every client must print."""

import shutil
import subprocess
from pathlib import Path

import pytest

CLIENTS = Path(__file__).resolve().parents[2] / "examples/clients"


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_the_go_client_prints_the_canonical_transcript():
    ran = subprocess.run(
        [CLIENTS / "go/run"], capture_output=True, text=True, timeout=280, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == (CLIENTS / "transcript.txt").read_text()
