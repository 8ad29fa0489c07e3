"""Fit the costs of steps to the computer that this runs on, by small measurements from user space.

Nothing is set: regions are advised, not the system. What user space cannot see apart keeps its
default, and the result says so.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from contigmm.hosts import describe
from contigmm.phys import default_costs
from contigmm.sim.costs import SCHEMA, with_costs
from contigmm.sim.machine import Machine

_PAGE: Final = 4096
_HUGE: Final = 2 << 20
_BYTES: Final = 32 << 20
_PAGES: Final = _BYTES // _PAGE
_REPEATS: Final = 7
_CALLS: Final = 20_000
# include/uapi/asm-generic/mman-common.h, v6.12
_MADV_HUGEPAGE: Final = 14
_MADV_NOHUGEPAGE: Final = 15
_MADV_POPULATE_WRITE: Final = 23
_THP: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")

#: Why a cost stays as it is.
KEPT: Final = {
    "alloc_ns": "a fault's time cannot be told apart further; the rest of it is in fault_ns",
    "pcp_ns": "as alloc_ns",
    "lock_ns": "as alloc_ns",
    "buddy_ns": "as alloc_ns",
    "handover_ns": "zeroing hides the lock from user space",
    "handover_far_ns": "as handover_ns",
    "refill_check_ps": "kernels since 6.3 do not check at a refill",
    "fallback_ns": "claims and steals cannot be asked for",
    "scan_ns": "needs /proc/sys/vm/compact_memory, which would change the machine",
}


class CalibrationError(RuntimeError):
    """This computer cannot be measured; the message is one sentence."""


@dataclass(slots=True)
class Calibration:
    """Costs, and where each comes from."""

    costs: dict[str, int]
    measured: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    seen_ns: dict[str, float] = field(default_factory=dict)
    """What was timed, in ns: a populated frame and huge page by CPUs at once, a fault, ..."""

    def take(self, name: str, ns: float, how: str) -> None:
        """Note a measured cost; at least 0."""
        self.costs[name] = max(0, round(ns))
        self.measured[name] = how

    def report(self, version: str) -> dict[str, Any]:
        """Return what the file holds."""
        uname = os.uname()
        return {
            "schema": SCHEMA,
            "contigmm": version,
            "machine": {"kernel": uname.release, "cpus": len(_cpus()), "arch": uname.machine},
            "costs": self.costs,
            "measured": self.measured,
            "kept": self.kept,
            "seen_ns": {name: round(ns, 1) for name, ns in self.seen_ns.items()},
        }


def calibrate() -> Calibration:
    """Measure this computer; under ten seconds.

    Raises:
        CalibrationError: it is no Linux since 5.14, or has too little memory.
    """
    if sys.platform != "linux":
        raise CalibrationError("Only a Linux machine can be measured.")
    result = Calibration(default_costs())
    try:
        _measure_memory(result)
    except OSError as error:
        raise CalibrationError(
            f"This machine cannot be measured: {error.strerror} (Linux since 5.14 is needed)."
        ) from error
    _measure_calls(result)
    result.kept = {name: KEPT[name] for name in result.costs if name not in result.measured}
    simulated = simulated_fault_ns(result.costs)
    result.seen_ns["fault, simulated with these costs"] = simulated
    return result


def simulated_fault_ns(costs: dict[str, int]) -> float:
    """Return the simulated time of a write to an untouched page, mean of 4,096."""
    machine = Machine.boot(with_costs(describe("spec:medium"), costs))
    process = machine.spawn()
    pages = 4096
    address = process.mmap(0, pages * _PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = machine.clock_ns
    for page in range(pages):
        process.touch(address + page * _PAGE, _PAGE, write=True)
    return (machine.clock_ns - start) / pages


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _least(measure: Callable[[], float]) -> float:
    """Return the least of several measurements, in ns."""
    return min(measure() for _ in range(_REPEATS))


class _Region:
    """Anonymous memory on the boundary of a huge page; untouched until it is populated."""

    def __init__(self, advice: int) -> None:
        self._map = mmap.mmap(-1, _BYTES + _HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._offset = -first % _HUGE
        self.address = first + self._offset
        self._map.madvise(advice)

    def populate(self) -> None:
        self._map.madvise(_MADV_POPULATE_WRITE, self._offset, _BYTES)


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    action()
    return time.perf_counter_ns() - start


def _populate_ns(advice: int) -> float:
    return _timed(_Region(advice).populate)


def _worker(cpu: int, advice: int, pipe: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    region = _Region(advice)
    pipe.send(0.0)
    pipe.recv()
    pipe.send(_timed(region.populate))


def _populate_together_ns(advice: int) -> float:
    """Return the mean time of one process a CPU, all populating at once."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for cpu in _cpus():
        ours, theirs = context.Pipe()
        worker = context.Process(target=_worker, args=(cpu, advice, theirs))
        worker.start()
        workers.append((worker, ours))
    for _, pipe in workers:
        pipe.recv()
    for _, pipe in workers:
        pipe.send(0.0)
    times = [pipe.recv() for _, pipe in workers]
    for worker, _ in workers:
        worker.join()
    return float(sum(times) / len(times))


