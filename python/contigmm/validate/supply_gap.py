"""What happens between a snapshot and the first step, and between steps, without anybody's asking.

The recorder itself codes the snapshot that it took: it holds the words of every frame, makes lists
of their runs, compresses them and gives all back; those frames end on the list of the CPU that it
ran on. Where that takes a zone below its low mark kswapd wakes, and while it reclaims each free on
its CPU empties lists. Once a second the kernel lowers the limit of each CPU's lists. On which CPUs
they ran and how long it took is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from contigmm.abi import PAGE_SIZE
from contigmm.description import ZoneDescription
from contigmm.hosts import Evidence
from contigmm.phys import Memory
from contigmm.phys.gfp import GFP

if TYPE_CHECKING:
    from contigmm.phys import ZoneCounters

PAGE_GFP: Final = GFP["GFP_HIGHUSER_MOVABLE"]


@dataclass(frozen=True, slots=True)
class RecorderCosts:
    """What coding a snapshot takes; of the interpreter and the compressor, not of the kernel."""

    #: A list of two numbers, both boxed, and its place in the list of runs (CPython 3.11).
    bytes_a_run: int = 130
    #: A frame's word in the array that is coded.
    bytes_a_frame: int = 8
    #: xz at preset 4: xz(1), "Memory usage".
    compressor_bytes: int = 48 << 20
    #: Times that the frames are read, flags and map counts.
    scans: float = 2.0
    #: Time to code what one second of scanning read, and the spread of its logarithm.
    seconds_a_scanned_second: float = 6.0
    seconds_sigma: float = 0.35
    #: Time from one step to the next.
    seconds_a_step: float = 0.15
    #: How often a step's program runs on another CPU than the one before it.
    moves: float = 0.15
    #: How often a step that compacts ends on another CPU than it began on: in half of the records
    #: whose lists tell it both CPUs' were emptied without a drain of all (docs/compaction.md).
    moves_while_compacting: float = 0.5


RECORDER: Final = RecorderCosts()
_PHASES: Final = 4
#: ``lowmem_reserve`` column of a movable request.
_MOVABLE_ZONE: Final = 3
#: Frames between two looks at the marks.
_LOOK_EVERY: Final = 256
_NS: Final = 1e9
#: What the recorder's first write(2) of a file holds, in pages; the second has the rest: seen with
#: ``lzma.open()`` of Python 3.11.
_FIRST_WRITE: Final = 8


@dataclass(slots=True)
class Seconds:
    """Full seconds that pass: each lowers the limits of all CPUs' lists once."""

    memory: Memory
    rest: float

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.rest += seconds
        while self.rest >= 1:
            self.rest -= 1
            for cpu in range(self.memory.nr_cpus()):
                self.memory.decay_pcp(cpu=cpu)


