"""``contigmm journal show|verify|replay|export``: what the journal of a machine holds."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from contigmm.errors import ContigmmError
from contigmm_server.durable import kinds
from contigmm_server.durable.checkpoint import replayed
from contigmm_server.durable.disk import OsDisk
from contigmm_server.durable.segment import JournalError, Record, end_of
from contigmm_server.durable.store import MachineStore

SCHEMA: Final = "journal/1"
FAILED: Final = 1
UNUSABLE: Final = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contigmm journal",
        description="Look into the journal of one machine; no server may be writing it.",
    )
    commands = parser.add_subparsers(required=True)
    for name, run, told in (
        ("show", _show, "tell what is there: snapshot, segments, commands by kind"),
        ("verify", _verify, "read every record and hold its checksums"),
        ("replay", _replay, "repeat every command and tell position and digest of the machine"),
        ("export", _export, "print every command as one JSON object a line"),
    ):
        command = commands.add_parser(name, help=told, description=f"{told}.".capitalize())
        command.add_argument("path", metavar="DIR", type=Path, help="DIR/M of serve --data DIR")
        if name != "export":
            command.add_argument("--json", action="store_true", help="print one JSON object")
        command.set_defaults(run=run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give its exit status."""
    args = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace, MachineStore], None] = args.run
    try:
        run(args, MachineStore(args.path, OsDisk()))
    except OSError as error:
        sys.stderr.write(f"contigmm journal: {error}\n")
        return UNUSABLE
    except ContigmmError as error:
        sys.stderr.write(f"contigmm journal: {error}\n")
        return FAILED
    return 0


def _records(store: MachineStore) -> Iterator[tuple[int, Record]]:
    """Every record behind the newest snapshot, with the number of its segment.

    Raises:
        JournalError: A segment is missing or damaged.
    """
    for segment in store.segments(store.base):
        for record in segment.records:
            yield segment.index, record


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        facts = {"schema": SCHEMA, "contigmm": version("contigmm"), **facts}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    for name, value in facts.items():
        sys.stdout.write(f"{name.replace('_', ' '):10} {value}\n")


def _show(args: argparse.Namespace, store: MachineStore) -> None:
    counts: dict[str, int] = {}
    segments = []
    for segment in store.segments(store.base):
        if segment.header is not None:
            segments.append({"index": segment.index, "engine": segment.header.engine})
        for record in segment.records:
            what = _described(record)["what"]
            counts[what] = counts.get(what, 0) + 1
    size = store.file(store.base, "snapshot").stat().st_size
    snapshot = {"index": store.base, "bytes": size}
    facts = {"machine": store.machine_id, "snapshot": snapshot, "segments": segments}
    _print({**facts, "commands": counts}, args.json)


def _verify(args: argparse.Namespace, store: MachineStore) -> None:
    count = size = 0
    for _, record in _records(store):
        _described(record)
        count += 1
        size += len(record.body)
    _print({"commands": count, "bytes": size}, args.json)


def _replay(args: argparse.Namespace, store: MachineStore) -> None:
    _, replayer = asyncio.run(replayed(store))
    machine = replayer.hosted.machine
    machine.check()
    facts = {"commands": replayer.commands, "machine_seq": machine.seq}
    _print({**facts, "digest": machine.digest()}, args.json)


def _export(args: argparse.Namespace, store: MachineStore) -> None:
    for index, record in _records(store):
        place = {"segment": index, "offset": record.offset, "end": end_of(record)}
        row = {**place, "machine_seq": record.seq, **_described(record)}
        sys.stdout.write(json.dumps(row) + "\n")


def _described(record: Record) -> dict[str, Any]:
    try:
        return kinds.describe(record.kind, record.body)
    except (DecodeError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise JournalError(f"the record at byte {record.offset} cannot be read") from error


if __name__ == "__main__":
    sys.exit(main())
