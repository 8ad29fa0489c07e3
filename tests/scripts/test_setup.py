"""scripts/setup on machines that lack something: one sentence says what to install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "bash cat cc cut date dirname find grep head mkdir ln rm sed sha256sum sort tail xargs"
NOWHERE = "http://127.0.0.1:9/simple"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What scripts/setup reads, in a folder of its own."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("rust/core", "rust/py", "server", "python/contigmm"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("pyproject.toml", "server/pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("Cargo.toml", "Cargo.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def setup_with(checkout: Path, *, tools: str, scripts: dict[str, str] | None = None) -> str:
    """Run scripts/setup where only ``tools`` and ``scripts`` are on the PATH; it must fail."""
    path = checkout / "path"
    path.mkdir()
    for tool in tools.split():
        found = shutil.which(tool)
        assert found, f"{tool} is needed to run this test"
        (path / tool).symlink_to(found)
    for name, text in (scripts or {}).items():
        (path / name).write_text(f"#!/bin/sh\n{text}\n")
        (path / name).chmod(0o755)
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    unreachable = {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    done = subprocess.run(
        [str(checkout / "scripts/setup")],
        env=kept | unreachable | {"PATH": str(path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.rstrip("\n")


CARGO = {"cargo": "exit 0", "rustc": "echo rustc 1.99.0"}
PYTHON = {"python3": f'exec "{Path(sys.executable).resolve()}" "$@"'}


def test_without_cargo_it_asks_for_rust(checkout: Path):
    said = setup_with(checkout, tools=TOOLS, scripts=PYTHON)
    assert "\n" not in said
    assert "cargo is not on the PATH: install Rust 1." in said


def test_without_a_c_compiler_it_asks_for_one(checkout: Path):
    said = setup_with(checkout, tools=TOOLS.replace(" cc ", " "), scripts=PYTHON | CARGO)
    assert "\n" not in said
    assert "no C compiler is on the PATH: install one" in said


def test_an_old_rust_is_named(checkout: Path):
    old = PYTHON | CARGO | {"rustc": "echo 'rustc 1.60.0 (7737e0b5c 2022-04-04)'"}
    said = setup_with(checkout, tools=TOOLS, scripts=old)
    assert "\n" not in said
    assert "or later is needed and this is 1.60.0" in said


def test_without_a_new_enough_python_it_asks_for_one(checkout: Path):
    said = setup_with(checkout, tools=TOOLS, scripts=CARGO | {"python3": "exit 1"})
    assert "\n" not in said
    assert "Python 3.11 or later is needed: install it" in said


def test_without_the_network_the_last_line_says_so(checkout: Path):
    quick = {"python3": f'case "$*" in *ensurepip*) exit 1;; esac\n{PYTHON["python3"]}'}
    said = setup_with(checkout, tools=TOOLS, scripts=CARGO | quick)
    assert "could not be reached; connect this machine to the network" in said.splitlines()[-1]


def test_without_ensurepip_and_pip_it_asks_for_one(checkout: Path):
    bare = {"python3": f'case "$*" in *ensurepip*|*pip*) exit 1;; esac\n{PYTHON["python3"]}'}
    said = setup_with(checkout, tools=TOOLS, scripts=CARGO | bare)
    assert "\n" not in said
    assert "neither ensurepip nor pip: install one" in said
