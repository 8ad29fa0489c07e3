"""Bytes that come in many messages, capped before they are put together."""

from collections.abc import AsyncIterator
from typing import Any

from contigmm_server.failures import ErrorReason, invalid


async def first_message(messages: AsyncIterator[Any]) -> Any:
    """The header of an upload.

    Raises:
        ServiceError: INVALID_ARGUMENT, there is none.
    """
    first = await anext(messages, None)
    if first is None or first.WhichOneof("part") != "header":
        raise invalid(
            ErrorReason.ERROR_REASON_UNREADABLE_UPLOAD, "an upload begins with its header"
        )
    return first.header


async def joined(messages: AsyncIterator[Any], cap: int) -> bytes:
    """The chunks of an upload, put together.

    Raises:
        ServiceError: INVALID_ARGUMENT, they have more than ``cap`` bytes, or are no chunks.
    """
    chunks: list[bytes] = []
    total = 0
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise invalid(ErrorReason.ERROR_REASON_UNREADABLE_UPLOAD, "a chunk was expected")
        total += len(message.chunk)
        if total > cap:
            raise invalid(ErrorReason.ERROR_REASON_TOO_LARGE, f"an upload has at most {cap} bytes")
        chunks.append(message.chunk)
    return b"".join(chunks)
