"""A generator: an operating-system process that drives some of the load's simulated processes.

It is started by the coordinator as ``python -m contigmm.load.generator FD``, FD being its end of a
pair of sockets. When the other end is closed, for whatever cause, it ends too.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from time import monotonic_ns
from typing import Final

from contigmm.client.aio import Machine, connect
from contigmm.client.failures import ServiceError
from contigmm.load.arrival import Timetable
from contigmm.load.effort import Meter
from contigmm.load.pipe import (
    Assignment,
    Failed,
    Leave,
    Measure,
    Stop,
    Stopped,
    Warmed,
    receive,
    send,
)
from contigmm.load.process import Birth, LoadError, SimulatedProcess
from contigmm.load.samples import Recorder
from contigmm.load.sizes import Script

CHUNK_S: Final = 0.25
"""How often the coordinator is told what was seen."""


class Generator:
    """Runs the simulated processes of one assignment."""

    def __init__(self, assignment: Assignment, writer: asyncio.StreamWriter) -> None:
        self._assignment = assignment
        self._writer = writer
        self._recorder = Recorder(operations=assignment.kept_operations)
        self._measuring = False
        self._begin_ns = 0
        self._stopping = asyncio.Event()
        self._meter = Meter()
        self._warm = 0
        self._processes: list[SimulatedProcess] = []

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Do what is assigned until told to leave, or until the coordinator is gone."""
        async with AsyncExitStack() as stack:
            given = self._assignment
            client = await stack.enter_async_context(connect(given.address, door=given.door))
            await self._spawn(client.machine(given.machine), stack)
            async with asyncio.TaskGroup() as group:
                work = [
                    group.create_task(self._drive(process, index))
                    for process, index in zip(
                        self._processes, self._assignment.processes, strict=True
                    )
                ]
                aside = [group.create_task(self._report()), group.create_task(self._meter.beat())]
                while not isinstance(message := await receive(reader), Stop):
                    if message is None:
                        raise _AbandonedError
                    if isinstance(message, Measure):
                        self._recorder.forget_calls()
                        self._meter.start()
                        self._begin_ns, self._measuring = monotonic_ns(), True
                effort = self._meter.read()
                self._stopping.set()
                await asyncio.wait(work)
                for task in aside:
                    task.cancel()
            await self._send_chunk()
            await send(self._writer, Stopped(effort))
            if isinstance(await receive(reader), Leave):
                await asyncio.gather(*(process.exit() for process in self._processes))

    async def _spawn(self, machine: Machine, stack: AsyncExitStack) -> None:
        given, sizes_bytes = self._assignment, self._assignment.scenario.sizes_bytes
        for index in given.processes:
            number = given.scenario.group_of(index)
            group = given.scenario.groups[number]
            script = Script(
                seed=given.scenario.seed,
                process_index=index,
                mix=group.sizes.over(sizes_bytes),
                hold=given.holds[number],
                chances=group.chances,
            )
            cpu = index % len(given.cpu_nodes)
            process = SimulatedProcess(
                await stack.enter_async_context(machine.stream()),
                script=script,
                sizes_bytes=sizes_bytes,
                recorder=self._recorder,
                birth=Birth(
                    index, group.name, cpu, given.cpu_nodes[cpu], group.memlock, group.memory
                ),
            )
            await process.spawn()
            self._processes.append(process)

    async def _drive(self, process: SimulatedProcess, index: int) -> None:
        await process.run(
            warm_after=self._assignment.holds[self._assignment.scenario.group_of(index)].high,
            warm=self._one_more_is_warm,
            going_on=lambda: not self._stopping.is_set(),
            due=self._due(index),
        )

    def _due(self, index: int) -> Callable[[], Awaitable[int | None]]:
        """Return what waits until the next request of a process is due, and tells when that was.

        Demand builds up in a closed loop, as fast as it can; measured is what arrives on time.
        """
        given = self._assignment
        timetable = Timetable(
            [(phase.seconds, phase.arrival) for phase in given.scenario.phases],
            seed=given.scenario.seed,
            process_index=index,
            nr_processes=given.scenario.nr_processes,
        )

        async def due() -> int | None:
            if not self._measuring:
                return None
            offset_ns = timetable.due_ns(monotonic_ns() - self._begin_ns)
            if offset_ns is None:
                return None
            due_ns = self._begin_ns + offset_ns
            if (early_ns := due_ns - monotonic_ns()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(early_ns / 1e9):
                        await self._stopping.wait()
            return due_ns

        return due

    def _one_more_is_warm(self) -> None:
        self._warm += 1

    async def _report(self) -> None:
        told = False
        while True:
            await asyncio.sleep(CHUNK_S)
            if self._measuring:
                await self._send_chunk()
            elif self._warm == len(self._processes) and not told:
                told = True
                await send(self._writer, Warmed())

    async def _send_chunk(self) -> None:
        await send(self._writer, self._recorder.take())


class _AbandonedError(Exception):
    """The coordinator is gone."""


async def _serve_coordinator(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    assignment = await receive(reader)
    if not isinstance(assignment, Assignment):
        return
    sentence = ""
    try:
        await Generator(assignment, writer).run(reader)
    except* _AbandonedError:
        pass  # nobody is left to be told
    except* (LoadError, ServiceError) as failed:
        sentence = "; ".join(sorted({str(error) for error in _leaves(failed)}))
    if sentence:
        await send(writer, Failed(sentence))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def main() -> None:
    """Serve the coordinator at the other end of the socket that the first argument numbers."""
    with suppress(BrokenPipeError, ConnectionResetError):
        asyncio.run(_serve_coordinator(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
