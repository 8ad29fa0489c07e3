"""Load tests that the dashboard shows: how far one is that runs, and what came of others.

Whoever runs one tells it: ``contigmm load --dashboard``, or a file that somebody opens in the page.
"""

import re
import time
from typing import Any, Final

from aiohttp import web

from contigmm import foreign_json

LOAD_BYTES: Final = 4 << 20
"""Most bytes of a result."""
LOADS: Final = 8
"""Runs that are kept, the newest."""
SILENT_S: Final = 15.0
"""A run that has said nothing for so long has ended without a result."""

_RUN: Final = re.compile(r"[0-9A-Za-z-]{1,64}")


class _Run:
    """One run: the last that was told of it, and when."""

    def __init__(self, name: str, load: dict[str, Any]) -> None:
        self.name = name
        self.load = load
        self.told_s = time.monotonic()

    @property
    def state(self) -> str:
        if self.load["schema"] == "load/1":
            return "ended"
        if time.monotonic() - self.told_s > SILENT_S:
            return "ended without a result"
        done_s, of_s = self.load.get("done_s", 0), self.load.get("of_s", 0)
        return f"{self.load.get('phase', 'runs')}" + (f", {done_s} of {of_s} s" if of_s else "")


class Loads:
    """The newest runs."""

    def __init__(self) -> None:
        self.version = 0
        """Another one whenever something new was told."""
        self._runs: list[_Run] = []

    def add_to(self, app: web.Application) -> None:
        """Enter the addresses."""
        app.router.add_get("/api/loads", self._show)
        app.router.add_post("/api/loads", self._take)
        app.router.add_put("/api/loads/{run}", self._follow)

    async def _show(self, _request: web.Request) -> web.Response:
        return web.json_response(self._shown())

    async def _take(self, request: web.Request) -> web.Response:
        """A result from a file."""
        self._keep("", await _read(request, ("load/1",)))
        return web.json_response(self._shown(), status=201)

    async def _follow(self, request: web.Request) -> web.Response:
        """How far a run is, or what came of it."""
        name = request.match_info["run"]
        if _RUN.fullmatch(name) is None:
            raise web.HTTPBadRequest(
                text="a run is named by up to 64 letters, digits and hyphens\n"
            )
        load = await _read(request, ("load/1", "load-progress/1"))
        self._runs = [run for run in self._runs if run.name != name]
        self._keep(name, load)
        return web.Response(status=204)

    def _keep(self, name: str, load: dict[str, Any]) -> None:
        self.version += 1
        self._runs = [_Run(name, load), *self._runs][:LOADS]

    def _shown(self) -> dict[str, Any]:
        return {
            "loads": [{"run": run.name, "state": run.state, "load": run.load} for run in self._runs]
        }


async def _read(request: web.Request, schemas: tuple[str, ...]) -> dict[str, Any]:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="a result is application/json\n")
    try:
        load = foreign_json.loads(await request.read())
    except ValueError:
        raise web.HTTPBadRequest(text="this is no JSON\n") from None
    if not isinstance(load, dict) or load.get("schema") not in schemas:
        raise web.HTTPBadRequest(text="this is no result of `contigmm load --json` (load/1)\n")
    return load
