"""contigmm.v1 is frozen: what clients were built against stays as it is, and only grows."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).with_name("buf")
FROZEN = "protos/frozen/contigmm.v1.txtpb"


def broken(tmp_path: Path, old: str, new: str) -> str:
    """What breaks when ``old`` of batch.proto becomes ``new``; empty: nothing."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    proto = tmp_path / "protos/contigmm/v1/batch.proto"
    text = proto.read_text()
    assert old in text
    proto.write_text(text.replace(old, new, 1))
    command = [BUF, "breaking", "--against", FROZEN]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == (not done.stdout), done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  bool stop_on_refusal = 3;\n", "", '"stop_on_refusal" on message "Batch" was deleted'),
        ("uint64 first_operation = 1;", "uint32 first_operation = 1;", "changed type"),
        ("bool stop_on_refusal = 3;", "bool stop_on_refusal = 33;", "was deleted"),
        ("rpc RunColumns(", "rpc RunPacked(", 'RPC "RunColumns"'),
    ],
)
def test_what_is_frozen_cannot_change(tmp_path, old, new, told):
    assert told in broken(tmp_path, old, new)


def test_what_is_new_may_come(tmp_path):
    added = "bool stop_on_refusal = 3;\n  // New.\n  bool new = 100;\n"
    assert broken(tmp_path, "bool stop_on_refusal = 3;\n", added) == ""
