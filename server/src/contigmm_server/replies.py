"""Request ids: the same id with the same body gives the first answer again."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from contigmm_server.failures import ErrorReason, invalid
from contigmm_server.limits import Limits

MAX_ID_BYTES: Final = 128

R = TypeVar("R", bound=Message)


class Replies:
    """The last requests that had an id, and their answers; bounded in number and in bytes.

    A tenant has ids of its own. An unguarded server has one, whose name is empty.

    Both are kept as the messages they are: a body is compared only when its id comes again.
    """

    def __init__(self, limits: Limits) -> None:
        self._most = limits.replies
        self._most_bytes = limits.reply_bytes
        self._kept: OrderedDict[tuple[str, str], tuple[Message, Message, int]] = OrderedDict()
        self._bytes = 0

    def recall(self, request: Any, kind: type[R], tenant: str = "") -> R | None:
        """The first answer to ``request`` of ``tenant``, or nothing if it is new.

        Raises:
            ServiceError: INVALID_ARGUMENT, the id was used with another body or is too long.
        """
        request_id: str = request.request_id
        kept = self._kept.get((tenant, request_id))
        if kept is None:
            if len(request_id) > MAX_ID_BYTES:
                raise invalid(
                    ErrorReason.ERROR_REASON_INVALID_FIELD,
                    f"request_id: more than {MAX_ID_BYTES} characters",
                )
            return None
        first, response, _ = kept
        if first != request or not isinstance(response, kind):
            raise invalid(
                ErrorReason.ERROR_REASON_REQUEST_ID_REUSED,
                f"request_id {request_id!r} was used with another body",
            )
        return response

    def all(self) -> Iterator[tuple[Message, Message, str]]:
        """Requests, their answers and whose they are, the oldest first."""
        for (tenant, _), (request, response, _) in self._kept.items():
            yield request, response, tenant

    def keep(
        self, request: Any, response: Message, tenant: str = "", nr_bytes: int | None = None
    ) -> None:
        """Remember the answer, and forget the oldest beyond the bounds.

        ``nr_bytes`` are both messages' on the wire; whoever knows them spares their counting.
        """
        size = request.ByteSize() + response.ByteSize() if nr_bytes is None else nr_bytes
        self._kept[tenant, request.request_id] = request, response, size
        self._bytes += size
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1][2]
