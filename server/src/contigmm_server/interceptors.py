"""What every call goes through: failures become statuses."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from contigmm.sim.machine import MachineStoppedError
from contigmm_server.failures import ErrorReason, ServiceError, invalid, status

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
            wrapped = _wrap(await continuation(handler_call_details))
            if wrapped is not None:  # else grpc answers UNIMPLEMENTED
                self._wrapped[method] = wrapped
        return wrapped


def _wrap(handler: Any) -> Any:
    if handler is None:
        return None
    if handler.response_streaming:
        inner_stream = handler.stream_stream or handler.unary_stream

        async def stream(request: Any, context: Context) -> None:
            try:
                if request.__class__ is DecodeError:
                    raise _unreadable(request)
                await _send_all(inner_stream(request, context), context)
            except ServiceError as error:
                await _abort(context, error)
            except MachineStoppedError as error:
                await _abort(context, _stopped(error))

        return _MAKERS[handler.request_streaming, True](
            stream, _parser(handler), handler.response_serializer
        )

    inner = handler.stream_unary or handler.unary_unary

    async def call(request: Any, context: Context) -> Any:
        try:
            if request.__class__ is DecodeError:
                raise _unreadable(request)
            return await inner(request, context)
        except ServiceError as error:
            await _abort(context, error)
        except MachineStoppedError as error:
            await _abort(context, _stopped(error))

    return _MAKERS[handler.request_streaming, False](
        call, _parser(handler), handler.response_serializer
    )


def _parser(handler: Any) -> Callable[[bytes], Any]:
    """The method's deserializer, but bytes that are no message are for the method to refuse.

    grpc would log a traceback and answer UNKNOWN. One unreadable message of many becomes an empty
    one, which no streaming method takes.
    """
    parse = handler.request_deserializer

    def parse_or_tell(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return parse(b"") if handler.request_streaming else error

    return parse_or_tell


def _unreadable(error: DecodeError) -> ServiceError:
    return invalid(ErrorReason.ERROR_REASON_UNREADABLE_MESSAGE, str(error))


_MAKERS: dict[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether the request and whether the response is a stream."""


async def _send_all(responses: AsyncGenerator[Any, None], context: Context) -> None:
    """Send what a streaming method yields until it ends, or until its client is gone."""
    async with aclosing(responses):
        async for response in responses:
            try:
                await context.write(response)
            except grpc.aio.InternalError:  # nobody is there to be written to
                return


def _stopped(error: MachineStoppedError) -> ServiceError:
    log.error("%s", error)
    return ServiceError(
        grpc.StatusCode.INTERNAL, ErrorReason.ERROR_REASON_MACHINE_STOPPED, str(error)
    )


async def _abort(context: Context, error: ServiceError) -> NoReturn:
    wire = status(error)
    await context.abort(wire.code, wire.details, tuple(wire.trailing_metadata))
