"""Runs a load from the machine's boot to the report."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic_ns
from typing import Final

import numpy as np

from contigmm.client.aio import Client, Machine, connect
from contigmm.client.door import Door
from contigmm.client.failures import ServiceError
from contigmm.client.views import Pagemaps
from contigmm.description import MachineDescription
from contigmm.load.children import GeneratorProcess, own_server
from contigmm.load.contention import Contention, contention
from contigmm.load.effort import Effort
from contigmm.load.export import MAX_OPERATIONS, Export, Exported
from contigmm.load.fill import Filling, fresh_layout, prepare
from contigmm.load.fragmentation import PAGE_BYTES, Fragmentation
from contigmm.load.intervals import intervals
from contigmm.load.ownership import (
    Closing,
    FrameStates,
    Pfns,
    frames_of,
    frames_of_families,
    owned_twice,
)
from contigmm.load.parts import phase_results
from contigmm.load.pipe import (
    Assignment,
    Failed,
    Leave,
    Measure,
    Stop,
    Stopped,
    ToGenerator,
    Warmed,
)
from contigmm.load.process import LoadError
from contigmm.load.report import Integrity, Report, Stages, Traffic
from contigmm.load.samples import (
    Chunk,
    Kind,
    Logged,
    distinct_in_windows,
    mean_in_flight,
    most_in_flight,
)
from contigmm.load.scenario import Scenario
from contigmm.load.sizes import Hold
from contigmm.load.tally import SizeTally, Tally

_NS: Final = 1_000_000_000
_TICK_S: Final = 0.25
_OBSERVATIONS: Final = 15
"""About how many moments of a run the observer looks at."""
_LONGEST_WARM_UP_S: Final = 30.0
_ROOM_REQUESTS: Final = 8
_ROOM_SHARE: Final = 0.01
"""Left for the load above the watermarks, whatever the occupancy asked for: so many of the largest
requests, and this share of the machine. Else nothing but the watermarks would ever decide."""
_STOP_S: Final = 60.0
_RECLAIM_COUNTERS: Final = ("pgsteal_kswapd", "pgsteal_direct", "pgsteal_khugepaged")


@dataclass(frozen=True)
class Plan:
    """All that a run is made from."""

    description: MachineDescription | None
    """What to boot; None: take the one machine that the target has, as it is."""
    source: str
    """Its name, for the report."""
    target: str | None
    """Address of a server; None: one of our own."""
    scenario: Scenario
    generators: int
    door: Door
    """How to come in at the target."""
    export: Export | None = None
    """Where refused requests go, with the machine before them."""


@dataclass(frozen=True)
class Tick:
    """How far a run is."""

    phase: str
    done_s: float = 0.0
    of_s: float = 0.0
    sizes: tuple[SizeTally, ...] = ()
    calls_per_s: float = 0.0
    in_flight: float = 0.0


Watch = Callable[[Tick], None]


@dataclass
class _Booted:
    """The machine before any load, as the coordinator found it."""

    machine: Machine
    captured: Fragmentation
    filled: Fragmentation
    usable_bytes: int
    managed_bytes: int
    cpu_nodes: tuple[int, ...]
    states: FrameStates
    owners: dict[int, Pfns]
    vmstat: dict[str, int]
    notes: tuple[str, ...]
    snapshot: bytes = b""
    """Taken if refusals are to be exported."""


@dataclass
class _Observed:
    """What the observing client has seen so far."""

    moments: int = 0
    frames: int = 0
    twice: set[int] = field(default_factory=set)
    unjudged: list[Pagemaps] = field(default_factory=list)


async def run(plan: Plan, watch: Watch) -> Report:
    """Run a load and return its report.

    Raises:
        LoadError: The server, a generator or the machine failed.
    """
    try:
        return await _run(plan, watch)
    except BaseExceptionGroup as group:
        raise _first_cause(group) from group


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(plan: Plan, watch: Watch) -> Report:
    async with AsyncExitStack() as stack:
        address = plan.target
        if address is None:
            watch(Tick("starting a server"))
            address = await stack.enter_async_context(own_server())
        client = await stack.enter_async_context(connect(address, door=plan.door))
        booted = await stack.enter_async_context(_machine(plan, client, watch))
        holds = plan.scenario.holds(booted.usable_bytes)
        if plan.export is not None:
            booted.snapshot = await booted.machine.snapshot()
        generators = [
            await stack.enter_async_context(GeneratorProcess.running(assignment))
            for assignment in _assignments(plan, booted, address, holds)
        ]
        run = _Run(plan, booted, generators, watch)
        return await run.report()


@asynccontextmanager
async def _machine(plan: Plan, client: Client, watch: Watch) -> AsyncIterator[_Booted]:
    """Boot the machine filled, and throw it away after the block; or take the one that is there."""
    if plan.description is None:
        machines = await client.machines()
        if len(machines) != 1:
            raise LoadError(
                f"the server has {len(machines)} machines: say with --machine what to boot there"
            )
        captured = await _fragmentation(machines[0])
        yield await _looked_at(machines[0], captured, None, ())
        return
    watch(Tick("filling the machine"))
    described = fresh_layout(plan.description)
    captured = _described(described)
    filling = prepare(
        described,
        occupancy=plan.scenario.occupancy,
        age=plan.scenario.ageing,
        seed=plan.scenario.seed,
        reclaim=plan.scenario.reclaim,
        room_frames=max(
            _ROOM_REQUESTS * plan.scenario.sizes_bytes[-1] // PAGE_BYTES,
            round(_ROOM_SHARE * described.managed),
        ),
    )
    watch(Tick("booting the machine"))
    machine = await client.create_machine(filling.description, seed=plan.scenario.seed)
    try:
        cpu_nodes = described.cpu_nodes or described.nodes[:1] * described.nr_cpus
        yield await _looked_at(machine, captured, filling, cpu_nodes)
    finally:
        with suppress(ServiceError):  # a server that is gone has taken the machine with it
            await machine.delete()


async def _looked_at(
    machine: Machine, captured: Fragmentation, filling: Filling | None, cpu_nodes: tuple[int, ...]
) -> _Booted:
    """Note everything that the end will be compared with."""
    info = await machine.info()
    filled = await _fragmentation(machine)
    usable = filled.free_bytes
    if filling is not None:
        usable = filling.usable_frames * PAGE_BYTES
        if filled != _described(filling.description):
            raise LoadError("the machine's free lists are not those that it was booted from")
    managed = sum(zone["managed"] for zone in (await machine.zone_counters()).values())
    return _Booted(
        machine=machine,
        captured=captured,
        filled=filled,
        usable_bytes=usable,
        managed_bytes=managed * PAGE_BYTES,
        cpu_nodes=cpu_nodes or info.nodes[:1] * info.cpus,
        states=await _states(machine),
        owners=await _background(machine),
        vmstat=await machine.vmstat(),
        notes=(
            *(f"known: {part}" for part in info.known),
            *(f"drawn: {part}" for part in info.drawn),
            *(() if filling is None else filling.notes),
        ),
    )


def _described(description: MachineDescription) -> Fragmentation:
    pcp = () if description.layout is None else description.layout.pcp.order
    pcp_frames = sum(1 << int(order) for order in pcp)
    return Fragmentation.of(description.buddyinfo(), pcp_frames=pcp_frames)


async def _fragmentation(machine: Machine) -> Fragmentation:
    counters = await machine.zone_counters()
    pcp_frames = sum(zone["pcp"] for zone in counters.values())
    return Fragmentation.of(await machine.buddyinfo(), pcp_frames=pcp_frames)


async def _states(machine: Machine) -> FrameStates:
    runs = await machine.frames()
    first, count = runs.first.astype(np.uint64), runs.count.astype(np.uint64)
    return FrameStates(first, count, runs.frame_class, runs.class_names, runs.file)


async def _frames(machine: Machine, processes: Iterable[int] = ()) -> dict[int, Pfns]:
    """Return the frames of processes at one moment; of none named, of all of clients."""
    return frames_of(await machine.pagemaps(processes))


async def _background(machine: Machine) -> dict[int, Pfns]:
    processes = [one.id for one in await machine.processes() if one.born.background]
    return await _frames(machine, processes) if processes else {}


def _assignments(
    plan: Plan, booted: _Booted, address: str, holds: tuple[Hold, ...]
) -> list[Assignment]:
    nr_processes = plan.scenario.nr_processes
    nr_generators = min(plan.generators, max(nr_processes, 2))
    return [
        Assignment(
            address=address,
            machine=booted.machine.name,
            processes=tuple(range(number, nr_processes, nr_generators)),
            scenario=plan.scenario,
            holds=holds,
            cpu_nodes=booted.cpu_nodes,
            door=plan.door,
            kept_operations=0 if plan.export is None else MAX_OPERATIONS // nr_generators,
        )
        for number in range(nr_generators)
    ]


class _Run:
    """The load itself: warm-up, measuring, and what is compared afterwards."""

    def __init__(
        self,
        plan: Plan,
        booted: _Booted,
        generators: list[GeneratorProcess],
        watch: Watch,
    ) -> None:
        self._source = plan.source
        self._settings = {} if plan.description is None else plan.description.settings
        self._export = plan.export
        self._operations: list[Logged] = []
        self._booted = booted
        self._machine = booted.machine
        self._scenario = plan.scenario
        self._generators = generators
        self._watch = watch
        self._tally = Tally(
            sizes_bytes=plan.scenario.sizes_bytes, nr_processes=plan.scenario.nr_processes
        )
        self._warmed = [asyncio.Event() for _ in generators]
        self._stopped = [asyncio.Event() for _ in generators]
        self._begin_ns = 0
        self._efforts: list[tuple[float, bytes]] = []
        self._observed = _Observed()
        self._families: dict[int, int] = {}
        self._notes = list(booted.notes)

    async def report(self) -> Report:
        """Run to the end and report."""
        async with asyncio.TaskGroup() as group:
            listeners = [
                group.create_task(self._listen(number)) for number in range(len(self._generators))
            ]
            await self._warm_up()
            loaded = await _fragmentation(self._machine)
            elapsed_ns = await self._measure()
            end = await _fragmentation(self._machine)
            queue_depth_max = (await self._machine.info()).queue_depth_max
            await self._observe()
            await self._tell_all(Leave())
            await asyncio.wait(listeners)
        exported = await self._exported()
        self._watch(Tick("comparing with the start"))
        stages = Stages(
            captured=self._booted.captured,
            filled=self._booted.filled,
            loaded=loaded,
            end=end,
            emptied=await _fragmentation(self._machine),
        )
        traffic = self._traffic(elapsed_ns, queue_depth_max)
        integrity = await self._integrity()
        self._watch(Tick("simulating CPUs that want one lock"))
        curve = await asyncio.to_thread(contention, self._scenario, self._settings)
        return self._reported(stages, traffic, integrity, exported, curve)

    # ---- phases ----

    async def _warm_up(self) -> None:
        """Wait until every process has made as many requests as it holds."""
        limit_s = max(_LONGEST_WARM_UP_S, self._scenario.duration_s)
        waiting = asyncio.gather(*(event.wait() for event in self._warmed))
        start_ns = monotonic_ns()
        while not waiting.done():
            elapsed_s = (monotonic_ns() - start_ns) / _NS
            self._watch(Tick("demand builds up", done_s=elapsed_s))
            if elapsed_s > limit_s:
                waiting.cancel()
                self._notes.append(
                    f"measuring began after {limit_s:.0f} s, before demand had built up in full"
                )
                return
            await asyncio.wait([waiting], timeout=_TICK_S)

    async def _measure(self) -> int:
        """Count for the duration, observing at random moments; return the nanoseconds."""
        self._begin_ns = monotonic_ns()
        await self._tell_all(Measure())
        end_ns = self._begin_ns + round(self._scenario.duration_s * _NS)
        observing = asyncio.create_task(self._observe_at_random())
        try:
            while (left_ns := end_ns - monotonic_ns()) > 0:
                await asyncio.sleep(min(_TICK_S, left_ns / _NS))
                self._watch(self._tick())
                if observing.done():
                    observing.result()
        finally:
            observing.cancel()
        elapsed_ns = monotonic_ns() - self._begin_ns
        await self._tell_all(Stop())
        async with asyncio.timeout(_STOP_S):
            await asyncio.gather(*(event.wait() for event in self._stopped))
        return elapsed_ns

    def _tick(self) -> Tick:
        elapsed_ns = monotonic_ns() - self._begin_ns
        return Tick(
            "measuring",
            done_s=elapsed_ns / _NS,
            of_s=self._scenario.duration_s,
            sizes=tuple(self._tally.sizes),
            calls_per_s=self._tally.nr_calls / elapsed_ns * _NS,
            in_flight=self._tally.busy_ns / elapsed_ns,
        )

    async def _tell_all(self, message: ToGenerator) -> None:
        await asyncio.gather(*(generator.tell(message) for generator in self._generators))

    async def _listen(self, number: int) -> None:
        async for message in self._generators[number].messages():
            match message:
                case Warmed():
                    self._warmed[number].set()
                case Stopped(effort):
                    self._efforts.append(effort)
                    self._stopped[number].set()
                case Failed(sentence):
                    raise LoadError(sentence)
                case Chunk():
                    self._families.update(message.births)
                    self._operations += message.operations
                    self._tally.add(message.since(self._begin_ns))
        if not self._stopped[number].is_set():
            raise LoadError(f"generator {number} ended before its time")

    # ---- the observing client ----

    async def _observe_at_random(self) -> None:
        random = Random(f"contigmm load observer {self._scenario.seed}")
        mean_s = self._scenario.duration_s / _OBSERVATIONS
        while True:
            await asyncio.sleep(2 * mean_s * random.random())
            await self._observe()

    async def _observe(self) -> None:
        """Rebuild who owns what from pagemaps of one moment."""
        pagemaps = await self._machine.pagemaps()
        self._observed.moments += 1
        if self._scenario.forks:  # who is whose child comes with the generators' next chunks
            self._observed.unjudged.append(pagemaps)
        else:
            self._judge(frames_of(pagemaps))

    def _judge(self, frames: dict[int, Pfns]) -> None:
        self._observed.frames += sum(map(len, frames.values()))
        # Where requests reclaim, a frame that the machine came with may have been evicted since.
        twice = owned_twice(frames, None if self._scenario.reclaim else self._booted.states)
        self._observed.twice.update(int(pfn) for pfn in twice)

    async def _integrity(self) -> Integrity:
        """Compare the machine, after all processes of the load have exited, with the start."""
        for pagemaps in self._observed.unjudged:
            self._judge(frames_of_families(pagemaps, self._families))
        vmstat = await self._machine.vmstat()
        migrated = self._counted(vmstat, "pgmigrate_success")
        reclaimed = sum(self._counted(vmstat, name) for name in vmstat if name in _RECLAIM_COUNTERS)
        closing = Closing(
            start=self._booted.states,
            end=await _states(self._machine),
            start_owners=self._booted.owners,
            end_owners=await _background(self._machine),
            survivors=tuple(
                one.id for one in await self._machine.processes() if not one.born.background
            ),
        )
        if killed := self._counted(vmstat, "oom_kill"):
            self._notes.append(f"the out-of-memory killer ended {killed} processes")
        return Integrity(
            invariants=(await self._machine.examine()).violation or "ok",
            observations=self._observed.moments,
            observed_frames=self._observed.frames,
            observed_twice=len(self._observed.twice),
            migrated=migrated,
            reclaimed=reclaimed,
            violations=tuple(closing.violations(moved=migrated + reclaimed > 0)),
        )

    async def _exported(self) -> Exported | None:
        """Write the refusals that were asked for, each with the machine as it was before it."""
        if self._export is None:
            return None
        self._watch(Tick("carrying commands out again, up to what is exported"))
        return await asyncio.to_thread(
            self._export.write, self._booted.snapshot, self._operations, self._source
        )

    def _counted(self, vmstat: dict[str, int], name: str) -> int:
        return vmstat.get(name, 0) - self._booted.vmstat.get(name, 0)

    # ---- the report ----

    def _traffic(self, elapsed_ns: int, queue_depth_max: int) -> Traffic:
        samples = self._tally.samples
        windows = distinct_in_windows(samples)
        return Traffic(
            duration_s=elapsed_ns / _NS,
            calls=len(samples),
            generator_processes=len(self._generators),
            in_flight_mean=mean_in_flight(samples),
            in_flight_max=most_in_flight(samples),
            queue_depth_max=queue_depth_max,
            processes_in_window_min=int(windows.min(initial=self._scenario.nr_processes)),
            processes_in_window_median=int(np.median(windows)) if len(windows) else 0,
            effort=Effort.merged(self._efforts),
            intervals=intervals(samples, begin_ns=self._begin_ns, elapsed_ns=elapsed_ns),
        )

    def _reported(
        self,
        stages: Stages,
        traffic: Traffic,
        integrity: Integrity,
        exported: Exported | None,
        curve: Contention | None,
    ) -> Report:
        tally = self._tally
        return Report(
            source=self._source,
            scenario=self._scenario,
            phases=phase_results(self._scenario, tally.samples, begin_ns=self._begin_ns),
            attempts_by_process=tuple(tally.attempts_by_process),
            stages=stages,
            managed_bytes=self._booted.managed_bytes,
            sizes=tuple(tally.sizes),
            failed_calls=dict(tally.failed_calls),
            mapped_by_process=tuple(tally.mapped_by_process),
            latency={kind: tally.latency(kind) for kind in Kind},
            service=tally.service(),
            traffic=traffic,
            integrity=integrity,
            notes=tuple(self._notes),
            exported=exported,
            contention=curve,
        )
