"""The file that names tenants: their quotas, and the certificates that they come with."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from contigmm.errors import ContigmmError
from contigmm_server.doors.caller import Role
from contigmm_server.doors.tokens import TENANT


class TenantsError(ContigmmError, ValueError):
    """The file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """The most that a tenant may have; ``None`` is no bound but the server's own."""

    machines: int | None = None
    """Machines that it owns."""
    frames: int | None = None
    """Frames of all of them, whether touched or not."""
    processes: int | None = None
    """Live processes in all of them."""
    vmas: int | None = None
    """Mappings of all these processes."""
    streams: int | None = None
    """Streaming calls in progress."""
    calls_per_s: int | None = None
    """Calls begun and messages on streams, a second; as many at once."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """All that the file says."""

    quotas: dict[str, Quotas] = field(default_factory=dict)
    others: Quotas = Quotas()
    """Of tenants that are not named."""
    certificates: dict[str, tuple[str, Role]] = field(default_factory=dict)
    """Tenant and role by the common name of a client's certificate."""

    def of(self, tenant: str) -> Quotas:
        """The quotas of one tenant."""
        return self.quotas.get(tenant, self.others)


_NAMES: Final = {entry.name for entry in fields(Quotas)}
_MOST: Final = 2**63 - 1


def read(path: Path) -> Tenants:
    """Read a file of tenants: TOML, see docs/security.md.

    Raises:
        TenantsError: It cannot be read, or says what cannot be meant.
    """
    try:
        facts = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TenantsError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TenantsError(f"{path} is no TOML: {error}") from error
    try:
        return _tenants(facts)
    except ValueError as error:
        raise TenantsError(f"{path}: {error}") from error


def _tenants(facts: dict[str, Any]) -> Tenants:
    for name in facts:
        if name not in ("tenants", "others", "certificates"):
            raise ValueError(f"{name!r} is none of tenants, others and certificates")
    named = _table(facts.get("tenants", {}), "tenants")
    certificates = facts.get("certificates", [])
    if not isinstance(certificates, list):
        raise ValueError("certificates is a list of tables: [[certificates]]")
    return Tenants(
        quotas={_tenant(name): _quotas(table, f"tenants.{name}") for name, table in named.items()},
        others=_quotas(facts.get("others", {}), "others"),
        certificates=dict(_certificate(row) for row in certificates),
    )


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a table")
    return value


def _tenant(name: Any) -> str:
    if not isinstance(name, str) or TENANT.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a tenant: 1 to 63 of a-z, 0-9 and '-'")
    return name


def _quotas(value: Any, where: str) -> Quotas:
    table = _table(value, where)
    for name, bound in table.items():
        if name not in _NAMES:
            raise ValueError(f"{where}.{name} is none of {', '.join(sorted(_NAMES))}")
        if type(bound) is not int or not 0 <= bound <= _MOST:
            raise ValueError(f"{where}.{name} is a whole number from 0 on, not {bound!r}")
    return Quotas(**table)


def _certificate(value: Any) -> tuple[str, tuple[str, Role]]:
    row = _table(value, "certificates")
    if set(row) != {"common_name", "tenant", "role"}:
        raise ValueError("a certificate has common_name, tenant and role, and nothing else")
    name, role = row["common_name"], str(row["role"]).upper()
    if not isinstance(name, str) or not name:
        raise ValueError("certificates.common_name is a text")
    if role not in Role.__members__:
        raise ValueError(f"certificates.role is reader, user or admin, not {row['role']!r}")
    return name, (_tenant(row["tenant"]), Role[role])
