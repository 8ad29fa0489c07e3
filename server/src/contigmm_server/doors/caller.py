"""On whose behalf a call runs, as everything below the methods sees it."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Role(IntEnum):
    """What a tenant lets the holder of a token do; each may do what the one before it may."""

    READER = 1
    """Look at machines."""
    USER = 2
    """Make machines, and run unprivileged processes in them."""
    ADMIN = 3
    """Also run privileged processes, delete machines, and let other tenants in."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A tenant and a role."""

    tenant: str
    role: Role = Role.ADMIN
    needs: Role = Role.READER
    """What the method that was called takes."""
    everywhere: bool = False
    """Whether no machine is hidden from it: nobody is, when nobody is asked who he is."""


ANYONE: Final = Caller("", everywhere=True)
"""The one caller of a server without authentication, and of recovery."""

CURRENT: Final[ContextVar[Caller]] = ContextVar("caller", default=ANYONE)
"""The caller of this task. Each call has a task of its own."""
