"""Resource names: machines/M and machines/M/processes/P."""

import re
from functools import lru_cache

from contigmm_server.failures import ErrorReason, invalid

_MACHINE_ID = re.compile(r"[a-z0-9-]{1,63}")
_LAST_PROCESS = 2**63 - 1


def machine_name(machine_id: str) -> str:
    """The name of the machine ``machine_id``.

    Raises:
        ServiceError: INVALID_ARGUMENT, it is no id.
    """
    if _MACHINE_ID.fullmatch(machine_id) is None:
        raise invalid(
            ErrorReason.ERROR_REASON_MALFORMED_NAME,
            f"{machine_id[:80]!r} is no machine id: 1 to 63 of a-z, 0-9 and '-'",
        )
    return f"machines/{machine_id}"


def process_name(machine: str, process: int) -> str:
    """The name of process number ``process`` of ``machine``."""
    return f"{machine}/processes/{process}"


@lru_cache(maxsize=1 << 14)  # a client asks for the same processes again and again
def split_process(name: str) -> tuple[str, int]:
    """The machine's name and the process's number.

    Raises:
        ServiceError: INVALID_ARGUMENT, it is no name of a process.
    """
    machine, separator, digits = name.partition("/processes/")
    if not separator or not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        raise _malformed(name)
    process = int(digits)
    if process > _LAST_PROCESS or str(process) != digits:
        raise _malformed(name)
    return machine, process


def _malformed(name: str) -> Exception:
    return invalid(
        ErrorReason.ERROR_REASON_MALFORMED_NAME,
        f"{name[:200]!r} is no name of a process: machines/M/processes/P",
    )
