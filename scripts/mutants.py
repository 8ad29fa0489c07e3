"""Breaks each rule of mappings on purpose, one at a time, and sees that a test fails.

Rules are what the files below say: a check that refuses, a part of a condition, a boundary of a
comparison, the order of two neighbouring checks with different errnos. Each is found in the syntax
tree, so that a new one is in the list as soon as it is written. For each the module is imported
broken, and the tests run until the first that fails. Prints those that nobody noticed and that
tests/mechanisms/equivalent.toml does not explain, then totals by file and kind; exit status 1 if
there are any. Half an hour for all on two idle cores; production code has no switch for any of it.
"""

import argparse
import ast
import os
import re
import signal
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from itertools import pairwise
from pathlib import Path
from typing import Final, NoReturn

import pytest
from ablate import ROOT, copy_tree

FILES: Final = tuple(
    f"python/contigmm/{name}.py"
    for name in (
        "mm/merge", "mm/limits", "mm/munmap", "syscalls/mmap", "syscalls/mprotect",
        "syscalls/mremap", "syscalls/brk", "syscalls/mlock", "syscalls/mlockall",
        "syscalls/mseal", "syscalls/msync", "syscalls/mincore", "syscalls/madvise",
        "mm/mmap_region", "mm/remap", "mm/locking", "syscalls/mempolicy",
        "syscalls/remap_file_pages", "mm/unmapped_area", "mm/anon_vma", "mm/vma",
    )
)  # fmt: skip
#: The cases from the repository first: they are quick and notice most.
TESTS: Final = ("tests/oracle/test_cases.py", "tests/mm")
_LONGEST_S: Final = 90
EQUIVALENT: Final = ROOT / "tests/mechanisms/equivalent.toml"
#: What a comparison becomes when its boundary moves by one.
MOVED: Final[dict[type[ast.cmpop], str]] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule broken: lines of ``file`` replaced."""

    file: str
    kind: str
    line: int
    old: str
    text: str  # the whole file as it becomes

    def name(self) -> str:
        """Stable as long as the rule's own text is."""
        return f"{Path(self.file).stem}: {self.kind}: {' '.join(self.old.split())}"


