"""Is it Linux, in the corners? Hand-written programs with what Linux 6.18 answered, all of them.

Merging and what prevents it, every limit at its boundary and a page beyond, the order of checks,
and what LTP and the kernel's selftests of mm look at. They are in the repository (tests/data), so
that this needs no corpus from outside.
"""

from pathlib import Path

import pytest

from contigmm.validate.oracle_files import read_programs, run_line

DATA = Path(__file__).parents[1] / "data/oracle"
CASES = list(read_programs(DATA / "cases.jsonl.gz"))
SHMEM = list(read_programs(DATA / "shmem.jsonl.gz"))


@pytest.mark.parametrize("part", range(8))
def test_every_case_agrees_with_the_kernel(part):
    lines = CASES[part::8]
    compared = [comparison for line in lines if (comparison := run_line(line)[2]) is not None]
    assert len(compared) == len(lines) >= 40
    assert not [comparison.first for comparison in compared if comparison.first]


@pytest.mark.parametrize("part", range(4))
def test_huge_pages_of_shared_memory_agree_with_the_kernel_in_every_mode(part):
    compared = [run_line(line)[2] for line in SHMEM[part::4]]
    assert len(compared) >= 60
    assert not [comparison.first for comparison in compared if comparison.first]
