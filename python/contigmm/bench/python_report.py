"""``contigmm bench python``: the library's path, beside the real kernel."""

from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final

from contigmm.bench import library, real_kernel
from contigmm.bench.measure import interleaved
from contigmm.description import MachineDescription
from contigmm.sim.machine import Machine

#: Room for the subjects with 100,000 mappings.
MAX_MAP_COUNT: Final = 1 << 20
SCHEMA: Final = "bench-python/1"


def python_report(description: MachineDescription, *, rounds: int = 15) -> dict[str, Any]:
    """Measure on a machine of ``description`` and give the report of schema bench-python/1."""
    settings = {**description.settings, "max_map_count": MAX_MAP_COUNT}
    machine = Machine.boot(replace(description, settings=settings), profile="contig", seed=0)
    subjects = [*library.subjects(machine), *real_kernel.subjects()]
    results = interleaved(subjects, rounds=rounds)
    machine.check()
    return {"schema": SCHEMA, "contigmm": version("contigmm"), "results": results}