def _measure_memory(result: Calibration) -> None:
    populate = _least(lambda: _populate_ns(_MADV_NOHUGEPAGE)) / _PAGES
    result.seen_ns["frame populated"] = populate
    together = _populate_together_ns(_MADV_NOHUGEPAGE) / _PAGES
    result.seen_ns["frame populated, all CPUs at once"] = together
    if "[never]" not in _thp():
        huge = _least(lambda: _populate_ns(_MADV_HUGEPAGE)) / (_BYTES // _HUGE)
        result.seen_ns["huge page populated"] = huge
        zero_ns = huge / (_HUGE // _PAGE)
        result.take("zero_ns", zero_ns, "populating huge pages, a 512th of each")
    fault = _least(_fault_ns) / _PAGES
    result.seen_ns["fault"] = fault
    _measure_entries(result)
    others = ("zero_ns", "alloc_ns", "pcp_ns", "pte_ns")
    rest = fault - sum(result.costs[name] for name in others)
    result.take("fault_ns", rest, "writing to untouched pages, without what the other steps cost")


def _thp() -> str:
    return _THP.read_text() if _THP.exists() else "[never]"


def _fault_ns() -> float:
    """Return the time that faults add to a memset."""
    region = _Region(_MADV_NOHUGEPAGE)
    first = _timed(lambda: ctypes.memset(region.address, 1, _BYTES))
    again = _timed(lambda: ctypes.memset(region.address, 1, _BYTES))
    return first - again


def _measure_entries(result: Calibration) -> None:
    """Time entries changed, and frames copied: of memory that is there."""
    region, other = _Region(_MADV_NOHUGEPAGE), _Region(_MADV_NOHUGEPAGE)
    region.populate()
    other.populate()
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def protect() -> float:
        ns = _timed(lambda: mprotect(region.address, _BYTES, mmap.PROT_READ))
        mprotect(region.address, _BYTES, mmap.PROT_READ | mmap.PROT_WRITE)
        return ns

    result.take("pte_ns", _least(protect) / _PAGES, "mprotect of present pages")
    copy = _least(lambda: _timed(lambda: ctypes.memmove(other.address, region.address, _BYTES)))
    result.take("copy_ns", copy / _PAGES, "memmove of present pages")


def _measure_calls(result: Calibration) -> None:
    def loop(call: Callable[[], object]) -> float:
        calls = range(_CALLS)
        start = time.perf_counter_ns()
        for _ in calls:
            call()
        return time.perf_counter_ns() - start

    # Both are calls of one C function without arguments; only the first enters the kernel.
    bare = _least(lambda: loop(sys.getrecursionlimit))
    call = _least(lambda: loop(os.getppid))
    result.take("syscall_ns", (call - bare) / _CALLS, "getppid, without Python's own call")


def summary_lines(result: Calibration) -> list[str]:
    """Return what people read: each cost and where it comes from, and what was timed."""
    default = default_costs()
    lines = [
        f"{name:16} {value:6} (default {default[name]}): "
        + (result.measured.get(name) or f"kept, {result.kept[name]}")
        for name, value in result.costs.items()
    ]
    return lines + [f"{name}: {ns:.0f} ns" for name, ns in result.seen_ns.items()]
