"""How a client comes in: the authority that it trusts, its own certificate, its token."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from contigmm.errors import ContigmmError

TLS_CA: Final = "CONTIGMM_TLS_CA"
TLS_CERT: Final = "CONTIGMM_TLS_CERT"
TLS_KEY: Final = "CONTIGMM_TLS_KEY"
TOKEN_FILE: Final = "CONTIGMM_TOKEN_FILE"
TOKEN: Final = "CONTIGMM_TOKEN"


class DoorError(ContigmmError):
    """A file that a connection needs cannot be read, or lacks its other half."""


@dataclass(frozen=True, slots=True)
class Door:
    """What a connection is made with; with nothing set it is plain and nameless."""

    tls_ca: bytes | None = None
    """Certificates in PEM; present: the connection is TLS, to a server that they vouch for."""
    tls_cert: bytes | None = None
    tls_key: bytes | None = None
    token: str | None = None

    @classmethod
    def of_files(
        cls,
        *,
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        token_file: Path | None = None,
    ) -> Self:
        """Read what is given.

        Raises:
            DoorError: A file cannot be read, or one of two that belong together is missing.
        """
        if (tls_cert is None) != (tls_key is None):
            raise DoorError("a client's certificate and its key are given together")
        if tls_cert is not None and tls_ca is None:
            raise DoorError("a client's certificate is of use with TLS only: name the authority")
        token = None if token_file is None else _read(token_file).decode(errors="replace").strip()
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise DoorError(f"{token_file} holds no token")
        ca, certificate, key = (
            None if path is None else _read(path) for path in (tls_ca, tls_cert, tls_key)
        )
        return cls(ca, certificate, key, token)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the files that variables name; ``CONTIGMM_TOKEN`` is a token itself.

        They are ``CONTIGMM_TLS_CA``, ``CONTIGMM_TLS_CERT``, ``CONTIGMM_TLS_KEY`` and
        ``CONTIGMM_TOKEN_FILE``.

        Raises:
            DoorError: As :meth:`of_files`.
        """
        paths = [
            Path(environment[name]) if environment.get(name) else None
            for name in (TLS_CA, TLS_CERT, TLS_KEY, TOKEN_FILE)
        ]
        door = cls.of_files(
            tls_ca=paths[0], tls_cert=paths[1], tls_key=paths[2], token_file=paths[3]
        )
        token = door.token or environment.get(TOKEN) or None
        return cls(door.tls_ca, door.tls_cert, door.tls_key, token)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What goes with every call."""
        return None if self.token is None else (("authorization", f"Bearer {self.token}"),)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DoorError(f"{path} cannot be read: {error.strerror}") from error
