"""Stands between a client and a server, and loses the first answer of every unary method.

The call itself reaches the server and takes effect; the client is told UNAVAILABLE, as when a
connection breaks. A client that retries under the same request id prints the same transcript as
without it, down to every machine_seq; one that does not retry fails. Usage: ``lossy.py SERVER``.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Final

import grpc
from google.protobuf.descriptor import FileDescriptor

from contigmm.v1 import batch_pb2, machine_pb2, memory_pb2, process_pb2, view_pb2

_FILES: Final[tuple[FileDescriptor, ...]] = tuple(
    module.DESCRIPTOR for module in (batch_pb2, machine_pb2, memory_pb2, process_pb2, view_pb2)
)
_UNARY: Final = frozenset(
    f"/{service.full_name}/{method.name}"
    for file in _FILES
    for service in file.services_by_name.values()
    for method in service.methods
    if not method.client_streaming and not method.server_streaming
)


class Lossy(grpc.GenericRpcHandler):
    """Passes every call on as bytes."""

    def __init__(self, server: grpc.aio.Channel) -> None:
        self._server = server
        self.lost: list[str] = []

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Return a handler for any method."""
        method = handler_call_details.method

        async def passed_on(
            requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]"
        ) -> AsyncIterator[bytes]:
            lose = method in _UNARY and method not in self.lost
            call = self._server.stream_stream(method)(requests, timeout=context.time_remaining())
            try:
                async for answer in call:
                    if not lose:
                        yield answer
            except grpc.aio.AioRpcError as error:
                if not lose:
                    context.set_trailing_metadata(tuple(error.trailing_metadata()))
                    await context.abort(error.code(), error.details() or "")
            finally:
                call.cancel()
            if lose:
                self.lost.append(method)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost on purpose")

        return grpc.stream_stream_rpc_method_handler(passed_on)


async def main() -> None:
    """Pass calls on until told to end; then say on standard error what was lost."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        lossy = Lossy(channel)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((lossy,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"listening on 127.0.0.1:{port}", flush=True)
        await ended.wait()
        await server.stop(grace=None)
    print(f"lost {len(lossy.lost)} answers", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: lossy.py HOST:PORT")
    asyncio.run(main())