def code_snapshot(
    memory: Memory, snapshot: Evidence, rng: np.random.Generator, *, cpu: int, written: int = 0
) -> Seconds:
    """Do what the recorder, on this CPU, does with a snapshot before the next step.

    ``written`` is the size in bytes of the file that it writes. Returns the clock.
    """
    clock = Seconds(memory, float(rng.random()))
    flags, scan = snapshot.page_flags, snapshot.scan
    if flags is None or scan is None:
        _write_file(memory, written, cpu)
        return clock
    scanned = float(scan.t_ns[-1] - scan.begun_ns) / _NS
    spread = float(np.exp(rng.normal(0, RECORDER.seconds_sigma)))
    phase = scanned * RECORDER.seconds_a_scanned_second * spread / _PHASES

    clock.pass_by(RECORDER.scans * scanned)

    def take(size: int) -> npt.NDArray[np.uint32]:
        return _take(memory, size // PAGE_SIZE, cpu, rng)

    kept = []
    for _ in ("kpageflags", "kpagecount"):
        kept.append(take(RECORDER.bytes_a_frame * flags.total))
        runs = take(RECORDER.bytes_a_run * len(flags.nr))
        clock.pass_by(phase)
        memory.free_batch(runs, order=0, cpu=cpu)
    kept.append(take(RECORDER.compressor_bytes))
    clock.pass_by(2 * phase)
    _write_file(memory, written, cpu)
    for frames in reversed(kept):
        memory.free_batch(frames, order=0, cpu=cpu)
    return clock


def _write_file(memory: Memory, nr_bytes: int, cpu: int) -> None:
    """Put the recorder's file in the page cache, not on disk yet."""
    first = min(_FIRST_WRITE * PAGE_SIZE, nr_bytes)
    memory.write_pages(first, cpu=cpu)
    memory.write_pages(nr_bytes - first, index=_FIRST_WRITE, cpu=cpu)


def draw_cpus(nr: int, nr_cpus: int, rng: np.random.Generator, *, first: int) -> list[int]:
    """Draw on which CPU each of so many programs runs: mostly where the one before it did.

    ``first`` is where the recorder that starts them ran.
    """
    cpus = [first]
    for _ in range(nr):
        stays = rng.random() >= RECORDER.moves
        cpus.append(cpus[-1] if stays else int(rng.integers(nr_cpus)))
    return cpus[1:]


def draw_move(cpu: int, asked: int, nr_cpus: int, rng: np.random.Generator) -> list[int]:
    """Draw on which CPU each request of a step that compacts runs: it is often moved once."""
    moved = rng.random() < RECORDER.moves_while_compacting
    stays = int(rng.integers(asked)) if moved else asked
    return [cpu] * stays + [another_cpu(cpu, nr_cpus, rng)] * (asked - stays)


def recorders_cpu(snapshot: Evidence, nr_cpus: int, rng: np.random.Generator) -> int:
    """Draw on which CPU the recorder ran: mostly the likeliest.

    That is the one whose lists changed while it scanned, if no other's did. Else it is the one with
    most frames on its lists: who freed them told the recorder so through a pipe, and such a wake-up
    draws to the CPU of the waker (kernel/sched/fair.c:wake_affine_idle(), v6.12).
    """
    likeliest = _likeliest_cpu(snapshot, nr_cpus)
    drawn = int(rng.integers(nr_cpus))
    return drawn if rng.random() < RECORDER.moves else likeliest


def _likeliest_cpu(snapshot: Evidence, nr_cpus: int) -> int:
    before = _counts(snapshot.zones, nr_cpus)
    if snapshot.zones_after:
        changed = np.flatnonzero((before != _counts(snapshot.zones_after, nr_cpus)).any(axis=0))
        if len(changed) == 1:
            return int(changed[0])
    return int(np.argmax(before.sum(axis=0)))


def _counts(zones: Sequence[ZoneDescription], nr_cpus: int) -> npt.NDArray[np.int64]:
    """Return the frames on lists: [zone, CPU]."""
    counts = np.zeros((len(zones), nr_cpus), np.int64)
    for row, zone in zip(counts, zones, strict=True):
        for cpu, pcp in enumerate(zone.pcp[:nr_cpus]):
            row[cpu] = pcp.count
    return counts


def another_cpu(cpu: int, nr_cpus: int, rng: np.random.Generator) -> int:
    """Draw where kswapd runs when a busy CPU wakes it: on an idle one, if there is another.

    kernel/sched/fair.c:select_idle_sibling(), v6.12.
    """
    return (cpu + int(rng.integers(1, nr_cpus))) % nr_cpus if nr_cpus > 1 else cpu


def _take(memory: Memory, nr: int, cpu: int, rng: np.random.Generator) -> npt.NDArray[np.uint32]:
    """Take frames one by one, and have kswapd reclaim when no zone holds its low mark any more."""
    taken = [np.zeros(0, np.uint32)]
    for at in range(0, nr, _LOOK_EVERY):
        wanted = min(_LOOK_EVERY, nr - at)
        taken.append(memory.alloc_batch(wanted, order=0, gfp=PAGE_GFP, cpu=cpu))
        if not any(_holds_low_mark(zone) for zone in memory.zones()):
            kswapd_cpu = another_cpu(cpu, memory.nr_cpus(), rng)
            for node in sorted({int(zone["node"]) for zone in memory.zones()}):
                memory.kswapd(node=node, budget=1 << 30, cpu=kswapd_cpu)
    return np.concatenate(taken)


def _holds_low_mark(zone: ZoneCounters) -> bool:
    """Whether single frames are given without a wake-up: mm/page_alloc.c:wake_all_kswapds()."""
    reserve = zone["protection"][_MOVABLE_ZONE]
    return int(zone["free"]) > int(zone["watermark_low"]) + reserve
