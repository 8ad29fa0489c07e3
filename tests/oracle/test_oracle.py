"""Is it Linux? A slice of the recorded programs, operation by operation.

Everything agrees but what is named here, on the real core and on the page-at-a-time model: where
only one of the two parts, it is physical memory, where both do, the system calls.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from contigmm.hosts.source_error import SourceError
from contigmm.validate.oracle import run_program
from contigmm.validate.oracle_compare import compare
from contigmm.validate.oracle_files import read_programs, run_line

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(os.environ.get("CONTIGMM_ORACLE", ROOT.parent / "shared/oracle/data/dev"))
sys.path.insert(0, str(ROOT / "tests/mm"))

#: Programs that part, and why (docs/fidelity.md).
KNOWN = {
    "basic-326-mremap-vdso": "it reads the code of the vDSO",
}
CLASSES = [
    "basic", "file-backed", "fork-cow", "growsdown-stack", "limits", "locking", "madvise-heavy",
    "mremap-heavy", "random-hintless", "random-small",
]  # fmt: skip


def programs(kind: str) -> list[str]:
    """All of basic, a hundred of each other class, spread over the file."""
    path = CORPUS / f"{kind}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the oracle's corpus is not at {CORPUS}; CONTIGMM_ORACLE may name it")
    lines = list(read_programs(path))
    return lines if kind == "basic" else lines[:: max(1, len(lines) // 100)]


@pytest.mark.parametrize("kind", CLASSES)
def test_the_system_calls_agree_with_the_kernel(kind):
    from page_model import ModelIndex, ModelMemory

    parted = []
    for line in programs(kind):
        program = json.loads(line)
        memory = ModelMemory()
        difference = compare(program, run_program(program, memory, ModelIndex)).first
        if difference and program["id"] not in KNOWN:
            parted.append(difference)
    assert not parted


@pytest.mark.parametrize("kind", CLASSES)
def test_the_core_agrees_with_the_kernel(kind):
    compared = [comparison for line in programs(kind) if (comparison := run_line(line)[2])]
    parted = [comparison.first for comparison in compared if comparison.first]
    assert len(compared) >= 100
    assert not [difference for difference in parted if difference.split()[0] not in KNOWN]


def test_a_program_without_its_truth_still_runs():
    line = programs("basic")[100]
    program = json.loads(line)
    with_truth = run_line(line)
    for key in ("truth", "final"):
        del program[key]
    without = run_line(json.dumps(program))
    assert without[1] == with_truth[1]
    assert without[2] is None


def test_a_wrong_answer_is_noticed():
    program = json.loads(programs("basic")[0])
    result = json.loads(run_line(json.dumps(program))[1])
    assert compare(program, result).first == ""
    result["truth"][0] = {"ret": 1}
    assert "operation 0" in compare(program, result).first


@pytest.mark.parametrize(
    "line", ["[", "7", "{}", '{"id": "x"}', '{"ops": []}', '{"id": "x", "ops": [1]}']
)
def test_a_line_that_is_no_program_is_named(tmp_path, line):
    path = tmp_path / "programs.jsonl"
    path.write_text('{"id": "x", "ops": []}\n\n' + line + "\n")
    with pytest.raises(SourceError, match=r"programs\.jsonl:3: it is no "):
        list(read_programs(path))
