"""Every call with values from the edges of 64 bits: answers or a clear status, never a bug."""

import random
from collections.abc import Callable

import pytest
from asking import DESCRIPTION

from contigmm.abi import MAP_CONTIG
from contigmm.client.failures import ServiceError
from contigmm.sim.operation import Answer, Call, Operation

EDGES = (
    *(0, 1, 4095, 4096, 4097, 1 << 21, 1 << 30, (1 << 46) - 4096, 1 << 46, (1 << 47) - 4096),
    *(1 << 47, 1 << 52, (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1),
)
FLAGS = (0x22, 0x21, 0x32, 0x22 | 0x100, 0x22 | 0x2000, 0x22 | 0x40000, 0x2, 0x1, 0x3)


class Attacker:
    """Draws operations; knows the processes and addresses that it was given."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._processes = [1]
        self._addresses = [4096]
        self._calls: tuple[Callable[[int], Operation], ...] = (
            *(self._mmap,) * 4,
            *(self._touch,) * 2,
            *(self._range(call) for call in (Call.MUNMAP, Call.MLOCK, Call.MUNLOCK)),
            lambda p: Operation(Call.MPROTECT, p, (self._word(), self._word(), self._word())),
            lambda p: Operation(Call.READ, p, (self._word(), self._draw.choice((0, 1, 4096)))),
            lambda p: Operation(Call.WRITE, p, (self._word(),), bytes(4096)),
            lambda p: Operation(Call.FORK, p),
            lambda p: Operation(Call.EXIT, p, (self._draw.choice((-(2**31), 2**31 - 1)), 0)),
            lambda p: Operation(Call.ADVANCE_CLOCK, 0, (self._draw.choice(EDGES),)),
        )

    def operation(self) -> Operation:
        """The next one."""
        process = self._draw.choice((*self._processes[-8:], 0, 2**63))
        return self._draw.choice(self._calls)(process)

    def learn(self, operation: Operation, answer: Answer) -> None:
        """Note what can be attacked."""
        if answer.ok and operation.call == Call.FORK:
            self._processes.append(answer.value)
        if answer.ok and operation.call == Call.MMAP:
            self._addresses.append(answer.value)

    def _word(self) -> int:
        kind = self._draw.random()
        if kind < 0.4:
            offset = self._draw.choice((0, 0, 4096, 1, -4096, 1 << 16))
            return (self._draw.choice(self._addresses) + offset) % 2**64
        if kind < 0.6:
            return self._draw.randrange(64) * 4096
        return self._draw.choice(EDGES) if kind < 0.9 else self._draw.randrange(2**64)

    def _mmap(self, process: int) -> Operation:
        flags = self._draw.choice((*FLAGS, self._draw.randrange(2**64)))
        flags |= self._draw.choice((0, 0, MAP_CONTIG, MAP_CONTIG | 0x8000))
        address = self._draw.choice((0, self._word()))
        prot = self._draw.choice((0, 1, 3, 7, self._draw.randrange(2**64)))
        fd = self._draw.choice((-1, 0, 2**31 - 1, -(2**31)))
        return Operation(Call.MMAP, process, (address, self._word(), prot, flags, fd, self._word()))

    def _touch(self, process: int) -> Operation:
        return Operation(
            Call.TOUCH, process, (self._word(), self._word(), self._draw.choice((0, 1)))
        )

    def _range(self, call: Call) -> Callable[[int], Operation]:
        return lambda process: Operation(call, process, (self._word(), self._word()))


@pytest.mark.asyncio
@pytest.mark.parametrize("profile", ["contig", "rfc2017", "linux"])
@pytest.mark.parametrize("seed", range(2))
async def test_values_from_the_edges_are_answered(client, profile, seed):
    machine = await client.create_machine(DESCRIPTION, profile=profile, seed=seed)
    keeper = await machine.spawn("keeper", caps=frozenset({"CAP_IPC_LOCK"}))
    attacker = Attacker(seed)
    async with machine.stream() as stream:
        for _ in range(40):
            operations = [attacker.operation() for _ in range(16)]
            for operation, answer in zip(operations, await stream.execute(operations), strict=True):
                attacker.learn(operation, answer)
    await machine.check()
    del keeper


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "spec",
    [
        {"cpu": 99},
        {"cpu": 2**32 - 1},
        {"node": 7},
        {"caps": frozenset({"CAP_NOT_ONE"})},
        {"rlimits": {"NOT_ONE": (1, 1)}},
        {"rlimits": {"AS": (2, 1)}},
        {"name": "n" * 16},
        {"name": "é" * 8},
    ],
    ids=str,
)
async def test_processes_that_cannot_be_started_are_not(machine, spec):
    with pytest.raises((ServiceError, OSError)) as caught:
        await machine.spawn(**spec)
    if isinstance(caught.value, ServiceError):
        assert caught.value.code.name == "INVALID_ARGUMENT"
    assert await machine.processes() == []
    await machine.check()
