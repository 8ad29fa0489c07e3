"""What the documents point to exists: links, headings, paths in the tree, commands and options."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROGRAMS = {"contigmm", "contigmm-server"}
ROOMS = ("scripts", "rust", "python", "server", "tests", "docs", "protos", "examples", "bench")
PATH = re.compile(rf"^(?:{'|'.join(ROOMS)}|\.ci)/[\w./-]+$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def anchors(text: str) -> set[str]:
    """Anchors of the headings of ``text``, made as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(text: str) -> list[str]:
    """Inline code of ``text``, and the lines of its shell blocks."""
    lines = [
        line
        for language, block in FENCE.findall(text)
        if language in {"sh", "console"}
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return lines + re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands(text: str) -> list[list[str]]:
    """Calls of our programs in the code of ``text``, as words."""
    found = []
    for line in code(text):
        words = re.sub(r"\s#.*", "", line).removeprefix("$ ").split()
        if words and words[0].removeprefix(".venv/bin/") in PROGRAMS:
            found.append([words[0].removeprefix(".venv/bin/"), *words[1:]])
    return found


@cache
def help_of(*command: str) -> str:
    """What ``command --help`` prints, wide enough that no option is cut."""
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [str(program), *command[1:], "--help"],
        env={"COLUMNS": "200", "NO_COLOR": "1", "PATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else ""


@documents
def test_links_lead_somewhere(document: Path):
    text = document.read_text()
    dead = []
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue  # another site: not ours to check without a network
        file = document.parent / path if path else document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            dead.append(target)
    assert not dead


@documents
def test_named_paths_exist(document: Path):
    words = {word.rstrip("/") for span in code(document.read_text()) for word in span.split()}
    assert not sorted(word for word in words if PATH.match(word) and not (ROOT / word).exists())


@documents
def test_named_commands_and_options_exist(document: Path):
    unknown = []
    for words in commands(document.read_text()):
        known = [words[0]]
        for word in words[1:]:
            if not re.fullmatch(r"[a-z]+(-[a-z]+)*", word) or not help_of(*known, word):
                break
            known.append(word)
        options = re.findall(r"(?<!\S)--[a-z][a-z-]*", " ".join(words))
        said = help_of(*known)
        if len(words) > 1 and len(known) == 1 and not words[1].startswith("-"):
            unknown.append(" ".join(words))
        unknown += [f"{' '.join(known)} {option}" for option in options if option not in said]
    assert not unknown
