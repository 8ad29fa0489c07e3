"""``contigmm capture``: this computer's memory in a file, to boot machines from anywhere."""

from pathlib import Path
from typing import Annotated

import typer


def capture(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the capture.")],
    note: Annotated[str, typer.Option(help="A remark to keep with it.")] = "",
) -> None:
    """Capture this computer's free lists, zones and page classes (root)."""
    from contigmm.hosts import take_capture

    nr_bytes = take_capture(path, note=note)
    print(f"{path}: {nr_bytes:,} bytes; boot it with --machine file:{path}")
