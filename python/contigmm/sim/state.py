"""All that a machine is: physical memory, address spaces, processes, numbers. No locks here."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from contigmm.description import MachineDescription
from contigmm.mm.config import MmConfig
from contigmm.phys import Memory
from contigmm.sim.background import BackgroundFile, adopt_background
from contigmm.sim.boot import boot_memory
from contigmm.sim.check import check_processes
from contigmm.sim.table import ProcessTable


class ClockMode(StrEnum):
    """Who makes simulated time pass."""

    PER_OP = "per_op"  # every step of an operation, by its modelled cost
    MANUAL = "manual"  # only Call.ADVANCE_CLOCK


@dataclass(slots=True)
class MachineState:
    """What one machine consists of; :mod:`contigmm.sim.snapshot` encodes it."""

    memory: Memory
    config: MmConfig
    nodes: tuple[int, ...]
    table: ProcessTable
    profile: str
    seed: int
    clock: ClockMode
    origin: str
    known: tuple[str, ...]
    drawn: tuple[str, ...]
    files: tuple[BackgroundFile, ...] = ()
    seq: int = 0

    @classmethod
    def boot(
        cls,
        description: MachineDescription,
        *,
        profile: str,
        seed: int,
        clock: ClockMode,
        cpus: int | None,
    ) -> Self:
        """Boot what ``description`` describes; see ``Machine.boot``."""
        costs = clock is ClockMode.PER_OP
        memory = boot_memory(description, seed=seed, cpus=cpus, costs=costs, split_locked=True)
        config = MmConfig(memory, profile=profile, total_ram_pages=description.managed)
        config.set_thp(
            str(description.settings.get("transparent_hugepage", "madvise")),
            defrag=str(description.settings.get("transparent_hugepage_defrag", "madvise")),
            shmem=str(description.settings.get("transparent_hugepage_shmem", "never")),
        )
        config.nodes = sum(1 << node for node in description.nodes)
        for name, value in description.settings.items():
            config.set_sysctl(name, value)
        state = cls(
            memory=memory,
            config=config,
            nodes=description.nodes,
            table=ProcessTable(),
            profile=profile,
            seed=seed,
            clock=clock,
            origin=description.origin,
            known=description.known,
            drawn=description.drawn,
        )
        if description.layout is not None:
            state.files = adopt_background(state, description, description.layout)
        return state

    def check(self) -> None:
        """Hold every invariant against the state; see ``Machine.check``."""
        self.memory.check()
        check_processes(self.table)
