"""The machines of a server, by name."""

import asyncio
import gc
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from contigmm.sim.machine import Machine
from contigmm_server.doors.access import MAX_GRANTS, Access
from contigmm_server.doors.caller import ANYONE, CURRENT, Role
from contigmm_server.doors.quotas import Allowance, Allowances, nr_frames
from contigmm_server.failures import (
    ErrorReason,
    ServiceError,
    exhausted,
    not_found,
    role_too_low,
    shutting_down,
)
from contigmm_server.hosted import HostedMachine
from contigmm_server.limits import Limits
from contigmm_server.names import machine_name, split_process
from contigmm_server.replies import Replies

THREADS: Final = 16
_COLLECT_S: Final = 1.0
"""So long after a machine is gone its memory is looked for: it holds on to itself by its callbacks,
and the collector hardly ever runs unasked (``main._spare_the_collector``)."""

R = TypeVar("R", bound=Message)


class Keeping(Protocol):
    """What a registry asks of who keeps its machines on a disk."""

    @property
    def durability(self) -> str:
        """When a command is acknowledged: ``full``, ``group`` or ``none``."""

    async def keep(self, hosted: HostedMachine) -> None:
        """Keep a new machine, before anybody is told of it."""

    async def keep_access(self, hosted: HostedMachine, access: Access) -> None:
        """Keep whose a machine is and who else may use it."""

    async def remove(self, hosted: HostedMachine) -> None:
        """Keep a machine no longer."""

    async def close(self, hosted: HostedMachine) -> None:
        """Write down what there is, for the server ends."""


