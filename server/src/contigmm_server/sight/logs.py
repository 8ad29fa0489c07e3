"""Logs as JSON, an object a line, each naming the call that it was written in."""

import json
import logging
from datetime import UTC, datetime

import grpc

from contigmm_server.sight.calls import CURRENT, Ended

log = logging.getLogger("contigmm_server.calls")


class JsonFormatter(logging.Formatter):
    """``time``, ``level``, ``logger``, ``message``; ``method`` and ``request_id`` within a call.

    What a record has as ``fields`` is added; a traceback is ``exception``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        method, request_id = CURRENT.get()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if method:
            line["method"] = method
        if request_id:
            line["request_id"] = request_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def observe(call: Ended) -> None:
    """Write a call down: one that failed by the server as an error, others as information."""
    bad = call.code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    level = logging.ERROR if bad else logging.INFO
    if log.isEnabledFor(level):
        fields = {
            "code": call.code.name,
            "took_us": call.took_ns // 1000,
            "machine_seq": call.machine_seq,
            "errno": call.errno,
        }
        log.log(level, "call", extra={"fields": fields})
