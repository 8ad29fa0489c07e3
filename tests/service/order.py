"""The order test: what clients saw is explained by one order, and that order respects real time.

``python order.py --operations N [--break]``: two processes with eight clients each ask for unary
calls and batches and note when each call began and ended. Then ``machine_seq`` must respect real
time (what ended before another began comes first), and the library, run in that order, must give
the same answers. With ``--break`` the server lets commands overtake each other now and then.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from contigmm.client.aio import connect
from contigmm.hosts import describe
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.machine import Machine
from contigmm.sim.operation import Answer, Call, Operation

PROCESSES = 2
CLIENTS = 8
BATCH = 16
PAGE = 4096
MMAP = (0, 4 * PAGE, 3, 0x22, -1, 0)
SPAWN = Operation(Call.SPAWN, 0, (0, 0, 0), SpawnSpec("order").encode())


class DisorderError(AssertionError):
    """No one order explains what clients saw."""


@dataclass(slots=True)
class Seen:
    """One call: when it was on its way (CLOCK_MONOTONIC, ns), what was asked and answered."""

    began_ns: int
    ended_ns: int
    operations: list[Operation]
    answers: list[Answer]


async def ask(address: str, seed: int, operations: int) -> list[Seen]:
    """One client's calls."""
    draw = random.Random(seed)
    seen: list[Seen] = []
    done = 0
    async with connect(address) as client:
        machine = client.machine("default")

        async def call(asked: list[Operation]) -> list[Answer]:
            nonlocal done
            began_ns = time.monotonic_ns()
            if len(asked) == 1:
                answers = [await machine.run(asked[0])]
            else:
                answers = await machine.execute(asked)
            seen.append(Seen(began_ns, time.monotonic_ns(), asked, answers))
            done += len(asked)
            return answers

        process = (await call([SPAWN]))[0].value
        while done < operations:
            mapped = (await call([Operation(Call.MMAP, process, MMAP)]))[0].value
            if draw.random() < 0.5:
                batch = [Operation(Call.TOUCH, process, (mapped, PAGE, 1))]
                batch += [Operation(Call.MMAP, process, MMAP) for _ in range(BATCH // 2)]
                batch += [
                    Operation(Call.MUNMAP, process, (0, 4 * PAGE), addr_from=index)
                    for index in range(1, 1 + BATCH // 2)
                ]
                await call(batch)
            await call([Operation(Call.MUNMAP, process, (mapped, 4 * PAGE))])
    return seen


async def _ask_many(address: str, seed: int, operations: int) -> list[Seen]:
    share = operations // CLIENTS
    asked = (ask(address, seed * CLIENTS + number, share) for number in range(CLIENTS))
    return [seen for one in await asyncio.gather(*asked) for seen in one]


def client_process(address: str, seed: int, operations: int) -> list[Seen]:
    """What the clients of one process saw."""
    return asyncio.run(_ask_many(address, seed, operations))


def check(history: list[Seen]) -> tuple[int, float]:
    """Hold a history against real time and the library; give operations and the share overlapping.

    Raises:
        DisorderError: It has no explanation.
    """
    history.sort(key=lambda seen: seen.answers[0].seq)
    earliest_end_ns = sys.maxsize
    for seen in reversed(history):
        if earliest_end_ns < seen.began_ns:
            raise DisorderError(
                f"position {seen.answers[0].seq} began after a later one had been answered"
            )
        earliest_end_ns = min(earliest_end_ns, seen.ended_ns)
    library = Machine.boot(describe("spec:small"), seed=1)
    for seen in history:
        answers = library.execute(seen.operations)
        if answers != seen.answers:
            raise DisorderError(f"told {seen.answers[:3]}, the library says {answers[:3]}")
    return library.seq, overlapping(history)


def overlapping(history: list[Seen]) -> float:
    """The share of operations whose call was on its way together with another."""
    by_time = sorted(history, key=lambda seen: seen.began_ns)
    together = [False] * len(by_time)
    last = 0
    for index in range(1, len(by_time)):
        if by_time[index].began_ns < by_time[last].ended_ns:
            together[index] = together[last] = True
        if by_time[index].ended_ns > by_time[last].ended_ns:
            last = index
    counts = [len(seen.operations) for seen in by_time]
    both = sum(count for count, is_so in zip(counts, together, strict=True) if is_so)
    return both / sum(counts)


def run(operations: int, *, broken: bool) -> None:
    """Run the test.

    Raises:
        DisorderError: It failed.
    """
    program = [sys.executable, "-m", "contigmm_server.main"]
    if broken:
        program = [sys.executable, __file__.replace("order.py", "overtaking.py")]
    command = [*program, "--listen", "127.0.0.1:0", "--machine", "spec:small", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().split()[-1]
            with ProcessPoolExecutor(PROCESSES) as pool:
                parts = [
                    pool.submit(client_process, address, seed, operations // PROCESSES)
                    for seed in range(PROCESSES)
                ]
                history = [seen for part in parts for seen in part.result()]
        finally:
            server.terminate()
    count, share = check(history)
    if share < 0.5:
        raise DisorderError(f"only {share:.0%} of the operations overlapped another: no test")
    print(f"{count} operations in one order, {share:.0%} overlapping another")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--break", dest="broken", action="store_true")
    args = parser.parse_args()
    try:
        run(args.operations, broken=args.broken)
    except DisorderError as error:
        print(f"order test: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
