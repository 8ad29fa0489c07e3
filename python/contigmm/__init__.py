"""Linux physical memory around contiguous allocation, simulated.

The public names are here; what stands behind them is imported when it is first asked for.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from contigmm.abi import (
        MAP_ANONYMOUS,
        MAP_CONTIG,
        MAP_FIXED,
        MAP_LOCKED,
        MAP_POPULATE,
        MAP_PRIVATE,
        MAP_SHARED,
        PROT_EXEC,
        PROT_NONE,
        PROT_READ,
        PROT_WRITE,
    )
    from contigmm.description import MachineDescription
    from contigmm.errors import ContigmmError, MemoryFault, Reason, SyscallError
    from contigmm.hosts import describe, open_machine
    from contigmm.sim.machine import Machine, MachineStoppedError, NoSuchProcessError
    from contigmm.sim.operation import Answer, Call, ExitCause, Operation
    from contigmm.sim.process import Process
    from contigmm.sim.snapshot import SnapshotError

    __version__: str

__all__ = [
    "MAP_ANONYMOUS",
    "MAP_CONTIG",
    "MAP_FIXED",
    "MAP_LOCKED",
    "MAP_POPULATE",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_READ",
    "PROT_WRITE",
    "Answer",
    "Call",
    "ContigmmError",
    "ExitCause",
    "Machine",
    "MachineDescription",
    "MachineStoppedError",
    "MemoryFault",
    "NoSuchProcessError",
    "Operation",
    "Process",
    "Reason",
    "SnapshotError",
    "SyscallError",
    "describe",
    "open_machine",
]

_ROOMS: Final = {
    "MAP_ANONYMOUS": "contigmm.abi",
    "MAP_CONTIG": "contigmm.abi",
    "MAP_FIXED": "contigmm.abi",
    "MAP_LOCKED": "contigmm.abi",
    "MAP_POPULATE": "contigmm.abi",
    "MAP_PRIVATE": "contigmm.abi",
    "MAP_SHARED": "contigmm.abi",
    "PROT_EXEC": "contigmm.abi",
    "PROT_NONE": "contigmm.abi",
    "PROT_READ": "contigmm.abi",
    "PROT_WRITE": "contigmm.abi",
    "MachineDescription": "contigmm.description",
    "ContigmmError": "contigmm.errors",
    "MemoryFault": "contigmm.errors",
    "Reason": "contigmm.errors",
    "SyscallError": "contigmm.errors",
    "describe": "contigmm.hosts",
    "open_machine": "contigmm.hosts",
    "Machine": "contigmm.sim.machine",
    "MachineStoppedError": "contigmm.sim.machine",
    "NoSuchProcessError": "contigmm.sim.machine",
    "Answer": "contigmm.sim.operation",
    "Call": "contigmm.sim.operation",
    "ExitCause": "contigmm.sim.operation",
    "Operation": "contigmm.sim.operation",
    "Process": "contigmm.sim.process",
    "SnapshotError": "contigmm.sim.snapshot",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("contigmm")
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module 'contigmm' has no attribute {name!r}")
    return getattr(import_module(room), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
