"""What is built and installed: two wheels, a source archive, and environments made by pip alone.

Nothing of the checkout's ``.venv`` reaches the clean environments; compiled crates are shared
through ``target/``, so only the first build of a checkout compiles them all.
"""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".tools/bin/uv"
OURS = ("PYTHON", "VIRTUAL_ENV", "UV_", "COVERAGE", "PYTEST")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run ``command`` and return what it printed; where it fails, show all of that."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    environment |= {"UV_PYTHON_DOWNLOADS": "never", "CARGO_TARGET_DIR": str(ROOT / "target")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


def pip_install(environment: Path, *requirements: str) -> Path:
    """Make ``environment``, let its own pip install ``requirements``, return its ``bin``."""
    run(UV, "venv", "--seed", "--python", sys.executable, environment)
    pip = (environment / "bin/python", "-m", "pip", "install", "--disable-pip-version-check")
    run(*pip, "--quiet", "--constraint", "constraints.txt", *requirements)
    return environment / "bin"


def build(kind: str, source: Path, out: Path) -> Path:
    """Build the one ``kind`` of distribution of ``source`` and return its file."""
    run(UV, "build", kind, "--build-constraints", ROOT / "constraints.txt", "-o", out, source)
    (built,) = (path for path in out.iterdir() if path.suffix in {".whl", ".gz"})
    return built


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of an environment after ``pip install .``: the library alone."""
    return pip_install(tmp_path_factory.mktemp("library"), ".")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of an environment after ``pip install '.[grpc]' ./server``."""
    return pip_install(tmp_path_factory.mktemp("service"), ".[grpc]", "./server")


def packages(bin_: Path) -> set[str]:
    """Names of the distributions in the environment of ``bin_``."""
    listed = run(bin_ / "python", "-m", "pip", "list", "--format", "freeze")
    return {re.split(r"==| @ ", line)[0].lower() for line in listed.splitlines()}


def test_the_library_alone_runs_a_machine_without_grpcio(library: Path, tmp_path: Path):
    assert not {"grpcio", "protobuf", "contigmm-server"} & packages(library)
    program = (
        "import contigmm, sys\n"
        "with_rpc = {'grpc', 'google', 'asyncio'} & set(sys.modules)\n"
        "assert not with_rpc, with_rpc\n"
        "print(contigmm.MAP_CONTIG)\n"
    )
    assert run(library / "python", "-c", program, cwd=tmp_path) == f"{0x80000}\n"


def test_the_command_line_works_without_grpcio(library: Path, tmp_path: Path):
    assert "load" in run(library / "contigmm", "--help", cwd=tmp_path)


def test_the_client_without_grpcio_names_the_extra(library: Path, tmp_path: Path):
    program = (
        "from contigmm.client import connect\n"
        "try:\n"
        "    connect('127.0.0.1:1')\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert "contigmm[grpc]" in run(library / "python", "-c", program, cwd=tmp_path)


def test_the_service_is_two_distributions(service: Path, tmp_path: Path):
    assert {"contigmm", "contigmm-server", "grpcio"} <= packages(service)
    assert "--listen" in run(service / "contigmm-server", "--help", cwd=tmp_path)
    assert "--listen" in run(service / "contigmm", "serve", "--help", cwd=tmp_path)


def test_the_wheel_holds_the_package_its_types_and_its_messages(tmp_path: Path):
    wheel = build("--wheel", ROOT, tmp_path)
    assert re.search(r"-cp311-abi3-\w+\.whl$", wheel.name), "one wheel for all Python >= 3.11"
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("__init__.py", "py.typed", "_core.pyi", "_core.abi3.so", "v1/memory_pb2.py"):
        assert f"contigmm/{name}" in names
    licences = {name.rpartition("/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE-APACHE", "LICENSE-MIT"}
    foreign = {name for name in names if not name.startswith(("contigmm/", "contigmm-"))}
    assert not foreign


def test_the_server_wheel_holds_the_server_only(tmp_path: Path):
    names = zipfile.ZipFile(build("--wheel", ROOT / "server", tmp_path)).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"contigmm_server"}


def test_a_wheel_can_be_built_from_the_source_archive(tmp_path: Path):
    archive = build("--sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
        source.extractall(tmp_path, filter="data")
    assert {"Cargo.lock", "rust/core/src/lib.rs", "python/contigmm/__init__.py"} <= names
    assert not {name for name in names if name.endswith((".so", ".pyc"))}
    (unpacked,) = tmp_path.glob("contigmm-*")
    assert build("--wheel", unpacked, tmp_path / "wheel").suffix == ".whl"
