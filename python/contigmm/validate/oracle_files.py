"""``contigmm validate oracle``: files of programs in, results out, several processes at work."""

import gzip
import json
import multiprocessing
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TextIO

from contigmm import foreign_json
from contigmm.hosts.source_error import SourceError
from contigmm.phys import Memory, VmaIndex
from contigmm.validate.oracle import run_program
from contigmm.validate.oracle_compare import Comparison, compare, has_truth

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


#: Fewer cases say nothing about a cell.
ENOUGH_CASES: Final = 20


@dataclass(slots=True)
class Agreement:
    """How many programs of each class were run, compared, and found equal in everything."""

    programs: dict[str, int] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    equal: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    cells: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """By call and recorded outcome: operations compared, and of those equal."""

    def count(self, kind: str, comparison: Comparison | None) -> None:
        """Count one program; ``None``: it had no truth to compare with."""
        self.programs[kind] = self.programs.get(kind, 0) + 1
        if comparison is None:
            return
        self.compared[kind] = self.compared.get(kind, 0) + 1
        self.equal[kind] = self.equal.get(kind, 0) + (not comparison.first)
        if comparison.first:
            self.differences.append(comparison.first)
        for cell, (compared, equal) in comparison.cells.items():
            before = self.cells.get(cell, (0, 0))
            self.cells[cell] = before[0] + compared, before[1] + equal

    def operations(self) -> tuple[int, int]:
        """Operations compared, and of those equal."""
        rows = self.cells.values()
        return sum(compared for compared, _ in rows), sum(equal for _, equal in rows)

    def least_cell(self) -> tuple[str, str] | None:
        """Of the cells with enough cases that which agrees least, if there is any."""
        enough = [cell for cell, (compared, _) in self.cells.items() if compared >= ENOUGH_CASES]
        share = {cell: self.cells[cell][1] / self.cells[cell][0] for cell in enough}
        return min(sorted(enough), key=share.__getitem__, default=None)

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
        cells = [
            {"call": call, "outcome": outcome, "compared": compared, "equal": equal}
            for (call, outcome), (compared, equal) in sorted(self.cells.items())
        ]
        return {
            "schema": "validate-oracle/1",
            "contigmm": version("contigmm"),
            "classes": classes,
            "cells": cells,
            "differences": self.differences,
        }


def read_programs(path: Path) -> Iterator[str]:
    """Yield the lines of a file of programs, plain or gzipped.

    Raises:
        SourceError: it cannot be read, or a line is no program.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    _check_program(line, path, number)
                    yield line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise SourceError(f"it cannot be read: {error}.", name=str(path)) from error


def _check_program(line: str, path: Path, number: int) -> None:
    """Refuse a line that is no JSON, or has no id, or no list of operations."""
    try:
        program = foreign_json.loads(line)
    except ValueError as error:
        raise SourceError(f"it is no JSON: {error}.", name=str(path), line=number) from error
    ops = program.get("ops") if isinstance(program, dict) and "id" in program else None
    if not isinstance(ops, list) or not all(isinstance(op, dict) for op in ops):
        raise SourceError(
            "it is no program with an id and a list of ops.", name=str(path), line=number
        )


def run_line(line: str) -> tuple[str, str, Comparison | None]:
    """Run one program: its class, its result as a line, and how it compares with its truth."""
    program: dict[str, Any] = json.loads(line)
    result = run_program(program, Memory.boot(_SPEC), VmaIndex)
    comparison = compare(program, result) if has_truth(program) else None
    return program.get("class", "?"), json.dumps(result, separators=(",", ":")), comparison


@contextmanager
def _results(
    lines: Iterable[str], jobs: int
) -> Iterator[Iterable[tuple[str, str, Comparison | None]]]:
    if jobs == 1:
        yield map(run_line, lines)
        return
    # spawn, not fork: the compiled core may hold threads' locks
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap(run_line, lines, chunksize=16)


def validate_files(
    paths: Iterable[Path], *, output: TextIO | None, jobs: int | None = None
) -> Agreement:
    """Run every program of ``paths`` and write each result as one line to ``output``.

    All files are read before the first program runs.

    Raises:
        SourceError: one of them cannot be read, or has a line that is no program.
    """
    agreement = Agreement()
    lines = [line for path in paths for line in read_programs(path)]
    with _results(lines, jobs or os.cpu_count() or 1) as results:
        for kind, result, comparison in results:
            agreement.count(kind, comparison)
            if output is not None:
                output.write(result + "\n")
    return agreement


def summary_lines(agreement: Agreement, *, cells: bool = False) -> Iterator[str]:
    """Yield what is told on standard error: classes, operations, and each cell if asked for."""
    for kind, programs in sorted(agreement.programs.items()):
        compared = agreement.compared.get(kind, 0)
        equal = agreement.equal.get(kind, 0)
        verdict = f"{equal} of {compared} agree in everything" if compared else "no truth given"
        yield f"{kind}: {programs} programs, {verdict}"
    compared, equal = agreement.operations()
    if not compared:
        return
    yield f"operations: {equal} of {compared} agree ({100 * equal / compared:.3f} %)"
    least = agreement.least_cell()
    if least is not None:
        compared, equal = agreement.cells[least]
        yield (
            f"cells of call and outcome with {ENOUGH_CASES} cases or more: the least is "
            f"{' '.join(least)}, {equal} of {compared} agree ({100 * equal / compared:.2f} %)"
        )
    if cells:
        for (call, outcome), (compared, equal) in sorted(agreement.cells.items()):
            yield f"  {call:<18} {outcome:<16} {equal:>7} of {compared:>7} {equal / compared:>8.2%}"
