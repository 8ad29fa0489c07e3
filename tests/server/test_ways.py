"""The library, unary calls, batches, columns and streams leave the same machine, bit for bit."""

import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from asking import ANON, DESCRIPTION, PAGE, RW

from contigmm.abi import MAP_CONTIG
from contigmm.client.aio import Client, Machine, Process
from contigmm.errors import MemoryFault, SyscallError
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.machine import Machine as LibraryMachine
from contigmm.sim.operation import Answer, Call, ExitCause, Operation
from contigmm.v1 import batch_pb2

SIZES = (0, PAGE, 3 * PAGE, 64 * 1024, 2 << 20, 5 << 20)


def script(seed: int, length: int) -> list[Operation]:
    """Operations of two processes, some of which are refused or fault; no result is used."""
    draw = random.Random(seed)
    spawn = SpawnSpec("a", frozenset(), {"MEMLOCK": (64 << 20, 64 << 20)}).encode()
    operations = [Operation(Call.SPAWN, 0, (1000, cpu, 0), spawn) for cpu in (0, 0)]
    for _ in range(length):
        process = draw.choice((1, 2))
        address = 0x7000_0000_0000 + draw.randrange(64) * (4 << 20)
        size = draw.choice(SIZES)
        flags = ANON | draw.choice((0, MAP_CONTIG)) | 0x10  # MAP_FIXED: addresses are the script's
        operations.append(
            draw.choice(
                (
                    Operation(Call.MMAP, process, (address, size, RW, flags, -1, 0)),
                    Operation(Call.MMAP, process, (address, size, RW, flags, -1, 0)),
                    Operation(Call.MUNMAP, process, (address, size)),
                    Operation(Call.MPROTECT, process, (address, size, draw.choice((0, 1, 3)))),
                    Operation(Call.MLOCK, process, (address, size)),
                    Operation(Call.MUNLOCK, process, (address, size)),
                    Operation(Call.TOUCH, process, (address, size, draw.choice((0, 1)))),
                )
            )
        )
    operations.append(Operation(Call.FORK, 1))
    operations.append(Operation(Call.TOUCH, 3, (0x7000_0000_0000, 64 << 20, 1)))
    operations.append(Operation(Call.EXIT, 2, (0, ExitCause.EXITED)))
    return operations


def in_library(operations: list[Operation]) -> tuple[list[Answer], str]:
    machine = LibraryMachine.boot(DESCRIPTION, seed=7, clock="manual")
    answers = [machine.run(operation) for operation in operations]
    machine.check()
    return answers, machine.digest()


async def new_machine(client: Client, name: str) -> Machine:
    return await client.create_machine(DESCRIPTION, name=name, seed=7, clock="manual")


def groups(operations: list[Operation], seed: int) -> Iterable[list[Operation]]:
    """The operations cut at random places."""
    draw = random.Random(seed)
    at = 0
    while at < len(operations):
        until = at + draw.randrange(1, 40)
        yield operations[at:until]
        at = until


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(3))
async def test_batches_and_streams_do_what_the_library_does(client, seed):
    operations = script(seed, 200)
    expected, digest = in_library(operations)
    machine = await new_machine(client, "batches")
    answers = []
    for group in groups(operations, seed):
        answers += await machine.execute(group)
    assert answers == expected
    assert await machine.digest() == digest
    assert {bool(answer.errno) for answer in answers} == {False, True}, "the script is too tame"
    machine = await new_machine(client, "stream")
    answers = []
    async with machine.stream() as stream:
        sent = [len(group) for group in groups(operations, seed + 1) if await stream.send(group)]
        for _ in sent:
            answers += await stream.receive()
        # its processes end with the stream, so the digest is taken while it is open
        assert await machine.digest() == digest
    assert answers == expected


@pytest.mark.asyncio
async def test_unary_calls_do_what_the_library_does(client):
    operations = script(11, 150)
    expected, digest = in_library(operations)
    machine = await new_machine(client, "unary")
    processes: dict[int, Process] = {}
    for operation, answer in zip(operations, expected, strict=True):
        assert await one_unary(machine, processes, operation) == outcome(answer), operation
    assert await machine.digest() == digest


def outcome(answer: Answer) -> object:
    if answer.errno:
        return (answer.errno, answer.reason)
    if answer.signal:
        return (answer.signal, answer.code, answer.address, answer.value)
    return answer.value