class Finder:
    """Finds the rules of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.source = (ROOT / file).read_text(encoding="utf-8")
        self.starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def mutants(self) -> Iterator[Mutant]:
        """Yield every rule broken, in the order of the file."""
        tree = ast.parse(self.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and _refuses(node):
                yield self._replaced("no check", node.test, "False")
            if isinstance(node, ast.BoolOp):
                neutral = "True" if isinstance(node.op, ast.And) else "False"
                for part in filter(_is_rule, node.values):
                    yield self._replaced("no part", part, neutral, of=node)
            if isinstance(node, ast.Compare) and type(node.ops[0]) in MOVED:
                left, right = (self._text(one) for one in (node.left, node.comparators[0]))
                moved = f"{left} {MOVED[type(node.ops[0])]} {right}"
                yield self._replaced("boundary", node, moved)
            for block in ("body", "orelse"):
                yield from self._swapped(getattr(node, block, None))

    def _swapped(self, block: object) -> Iterator[Mutant]:
        """Neighbouring checks with different errnos, the later one first."""
        if not isinstance(block, list):
            return
        for one, other in pairwise(block):
            errnos = _refuses(one), _refuses(other)
            if all(errnos) and errnos[0] != errnos[1]:
                start, end = self._span(one)[0], self._span(other)[1]
                between = self.source[self._span(one)[1] : self._span(other)[0]]
                swapped = self._text(other) + between + self._text(one)
                tests = f"{self._text(one.test)} | {self._text(other.test)}"
                yield self._mutant("order", one, tests, (start, end), swapped)

    def _replaced(
        self, kind: str, node: ast.expr, new: str, of: "ast.expr | None" = None
    ) -> Mutant:
        old = self._text(node) if of is None else f"{self._text(node)}, of {self._text(of)}"
        return self._mutant(kind, node, old, self._span(node), new)

    def _mutant(
        self, kind: str, node: "ast.expr | ast.stmt", old: str, span: tuple[int, int], new: str
    ) -> Mutant:
        text = self.source[: span[0]] + new + self.source[span[1] :]
        return Mutant(self.file, kind, node.lineno, old, text)

    def _span(self, node: "ast.expr | ast.stmt") -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None  # columns count bytes; these files are ASCII
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: "ast.expr | ast.stmt") -> str:
        return self.source[slice(*self._span(node))]


def _is_rule(part: ast.expr) -> bool:
    """Not ``x is not None``, which only lets the type checker follow."""
    return not (isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.IsNot))


def _refuses(node: ast.AST) -> str:
    """The errno that an ``if`` raises and does nothing else, '' for anything else."""
    if not isinstance(node, ast.If) or node.orelse or not isinstance(node.body[-1], ast.Raise):
        return ""
    raised = ast.unparse(node.body[-1])
    found = re.search(r"\bE[A-Z]+\b", raised)
    return found.group() if found else raised


class Runner:
    """Forks a child a mutant, which imports the broken module from memory and runs the tests."""

    def __init__(self, root: Path, children: int) -> None:
        self.root = root
        self.most = children
        self.running: dict[int, Mutant | None] = {}

    def run(self, mutants: Iterable["Mutant | None"]) -> Iterator[tuple["Mutant | None", bool]]:
        """Yield each mutant, as they end, and whether its tests failed."""
        for mutant in mutants:
            if len(self.running) == self.most:
                yield self._ended()
            pid = os.fork()
            if pid == 0:
                self._child(mutant)
            self.running[pid] = mutant
        while self.running:
            yield self._ended()

    def _ended(self) -> tuple["Mutant | None", bool]:
        pid, status = os.wait()
        return self.running.pop(pid), status != 0

    def _child(self, mutant: "Mutant | None") -> NoReturn:
        signal.alarm(_LONGEST_S)  # a loop that never ends is noticed
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.dont_write_bytecode = True
        os.chdir(self.root)
        sys.path[:0] = [str(self.root / "python")]
        if mutant is not None:
            _patch(str(self.root / mutant.file), mutant.text)
        failed = True
        try:
            failed = bool(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *TESTS]))
        finally:
            os._exit(failed)


def _patch(file: str, text: str) -> None:
    """Let the module in ``file`` be imported as if it held ``text``."""
    get_data, path_stats = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def data(self: SourceFileLoader, path: str) -> bytes:
        return text.encode() if path == file else get_data(self, path)

    def stats(self: SourceFileLoader, path: str) -> Mapping[str, object]:
        if path == file:
            raise OSError("no compiled file fits")
        return path_stats(self, path)

    for name, method in (("get_data", data), ("path_stats", stats)):
        setattr(SourceFileLoader, name, method)


def all_mutants(only: str = "") -> list[Mutant]:
    """Every rule of every file broken, or those whose name holds ``only``."""
    found = (mutant for file in FILES for mutant in Finder(file).mutants())
    return [mutant for mutant in found if only in mutant.name()]


def explained() -> dict[str, str]:
    """Mutants that change nothing anybody could see, by name, and why."""
    rows = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutant"]
    return {row["name"]: row["why"] for row in rows}


def main() -> int:
    """Exit status: 1 if one was noticed by nobody and is not explained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="part of the names of those to try")
    parser.add_argument("--list", action="store_true", help="print the names and try nothing")
    options = parser.parse_args()
    mutants = all_mutants(options.only)
    if options.list:
        print("\n".join(mutant.name() for mutant in mutants))
        return 0
    equal = explained()
    tried: Counter[tuple[str, str]] = Counter()
    alive: Counter[tuple[str, str]] = Counter()
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="contigmm-mutants-") as place:
        copy_tree(Path(place))
        runner = Runner(Path(place), os.cpu_count() or 1)
        if any(failed for _, failed in runner.run([None])):
            raise SystemExit("the tests fail already")
        for mutant, noticed in runner.run(mutants):
            assert mutant is not None
            cell = (Path(mutant.file).stem, mutant.kind)
            tried[cell] += 1
            if noticed:
                continue
            alive[cell] += 1
            if mutant.name() not in equal:
                unnoticed += 1
                print(f"{mutant.file}:{mutant.line}: {mutant.name()}", flush=True)
    for cell in sorted(tried):
        print(f"{cell[0]:<18} {cell[1]:<9} {tried[cell] - alive[cell]} of {tried[cell]} noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
