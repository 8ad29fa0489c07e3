"""A bare grpc.aio server with one empty method: what every call costs before anything is served.

``python -m contigmm.bench.echo`` prints its address as ``contigmm serve`` does.
"""

import asyncio
import signal
import sys
from typing import Final

import grpc
import grpc.aio

from contigmm.v1 import machine_pb2


async def _answer(
    request: machine_pb2.GetServerRequest, context: object
) -> machine_pb2.GetServerResponse:
    return machine_pb2.GetServerResponse()


_HANDLER: Final = grpc.method_handlers_generic_handler(
    "contigmm.v1.MachineService",
    {
        "GetServer": grpc.unary_unary_rpc_method_handler(
            _answer,
            machine_pb2.GetServerRequest.FromString,
            machine_pb2.GetServerResponse.SerializeToString,
        )
    },
)
"""GetServer answered with nothing; no interceptor, no state."""


async def _serve() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_HANDLER,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"listening on 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await ended.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(_serve())