class Registry:
    """All machines that a server runs. Used on the event loop only."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.allowances = Allowances()
        self.owner = ""
        """Tenant that has the machines which nobody named an owner for."""
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="machine")
        self.keeper: Keeping | None = None
        """Keeps machines on a disk; absent: they are in memory only."""
        self.on_enter: list[Callable[[HostedMachine], None]] = []
        """Called with each machine that comes."""
        self.generation = 0
        """Changes whenever a machine comes or goes."""
        self._machines: dict[str, HostedMachine] = {}
        self._booting: set[str] = set()
        self._replies = Replies(limits)
        self._replying: dict[tuple[str, str], asyncio.Event] = {}
        self._streams: set[asyncio.Task[object]] = set()
        self.draining = False

    # ---- finding ----

    def machine(self, name: str) -> HostedMachine:
        """The machine of this name.

        Raises:
            ServiceError: NOT_FOUND, or INVALID_ARGUMENT for what is no name.
        """
        hosted = self._machines.get(name)
        caller = CURRENT.get()
        if caller is ANYONE and hosted is not None:
            return hosted
        role = None if hosted is None else hosted.access.role_of(caller)
        if hosted is None or role is None:
            machine_name(name.removeprefix("machines/"))
            raise not_found(
                ErrorReason.ERROR_REASON_NO_SUCH_MACHINE, f"{name[:80]!r} does not exist"
            )
        if role < caller.needs:
            raise role_too_low(
                f"this takes the role {caller.needs.name.lower()}, {name} is granted for "
                f"{role.name.lower()}"
            )
        return hosted

    def owned(self, name: str) -> HostedMachine:
        """The machine of this name, which the caller's tenant owns.

        Raises:
            ServiceError: As :meth:`machine`, or PERMISSION_DENIED: it is another's.
        """
        hosted, caller = self.machine(name), CURRENT.get()
        if not caller.everywhere and hosted.access.owner != caller.tenant:
            raise role_too_low(f"only the tenant that owns {name} may do this")
        return hosted

    def process(self, name: str) -> tuple[HostedMachine, int]:
        """The machine of a process, and the process's number; whether it lives is not asked.

        Raises:
            ServiceError: NOT_FOUND, or INVALID_ARGUMENT for what is no name.
        """
        machine, process = split_process(name)
        return self.machine(machine), process

    def seen(self) -> list[HostedMachine]:
        """All machines that the caller may look at, by name."""
        caller = CURRENT.get()
        return [hosted for hosted in self.machines() if hosted.access.role_of(caller) is not None]

    def machines(self) -> list[HostedMachine]:
        """All machines, by name."""
        return [self._machines[name] for name in sorted(self._machines)]

    def has(self, machine_id: str) -> bool:
        """Whether there is a machine of this id."""
        return f"machines/{machine_id}" in self._machines

    def __len__(self) -> int:
        return len(self._machines)

    # ---- coming and going ----

    async def boot(
        self, machine_id: str, make: Callable[[], Machine], *, frames: int = 1
    ) -> HostedMachine:
        """Make a machine in a thread and enter it under its name.

        Args:
            machine_id: M of machines/M; empty: one is drawn.
            make: Makes it.
            frames: How many it is known to have before it is made, at least.

        Raises:
            ServiceError: ALREADY_EXISTS, RESOURCE_EXHAUSTED, or what ``make`` raises.
        """
        self._check_open()
        name = machine_name(machine_id or f"m-{secrets.token_hex(4)}")
        owner = CURRENT.get().tenant or self.owner
        with self._reserved(name, owner, frames) as allowance:
            loop = asyncio.get_running_loop()
            machine = await loop.run_in_executor(self.executor, make)
            allowance.reserve(name, nr_frames(machine))
            allowance.check_machine(machine)
            hosted = HostedMachine(name, machine, self.limits, self.executor)
            hosted.access.owner = owner
            if self.keeper is not None:
                await self.keeper.keep(hosted)
            self._enter(hosted)
            self._hold(hosted)
        return hosted

    def enter(
        self, machine_id: str, machine: Machine, access: Access | None = None
    ) -> HostedMachine:
        """Enter a machine that is kept already."""
        hosted = HostedMachine(machine_name(machine_id), machine, self.limits, self.executor)
        if access is not None:
            hosted.access = access
        hosted.access.owner = hosted.access.owner or self.owner
        self._enter(hosted)
        return hosted

    def _enter(self, hosted: HostedMachine) -> None:
        self._machines[hosted.name] = hosted
        self.generation += 1
        self.allowances.of(hosted.access.owner).enter(hosted.name, hosted.machine)
        for tell in self.on_enter:
            tell(hosted)

    def hold_quotas(self) -> None:
        """Hold commands of all machines against quotas from now on: recovery repeats what was."""
        for hosted in self._machines.values():
            self._hold(hosted)

    def _hold(self, hosted: HostedMachine) -> None:
        hosted.admit = self.allowances.admission(hosted.access.owner, hosted.name)

    @contextmanager
    def _reserved(self, name: str, owner: str, frames: int) -> Iterator[Allowance]:
        if name in self._machines or name in self._booting:
            raise ServiceError(
                grpc.StatusCode.ALREADY_EXISTS,
                ErrorReason.ERROR_REASON_MACHINE_EXISTS,
                f"{name} exists",
            )
        if len(self._machines) + len(self._booting) >= self.limits.machines:
            raise exhausted(
                ErrorReason.ERROR_REASON_LIMIT_REACHED,
                f"this server runs at most {self.limits.machines} machines",
            )
        allowance = self.allowances.of(owner)
        allowance.reserve(name, frames)
        self._booting.add(name)
        try:
            yield allowance
        finally:
            self._booting.discard(name)
            if name not in self._machines:
                allowance.leave(name)

    @contextmanager
    def lent(self, frames: int) -> Iterator[None]:
        """Charge the caller for a memory that is no machine while it is used, as if it were one.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, there are enough, or a quota is reached.
        """
        self._check_open()
        name = f"lent/{secrets.token_hex(8)}"
        with self._reserved(name, CURRENT.get().tenant or self.owner, frames):
            yield

    async def change_grant(self, hosted: HostedMachine, tenant: str, role: Role | None) -> None:
        """Let a tenant use a machine, or, with no role, no longer; kept before it is told.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, there are enough; UNAVAILABLE, it cannot be kept.
        """
        async with hosted.granting:
            grants = {name: kept for name, kept in hosted.access.grants.items() if name != tenant}
            if role is not None:
                grants[tenant] = role
            if len(grants) > MAX_GRANTS:
                raise exhausted(
                    ErrorReason.ERROR_REASON_LIMIT_REACHED,
                    f"a machine has at most {MAX_GRANTS} grants",
                )
            access = Access(hosted.access.owner, grants)
            if self.keeper is not None:
                await self.keeper.keep_access(hosted, access)
            hosted.access = access

    async def remove(self, name: str) -> HostedMachine:
        """Take a machine out; who waits for it is still served.

        Raises:
            ServiceError: NOT_FOUND.
        """
        hosted = self.owned(name)
        del self._machines[name]
        self.allowances.of(hosted.access.owner).leave(name)
        self.generation += 1
        hosted.lifetimes.stop()
        if self.keeper is not None:
            await self.keeper.remove(hosted)
        asyncio.get_running_loop().call_later(_COLLECT_S, gc.collect)
        return hosted

    # ---- request ids of what concerns no one machine ----

    @asynccontextmanager
    async def answering(self, request: Any) -> AsyncIterator[None]:
        """Let requests with one id pass one after the other."""
        key = CURRENT.get().tenant, request.request_id
        while key in self._replying:
            await self._replying[key].wait()
        if not request.request_id:
            yield
            return
        done = self._replying[key] = asyncio.Event()
        try:
            yield
        finally:
            del self._replying[key]
            done.set()

    def recall(self, request: Any, kind: type[R]) -> R | None:
        """The first answer to this request, if it had one: see ``Replies.recall``."""
        key = CURRENT.get().tenant, request.request_id
        return self._replies.recall(key, request, kind) if key[1] else None

    def keep(self, request: Any, response: Message) -> None:
        """Remember an answer: see ``Replies.keep``."""
        key = CURRENT.get().tenant, request.request_id
        if key[1]:
            self._replies.keep(key, request, response)

    # ---- shutdown ----

    @contextmanager
    def idle_stream(self) -> Iterator[None]:
        """Mark a stream that waits for its client: shutdown need not wait for it.

        Raises:
            ServiceError: UNAVAILABLE, the server shuts down.
        """
        self._check_open()
        task = asyncio.current_task()
        assert task is not None, "a servicer runs in a task"
        self._streams.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self.draining and task.uncancel() == 0:
                raise shutting_down() from None
            raise
        finally:
            self._streams.discard(task)

    def _check_open(self) -> None:
        if self.draining:
            raise shutting_down()

    def drain(self) -> None:
        """Take nothing more on; end streams that wait for their clients."""
        self.draining = True
        for task in tuple(self._streams):
            task.cancel()
        for hosted in self.machines():
            hosted.lifetimes.stop()

    async def close(self) -> None:
        """Wait until every end that was ordered has come, and the threads have ended their work."""
        for hosted in self.machines():
            await hosted.settled()
            if self.keeper is not None:
                await self.keeper.close(hosted)
        self.executor.shutdown(wait=True)
