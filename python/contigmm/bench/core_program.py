"""``contigmm bench core``: runs the Rust program of bench/core, from a checkout.

The other allocators are compiled into that program only, never into the package.
"""

import json
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from contigmm.errors import ContigmmError

SCHEMA: Final = "bench-core/1"
_MANIFEST: Final = Path("bench", "core", "Cargo.toml")


class NoCheckoutError(ContigmmError):
    """The program cannot be built here; the sentence says what is missing."""


def find_checkout(start: Path) -> Path | None:
    """Find the checkout that ``start`` lies in, if it lies in one."""
    for folder in (start, *start.parents):
        if (folder / _MANIFEST).is_file():
            return folder
    return None


def core_report(*, runs: int = 9, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """Build and run bench/core, and give the report of schema bench-core/1.

    Raises:
        NoCheckoutError: There is no checkout here, or no cargo.
        RuntimeError: The program failed.
    """
    cargo = shutil.which("cargo")
    if cargo is None:
        raise NoCheckoutError("bench core needs cargo: install Rust (https://rustup.rs)")
    checkout = find_checkout(Path(__file__).resolve()) or find_checkout(Path.cwd())
    if checkout is None:
        raise NoCheckoutError("bench core needs a checkout of contigmm: run it inside of one")
    manifest = str(checkout / _MANIFEST)
    command = [cargo, "run", "--release", "--quiet", "--manifest-path", manifest]
    done = subprocess.run(
        [*command, "--", "--runs", str(runs), *arguments],
        cwd=checkout,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"bench/core ended with status {done.returncode}")
    results = json.loads(done.stdout)["results"]
    return {"schema": SCHEMA, "contigmm": version("contigmm"), "results": results}
