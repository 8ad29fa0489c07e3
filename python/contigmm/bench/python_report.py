"""``contigmm bench python``: the library's path, beside the real kernel."""

from importlib.metadata import version
from typing import Any, Final

from contigmm.bench import library, real_kernel
from contigmm.bench.measure import interleaved
from contigmm.description import MachineDescription
from contigmm.sim.machine import Machine

SCHEMA: Final = "bench-python/1"


def python_report(description: MachineDescription, *, rounds: int = 15) -> dict[str, Any]:
    """Measure on a machine of ``description`` and give the report of schema bench-python/1."""
    machine = Machine.boot(description, profile="contig", seed=0)
    subjects = [*library.subjects(machine), *real_kernel.subjects()]
    results = interleaved(subjects, rounds=rounds)
    machine.check()
    return {"schema": SCHEMA, "contigmm": version("contigmm"), "results": results}
