"""The web server beside the gRPC server, in the same loop: metrics and the dashboard."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Final

from aiohttp import web

from contigmm_server.hosted import HostedMachine
from contigmm_server.registry import Registry
from contigmm_server.sight.calls import CallWatch
from contigmm_server.sight.dashboard.pages import Pages
from contigmm_server.sight.metrics import Metrics
from contigmm_server.sight.refusals import Refusals

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_END_S: Final = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """Up to two addresses of one web server."""

    def __init__(
        self,
        registry: Registry,
        calls: CallWatch,
        refusals: MutableMapping[HostedMachine, Refusals],
    ) -> None:
        self._metrics = Metrics(registry, calls, refusals)
        self._pages = Pages(registry, refusals)
        self._runners: list[web.AppRunner] = []

    async def show_metrics(self, host: str, port: int) -> str:
        """Show metrics; give the address.

        Raises:
            OSError: It is taken.
        """
        app = web.Application(middlewares=[_guard])
        app.router.add_get("/metrics", self._show)
        return f"{await self._listen(app, host, port)}/metrics"

    async def show_dashboard(self, host: str, port: int) -> str:
        """Show the dashboard; give the address.

        Raises:
            OSError: It is taken.
        """
        app = web.Application(middlewares=[_guard], client_max_size=self._pages.most_bytes)
        self._pages.add_to(app)
        return f"{await self._listen(app, host, port)}/"

    async def _show(self, _request: web.Request) -> web.Response:
        text = await self._metrics.text()
        return web.Response(body=text, headers={"Content-Type": _METRICS_TYPE})

    async def _listen(self, app: web.Application, host: str, port: int) -> str:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_S)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, host, port).start()
        bound: int = runner.addresses[0][1]
        return f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"

    async def close(self) -> None:
        """Show nothing any more; who watches is told that it is over."""
        self._pages.close()
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in only who names this computer, so that no other site's name can lead here."""
    if not _names_loopback(request.url.host or ""):
        raise web.HTTPForbidden(text="this server is shown on loopback only\n", headers=_HEADERS)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(_HEADERS)
        raise
    if not response.prepared:
        response.headers.update(_HEADERS)
    return response


def _names_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
