"""Tells the dashboard of a server how far a run is, and what came of it."""

import json
import secrets
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

from contigmm.load.coordinator import Tick
from contigmm.load.process import LoadError
from contigmm.load.report import Report

SCHEMA: Final = "load-progress/1"
EVERY_S: Final = 0.5
"""Least time between two tellings; the clock of the load must not wait for a page."""
_TIMEOUT_S: Final = 5.0


class Shown:
    """One run on a dashboard."""

    def __init__(self, dashboard: str) -> None:
        """Begin to tell.

        Args:
            dashboard: Its address, as ``contigmm serve --dashboard`` prints it.

        Raises:
            LoadError: There is no dashboard.
        """
        self._url = f"{dashboard.rstrip('/')}/api/loads/{secrets.token_hex(8)}"
        if not self._url.startswith(("http://", "https://")):
            raise LoadError(
                f"{dashboard!r} is no address of a dashboard, such as http://HOST:PORT/"
            )
        self._told_s = -EVERY_S
        self._thread = ThreadPoolExecutor(1)
        self._telling: Future[None] | None = None
        self._put(_progress(Tick("starting")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True)

    def tell(self, tick: Tick) -> None:
        """Tell how far it is; nothing, if that was told just now or is being told still."""
        now_s = time.perf_counter()
        busy = self._telling is not None and not self._telling.done()
        if busy or now_s - self._told_s < EVERY_S:
            return
        self._told_s = now_s
        self._telling = self._thread.submit(self._put, _progress(tick))

    def end(self, report: Report) -> None:
        """Tell what came of it.

        Raises:
            LoadError: The dashboard has gone.
        """
        self._thread.submit(self._put, report.as_json().encode()).result()

    def _put(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, body, headers, method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
                pass
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            raise LoadError(f"the dashboard at {self._url} was not told: {error}") from error


def _progress(tick: Tick) -> bytes:
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "phase": tick.phase,
        "done_s": round(tick.done_s, 1),
        "of_s": tick.of_s,
        "ops_per_s": round(tick.calls_per_s),
        "attempts": sum(size.attempts for size in tick.sizes),
        "successes": sum(size.successes for size in tick.sizes),
        "by_size": [
            {"bytes": size.size_bytes, "attempts": size.attempts, "successes": size.successes}
            for size in tick.sizes
        ],
    }
    return json.dumps(told).encode()
