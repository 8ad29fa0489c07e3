"""Request ids: the same id with the same body gives the first answer again."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.message import Message

from contigmm_server.failures import ErrorReason, invalid
from contigmm_server.limits import Limits

MAX_ID_BYTES: Final = 128

Key: TypeAlias = tuple[str, str]
"""A tenant, whose name is empty on an unguarded server, and the id that he gave a request."""

R = TypeVar("R", bound=Message)


class Replies:
    """The last requests that had an id, and their answers; bounded in number and in bytes.

    A tenant has ids of its own.

    Both are kept as the messages they are: a body is compared only when its id comes again.
    """

    def __init__(self, limits: Limits) -> None:
        self._most = limits.replies
        self._most_bytes = limits.reply_bytes
        self._kept: OrderedDict[Key, tuple[Message, Message, int]] = OrderedDict()
        self._bytes = 0

    def recall(self, key: Key, request: Any, kind: type[R]) -> R | None:
        """The first answer to ``request``, or nothing if it is new.

        Raises:
            ServiceError: INVALID_ARGUMENT, the id was used with another body or is too long.
        """
        kept = self._kept.get(key)
        if kept is None:
            if len(key[1]) > MAX_ID_BYTES:
                raise invalid(
                    ErrorReason.ERROR_REASON_INVALID_FIELD,
                    f"request_id: more than {MAX_ID_BYTES} characters",
                )
            return None
        first, response, _ = kept
        if first != request or not isinstance(response, kind):
            raise invalid(
                ErrorReason.ERROR_REASON_REQUEST_ID_REUSED,
                f"request_id {key[1]!r} was used with another body",
            )
        return response

    def all(self) -> Iterator[tuple[Message, Message, str]]:
        """Requests, their answers and whose they are, the oldest first."""
        for (tenant, _), (request, response, _) in self._kept.items():
            yield request, response, tenant

    def keep(self, key: Key, request: Any, response: Message, nr_bytes: int | None = None) -> None:
        """Remember the answer, and forget the oldest beyond the bounds.

        ``nr_bytes`` are both messages' on the wire; whoever knows them spares their counting.
        """
        size = request.ByteSize() + response.ByteSize() if nr_bytes is None else nr_bytes
        self._kept[key] = request, response, size
        self._bytes += size
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1][2]
