"""Takes mechanisms away, one at a time, and sees who notices.

For each row of tests/mechanisms/mechanisms.toml, or those named, a copy of the tree is patched and
the row's tests must fail, or its figure must get worse by a tenth; unpatched they must pass first.
Prints a line a mechanism, with the tests that failed; exit status 1 if nobody noticed one. Takes
some ten minutes for all. Production code has no switch for any of this.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
TABLE: Final = ROOT / "tests/mechanisms/mechanisms.toml"
TARGET: Final = ROOT / "target/ablate"
WORSE: Final = 1.10
#: Rounds of a figure, with and without the mechanism in turn; the least of each counts.
ROUNDS: Final = 5
#: A failed test in what pytest or cargo test prints.
FAILED: Final = re.compile(r"^(?:FAILED \S+::|    )(\w+)(?:\[.*| - .*)?$", re.MULTILINE)


def mechanisms() -> list[dict[str, Any]]:
    """The rows of the table."""
    rows: list[dict[str, Any]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))["mechanism"]
    return rows


def copy_tree(to: Path) -> None:
    """Copy what git knows, and the compiled extension, which stays as it is."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    built = [str(path.relative_to(ROOT)) for path in ROOT.glob("python/contigmm/_core*.so")]
    for name in [*filter(None, listed.split("\0")), *built]:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


class Copy:
    """A copy of the tree, to be patched and tested."""

    def __init__(self, root: Path) -> None:
        self.root = root
        copy_tree(root)
        paths = f"{root / 'python'}:{root / 'server/src'}"
        self.environment = os.environ | {"PYTHONPATH": paths, "CARGO_TARGET_DIR": str(TARGET)}

    def patch(self, row: dict[str, Any]) -> str:
        """Take the mechanism away; return the text of the file as it was."""
        file = self.root / row["file"]
        text: str = file.read_text(encoding="utf-8")
        if text.count(row["old"]) != 1:
            raise SystemExit(f"{row['name']}: {row['file']} has not exactly one {row['old']!r}")
        file.write_text(text.replace(row["old"], row["new"]), encoding="utf-8")
        return text

    def restore(self, row: dict[str, Any], text: str) -> None:
        """Put the mechanism back."""
        (self.root / row["file"]).write_text(text, encoding="utf-8")

    def failures(self, row: dict[str, Any]) -> list[str]:
        """Run the row's tests; name those that fail."""
        if "cargo" in row:
            command = [
                "cargo",
                "test",
                "--quiet",
                "--locked",
                "-p",
                "contigmm-core",
                "--no-fail-fast",
            ]
            command += row["cargo"] + ["--", row.get("test", "")]
        else:
            python = ROOT / ".venv/bin/python"
            command = [str(python), "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
            command += row["pytest"] + (["-k", row["test"]] if "test" in row else [])
        done = self._run(command)
        found = sorted(set(FAILED.findall(done.stdout)))
        if done.returncode != 0 and not found:
            raise SystemExit(
                f"{row['name']}: {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return found

    def bench(self, name: str) -> Path:
        """Compile the benchmark of the core, and keep it under a name of its own."""
        command = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "contigmm-bench"]
        done = self._run(command)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        kept = self.root / name
        shutil.copy2(TARGET / "release/contigmm-bench", kept)
        return kept

    def figure(self, bench: Path, wanted: dict[str, Any]) -> float:
        """Measure: nanoseconds of one operation, the least of several runs."""
        done = self._run([str(bench), "--pattern", wanted["pattern"], "--runs", "3"])
        keys = ("pattern", "op", "order")
        return min(
            float(result["min_ns"])
            for result in json.loads(done.stdout)["results"]
            if result["allocator"] == "contigmm" and all(result[key] == wanted[key] for key in keys)
        )

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


def test_verdict(copy: Copy, row: dict[str, Any]) -> str:
    """Who fails without the mechanism, '' if nobody does."""
    if before := copy.failures(row):
        raise SystemExit(f"{row['name']}: {', '.join(before)} fail with it already")
    text = copy.patch(row)
    failed = copy.failures(row)
    copy.restore(row, text)
    return ", ".join(failed)


def figure_verdict(copy: Copy, row: dict[str, Any]) -> str:
    """What the figure is with and without the mechanism, '' if it is not worse."""
    having = copy.bench("having")
    text = copy.patch(row)
    lacking = copy.bench("lacking")
    copy.restore(row, text)
    rounds = [[copy.figure(one, row["figure"]) for one in (having, lacking)] for _ in range(ROUNDS)]
    best, other = (min(times) for times in zip(*rounds, strict=True))
    return f"{best:.2f} ns with it, {other:.2f} ns without" if other > WORSE * best else ""


def main() -> int:
    """Exit status: 1 if nobody noticed one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mechanisms; all of the table without any")
    names = parser.parse_args().names
    rows = [row for row in mechanisms() if not names or row["name"] in names]
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="contigmm-ablate-") as place:
        copy = Copy(Path(place))
        for row in rows:
            verdict = figure_verdict(copy, row) if "figure" in row else test_verdict(copy, row)
            unnoticed += not verdict
            print(f"{row['name']}: {verdict or 'NOBODY NOTICES'}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
