"""What every call goes through: failures become statuses."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from contigmm.sim.machine import MachineStoppedError

from contigmm_server.failures import ErrorReason, ServiceError, status

log = logging.getLogger("contigmm_server")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"
Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # as Handler
    """Turns ``ServiceError`` into a status with ErrorInfo; anything else is a bug.

    A bug is logged with its traceback and reaches the client as UNKNOWN without one. A handler is
    wrapped once and kept by the method's name, for an interceptor is asked at every call.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Give the method's handler with its failures caught."""
        method: str = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if not handler:  # no such method: grpc answers UNIMPLEMENTED
                return handler
            wrapped = self._wrapped[method] = _wrap(handler)
        return wrapped


def _wrap(handler: Any) -> Handler:
    if handler.response_streaming:
        inner_stream = handler.stream_stream or handler.unary_stream

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                async for response in inner_stream(request, context):
                    yield response
            except ServiceError as error:
                await _abort(context, error)
            except MachineStoppedError as error:
                await _abort(context, _stopped(error))

        return _MAKERS[handler.request_streaming, True](
            stream, handler.request_deserializer, handler.response_serializer
        )

    inner = handler.stream_unary or handler.unary_unary

    async def call(request: Any, context: Context) -> Any:
        try:
            return await inner(request, context)
        except ServiceError as error:
            await _abort(context, error)
        except MachineStoppedError as error:
            await _abort(context, _stopped(error))

    return _MAKERS[handler.request_streaming, False](
        call, handler.request_deserializer, handler.response_serializer
    )


_MAKERS: dict[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether the request and whether the response is a stream."""


def _stopped(error: MachineStoppedError) -> ServiceError:
    log.error("%s", error)
    return ServiceError(
        grpc.StatusCode.INTERNAL, ErrorReason.ERROR_REASON_MACHINE_STOPPED, str(error)
    )


async def _abort(context: Context, error: ServiceError) -> NoReturn:
    wire = status(error)
    await context.abort(wire.code, wire.details, tuple(wire.trailing_metadata))
