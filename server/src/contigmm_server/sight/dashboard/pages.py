"""The dashboard's addresses: its assets, what they ask for once, and the stream of looks."""

import base64
import socket
from collections.abc import Callable, MutableMapping
from contextlib import aclosing
from importlib.resources import files
from typing import Any, Final, TypeVar

import grpc
from aiohttp import web

from contigmm import procfs
from contigmm.description import PageClass
from contigmm.errors import ContigmmError
from contigmm.procfs.zones import MIGRATETYPE_NAMES
from contigmm.sim.table import Entry
from contigmm_server.failures import ServiceError
from contigmm_server.hosted import HostedMachine
from contigmm_server.registry import Registry
from contigmm_server.sight.dashboard.loads import LOAD_BYTES, Loads
from contigmm_server.sight.dashboard.watch import Watch
from contigmm_server.sight.refusals import Refusals

FRAMES: Final = 1 << 16
"""Most frames told of at once."""
PROCESSES: Final = 500
"""Most processes told of, those of callers first."""
SEND_BYTES: Final = 1 << 18
"""Most bytes that the kernel keeps for one watcher, so that a slow one is soon known to be."""
_LOOK_US: Final = 3000.0
_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}

T = TypeVar("T")


class Pages:
    """What a browser gets."""

    most_bytes: Final = LOAD_BYTES

    def __init__(
        self, registry: Registry, refusals: MutableMapping[HostedMachine, Refusals]
    ) -> None:
        self._registry = registry
        self._refusals = refusals
        self._watches: dict[HostedMachine, Watch] = {}
        self._loads = Loads()
        folder = files("contigmm_server.sight.dashboard") / "assets"
        self._assets = {
            asset.name: asset.read_bytes()
            for asset in folder.iterdir()
            if asset.name.rpartition(".")[2] in _TYPES
        }

    def add_to(self, app: web.Application) -> None:
        """Enter the addresses."""
        app.router.add_get("/", self._page)
        app.router.add_get("/assets/{name}", self._asset)
        app.router.add_get("/api/machines", self._machines)
        app.router.add_get("/api/machines/{machine}/looks", self._looks)
        app.router.add_get("/api/machines/{machine}/frames", self._frames)
        app.router.add_get("/api/machines/{machine}/processes", self._processes)
        app.router.add_get("/api/machines/{machine}/processes/{process}/maps", self._maps)
        self._loads.add_to(app)

    def close(self) -> None:
        """End all streams."""
        for watch in self._watches.values():
            watch.stop("The server ends.")

    # ---- assets ----

    async def _page(self, _request: web.Request) -> web.Response:
        return self._file("index.html")

    async def _asset(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        body = self._assets.get(name)
        if body is None:
            raise web.HTTPNotFound(text="no such asset\n")
        kind = _TYPES[name.rpartition(".")[2]]
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    # ---- machines ----

    async def _machines(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "classes": [kind.name.lower() for kind in PageClass],
                "migratetypes": list(MIGRATETYPE_NAMES),
                "machines": [_described(hosted) for hosted in self._registry.machines()],
            }
        )

    async def _looks(self, request: web.Request) -> web.StreamResponse:
        hosted = self._hosted(request)
        watch = self._watches.get(hosted) or self._new_watch(hosted)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        transport = request.transport
        if transport is not None:
            sending = transport.get_extra_info("socket")
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        await response.prepare(request)
        messages = watch.messages(traced=request.query.get("trace") == "1")
        try:
            async with aclosing(messages):
                async for message in messages:
                    await response.write(message)
        except ConnectionResetError:
            pass  # it has gone: nobody is there to be told
        finally:
            if not watch.is_watched and self._watches.get(hosted) is watch:
                del self._watches[hosted]  # nothing is kept of a machine that nobody watches
        return response

    def _new_watch(self, hosted: HostedMachine) -> Watch:
        registry = self._registry

        def beside() -> dict[str, Any]:
            ids = [one.machine_id for one in registry.machines()]
            return {"machines": ids, "loads": self._loads.version}

        watch = self._watches[hosted] = Watch(
            hosted,
            self._refusals.setdefault(hosted, Refusals()),
            is_there=lambda: hosted in registry.machines(),
            beside=beside,
        )
        return watch

    async def _frames(self, request: web.Request) -> web.Response:
        hosted = self._hosted(request)
        first = _number(request, "first", 0, 1 << 32)
        nr = _number(request, "nr", 1, FRAMES)

        def look() -> dict[str, Any]:
            with hosted.machine.held() as memory:
                classes = memory.frame_classes(first=first, nr=nr)
                return {
                    "first": first,
                    "seq": hosted.machine.seq,
                    "classes": base64.b64encode(classes.tobytes()).decode(),
                }

        return web.json_response(await _seen(hosted, look))

    # ---- processes ----

    async def _processes(self, request: web.Request) -> web.Response:
        hosted = self._hosted(request)

        def look() -> dict[str, Any]:
            machine = hosted.machine
            with machine.held():
                entries = [machine.entry(process.id) for process in machine.processes()]
                own = [entry for entry in entries if not entry.background]
                told = (own + [entry for entry in entries if entry.background])[:PROCESSES]
                return {"count": len(entries), "processes": [_process(entry) for entry in told]}

        return web.json_response(await _seen(hosted, look))

    async def _maps(self, request: web.Request) -> web.Response:
        hosted = self._hosted(request)
        process = int(request.match_info["process"])
        text = await _seen(hosted, lambda: procfs.maps(hosted.entry(process).task))
        return web.Response(text=text)

    def _hosted(self, request: web.Request) -> HostedMachine:
        try:
            return self._registry.machine(f"machines/{request.match_info['machine']}")
        except ServiceError as error:
            raise web.HTTPNotFound(text=f"{error.message}\n") from error


def _number(request: web.Request, name: str, least: int, most: int) -> int:
    text = request.query.get(name, "")
    if not text.isdecimal() or not least <= int(text) <= most:
        raise web.HTTPBadRequest(text=f"{name} is a number from {least} to {most}\n")
    return int(text)


async def _seen(hosted: HostedMachine, look: Callable[[], T]) -> T:
    try:
        return await hosted.queue.run(look, cost_us=_LOOK_US)
    except ServiceError as error:
        if error.code is grpc.StatusCode.NOT_FOUND:
            raise web.HTTPNotFound(text=f"{error.message}\n") from error
        raise web.HTTPServiceUnavailable(text=f"{error.message}\n") from error
    except ContigmmError as error:
        raise web.HTTPServiceUnavailable(text=f"{error}\n") from error


def _described(hosted: HostedMachine) -> dict[str, Any]:
    machine = hosted.machine
    with machine.held() as memory:
        zones = [
            {
                "zone": f"{zone['node']}/{zone['name']}",
                "first": zone["start_pfn"],
                "spanned": zone["spanned"],
                "managed": zone["managed"],
            }
            for zone in memory.zones()
        ]
    return {
        "id": hosted.machine_id,
        "description": machine.description,
        "profile": machine.profile,
        "cpus": machine.cpus,
        "frames": machine.nr_frames,
        "zones": zones,
    }


def _process(entry: Entry) -> dict[str, Any]:
    mm = entry.task.mm
    anon, file, shmem, _ = mm.memory.rss(mm.id)
    return {
        "id": entry.id,
        "pid": entry.task.pid,
        "name": entry.name,
        "background": entry.background,
        "rss": anon + file + shmem,
        "vmas": mm.map_count,
        "locked": mm.locked_vm,
    }
