"""``contigmm validate oracle``: files of programs in, results out, several processes at work."""

import gzip
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TextIO

from contigmm.phys import Memory, VmaIndex
from contigmm.validate.oracle import run_program
from contigmm.validate.oracle_compare import first_difference, has_truth

#: A machine large enough for what the programs make resident: 12 GiB on one node.
_SPEC: Final = json.dumps(
    {
        "seed": 1,
        "nr_cpus": 2,
        "zones": [
            {
                "node": 0,
                "kind": "Normal",
                "start_pfn": 0,
                "spanned": 12 << 18,
                "managed": 12 << 18,
            }
        ],
    }
)


@dataclass(slots=True)
class Agreement:
    """How many programs of each class were run, compared, and found equal in everything."""

    programs: dict[str, int] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    equal: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def count(self, kind: str, difference: str | None) -> None:
        """Count one program; ``None``: it had no truth to compare with."""
        self.programs[kind] = self.programs.get(kind, 0) + 1
        if difference is None:
            return
        self.compared[kind] = self.compared.get(kind, 0) + 1
        self.equal[kind] = self.equal.get(kind, 0) + (not difference)
        if difference:
            self.differences.append(difference)

    def report(self) -> dict[str, Any]:
        """Return what ``--json`` prints: schema validate-oracle/1."""
        classes = [
            {
                "class": kind,
                "programs": programs,
                "compared": self.compared.get(kind, 0),
                "equal": self.equal.get(kind, 0),
            }
            for kind, programs in sorted(self.programs.items())
        ]
        return {
            "schema": "validate-oracle/1",
            "contigmm": version("contigmm"),
            "classes": classes,
            "differences": self.differences,
        }


def read_programs(path: Path) -> Iterator[str]:
    """Yield the lines of a file of programs, plain or gzipped."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield line


def run_line(line: str) -> tuple[str, str, str | None]:
    """Run one program: its class, its result as a line, and where it parts from its truth."""
    program: dict[str, Any] = json.loads(line)
    result = run_program(program, Memory.boot(_SPEC), VmaIndex)
    difference = first_difference(program, result) if has_truth(program) else None
    return program.get("class", "?"), json.dumps(result, separators=(",", ":")), difference


@contextmanager
def _results(lines: Iterable[str], jobs: int) -> Iterator[Iterable[tuple[str, str, str | None]]]:
    if jobs == 1:
        yield map(run_line, lines)
        return
    # spawn, not fork: the compiled core may hold threads' locks
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap(run_line, lines, chunksize=16)


def validate_files(
    paths: Iterable[Path], *, output: TextIO | None, jobs: int | None = None
) -> Agreement:
    """Run every program of ``paths`` and write each result as one line to ``output``."""
    agreement = Agreement()
    lines = (line for path in paths for line in read_programs(path))
    with _results(lines, jobs or os.cpu_count() or 1) as results:
        for kind, result, difference in results:
            agreement.count(kind, difference)
            if output is not None:
                output.write(result + "\n")
    return agreement
