"""A report with known figures, as a run would make it."""

from collections import Counter

import numpy as np

from contigmm.abi import EAGAIN, ENOMEM
from contigmm.load.effort import Effort
from contigmm.load.fragmentation import Fragmentation
from contigmm.load.intervals import Interval
from contigmm.load.parts import phase_results
from contigmm.load.report import Integrity, Report, Stages, Traffic
from contigmm.load.samples import SAMPLE, Chunk, Kind
from contigmm.load.scenario import scenario_of
from contigmm.load.sizes import SizeMix
from contigmm.load.tally import Tally

REASONS = ("", "no_contiguous_block_compaction_not_simulated", "memlock_limit")
MIX = SizeMix.parse("64K:50,2M:30,4M:20")
SCENARIO = scenario_of(
    {
        "seed": 7,
        "groups": [{"processes": 2, "sizes": str(MIX), "hold": "8-24"}],
        "phases": [{"seconds": 0.5}],
    }
)


def chunk(rows):
    """Rows are (seq, process, kind, size_index, errno, reason code, begin µs, end µs)."""
    samples = np.zeros(len(rows), SAMPLE)
    for at, (seq, process, kind, size_index, errno, reason, begin_us, end_us) in enumerate(rows):
        samples[at] = (
            seq,
            begin_us * 1000,
            end_us * 1000,
            0,
            process,
            errno,
            reason,
            kind,
            size_index,
        )
    return Chunk(samples, REASONS)


def tally():
    """Two processes, six attempts, three refusals."""
    total = Tally(sizes_bytes=MIX.sizes_bytes, nr_processes=2)
    total.add(
        chunk(
            [
                (1, 0, Kind.MAP, 0, 0, 0, 0, 100),
                (2, 1, Kind.MAP, 1, ENOMEM, 1, 0, 300),
                (3, 0, Kind.TOUCH, 0, 0, 0, 110, 150),
                (4, 0, Kind.MAP, 2, ENOMEM, 1, 160, 260),
            ]
        )
    )
    total.add(
        chunk(
            [
                (5, 1, Kind.MAP, 2, 0, 0, 310, 510),
                (6, 0, Kind.MAP, 1, 0, 0, 310, 410),
                (7, 0, Kind.MAP, 0, EAGAIN, 2, 420, 430),
                (8, 1, Kind.UNMAP, 2, 0, 0, 520, 530),
            ]
        )
    )
    return total


def stage(scale):
    """A zone with free blocks of every order and one without any."""
    counts = tuple(scale * count for count in (900, 500, 300, 200, 150, 100, 60, 30, 15, 8, 20))
    return Fragmentation({"0/DMA": (0,) * 11, "0/Normal": counts})


def report(**changes):
    """The report of :func:`tally`."""
    total = tally()
    values = {
        "source": "host:",
        "scenario": SCENARIO,
        "attempts_by_process": tuple(total.attempts_by_process),
        "phases": phase_results(SCENARIO, total.samples, begin_ns=0),
        "stages": Stages(stage(10), stage(2), stage(1), stage(1), stage(2)),
        "managed_bytes": 4 << 30,
        "sizes": tuple(total.sizes),
        "failed_calls": dict(total.failed_calls),
        "mapped_by_process": tuple(total.mapped_by_process),
        "latency": {kind: total.latency(kind) for kind in Kind},
        "service": total.service(),
        "traffic": Traffic(
            duration_s=0.5,
            calls=8,
            generator_processes=2,
            in_flight_mean=1.5,
            in_flight_max=2,
            queue_depth_max=2,
            processes_in_window_min=2,
            processes_in_window_median=2,
            effort=Effort(0.5, 1200),
            intervals=(Interval(16.0, 100.0, 200.0, 0.5),) * 10,
        ),
        "integrity": Integrity("ok", 15, 4000, 0, 0, 0, ()),
        "notes": (),
    }
    return Report(**(values | changes))


def counter(**times):
    """Shorthand for a Counter."""
    return Counter(times)
