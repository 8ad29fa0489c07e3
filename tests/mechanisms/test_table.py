"""The table of mechanisms fits the tree, so that scripts/ablate.py can take each away."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = tomllib.loads((ROOT / "tests/mechanisms/mechanisms.toml").read_text())["mechanism"]
TESTS = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "rust/core/tests").glob("*.rs")]
NAMES = {name for file in TESTS for name in re.findall(r"\b(?:fn|def) (\w+)", file.read_text())}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_mechanism_can_be_taken_away(row):
    assert (ROOT / row["file"]).read_text().count(row["old"]) == 1, "stands there exactly once"
    assert row["new"] != row["old"]
    assert sum(key in row for key in ("cargo", "pytest", "figure")) == 1
    assert row.get("test", "") in NAMES | {""}
    assert all((ROOT / path).exists() for path in row.get("pytest", []))


def test_the_document_tells_of_each():
    document = (ROOT / "docs/mechanisms.md").read_text()
    told = re.findall(r"^\| (?!what |---)([^|]+?) \|", document, re.MULTILINE)
    assert told == [row["name"] for row in ROWS]


def test_every_explained_mutant_is_one_that_there_is(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    mutants = importlib.import_module("mutants")
    found = {mutant.name() for mutant in mutants.all_mutants()}
    assert set(mutants.explained()) <= found
    assert len(found) > 500, "the finder finds"