async def one_unary(
    machine: Machine, processes: dict[int, Process], operation: Operation
) -> object:
    """Make one call by its own method; give what :func:`outcome` gives."""
    args = operation.args
    try:
        if operation.call == Call.SPAWN:
            limits = {"MEMLOCK": (64 << 20, 64 << 20)}
            process = await machine.spawn("a", uid=args[0], cpu=args[1], rlimits=limits)
            processes[process.id] = process
            return process.id
        process = processes[operation.process]
        if operation.call == Call.FORK:
            child = await process.fork()
            processes[child.id] = child
            return child.id
        calls: dict[int, Callable[..., object]] = {
            Call.MMAP: process.mmap,
            Call.MUNMAP: process.munmap,
            Call.MPROTECT: process.mprotect,
            Call.MLOCK: process.mlock,
            Call.MUNLOCK: process.munlock,
            Call.TOUCH: lambda addr, length, write: process.touch(addr, length, write=bool(write)),
            Call.EXIT: lambda status, _cause: process.exit(status),
        }
        return await calls[operation.call](*args) or 0  # type: ignore[misc]
    except SyscallError as error:
        return (error.errno, error.reason)
    except MemoryFault as fault:
        return (fault.signal, fault.code, fault.address, fault.done)


def column(numbers: Iterable[int], dtype: str) -> bytes:
    return np.array(list(numbers), dtype).tobytes()


def columnar_args(operation: Operation) -> tuple[int, ...]:
    """What of an operation's arguments columns carry."""
    return operation.args[:1] if operation.call == Call.EXIT else operation.args[:4]


@pytest.mark.asyncio
async def test_columns_do_what_a_batch_does(client):
    operations = script(5, 100)
    expected, digest = in_library(operations)
    machine = await new_machine(client, "columns")
    await machine.execute(operations[:2])  # births do not fit in columns
    rest = operations[2:]
    rows = [(*columnar_args(o), 0, 0, 0, 0) for o in rest]
    first, second, third, fourth = (column((row[n] for row in rows), "<u8") for n in range(4))
    answers = await machine.execute_columns(
        batch_pb2.Columns(
            calls=bytes(o.call for o in rest),
            processes=column((o.process for o in rest), "<u8"),
            first=first,
            second=second,
            third=third,
            fourth=fourth,
        )
    )
    errnos = np.frombuffer(answers.errnos, "<u2").tolist()
    values = np.frombuffer(answers.values, "<u8").tolist()
    assert np.frombuffer(answers.seqs, "<u8").tolist() == [a.seq for a in expected[2:]]
    for answer, errno, value in zip(expected[2:], errnos, values, strict=True):
        if answer.signal:
            assert (errno, value) == (0xFF00 + answer.signal, answer.address)
        else:
            assert (errno, value) == (answer.errno, answer.value)
    assert await machine.digest() == digest


@pytest.mark.asyncio
async def test_bytes_written_are_read_back_over_every_way(machine):
    process = await machine.spawn()
    address = await process.mmap(0, PAGE, RW, ANON)
    assert await process.write(address + 5, b"contig") == 6
    assert await process.read(address, 16) == b"\0" * 5 + b"contig" + b"\0" * 5
    answers = await machine.execute(
        [
            Operation(Call.WRITE, process.id, (address,), b"more"),
            Operation(Call.READ, process.id, (address, 11)),
            Operation(Call.READ, process.id, (address, 0)),
        ]
    )
    assert [answer.data for answer in answers] == [b"", b"more\0contig", b""]


@pytest.mark.asyncio
async def test_what_stood_in_the_way_of_a_range_is_told_by_every_way(client):
    limits = {"MEMLOCK": (1 << 40, 1 << 40)}
    library = LibraryMachine.boot(DESCRIPTION, seed=7, clock="manual").spawn(rlimits=limits)
    process = await (await new_machine(client, "range")).spawn(rlimits=limits)
    size = 1 << 29  # larger than the machine
    mmap = Operation(Call.MMAP, process.id, (0, size, RW, ANON | MAP_CONTIG, -1, 0))
    with pytest.raises(SyscallError) as here:
        library.mmap(0, size, RW, ANON | MAP_CONTIG)
    with pytest.raises(SyscallError) as there:
        await process.mmap(0, size, RW, ANON | MAP_CONTIG)
    (answer,) = await process.machine.execute([mmap])
    assert here.value.detail
    assert there.value.detail == answer.detail == here.value.detail
