"""A call that the service itself turned down, or that did not get there."""

from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from contigmm.errors import ContigmmError


class ServiceError(ContigmmError):
    """The service, not the simulated kernel, failed a call.

    Attributes:
        code: The gRPC status code.
        reason: Stable word that says why, such as ``NO_SUCH_MACHINE`` (``ErrorReason`` of the
            protos without its prefix); empty if the failure is the transport's.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, message: str) -> None:
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {message}")
        self.code = code
        self.reason = reason


def from_rpc(error: Any) -> ServiceError:
    """The failure of a call (a ``grpc.RpcError`` that is also a call) as our exception."""
    code = error.code()
    reason = ""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the status: a proxy's, not ours
        status = None
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
    return ServiceError(code, reason, error.details() or "")
