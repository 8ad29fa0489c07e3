"""Calls, as whoever looks on sees them: counted always, described to observers if there are any."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from contigmm_server.durations import Durations
from contigmm_server.methods import Context, Handler, make_handler


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over."""

    method: str
    request: Any
    """The message, or the iterator of a stream."""
    response: Any
    """The message; absent for streams and for calls that failed."""
    metadata: Sequence[tuple[str, str | bytes]]
    code: grpc.StatusCode
    began_ns: int
    """Since the epoch: when the server began with it."""
    took_ns: int

    @property
    def request_id(self) -> str:
        """The id that the client gave, or nothing."""
        return getattr(self.request, "request_id", "")

    @property
    def machine_seq(self) -> int:
        """The position in the machine's order, or 0."""
        return getattr(self.response, "machine_seq", 0)

    @property
    def errno(self) -> str:
        """Name of the errno with which the simulated kernel refused, or nothing."""
        failure = getattr(self.response, "failure", None)
        return getattr(failure, "errno_name", "")


Observer = Callable[[Ended], None]

CURRENT: Final[ContextVar[tuple[str, str]]] = ContextVar("call", default=("", ""))
"""Method and request id of the call that this task serves; kept for observers only."""


class MethodTally:
    """What became of the calls of one method."""

    __slots__ = ("codes", "durations", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.codes: dict[grpc.StatusCode, int] = {}
        self.durations = Durations()

    def count(self, code: grpc.StatusCode, took_ns: int) -> None:
        """One more has ended."""
        self.in_flight -= 1
        self.codes[code] = self.codes.get(code, 0) + 1
        self.durations.add(took_ns / 1e9)


class CallWatch:
    """The outermost wrapper of every method: sees each call that names a method there is."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self.methods: dict[str, MethodTally] = {}
        self._observers = tuple(observers)

    def wrap(self, method: str, handler: Any) -> Handler:
        """Watch a method's calls: a ``Wrapper``."""
        tally = self.methods[method] = MethodTally()
        inner = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )

        async def call(request: Any, context: Context) -> Any:
            tally.in_flight += 1
            began_ns = time.perf_counter_ns()
            code, response = grpc.StatusCode.UNKNOWN, None  # a bug, unless something else is said
            if self._observers:
                CURRENT.set((method, getattr(request, "request_id", "")))
            try:
                response = await inner(request, context)
                code = grpc.StatusCode.OK
                if response is None:  # a stream, or it was refused
                    code = _CODES[context.code()]
            except grpc.aio.AbortError:  # the health service raises it
                code = _CODES.get(context.code(), code)
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            finally:
                took_ns = time.perf_counter_ns() - began_ns
                tally.count(code, took_ns)
                if self._observers:
                    self._tell(method, request, response, context, code, took_ns)
            return response

        return make_handler(handler, call)

    def _tell(
        self,
        method: str,
        request: Any,
        response: Any,
        context: Context,
        code: grpc.StatusCode,
        took_ns: int,
    ) -> None:
        metadata = tuple(context.invocation_metadata() or ())
        began_ns = time.time_ns() - took_ns
        ended = Ended(method, request, response, metadata, code, began_ns, took_ns)
        for observe in self._observers:
            observe(ended)


_CODES: Final[dict[Any, grpc.StatusCode]] = {
    **{code: code for code in grpc.StatusCode},
    **{code.value[0]: code for code in grpc.StatusCode},
}
"""By what grpc.aio calls a status: its number, or itself."""
