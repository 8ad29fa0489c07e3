"""The methods that a server offers, by name: each is wrapped once, before the server starts.

Nothing is asked at a call but one dictionary. grpc.aio's own ways cost more at every call: it asks
interceptors in Python, and it waits for the next call of each *registered* method apart, so that
a call costs the more the more methods there are.
"""

import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from contigmm.sim.machine import MachineStoppedError
from contigmm_server.failures import ErrorReason, ServiceError, invalid, status

log = logging.getLogger("contigmm_server")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
Wrapper: TypeAlias = "Callable[[str, Handler], Handler]"
Context = grpc.aio.ServicerContext[Any, Any]


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # as Handler
    """The methods of several services in one dictionary.

    It stands in for a server where generated code says ``add_…Servicer_to_server``. What concerns
    every call (failures, and whatever guards or counts calls) is a wrapper: it gets a method's
    full name and its handler, and gives the handler to use.
    """

    def __init__(self, *wrappers: Wrapper) -> None:
        """Make it empty; the first of ``wrappers`` is the innermost."""
        self._wrappers = wrappers
        self._handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[object]) -> None:
        """Take nothing: the same methods come by :meth:`add_registered_method_handlers`."""

    def add_registered_method_handlers(
        self, service: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Wrap the methods of a service and enter them."""
        for name, handler in method_handlers.items():
            method = f"/{service}/{name}"
            for wrapper in self._wrappers:
                handler = wrapper(method, handler)
            self._handlers[method] = handler

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of all methods."""
        return tuple(self._handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """Find the handler of a call; grpc answers UNIMPLEMENTED if there is none."""
        return self._handlers.get(handler_call_details.method)


def fail_clearly(_method: str, handler: Any) -> Handler:
    """Turn ``ServiceError`` into a status with ErrorInfo; anything else is a bug.

    A bug is logged with its traceback and reaches the client as UNKNOWN without one. A method that
    has one response may be a plain function: what it gives is the response, or awaited.
    """
    if handler.response_streaming:
        inner_stream = handler.stream_stream or handler.unary_stream
        # A coroutine writes by itself: that of the health service does.
        writes = inspect.iscoroutinefunction(inner_stream)
        send = inner_stream if writes else partial(_send_all, inner_stream)

        async def stream(request: Any, context: Context) -> None:
            try:
                if request.__class__ is DecodeError:
                    raise _unreadable(request)
                await send(request, context)
            except ServiceError as error:
                _refuse(context, error)
            except MachineStoppedError as error:
                _refuse(context, _stopped(error))

        return _MAKERS[handler.request_streaming, True](
            stream, _parser(handler), handler.response_serializer
        )

    inner = handler.stream_unary or handler.unary_unary

    async def call(request: Any, context: Context) -> Any:
        try:
            if request.__class__ is DecodeError:
                raise _unreadable(request)
            response = inner(request, context)
            return response if isinstance(response, Message) else await response
        except ServiceError as error:
            _refuse(context, error)
        except MachineStoppedError as error:
            _refuse(context, _stopped(error))
        return None

    return _MAKERS[handler.request_streaming, False](
        call, _parser(handler), handler.response_serializer
    )


def make_handler(handler: Any, behaviour: Callable[..., Any]) -> Handler:
    """The method of ``handler`` with another behaviour."""
    return _MAKERS[handler.request_streaming, handler.response_streaming](
        behaviour, handler.request_deserializer, handler.response_serializer
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


async def _send_all(
    inner: Callable[[Any, Context], AsyncGenerator[Any, None]], request: Any, context: Context
) -> None:
    """Send what a streaming method yields until it ends, or until its client is gone."""
    async with aclosing(inner(request, context)) as responses:
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


def _refuse(context: Context, error: ServiceError) -> None:
    """Let the call end with this status when its method returns.

    ``context.abort`` would raise through grpc.aio, and leave the request, the frames and the error
    in cycles, which stay until the collector comes by.
    """
    wire = status(error)
    context.set_code(wire.code)
    context.set_details(wire.details)
    context.set_trailing_metadata(tuple(wire.trailing_metadata))
