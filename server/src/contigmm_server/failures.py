"""How a call fails for reasons of the service: the one way onto the wire."""

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from contigmm.v1 import error_reason_pb2

DOMAIN = "contigmm"
ErrorReason = error_reason_pb2.ErrorReason
_PREFIX = len("ERROR_REASON_")


class ServiceError(Exception):
    """The service turns a call down; the simulated kernel has not been asked, or has no answer."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: "ErrorReason.ValueType",
        message: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = metadata or {}
        """Of the ErrorInfo."""


def invalid(reason: "ErrorReason.ValueType", message: str) -> ServiceError:
    """An argument that cannot be right."""
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message)


def not_found(reason: "ErrorReason.ValueType", message: str) -> ServiceError:
    """A name that names nothing."""
    return ServiceError(grpc.StatusCode.NOT_FOUND, reason, message)


def exhausted(reason: "ErrorReason.ValueType", message: str) -> ServiceError:
    """A bound of the server."""
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, message)


def aborted(reason: "ErrorReason.ValueType", message: str) -> ServiceError:
    """The client should begin again at a higher level."""
    return ServiceError(grpc.StatusCode.ABORTED, reason, message)


def precondition(reason: "ErrorReason.ValueType", message: str) -> ServiceError:
    """The machine is not in a state for this."""
    return ServiceError(grpc.StatusCode.FAILED_PRECONDITION, reason, message)


def role_too_low(message: str) -> ServiceError:
    """The caller may not do this."""
    return ServiceError(
        grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_ROLE_TOO_LOW, message
    )


def shutting_down() -> ServiceError:
    """The server takes nothing more on."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_SHUTTING_DOWN,
        "the server is shutting down",
    )


def status(error: ServiceError) -> grpc.Status:
    """The error as a status with ``google.rpc.ErrorInfo``."""
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(
            reason=ErrorReason.Name(error.reason)[_PREFIX:], domain=DOMAIN, metadata=error.metadata
        )
    )
    return rpc_status.to_status(
        status_pb2.Status(code=error.code.value[0], message=error.message, details=[detail])
    )
