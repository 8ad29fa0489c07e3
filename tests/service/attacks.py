"""What strangers send: bytes that are no HTTP/2, messages that are none, names of others, bombs."""

import asyncio
import gzip
import random
import struct
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from contigmm.client import Door
from contigmm.client.aio import connect
from contigmm.sim.lives import SpawnSpec
from contigmm.sim.operation import MAX_OPERATIONS, Call, Operation
from contigmm.v1 import machine_pb2, process_pb2, view_pb2
from contigmm_server.doors.needs import NEEDS

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SPAWN: Final = Operation(Call.SPAWN, 0, (1000, 0, 0), SpawnSpec("s").encode())
_TIMEOUT_S: Final = 20
_MIB: Final = 1 << 20
BOMB: Final = zlib.compress(bytes(600 * _MIB), 1)
GZIP_BOMB: Final = gzip.compress(bytes(64 * _MIB), 1)
_M: Final = "/contigmm.v1.MachineService/"


@dataclass(frozen=True)
class Target:
    """Where to send it, and as whom."""

    address: str
    owner: str
    """Token of the tenant that owns machines/shared."""
    rival: str
    """Token of a tenant that was let in there, and owns machines/rival."""
    stranger: str
    """Token of a tenant that was let in nowhere."""
    revoked: str


def _frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(path: str, *extra: tuple[str, str]) -> bytes:
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *extra,
    )
    return b"".join(
        b"\x10" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields
    )


async def on_a_socket(target: Target, data: bytes) -> None:
    """Send bytes, wait a moment for an answer, and go away."""
    host, _, port = target.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with suppress(OSError):
        writer.write(data)
        await writer.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(4096), 0.05)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def bytes_of_no_protocol(draw: random.Random, target: Target) -> bytes:
    """What a raw connection sends."""
    call = _headers(_M + "GetServer", ("authorization", f"Bearer {target.owner}"))
    settings = PREFACE + _frame(4, 0, 0, b"")
    return draw.choice(
        (
            draw.randbytes(200),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            PREFACE[: draw.randrange(len(PREFACE))],
            settings + _frame(1, 4, 1, call)[: draw.randrange(9, 60)],  # cut off
            settings + _frame(1, 4, 1, draw.randbytes(40)),
            settings + _frame(0, 0, 0, b"x" * 10),
            settings + _frame(draw.randrange(10), draw.randrange(256), 1, draw.randbytes(50)),
            settings + _frame(0, 0, 1, b"", length=(1 << 24) - 1),
            settings + _frame(1, 4, 1, call) + _frame(0, 1, 1, b"\x00\xff\xff\xff\xffxx"),  # 4 GiB
            settings + _frame(1, 4, 1, call) + _frame(0, 1, 1, b"\x00\x00\x00\x00\x09xx"),
            settings + _frame(1, 4, 1, call) + _frame(0, 0, 1, b"\x01\x00\x00\x00\x02zz"),
        )
    )


def _refused(call: grpc.aio.Call) -> Awaitable[str]:
    async def code() -> str:
        return (await call.code()).name

    return code()


class Attacker:
    """One connection, and draws from one seed."""

    def __init__(self, target: Target, seed: int, codes: Counter[str]) -> None:
        self.target = target
        self.draw = random.Random(seed)
        self.codes = codes
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_retries", 0),
        )
        self.channel = grpc.aio.insecure_channel(target.address, options=options)
        self.attacks: tuple[Callable[[], Awaitable[None]], ...] = (
            *(self.bytes_as_a_message,) * 6,
            *(self.broken_text,) * 4,
            *(self.forged_token,) * 6,
            *(self.name_of_another,) * 6,
            *(self.page_token,) * 4,
            self.raw_bytes,
        )

    def metadata(self, token: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {token}"),)

    async def send(self, method: str, message: bytes, token: str, **options: Any) -> str:
        """Send bytes to a method as a unary call; give the status."""
        call = self.channel.unary_unary(method)(
            message, metadata=self.metadata(token), timeout=_TIMEOUT_S, **options
        )
        code: grpc.StatusCode = await call.code()
        self.codes[code.name] += 1
        return code.name

    async def bytes_as_a_message(self) -> None:
        """Any bytes to any method that takes one message."""
        method = self.draw.choice(_UNARY)
        await self.send(method, self.draw.randbytes(self.draw.randrange(60)), self.target.rival)

    async def broken_text(self) -> None:
        """A name that is no UTF-8, absurdly long, or full of what names are not made of."""
        name = self.draw.choice((b"\xff\xfe\x80", b"machines/" + b"x" * 5000, b"machines/\x00/.."))
        size = len(name)
        prefix = b"\x0a" + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7]))
        code = await self.send(self.draw.choice(_NAMED), prefix + name, self.target.rival)
        assert code == "INVALID_ARGUMENT", code

    async def forged_token(self) -> None:
        """A token that is none, was none, or is none any more."""
        good = self.target.owner
        token = self.draw.choice(
            (
                self.target.revoked,
                good[:-2] + "~~",
                good[:21] + "A" * 43,
                "x" * self.draw.randrange(4000),
                "cmm_" + self.draw.randbytes(8).hex() + good[20:],
            )
        )
        code = await self.send(_M + "GetServer", b"", token)
        assert code == "UNAUTHENTICATED", code

    async def name_of_another(self) -> None:
        """Machines and processes that are another's."""
        name = self.draw.choice(("machines/shared", "machines/rival", "machines/none"))
        request = self.draw.choice(
            (
                (_M + "GetMachine", machine_pb2.GetMachineRequest(machine=name)),
                (_M + "DeleteMachine", machine_pb2.DeleteMachineRequest(machine=name)),
                (
                    "/contigmm.v1.ProcessService/GetProcess",
                    process_pb2.GetProcessRequest(process=f"{name}/processes/1"),
                ),
                (
                    "/contigmm.v1.ViewService/GetBuddyinfo",
                    view_pb2.GetBuddyinfoRequest(machine=name),
                ),
            )
        )
        code = await self.send(request[0], request[1].SerializeToString(), self.target.stranger)
        assert code == "NOT_FOUND", code

    async def page_token(self) -> None:
        """A token of another list, of another moment, or of nobody."""
        token = self.draw.choice(
            ("OTk5OS94L21hY2hpbmVz", "MS8xL21hY2hpbmVzL3NoYXJlZA==", "%%", "é")
        )
        request = process_pb2.ListProcessesRequest(machine="machines/shared", page_token=token)
        code = await self.send(
            "/contigmm.v1.ProcessService/ListProcesses",
            request.SerializeToString(),
            self.target.rival,
        )
        assert code in ("INVALID_ARGUMENT", "ABORTED"), code

    async def raw_bytes(self) -> None:
        """What is no gRPC."""
        await on_a_socket(self.target, bytes_of_no_protocol(self.draw, self.target))

    async def run(self, requests: int) -> None:
        """Attack so many times."""
        for _ in range(requests):
            await self.draw.choice(self.attacks)()
        await self.channel.close()


