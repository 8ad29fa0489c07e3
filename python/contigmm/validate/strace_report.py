"""``contigmm validate strace`` and ``contigmm replay strace``: logs in, agreement out."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from contigmm.hosts.maps_blocks import MapsBlock, read_maps_blocks
from contigmm.hosts.source_error import SourceError
from contigmm.hosts.strace_log import read_strace
from contigmm.mm.config import MmConfig
from contigmm.phys import Memory
from contigmm.validate.strace_replay import Replay, ReplayReport

#: 64 GiB on one node: no request of a log is refused for lack of frames.
_FRAMES: Final = 16 << 20
_SUFFIXES: Final = (".log.gz", ".log", ".maps.gz", ".maps")


@dataclass(slots=True, frozen=True)
class LogFiles:
    """A log and, where it was recorded with them, the blocks of maps beside it."""

    name: str
    log: Path
    maps: Path | None


def find_log(name: Path) -> LogFiles:
    """Find NAME.log or NAME.log.gz, and NAME.maps or NAME.maps.gz beside it.

    ``name`` may have any of these endings or none; any other file is taken for a log.

    Raises:
        SourceError: there is no log of that name.
    """
    stem = str(name)
    for suffix in _SUFFIXES:
        stem = stem.removesuffix(suffix)
    logs = [path for suffix in (".log.gz", ".log") if (path := Path(stem + suffix)).is_file()]
    if not logs and name.is_file():
        return LogFiles(name.name, name, None)
    if not logs:
        raise SourceError("there is no log NAME.log or NAME.log.gz of this name", name=str(name))
    maps = [path for suffix in (".maps.gz", ".maps") if (path := Path(stem + suffix)).is_file()]
    return LogFiles(Path(stem).name, logs[0], maps[0] if maps else None)


def find_logs(names: list[Path]) -> list[LogFiles]:
    """Find the logs of all ``names``; a directory stands for all logs in it.

    Raises:
        SourceError: there is no such log.
    """
    found: list[LogFiles] = []
    for name in names:
        if name.is_dir():
            inside = sorted(path for path in name.iterdir() if path.name.endswith(_SUFFIXES[:2]))
            found.extend(find_log(path) for path in inside)
        else:
            found.append(find_log(name))
    return found


def replay_files(files: LogFiles) -> ReplayReport:
    """Replay one log on a machine of its own.

    Raises:
        SourceError: the log or its blocks cannot be read.
        OSError: a file cannot be opened.
    """
    zone = {"node": 0, "kind": "Normal", "start_pfn": 0, "spanned": _FRAMES, "managed": _FRAMES}
    memory = Memory.boot(json.dumps({"seed": 1, "nr_cpus": 2, "zones": [zone]}))
    config = MmConfig(memory, profile="linux", total_ram_pages=_FRAMES)
    blocks: list[MapsBlock] = [] if files.maps is None else read_maps_blocks(files.maps)
    return Replay(config, read_strace(files.log), blocks).run()


def log_report(name: str, report: ReplayReport) -> dict[str, Any]:
    """Return what ``--json`` prints of one log."""
    differing = [verdict for verdict in report.verdicts if verdict.difference]
    first = [str(mismatch) for mismatch in report.mismatches[:1]]
    first += [
        f"pid {verdict.pid} at its {verdict.event}, after line {verdict.log_lines}: "
        f"{verdict.difference}"
        for verdict in differing[:1]
    ]
    return {
        "name": name,
        "calls": report.calls,
        "result_mismatches": len(report.mismatches),
        "unchecked": report.unchecked,
        "reordered": report.reordered,
        "blocks": len(report.verdicts),
        "blocks_equal": len(report.verdicts) - len(differing),
        "first_difference": "; ".join(first),
        "mismatches": [asdict(mismatch) for mismatch in report.mismatches],
        "explained": [asdict(verdict) for verdict in report.verdicts if verdict.explanation],
        "unequal": [asdict(verdict) for verdict in differing],
        "forecasts": [asdict(forecast) for forecast in report.forecasts],
        "remarks": [asdict(remark) for remark in report.remarks],
    }


def validation(logs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the whole object: schema validate-strace/1."""
    return {"schema": "validate-strace/1", "contigmm": version("contigmm"), "logs": logs}


def summary(log: dict[str, Any]) -> str:
    """One line about a log, for a person."""
    text = f"{log['name']}: {log['calls']} calls, {log['result_mismatches']} with another result"
    if log["blocks"]:
        text += f"; {log['blocks_equal']} of {log['blocks']} maps blocks equal"
    if log["first_difference"]:
        text += f"; first difference: {log['first_difference']}"
    return text
