"""Does a real program's log replay to the same results and the same mappings?"""

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from contigmm.hosts.maps_blocks import read_maps_blocks
from contigmm.hosts.source_error import SourceError
from contigmm.hosts.strace_log import parse_strace, read_strace
from contigmm.mm.config import MmConfig
from contigmm.phys import Memory
from contigmm.validate.strace_replay import Replay, ReplayReport
from contigmm.validate.strace_report import find_log, find_logs, log_report, replay_files

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests/data/strace"
RECORDED = Path(os.environ.get("CONTIGMM_STRACE", ROOT.parent / "shared/oracle/data/strace/dev"))


def config() -> MmConfig:
    pages = 1 << 20
    zone = {"node": 0, "kind": "Normal", "start_pfn": 0, "spanned": pages, "managed": pages}
    memory = Memory.boot(json.dumps({"seed": 1, "nr_cpus": 1, "zones": [zone]}))
    return MmConfig(memory, profile="linux", total_ram_pages=16 << 20)


def lines_of(name: str) -> list[str]:
    with gzip.open(OWN / f"{name}.log.gz", "rt") as text:
        return text.read().splitlines()


def replayed(lines: list[str], *, blocks: bool = True) -> ReplayReport:
    maps = read_maps_blocks(OWN / "mixed.maps.gz") if blocks else []
    return Replay(config(), parse_strace(lines), maps).run()


def test_threads_a_fork_and_an_end_replay_to_equal_maps():
    report = replay_files(find_log(OWN / "mixed"))
    assert not report.mismatches
    assert [verdict.event for verdict in report.verdicts] == ["fork", "exit", "exit"]
    assert not [verdict.difference for verdict in report.verdicts if verdict.difference]
    assert report.reordered, "the log has calls of threads that ended in another order"


def test_calls_that_overlapped_are_put_in_the_order_that_their_addresses_tell(monkeypatch):
    monkeypatch.setattr(Replay, "_run_earlier_ones", lambda *_: None)
    assert replayed(lines_of("mixed")).mismatches


def test_what_may_be_written_is_taken_as_written_and_then_merges_with_one_side_only():
    fixed = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED, -1, 0)"
    report = replayed(
        [f"1 mmap({at:#x}, 4096, {fixed} = {at:#x}" for at in (0x100000, 0x102000, 0x101000)]
        + ["1 +++ exited with 0 +++"],
        blocks=False,
    )
    (end,) = report.forecasts
    assert end.result == ["100000-102000 rw-p 0", "102000-103000 rw-p 0"]


ANON = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED, -1, 0)"


def ends_with(*calls):
    """The mappings at the end of a program of these calls."""
    report = replayed([f"1 {call}" for call in (*calls, "+++ exited with 0 +++")], blocks=False)
    assert not report.mismatches
    return report.forecasts[0].result


@pytest.mark.parametrize(
    ("between", "ends"),
    [
        ((), ["100000-102000 rw-p 0"]),
        (("munmap(0x300000, 4096) = 0",), ["100000-101000 rw-p 0", "101000-102000 rw-p 0"]),
    ],
)
def test_memory_advised_at_once_for_pages_to_come_is_not_yet_written(between, ends):
    calls = [
        call
        for at in (0x100000, 0x101000)
        for call in (
            f"mmap({at:#x}, 4096, {ANON} = {at:#x}",
            *between,
            f"madvise({at:#x}, 4096, MADV_NOHUGEPAGE) = 0",
        )
    ]
    assert ends_with(*calls) == ends


def test_what_a_loader_maps_behind_data_is_written_once_it_is_done():
    loading = (
        "mmap(0x100000, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED, 3, 0) = 0x100000",
        f"mmap(0x101000, 4096, {ANON} = 0x101000",
        f"mmap(0x103000, 4096, {ANON} = 0x103000",
        "mprotect(0x200000, 4096, PROT_READ) = -1 ENOMEM (Cannot allocate memory)",
    )
    between = f"mmap(0x102000, 4096, {ANON} = 0x102000"
    assert ends_with(*loading, between)[1:] == ["101000-104000 rw-p 0"]
    done = "munmap(0x300000, 4096) = 0"
    apart = ["101000-103000 rw-p 0", "103000-104000 rw-p 0"]
    assert ends_with(*loading, done, between)[1:] == apart


