"""Quotas: what a tenant's machines, processes, mappings, streams and calls may come to.

Processes and mappings are charged to the owner of the machine. They are counted when a bound comes
near, not at each command: between two counts an operation is taken to add what it can add at
most, and a fork the mappings of the largest process.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc

from contigmm.sim.operation import Call, Operation
from contigmm_server.doors.tenants import Quotas, Tenants
from contigmm_server.failures import ErrorReason, ServiceError

_BIRTHS: Final = frozenset({Call.SPAWN, Call.FORK})
_VMAS: Final[dict[int, int]] = {
    Call.MMAP: 2,
    Call.MPROTECT: 2,
    Call.MLOCK: 2,
    Call.MUNLOCK: 2,
    Call.MUNMAP: 1,
}
"""Mappings that a call adds at most: one inside another parts it in three, a hole in two."""


def reached(quota: str, limit: int) -> ServiceError:
    """A quota of a tenant is reached."""
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_QUOTA_REACHED,
        f"the tenant's quota of {limit} {quota} is reached",
        {"quota": quota, "limit": str(limit)},
    )


class Census:
    """Processes and mappings of one machine: never fewer than these."""

    def __init__(self, machine: Any) -> None:
        """Count those of ``machine``."""
        self._machine = machine
        self.count()

    def count(self) -> None:
        """Count anew, within a turn of the machine."""
        machine = self._machine
        entries = [machine.entry(process.id) for process in machine.processes()]
        mappings = [entry.task.mm.map_count for entry in entries if not entry.background]
        self.processes = len(mappings)
        self.vmas = sum(mappings)
        self._largest = max(mappings, default=0)

    def growth(self, operations: Sequence[Operation]) -> tuple[int, int]:
        """The most processes and mappings that a command can add."""
        births = sum(1 for operation in operations if operation.call in _BIRTHS)
        vmas = sum(_VMAS.get(operation.call, 0) for operation in operations)
        return births, vmas + births * (self._largest + vmas + 1)

    def add(self, births: int, vmas: int) -> None:
        """Note what a command may have added."""
        self.processes += births
        self.vmas += vmas
        self._largest += vmas


class Allowance:
    """What one tenant has, beside what it may have."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.machines: dict[str, int] = {}
        """Frames of each, also of those that are being made."""
        self.censuses: dict[str, Census] = {}
        self.streams = 0
        self._tokens = float(quotas.calls_per_s or 0)
        self._filled_s = 0.0

    # ---- machines ----

    def reserve(self, name: str, frames: int) -> None:
        """Let a machine be made.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, a quota is reached.
        """
        machines, most = {**self.machines, name: frames}, self.quotas
        if most.machines is not None and len(machines) > most.machines:
            raise reached("machines", most.machines)
        if most.frames is not None and sum(machines.values()) > most.frames:
            raise reached("frames", most.frames)
        self.machines = machines

    def check_machine(self, machine: Any) -> None:
        """Let a machine be entered with the processes and mappings that it has.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, with them a quota is passed.
        """
        if self.quotas.processes is None and self.quotas.vmas is None:
            return
        census = Census(machine)
        error = self._beyond(census.processes, census.vmas)
        if error is not None:
            raise error

    def enter(self, name: str, machine: Any) -> None:
        """Charge for a machine that is there."""
        self.machines[name] = nr_frames(machine)
        if self.quotas.processes is not None or self.quotas.vmas is not None:
            self.censuses[name] = Census(machine)

    def leave(self, name: str) -> None:
        """Charge no longer for a machine."""
        self.machines.pop(name, None)
        self.censuses.pop(name, None)

    def admit(self, name: str, operations: Sequence[Operation]) -> None:
        """Let a command run in machine ``name``, within its turn and before it is written down.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, it might lead beyond a quota.
        """
        own = self.censuses.get(name)
        if own is None:
            return
        births, vmas = own.growth(operations)
        if self._beyond(births, vmas) is not None:
            own.count()
            births, vmas = own.growth(operations)
            error = self._beyond(births, vmas)
            if error is not None:
                raise error
        own.add(births, vmas)

    def _beyond(self, births: int, vmas: int) -> ServiceError | None:
        most, censuses = self.quotas, self.censuses.values()
        processes = sum(one.processes for one in censuses) + births
        if births and most.processes is not None and processes > most.processes:
            return reached("processes", most.processes)
        if vmas and most.vmas is not None and sum(one.vmas for one in censuses) + vmas > most.vmas:
            return reached("vmas", most.vmas)
        return None

    # ---- calls ----

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Charge for a stream while it is open.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, there are enough.
        """
        most = self.quotas.streams
        if most is not None and self.streams >= most:
            raise reached("streams", most)
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    def call(self) -> None:
        """Charge for a call.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, it comes too soon.
        """
        rate = self.quotas.calls_per_s
        if rate is not None and self._wait_s(rate) > 0:
            raise reached("calls_per_s", rate)

    async def message(self) -> None:
        """Charge for a message on a stream, which is held up until there is room for it."""
        rate = self.quotas.calls_per_s
        if rate is None:
            return
        if rate == 0:
            raise reached("calls_per_s", rate)
        while (wait_s := self._wait_s(rate)) > 0:
            await asyncio.sleep(wait_s)

    def _wait_s(self, rate: int) -> float:
        """Take one from the bucket, or tell how long until it holds one."""
        if rate == 0:
            return 1.0
        now_s = asyncio.get_running_loop().time()
        self._tokens = min(rate, self._tokens + (now_s - self._filled_s) * rate)
        self._filled_s = now_s
        if self._tokens < 1:
            return (1 - self._tokens) / rate
        self._tokens -= 1
        return 0.0


def nr_frames(machine: Any) -> int:
    """Frames of a machine, touched or not."""
    return sum(zone.present for zone in machine.zones())


class Allowances:
    """The allowance of every tenant."""

    def __init__(self, tenants: Tenants | None = None) -> None:
        self._tenants = tenants or Tenants()
        self._all: dict[str, Allowance] = {}

    def of(self, tenant: str) -> Allowance:
        """The allowance of one tenant."""
        found = self._all.get(tenant)
        if found is None:
            found = self._all[tenant] = Allowance(self._tenants.of(tenant))
        return found

    def admission(self, owner: str, name: str) -> Callable[[Sequence[Operation]], None] | None:
        """What has to let each command of a machine pass; nothing: nothing is counted there."""
        allowance = self.of(owner)
        return None if name not in allowance.censuses else _Admission(allowance, name)


class _Admission:
    def __init__(self, allowance: Allowance, name: str) -> None:
        self._allowance = allowance
        self._name = name

    def __call__(self, operations: Sequence[Operation]) -> None:
        """Let a command pass: see :meth:`Allowance.admit`."""
        self._allowance.admit(self._name, operations)
