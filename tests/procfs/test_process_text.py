"""Texts of a process: what the kernel printed, read and printed again, is the same bytes.

``golden/``: /proc/PID of ``sleep`` on a 6.18.44 x86-64 kernel, 2026-11-23.
"""

import re
from pathlib import Path

import pytest

from contigmm.procfs import process

GOLDEN = Path(__file__).parent / "golden"


def read_maps_line(line):
    fields = re.match(
        r"(\w+)-(\w+) (\S+) (\w+) (\w+):(\w+) (\d+) *(.*)$", line.rstrip("\n")
    ).groups()
    start, end, offset, major, minor = (int(fields[i], 16) for i in (0, 1, 3, 4, 5))
    return process.MapsRow(start, end, fields[2], offset, major, minor, int(fields[6]), fields[7])


def read_smaps(text):
    rows = []
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text)[1:]:
        head, *lines = part.splitlines()
        numbers = {k: int(v) for k, v in re.findall(r"(?m)^(\w+): +(\d+) kB$", "\n".join(lines))}
        eligible = re.search(r"THPeligible: +(\d)", part).group(1) == "1"
        letters = re.search(r"(?m)^VmFlags: (.*) $", part).group(1)
        rows.append(process.SmapsRow(read_maps_line(head), numbers, eligible, letters))
    return rows


@pytest.fixture(params=["golden", "running kernel"])
def proc(request):
    if request.param == "golden":
        return lambda name: (GOLDEN / f"6.18.44-{name}.txt").read_text()
    if not Path("/proc/self/smaps").exists():
        pytest.skip("no Linux /proc here")
    return lambda name: Path("/proc/self", name).read_text()


def test_maps_is_the_kernels_byte_for_byte(proc):
    text = proc("maps")
    assert process.maps_text(read_maps_line(line) for line in text.splitlines()) == text


def test_smaps_is_the_kernels_byte_for_byte(proc):
    text = proc("smaps")
    if "FilePmdMapped" not in text or "ProtectionKey" in text:
        pytest.skip("this host's kernel prints other lines")
    assert process.smaps_text(read_smaps(text)) == text


def test_the_memory_lines_of_status_are_the_kernels_byte_for_byte(proc):
    lines = re.findall(r"(?m)^(?:Vm|Rss|Huge)\w+:.*\n", proc("status"))
    numbers = {k: int(v) for k, v in re.findall(r"(?m)^(\w+):\t +(\d+) kB$", "".join(lines))}
    assert process.status_text(numbers) == "".join(lines)


def test_statm_is_the_kernels_byte_for_byte(proc):
    text = proc("statm")
    size, resident, shared, code, _, data, _ = map(int, text.split())
    ours = process.statm_text(size=size, resident=resident, shared=shared, text=code, data=data)
    assert ours == text


def test_a_number_that_fills_its_column_pushes_no_label():
    row = read_smaps((GOLDEN / "6.18.44-smaps.txt").read_text())[0]
    wide = process.SmapsRow(row.maps, {"Private_Hugetlb": 12345678, "Rss": 123456789}, False, "rd")
    text = process.smaps_text([wide])
    assert "Private_Hugetlb: 12345678 kB\n" in text
    assert "Rss:            123456789 kB\n" in text


def test_smaps_rollup_is_the_kernels_byte_for_byte(proc):
    text = proc("smaps_rollup")
    if "FilePmdMapped" not in text:
        pytest.skip("this host's kernel prints other lines")
    head, *_ = text.splitlines(keepends=True)
    numbers = {k: int(v) for k, v in re.findall(r"(?m)^(\w+): +(\d+) kB$", text)}
    assert process.smaps_rollup_text([read_maps_line(head)], numbers) == text
