"""OpenTelemetry spans: one a call, sent to a collector over OTLP/HTTP by a thread of its own."""

from typing import Final

import grpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from contigmm_server.sight.calls import Ended

_OUR_FAULT: Final = frozenset(
    {
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Statuses that make a server's span an error: OpenTelemetry's conventions for RPC, v1.37."""


class Spans:
    """Makes a span of each call. ``traceparent`` in a call's metadata is its parent."""

    def __init__(self, processor: SpanProcessor) -> None:
        resource = Resource.create({SERVICE_NAME: "contigmm"})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("contigmm_server")

    def observe(self, call: Ended) -> None:
        """Make the span of a call that is over."""
        service, _, method = call.method.strip("/").rpartition("/")
        attributes: dict[str, str | int] = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "rpc.grpc.status_code": call.code.value[0],
        }
        told: dict[str, str | int] = {
            "contigmm.request_id": call.request_id,
            "contigmm.machine_seq": call.machine_seq,
            "contigmm.errno": call.errno,
        }
        attributes.update((key, value) for key, value in told.items() if value)
        span = self._tracer.start_span(
            f"{service}/{method}",
            extract({key: value for key, value in call.metadata if isinstance(value, str)}),
            SpanKind.SERVER,
            attributes,
            start_time=call.began_ns,
        )
        if call.code in _OUR_FAULT:
            span.set_status(Status(StatusCode.ERROR, call.code.name))
        span.end(call.began_ns + call.took_ns)

    def close(self) -> None:
        """Send what has not been sent; may take seconds if the collector does not answer."""
        self._provider.shutdown()


def sending_to(endpoint: str) -> Spans:
    """Spans that go to a collector; ``endpoint`` is its address, such as http://127.0.0.1:4318."""
    url = f"{endpoint.rstrip('/')}/v1/traces"
    return Spans(BatchSpanProcessor(OTLPSpanExporter(url, timeout=5)))
