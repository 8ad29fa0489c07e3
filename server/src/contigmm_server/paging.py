"""Page tokens: the moment that a listing shows, and where its next page begins."""

import base64
import binascii
import re
from typing import Final

from contigmm_server.failures import ErrorReason, aborted, invalid

_TOKEN: Final = re.compile(r"(\d{1,20})/([^/]{0,64})/(.{0,80})")


def page_size(asked: int, cap: int) -> int:
    """How many entries a page has: 0 is the cap, and nobody gets more.

    Raises:
        ServiceError: INVALID_ARGUMENT, a negative number.
    """
    if asked < 0:
        raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, f"page_size: {asked} is negative")
    return min(asked or cap, cap)


def token(moment: int, cursor: str, what: str) -> str:
    """The token of the page that begins behind ``cursor`` in a listing of ``what``."""
    text = f"{moment}/{cursor}/{what}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def cursor(page_token: str, moment: int, what: str) -> str:
    """Where the page of a token begins, empty for the first page.

    Raises:
        ServiceError: ABORTED, the moment has passed; INVALID_ARGUMENT, it is no token of this list.
    """
    if not page_token:
        return ""
    try:
        text = base64.b64decode(page_token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise _malformed() from None
    match = _TOKEN.fullmatch(text)
    if match is None or match[3] != what or not match[2]:
        raise _malformed()
    if int(match[1]) != moment:
        raise aborted(
            ErrorReason.ERROR_REASON_MACHINE_MOVED_ON,
            "what is listed has changed since this page token was made; list again from the start",
        )
    return match[2]


def _malformed() -> Exception:
    return invalid(
        ErrorReason.ERROR_REASON_MALFORMED_PAGE_TOKEN, "page_token is none of this listing"
    )