_UNARY: Final = tuple(
    sorted(
        method
        for method in NEEDS
        if "reflection" not in method
        and not method.endswith(
            ("Operate", "Watch", "WatchMachine", "UploadMachine", "RestoreMachine", "CheckMachine")
        )
        and "/Read" not in method
        and not method.endswith(("SnapshotMachine", "CreateMachine", "DeleteMachine"))
    )
)
_NAMED: Final = (
    _M + "GetMachine",
    "/contigmm.v1.ViewService/GetCounters",
    "/contigmm.v1.MemoryService/Mmap",
    "/contigmm.v1.BatchService/RunBatch",
)


async def bombs(target: Target) -> None:
    """Little that unpacks to much: a description, a snapshot, a compressed message."""
    door = Door(token=target.rival)
    async with connect(target.address, door=door, timeout_s=60) as client:
        codes = []
        for method, header in (
            ("UploadMachine", machine_pb2.UploadMachineRequest),
            ("RestoreMachine", machine_pb2.RestoreMachineRequest),
        ):
            first = header()
            first.header.SetInParent()
            call = client._methods[method](iter([first, header(chunk=b"cmm\x01" + BOMB)]))
            codes.append((await call.code()).name)
        assert codes == ["INVALID_ARGUMENT"] * 2, codes
    message = b"\x01" + struct.pack(">I", len(GZIP_BOMB)) + GZIP_BOMB
    headers = _headers(
        _M + "GetServer",
        ("authorization", f"Bearer {target.rival}"),
        ("grpc-encoding", "gzip"),
    )
    data = PREFACE + _frame(4, 0, 0, b"") + _frame(1, 4, 1, headers)
    pieces = [message[first : first + 16_000] for first in range(0, len(message), 16_000)][:3]
    await on_a_socket(target, data + b"".join(_frame(0, 0, 1, piece) for piece in pieces))


async def never_read(target: Target, streams: int) -> None:
    """Streams whose answers nobody reads, and slow readers of bulk answers; then all go away."""
    door = Door(token=target.rival)
    async with connect(target.address, door=door) as client:
        machine = client.machine("shared")
        batch = [Operation(Call.MMAP, 1, (0, 4096, 3, 0x22, -1, 0))] * 256
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(_deaf(machine, batch))
                group.create_task(_slow(machine))


async def _deaf(machine: Any, batch: list[Operation]) -> None:
    async with machine.stream() as stream:
        with suppress(TimeoutError):
            for _ in range(200):
                await asyncio.wait_for(stream.send(batch), 1)


async def _slow(machine: Any) -> None:
    request = view_pb2.ReadFramesRequest(machine=machine.name)
    parts = machine.client.receive("ReadFrames", request)
    await anext(parts)
    await asyncio.sleep(0.5)
    await parts.aclose()


async def idle_sockets(target: Target, count: int) -> list[asyncio.StreamWriter]:
    """Connections that say nothing, or nothing behind the preface."""
    host, _, port = target.address.rpartition(":")
    writers = []
    for number in range(count):
        _, writer = await asyncio.open_connection(host, int(port))
        if number % 2:
            writer.write(PREFACE + _frame(4, 0, 0, b""))
        writers.append(writer)
    return writers


async def crowd(target: Target, batches: int) -> None:
    """Two tenants at one machine, one with the longest batches: who waits must be served."""

    async def work(token: str, size: int, count: int) -> None:
        async with connect(target.address, door=Door(token=token)) as client:
            machine = client.machine("shared")
            process = await machine.spawn(uid=1000)
            mapped = await process.mmap(0, 64 * 4096, 3, 0x22)
            touch = Operation(Call.TOUCH, process.id, (mapped, 64 * 4096, 1))
            for _ in range(count):
                answers = await machine.execute([touch] * size)
                assert all(answer.ok for answer in answers)
            await process.exit()

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work(target.owner, MAX_OPERATIONS, batches))
            group.create_task(work(target.rival, 1, 10 * batches))
