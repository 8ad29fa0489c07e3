"""Messages between the coordinator and its generator processes, over the children's pipes.

Both ends run the same code of one installation, so messages are pickled. Each is preceded by its
length. The end of the pipe is the end of the other side, however that came about.
"""

import pickle
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from dataclasses import dataclass
from typing import Final

from contigmm.client.door import Door
from contigmm.load.samples import Chunk
from contigmm.load.scenario import Scenario
from contigmm.load.sizes import Hold

_LENGTH_BYTES: Final = 8


@dataclass(frozen=True)
class Assignment:
    """What one generator process is to do: the first message to it."""

    address: str
    machine: str
    processes: tuple[int, ...]
    """Indices, in the whole load, of the simulated processes that it drives."""
    scenario: Scenario
    holds: tuple[Hold, ...]
    """How long each group holds."""
    cpu_nodes: tuple[int, ...]
    """NUMA node of each CPU of the machine."""
    door: Door
    kept_operations: int = 0
    """How many of its operations a generator sends on, for refusals to be exported."""


@dataclass(frozen=True)
class Measure:
    """To a generator: count calls from now on, and forget what was counted before."""


@dataclass(frozen=True)
class Stop:
    """To a generator: begin no further request; keep what is mapped."""


@dataclass(frozen=True)
class Leave:
    """To a generator: let all processes exit, and end."""


@dataclass(frozen=True)
class Warmed:
    """From a generator: all its processes hold what they are going to hold."""


@dataclass(frozen=True)
class Stopped:
    """From a generator: no call is in flight, and all chunks are sent."""

    effort: tuple[float, bytes]
    """What :meth:`contigmm.load.effort.Meter.read` said."""


@dataclass(frozen=True)
class Failed:
    """From a generator: it cannot go on."""

    sentence: str


ToGenerator = Measure | Stop | Leave
FromGenerator = Warmed | Chunk | Stopped | Failed


async def receive(reader: StreamReader) -> object:
    """Return the next message; None at the end of the pipe."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "little")
        message: object = pickle.loads(await reader.readexactly(length))
    except (IncompleteReadError, ConnectionResetError):
        return None
    return message


async def send(writer: StreamWriter, message: object) -> None:
    """Send a message and wait until the pipe has room again."""
    packed = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    writer.write(len(packed).to_bytes(_LENGTH_BYTES, "little") + packed)
    await writer.drain()
