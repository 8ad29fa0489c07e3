"""docs/fidelity.md: five cells a row, and each row points to a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIDELITY = ROOT / "docs/fidelity.md"
SOURCES = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "rust").rglob("*.rs")]
NAME = re.compile(r"\b(?:fn|def|class) (\w+)")


def rows(text: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of each row, heads and rulers left out."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("|") and not line.startswith(("|---", "| what")):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            found.append((number, [cell.strip() for cell in cells]))
    return found


def test_every_row_has_five_cells():
    wrong = [number for number, cells in rows(FIDELITY.read_text()) if len(cells) != 5]
    assert not wrong, f"lines {wrong} of docs/fidelity.md"


def test_every_named_test_exists():
    names = {name for source in SOURCES for name in NAME.findall(source.read_text())}
    missing = [
        (number, test)
        for number, cells in rows(FIDELITY.read_text())
        for test in re.findall(r"\w{10,}", cells[-1])
        if test not in names
    ]
    assert not missing, missing


def test_a_row_without_a_test_says_so():
    silent = [number for number, cells in rows(FIDELITY.read_text()) if not cells[-1]]
    assert not silent, f"lines {silent} of docs/fidelity.md"
