"""Unpacking of captures and recordings: ``.tar.xz`` files of anyone, with a cap on their size."""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path
from typing import Final

from contigmm.hosts.source_error import SourceError

_MAX_UNPACKED: Final = 1 << 30


def read_members(path: Path) -> dict[str, bytes]:
    """Unpack every plain file of an archive, without writing anything.

    Raises:
        SourceError: it cannot be read, is no ``.tar.xz`` file, is cut off or unpacks to too much.
    """
    inflater = lzma.LZMADecompressor()
    try:
        plain = inflater.decompress(path.read_bytes(), _MAX_UNPACKED)
        if not inflater.eof:
            raise SourceError(
                f"it is cut off or has more than {_MAX_UNPACKED} bytes.", name=str(path)
            )
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            out = {}
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    out[member.name.removeprefix("./")] = file.read()
            return out
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise SourceError(
            f"it is no .tar.xz file, or damaged ({error}).", name=str(path)
        ) from error
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror}.", name=str(path)) from error
