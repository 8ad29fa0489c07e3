"""Which role each method takes. One that is not named takes the highest."""

from typing import Final

from contigmm_server.doors.caller import Role

_READERS: Final = (
    *("MachineService/GetServer", "MachineService/GetMachine", "MachineService/ListMachines"),
    *("MachineService/CheckMachine", "MachineService/SnapshotMachine"),
    *("MachineService/ListGrants", "ProcessService/GetProcess", "ProcessService/ListProcesses"),
    *("ViewService/ReadProcessFile", "ViewService/ReadMachineFile", "ViewService/ReadPagemaps"),
    *("ViewService/ReadFrames", "ViewService/ReadFreeBlocks", "ViewService/GetBuddyinfo"),
    *("ViewService/GetCounters", "ViewService/WatchMachine"),
)
_USERS: Final = (
    *("MachineService/CreateMachine", "MachineService/UploadMachine"),
    *("MachineService/RestoreMachine", "MachineService/DeleteMachine"),
    *("MachineService/AdvanceClock", "ProcessService/SpawnProcess", "ProcessService/ForkProcess"),
    *("ProcessService/ExitProcess", "ProcessService/RenewLease", "BatchService/RunBatch"),
    *("BatchService/RunColumns", "BatchService/Operate", "ReplayService/ReplayKmem"),
    *("MemoryService/Mmap", "MemoryService/Munmap", "MemoryService/Mprotect"),
    *("MemoryService/Mlock", "MemoryService/Munlock", "MemoryService/Touch"),
    *("MemoryService/Read", "MemoryService/Write"),
)
_ADMINS: Final = ("MachineService/GrantMachine", "MachineService/RevokeGrant")

_PACKAGE: Final = "/contigmm.v1."
NEEDS: Final = {
    f"{_PACKAGE}{method}": role
    for role, methods in ((Role.READER, _READERS), (Role.USER, _USERS), (Role.ADMIN, _ADMINS))
    for method in methods
} | {
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": Role.READER
    for version in ("v1", "v1alpha")
}

NOBODY_ASKED: Final = frozenset(
    {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"}
)
"""Whoever watches over a server need not be known to it."""

RECORDED: Final = frozenset(
    f"{_PACKAGE}MachineService/{name}"
    for name in ("CreateMachine", "DeleteMachine", "GrantMachine", "RevokeGrant")
)
"""What the audit log tells beside uploads and refusals."""


def needs(method: str) -> Role:
    """The role that a method takes."""
    return NEEDS.get(method, Role.ADMIN)
