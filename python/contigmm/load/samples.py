"""What a generator process saw of each call, in columns, and what can be told from them alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contigmm.sim.operation import Answer, Operation

WINDOW_COMMANDS: Final = 100
"""Commands in a row among which the commands of many processes should be."""


class Kind(IntEnum):
    """What a simulated process does with memory, in turn."""

    MAP = 0
    TOUCH = 1
    UNMAP = 2
    PIN = 3
    FORK = 4
    EXIT = 5


SAMPLE: Final = np.dtype(
    [
        ("seq", "<u8"),  # position in the machine's one order
        ("begin_ns", "<i8"),  # CLOCK_MONOTONIC, one for all processes of a computer
        ("end_ns", "<i8"),
        ("late_ns", "<i8"),  # how long after its due time it was sent; 0 in a closed loop
        ("process", "<u4"),  # index of the simulated process in the load, not its id
        ("errno", "<u2"),  # Linux's; 0: done
        ("reason", "<u2"),  # index in the chunk's `reasons`
        ("kind", "u1"),
        ("size_index", "u1"),
    ]
)
"""One call. 42 bytes, all of which are kept until the report."""

Samples = NDArray[np.void]

Logged = tuple[Operation, Answer]
"""An operation as it was carried out, and what came of it."""


@dataclass(frozen=True)
class Chunk:
    """Calls that a generator has seen answered since its last chunk."""

    samples: Samples
    reasons: tuple[str, ...]
    """What the column ``reason`` counts: ``""`` first, then Reasons."""
    operations: tuple[Logged, ...] = ()
    """Operations that the machine carried out since the last chunk, if they are kept."""
    births: Mapping[int, int] = field(default_factory=dict)
    """Processes of the machine, by number, that began since the last chunk: the index, in the load,
    of the simulated process that each is, or is a child of."""

    def since(self, begin_ns: int) -> "Chunk":
        """Return the calls that were sent at ``begin_ns`` or later."""
        return Chunk(
            self.samples[self.samples["begin_ns"] >= begin_ns],
            self.reasons,
            self.operations,
            self.births,
        )


class Recorder:
    """Collects the calls of one generator process and hands them over in chunks."""

    def __init__(self, *, operations: int = 0) -> None:
        """Begin with nothing; keep the first so many ``operations`` themselves, too."""
        self._operations_left = operations
        self._operations: list[Logged] = []
        self._rows: list[tuple[int, int, int, int, int, int, int, int, int]] = []
        self._reasons: dict[str, int] = {"": 0}
        self._births: dict[int, int] = {}

    def record(
        self,
        *,
        seq: int,
        begin_ns: int,
        end_ns: int,
        process: int,
        errno: int,
        reason: str,
        kind: Kind,
        size_index: int,
        late_ns: int = 0,
    ) -> None:
        """Note one answered call."""
        code = self._reasons.setdefault(reason, len(self._reasons))
        self._rows.append((seq, begin_ns, end_ns, late_ns, process, errno, code, kind, size_index))

    def carried_out(self, operation: Operation, answer: Answer) -> None:
        """Keep an operation, if there is room, whose place in the machine's order is known."""
        if self._operations_left and answer.seq:
            self._operations_left -= 1
            self._operations.append((operation, answer))

    def born(self, number: int, process: int) -> None:
        """Note that the machine's process ``number`` belongs to a simulated one of the load."""
        self._births[number] = process

    def forget_calls(self) -> None:
        """Drop the calls noted since the last time."""
        self._rows.clear()

    def take(self) -> Chunk:
        """Return what was noted since the last time."""
        samples = np.array(self._rows, dtype=SAMPLE)
        births, self._births = self._births, {}
        operations, self._operations = self._operations, []
        self._rows.clear()
        return Chunk(samples, tuple(self._reasons), tuple(operations), births)


def jain_fairness(shares: Sequence[int]) -> float:
    """Return Jain's index of how evenly ``shares`` are given: 1 all alike, 1/n all to one.

    With nothing given to anybody it is 1: nobody was preferred.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def distinct_in_windows(samples: Samples, window: int = WINDOW_COMMANDS) -> NDArray[np.int64]:
    """Count the processes among each ``window`` commands that follow each other in the machine.

    The windows slide by one command. Fewer commands than a window count as one window.
    """
    if not len(samples):
        return np.zeros(0, dtype=np.int64)
    order = np.argsort(samples["seq"], kind="stable")
    processes = samples["process"][order]
    # A command is new in its window if its process's last command before lies outside of it.
    positions = np.lexsort((np.arange(len(processes)), processes))
    same = processes[positions][1:] == processes[positions][:-1]
    last_before = np.full(len(processes), -1, dtype=np.int64)
    last_before[positions[1:][same]] = positions[:-1][same]
    nr_windows = max(len(processes) - window + 1, 1)
    change = np.zeros(len(processes) + 1, dtype=np.int64)
    index = np.arange(len(processes))
    # Command i is the first of its process in the windows that begin in (last_before, i].
    first = np.maximum(last_before + 1, index - window + 1).clip(min=0)
    np.add.at(change, first, 1)
    np.add.at(change, index + 1, -1)
    counts: NDArray[np.int64] = np.cumsum(change)[:nr_windows]
    return counts


def most_in_flight(samples: Samples) -> int:
    """Return how many calls were sent and not yet answered at once, over all generators."""
    if not len(samples):
        return 0
    times = np.concatenate([samples["begin_ns"], samples["end_ns"]])
    steps = np.concatenate([np.ones(len(samples), np.int64), -np.ones(len(samples), np.int64)])
    order = np.lexsort((steps, times))  # at one instant an end comes before a beginning
    return int(np.cumsum(steps[order]).max())


def mean_in_flight(samples: Samples) -> float:
    """Return the mean number of calls in flight, from the first sent to the last answered."""
    if not len(samples):
        return 0.0
    span_ns = int(samples["end_ns"].max()) - int(samples["begin_ns"].min())
    return float((samples["end_ns"] - samples["begin_ns"]).sum()) / max(span_ns, 1)
