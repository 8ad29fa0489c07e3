"""Holds the size of what is written: a module has one subject, a function fits a screen.

Tests, generated code and stubs are left out. Of a function its body counts, without the docstring:
a signature may be a table of options.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES = 600
FUNCTION_LINES = 50

ROOT = Path(__file__).resolve().parent.parent
RUST_FUNCTION = re.compile(r"^( *)(?:pub(?:\([\w:]+\))? )?(?:const )?fn (\w+)")


def python_functions(text: str) -> Iterator[tuple[int, str, int]]:
    """Line, name and length of each function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            if body:
                yield node.lineno, node.name, (node.end_lineno or 0) - body[0].lineno + 1


def rust_functions(text: str) -> Iterator[tuple[int, str, int]]:
    """Line, name and length of each function, as rustfmt lays them out."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if found := RUST_FUNCTION.match(line):
            end = f"{found[1]}}}"
            opens = next(
                n for n, later in enumerate(lines[at:], at) if later[-1:] in {"{", "}", ";"}
            )
            if lines[opens][-1:] == ";":
                continue  # a trait's method without a body
            closes = next((n for n, later in enumerate(lines[at:], at) if later == end), opens)
            yield at + 1, found[2], max(closes - opens - 1, 0)


def findings() -> Iterator[str]:
    """One line for each thing that is too long."""
    python = [*ROOT.glob("python/**/*.py"), *ROOT.glob("server/src/**/*.py")]
    rust = [*ROOT.glob("rust/*/src/**/*.rs"), *ROOT.glob("bench/*/src/**/*.rs")]
    for path in sorted([*python, *rust]):
        if "v1" in path.parts or path.name == "tests.rs":
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".rs":
            text = text.partition("#[cfg(test)]\nmod tests {")[0]
        name = path.relative_to(ROOT)
        if (length := len(text.splitlines())) > MODULE_LINES:
            yield f"{name}: {length} lines, more than {MODULE_LINES}: is it still one subject?"
        functions = python_functions if path.suffix == ".py" else rust_functions
        for line, function, length in functions(text):
            if length > FUNCTION_LINES:
                yield f"{name}:{line}: {function} has {length} lines, more than {FUNCTION_LINES}"


if __name__ == "__main__":
    too_long = list(findings())
    print("\n".join(too_long), end="\n" if too_long else "")
    sys.exit(1 if too_long else 0)
