"""The processes that a load starts: its own server, and the generators. None outlives it.

Each holds one end of a pipe or socket whose other end is here, and ends when that is closed: also
when this process is killed and cannot close anything itself. They are sessions of their own, so
that Ctrl-C reaches only this process, which then ends them in order.
"""

import asyncio
import re
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Final

from contigmm.load.pipe import Assignment, FromGenerator, ToGenerator, receive, send
from contigmm.load.process import LoadError

_START_S: Final = 60
_END_S: Final = 10
_ADDRESS: Final = re.compile(rb"(\S+:\d+)\s*$")


@asynccontextmanager
async def own_server() -> AsyncIterator[str]:
    """Run a server on loopback for the block; the value is its address.

    Raises:
        LoadError: It did not start.
    """
    with tempfile.TemporaryFile() as log:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "contigmm.load.own_server", "--listen", "127.0.0.1:0"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield await _address_of(server, log)
        finally:
            if server.stdin is not None:
                server.stdin.close()
            await _ended(server)


async def _address_of(server: asyncio.subprocess.Process, log: IO[bytes]) -> str:
    if server.stdout is None:
        raise LoadError("the server was started without an output")
    async with asyncio.timeout(_START_S):
        line = await server.stdout.readline()
    found = _ADDRESS.search(line)
    if found is None:
        log.seek(0)
        last = log.read().decode(errors="replace").strip().splitlines()[-1:]
        raise LoadError(
            f"the server did not start: {''.join(last) or line.decode(errors='replace')}"
        )
    return found[1].decode()


class GeneratorProcess:
    """One generator, seen from the coordinator."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def running(cls, assignment: Assignment) -> AsyncIterator["GeneratorProcess"]:
        """Run a generator for the block."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "contigmm.load.generator", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            await send(writer, assignment)
            yield cls(process, reader, writer)
        finally:
            writer.close()
            await _ended(process)

    async def tell(self, message: ToGenerator) -> None:
        """Send a message."""
        await send(self._writer, message)

    async def messages(self) -> AsyncIterator[FromGenerator]:
        """Yield what the generator says until it ends."""
        while (message := await receive(self._reader)) is not None:
            if not isinstance(message, FromGenerator):
                raise LoadError(f"a generator sent what is no message: {message!r}")
            yield message


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
