"""Bearer tokens: a file that holds their hashes, and the one way to change it.

A token is ``cmm_ID_SECRET``. ID is public and finds the entry. Of SECRET, 256 bits from the
system's generator, only the SHA-256 is kept: a slow hash guards secrets that can be guessed.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from contigmm import foreign_json
from contigmm.errors import ContigmmError
from contigmm_server.doors.caller import Role

FORMAT: Final = 1
TENANT: Final = re.compile(r"[a-z0-9-]{1,63}")
_TOKEN: Final = re.compile(r"cmm_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


class TokenError(ContigmmError, ValueError):
    """The file of tokens cannot be used, or has no such token."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token."""

    id: str
    sha256: str
    """Of the secret, in hexadecimal."""
    tenant: str
    role: str
    """A name of :class:`Role`."""
    created: str
    expires: str | None
    """Both in UTC by ISO 8601."""

    @property
    def expires_s(self) -> float:
        """Seconds since 1970 from which it is void."""
        return float("inf") if self.expires is None else _seconds(self.expires)

    def check(self) -> None:
        """Hold every field.

        Raises:
            ValueError: One is not of its kind.
        """
        if TENANT.fullmatch(self.tenant) is None or self.role not in Role.__members__:
            raise ValueError("no such tenant or role")
        if re.fullmatch("[0-9a-f]{16}", self.id) is None:
            raise ValueError("no id of a token")
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise ValueError("no hash of a token")
        _seconds(self.created)
        if self.expires is not None:
            _seconds(self.expires)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def now_s() -> float:
    """Seconds since 1970: the one clock that tokens expire by."""
    return datetime.now(UTC).timestamp()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def read(path: Path) -> dict[str, Token]:
    """Every token of a file, by id.

    Raises:
        TokenError: It cannot be read or is damaged.
    """
    try:
        facts: Any = foreign_json.loads(path.read_bytes())
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise ValueError("it has another format")
        tokens = [Token(**row) for row in facts["tokens"]]
        for token in tokens:
            token.check()
    except OSError as error:
        raise TokenError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise TokenError(f"{path} is no file of tokens: {error}") from error
    return {token.id: token for token in tokens}


def split(text: str) -> tuple[str, str] | None:
    """Id and hashed secret of a token as a client sends it; nothing: it has not that form."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        return None
    return match[1], _hash(match[2])


def same(token: Token, sha256: str) -> bool:
    """Whether this is the token, in a time that tells nothing."""
    return hmac.compare_digest(token.sha256, sha256)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


# ---- changing the file ----


def create(path: Path, *, tenant: str, role: Role, expires_in_s: float | None) -> str:
    """Enter a new token and give it; nobody can read it again.

    Raises:
        TokenError: The file cannot be used, or this is no name of a tenant.
    """
    if TENANT.fullmatch(tenant) is None:
        raise TokenError(f"{tenant!r} is no name of a tenant: 1 to 63 of a-z, 0-9 and '-'")
    secret, created_s = secrets.token_urlsafe(32), now_s()
    expires = None if expires_in_s is None else _moment(created_s + expires_in_s)
    token = Token(
        secrets.token_hex(8), _hash(secret), tenant, role.name, _moment(created_s), expires
    )
    with _changing(path) as tokens:
        tokens[token.id] = token
    return f"cmm_{token.id}_{secret}"


def rotate(path: Path, token_id: str) -> str:
    """Give a token a new secret, and give it; the old one is void.

    Raises:
        TokenError: There is no such token, or the file cannot be used.
    """
    secret = secrets.token_urlsafe(32)
    _edit(path, token_id, lambda token: replace(token, sha256=_hash(secret)))
    return f"cmm_{token_id}_{secret}"


def revoke(path: Path, token_id: str) -> None:
    """Take a token out.

    Raises:
        TokenError: There is no such token, or the file cannot be used.
    """
    _edit(path, token_id, lambda _: None)


def _edit(path: Path, token_id: str, change: Callable[[Token], Token | None]) -> None:
    with _changing(path) as tokens:
        token = tokens.pop(token_id, None)
        if token is None:
            raise TokenError(f"{path} has no token {token_id!r}")
        changed = change(token)
        if changed is not None:
            tokens[token_id] = changed


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Token]]:
    """The tokens of a file to change, alone; the file is replaced whole when the block ends."""
    try:
        with (path.parent / f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = read(path) if path.exists() else {}
            yield tokens
            rows = [asdict(token) for token in tokens.values()]
            fresh = path.with_name(f".{path.name}.new")
            fresh.unlink(missing_ok=True)
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump({"format": FORMAT, "tokens": rows}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
    except OSError as error:
        raise TokenError(f"{path} cannot be changed: {error.strerror}") from error
