"""Whose a machine is, and who else may use it."""

import json
from dataclasses import dataclass, field
from typing import Final

from contigmm import foreign_json
from contigmm_server.doors.caller import Caller, Role

FORMAT: Final = 1
MAX_GRANTS: Final = 1000


@dataclass(slots=True)
class Access:
    """Owner and grants of one machine."""

    owner: str = ""
    grants: dict[str, Role] = field(default_factory=dict)

    def role_of(self, caller: Caller) -> Role | None:
        """What ``caller`` may do here; nothing: the machine does not exist for it."""
        if caller.everywhere or caller.tenant == self.owner:
            return caller.role
        granted = self.grants.get(caller.tenant)
        return None if granted is None else min(granted, caller.role)

    def encode(self) -> bytes:
        """Write canonical JSON."""
        grants = {tenant: role.name for tenant, role in self.grants.items()}
        facts = {"format": FORMAT, "owner": self.owner, "grants": grants}
        return json.dumps(facts, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Access":
        """Read what :meth:`encode` wrote.

        Raises:
            ValueError: It is none, or of another format.
        """
        facts = foreign_json.loads(data)
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise ValueError("it has another format")
        try:
            grants = {str(tenant): Role[role] for tenant, role in facts["grants"].items()}
            return cls(str(facts["owner"]), grants)
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{error} is missing or unknown") from error