def test_a_wrong_result_is_one_difference_with_its_line():
    lines = lines_of("mixed")
    number = next(
        i for i, line in enumerate(lines) if "mmap(NULL, 38143" in line or "mmap(NULL, 3" in line
    )
    head, tail = lines[number].rsplit(" = ", 1)
    address, rest = tail.split(" ", 1)
    lines[number] = f"{head} = {int(address, 16) - 0x10000:#x} {rest}"
    report = replayed(lines)
    assert report.mismatches[0].line == number + 1


def test_a_log_without_results_gives_the_same_results_and_mappings():
    told = lines_of("pipeline")
    lines = [line if "brk(NULL)" in line else line.rsplit(" = ", 1)[0] for line in told]
    blocks = read_maps_blocks(OWN / "pipeline.maps.gz")
    report = Replay(config(), parse_strace(lines), blocks).run()
    assert len(report.verdicts) == len([b for b in blocks if b.event != "exec"])
    assert not [verdict.difference for verdict in report.verdicts if verdict.difference]
    results = {
        number: line.rsplit(" = ", 1)[1].split(" ")[0]
        for number, line in enumerate(told, start=1)
        if " = " in line
    }
    assert len(report.forecasts) > 70
    assert [f for f in report.forecasts if f.result != results[f.line]] == []


def test_a_log_without_ends_forecasts_the_mappings_of_each_end():
    maps = [block for block in read_maps_blocks(OWN / "mixed.maps.gz") if block.event == "exec"]
    report = Replay(config(), parse_strace(lines_of("mixed")), maps).run()
    assert [forecast.what for forecast in report.forecasts] == ["exit", "exit"]
    real = [b for b in read_maps_blocks(OWN / "mixed.maps.gz") if b.event == "exit"][-1]
    ours = report.forecasts[-1].result
    assert [line.split()[:2] for line in ours] == [
        [f"{line.start:x}-{line.end:x}", line.perms] for line in real.maps
    ]


def test_a_log_without_maps_is_learned_from_what_it_does():
    report = replay_files(find_log(OWN / "unfinished.log.gz"))
    assert not report.mismatches
    assert any("learned" in remark.sentence for remark in report.remarks)


def test_a_process_met_in_mid_life_is_learned():
    lines = [line for line in lines_of("unfinished") if "execve" not in line][40:]
    report = replayed(lines, blocks=False)
    assert any("mid-life" in remark.sentence for remark in report.remarks)
    assert not report.mismatches
    assert 0 < report.unchecked < report.calls


def test_an_unknown_call_and_a_word_unknown_here_are_remarks():
    report = replayed(
        [
            "1 shmat(0, NULL, 0) = 0x7000",
            "1 mmap(NULL, 4096, PROT_ODD, MAP_PRIVATE, 3, 0) = 0x1000",
        ],
        blocks=False,
    )
    assert [remark.line for remark in report.remarks] == [1, 2]


def test_no_damage_to_a_log_stops_the_replay():
    draw = random.Random(7)
    lines = lines_of("mixed")
    for _ in range(60):
        damaged = list(lines)
        for _ in range(8):
            at = draw.randrange(len(damaged))
            letters = list(damaged[at])
            for _ in range(draw.randrange(1, 5)):
                letters[draw.randrange(len(letters))] = draw.choice("()<>=,0x9f|-? NULL7")
            damaged[at] = "".join(letters)
        del damaged[draw.randrange(len(damaged))]
        replayed(damaged)


def test_what_is_no_log_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(SourceError, match="there is no log"):
        find_log(tmp_path / "nothing")
    (tmp_path / "a.log").write_text("no\nlog\n")
    with pytest.raises(SourceError, match="no line of it"):
        read_strace(tmp_path / "a.log")
    (tmp_path / "a.log.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(SourceError, match="gzip"):
        read_strace(tmp_path / "a.log.gz")


def test_recorded_programs_agree_in_results_and_mappings():
    if not RECORDED.is_dir():
        pytest.skip(f"no recorded logs at {RECORDED}; CONTIGMM_STRACE may name them")
    logs = [log_report(files.name, replay_files(files)) for files in find_logs([RECORDED])]
    assert len(logs) >= 20
    assert not [log["name"] for log in logs if log["result_mismatches"]]
    assert not [log["name"] for log in logs if log["blocks"] != log["blocks_equal"]]
