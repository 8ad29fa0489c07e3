"""Request ids: the same id with the same body gives the first answer again."""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from contigmm_server.failures import ErrorReason, invalid
from contigmm_server.limits import Limits

MAX_ID_BYTES = 128


class Identified(Protocol):
    """A request that can be retried."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """The body."""


@dataclass(slots=True, frozen=True)
class _Kept:
    body: bytes
    response: Message
    size: int


R = TypeVar("R", bound=Message)


class Replies:
    """The last answers to requests that had an id, bounded in number and in bytes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    def recall(self, request: Identified, kind: type[R]) -> R | None:
        """The first answer to ``request``, or nothing if it is new.

        Raises:
            ServiceError: INVALID_ARGUMENT, the id was used with another body or is too long.
        """
        request_id = request.request_id
        kept = self._kept.get(request_id)
        if kept is None:
            if len(request_id) > MAX_ID_BYTES:
                raise invalid(
                    ErrorReason.ERROR_REASON_INVALID_FIELD,
                    f"request_id: more than {MAX_ID_BYTES} characters",
                )
            return None
        if not isinstance(kept.response, kind) or kept.body != _fingerprint(request):
            raise invalid(
                ErrorReason.ERROR_REASON_REQUEST_ID_REUSED,
                f"request_id {request_id!r} was used with another body",
            )
        return kept.response

    def keep(self, request: Identified, response: Message) -> None:
        """Remember the answer, and forget the oldest beyond the bounds."""
        size = response.ByteSize()
        self._kept[request.request_id] = _Kept(_fingerprint(request), response, size)
        self._bytes += size
        while len(self._kept) > self._limits.replies or self._bytes > self._limits.reply_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size


def _fingerprint(request: Identified) -> bytes:
    """The body, or the hash of a long one."""
    body = request.SerializeToString(deterministic=True)
    return body if len(body) <= 64 else blake2b(body, digest_size=32).digest()
