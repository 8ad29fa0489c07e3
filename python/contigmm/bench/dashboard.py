"""What the dashboard costs the server, and how often a browser sees a machine of 64 GiB change.

Two servers boot ``spec:large``, one of them with ``--dashboard``. On each, 16 processes in turns
populate pieces of 256 KiB until 32 GiB are in use, and every second one exits, so that half of that
is free again in pieces. Then every machine is under the same fixed load, an open loop of
``CALLS_PER_S`` unary calls, alternately a populated mmap of 1 MiB and the munmap of the oldest. One
round measures the server without a dashboard, the one with it while nobody looks, and the same with
a Chromium that shows its page. CPU time is the kernel's account of the server, so what the browser
uses is not in it.
"""

import asyncio
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any, Final

from playwright.async_api import Error as BrowserError
from playwright.async_api import Page, async_playwright

from contigmm.abi import MAP_ANONYMOUS, MAP_POPULATE, MAP_PRIVATE, PROT_READ, PROT_WRITE
from contigmm.bench.rpc import cpu_ns
from contigmm.client.aio import Client, Machine, Process
from contigmm.errors import ContigmmError
from contigmm.sim.operation import Call, Operation

SCHEMA: Final = "bench-dashboard/1"
MACHINE: Final = "spec:large"
ROUNDS: Final = 9
PHASE_S: Final = 4.0
SETTLE_S: Final = 1.0
"""The page has opened and taken the whole map; its first look is not what is measured."""
CALLS_PER_S: Final = 500
PIECE: Final = 256 * 1024
"""Bytes; of the pieces that wear the machine."""
LENGTH: Final = 1 << 20
"""Bytes that a call of the load maps."""
HELD: Final = 256
WORN: Final = 32 << 30
OWNERS: Final = 16
BATCH: Final = 256
PROT: Final = PROT_READ | PROT_WRITE
FLAGS: Final = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class DashboardBenchError(ContigmmError):
    """The bench cannot run here; the message is one sentence."""


@dataclass(slots=True)
class Measured:
    """One way of looking, over all rounds."""

    name: str
    cores: list[float] = field(default_factory=list)
    """Share of one core that the server used."""
    calls_per_s: list[float] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        """A member of ``results`` of bench-dashboard/1."""
        return {
            "name": self.name,
            "server_cores": round(median(self.cores), 4),
            "server_cores_min": round(min(self.cores), 4),
            "calls_per_s": round(median(self.calls_per_s)),
            "rounds": len(self.cores),
        }


@dataclass(slots=True)
class Server:
    """A server process, the machine on it and who loads that."""

    pid: int
    address: str
    url: str
    """Of the dashboard; empty: none."""


class Load:
    """A fixed load of one machine: what is due is begun, whatever the answers take."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._held: deque[int] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self.calls = 0
        self.failed = 0

    async def run(self) -> None:
        """Call until cancelled."""
        due_s = perf_counter()
        while True:
            task = asyncio.create_task(self._call())
            self._running.add(task)
            task.add_done_callback(self._ended)
            due_s += 1 / CALLS_PER_S
            await asyncio.sleep(max(0.0, due_s - perf_counter()))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.failed += not task.cancelled() and task.exception() is not None

    async def _call(self) -> None:
        self.calls += 1
        if self.calls % 2 and len(self._held) >= HELD:
            await self._process.munmap(self._held.popleft(), LENGTH)
        else:
            self._held.append(await self._process.mmap(0, LENGTH, PROT, FLAGS))

    async def end(self) -> None:
        """Wait for what has begun, and give everything back."""
        await asyncio.gather(*self._running, return_exceptions=True)
        gone = [Operation(Call.MUNMAP, self._process.id, (at, LENGTH)) for at in self._held]
        self._held.clear()
        for first in range(0, len(gone), BATCH):
            await self._process.machine.execute(gone[first : first + BATCH])


@contextmanager
def _serving(*arguments: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "contigmm_server.main", "--listen", "127.0.0.1:0"]
    command += ["--machine", MACHINE, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "asked for a pipe"
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise DashboardBenchError("The server did not start.")
        url = process.stdout.readline() if arguments else ""
        address = line.removeprefix("listening on ").strip()
        yield Server(process.pid, address, url.removeprefix("dashboard at ").strip())
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


async def _wear(machine: Machine) -> Process:
    """Use memory up in pieces and give every second one back; give a process for the load."""
    owners = [await machine.spawn(f"owner {number}") for number in range(OWNERS)]
    pieces = [
        Operation(Call.MMAP, owners[at % OWNERS].id, (0, PIECE, PROT, FLAGS, -1, 0))
        for at in range(BATCH)
    ]
    for _ in range(WORN // PIECE // BATCH):
        for answer in await machine.execute(pieces):
            if not answer.ok:
                raise DashboardBenchError(f"The machine could not be filled: {answer.reason}.")
    for owner in owners[::2]:
        await owner.exit()
    return await machine.spawn("load")


class Bench:
    """Servers and a browser, measured in turn."""

    def __init__(self, plain: Server, shown: Server, page: Page) -> None:
        self._page = page
        self._servers = {"without_dashboard": plain, "not_watched": shown, "watched": shown}
        self._measured = {name: Measured(name) for name in self._servers}
        self._processes: dict[str, Process] = {}
        self._said: list[str] = []
        self._failed = 0
        self._updates_per_s: list[float] = []
        self._paints_per_s: list[float] = []
        page.on("console", lambda message: self._said.append(message.text))
        page.on("pageerror", lambda error: self._said.append(str(error)))

    async def connect(self, stack: AsyncExitStack) -> None:
        """Open a channel to each server and wear its machine."""
        for server in {server.pid: server for server in self._servers.values()}.values():
            client = await stack.enter_async_context(Client(server.address))
            self._processes[server.address] = await _wear(Machine(client, "machines/default"))

    async def round(self, phase_s: float) -> None:
        """Every way once, with an own load."""
        for name, server in self._servers.items():
            load = Load(self._processes[server.address])
            running = asyncio.create_task(load.run())
            try:
                async with self._looking(server if name == "watched" else None):
                    await asyncio.sleep(SETTLE_S)
                    await self._measure(self._measured[name], server, load, phase_s)
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running
            await load.end()
            self._failed += load.failed

    @asynccontextmanager
    async def _looking(self, server: Server | None) -> AsyncIterator[None]:
        if server is not None:
            await self._page.goto(server.url)
            await self._page.wait_for_selector("#orders td")
        yield
        await self._page.goto("about:blank")

    async def _measure(
        self, measured: Measured, server: Server, load: Load, phase_s: float
    ) -> None:
        looks = await self._looks()
        calls, cpu, begin_s = load.calls, cpu_ns(server.pid), perf_counter()
        await asyncio.sleep(phase_s)
        elapsed_s = perf_counter() - begin_s
        measured.cores.append((cpu_ns(server.pid) - cpu) / 1e9 / elapsed_s)
        measured.calls_per_s.append((load.calls - calls) / elapsed_s)
        if measured.name == "watched":
            now = await self._looks()
            self._updates_per_s.append((now["count"] - looks["count"]) / elapsed_s)
            self._paints_per_s.append((now["painted"] - looks["painted"]) / elapsed_s)

    async def _looks(self) -> dict[str, int]:
        looks: dict[str, int] | None = await self._page.evaluate("window.contigmmLooks ?? null")
        return looks or {"count": 0, "painted": 0}

    def report(self) -> dict[str, Any]:
        """The report of schema bench-dashboard/1."""
        by_round = {name: measured.cores for name, measured in self._measured.items()}

        def more(than: str) -> float:
            pairs = zip(by_round["watched"], by_round[than], strict=True)
            return round(median(one - other for one, other in pairs), 4)

        return {
            "schema": SCHEMA,
            "contigmm": version("contigmm"),
            "machine": MACHINE,
            "updates_per_s": round(median(self._updates_per_s), 1),
            "updates_per_s_min": round(min(self._updates_per_s), 1),
            "paints_per_s": round(median(self._paints_per_s), 1),
            "watching_cores": more("not_watched"),
            "dashboard_cores": more("without_dashboard"),
            "failed_calls": self._failed,
            "console": self._said,
            "results": [measured.row() for measured in self._measured.values()],
        }


def _browser() -> str | None:
    """A Chromium of this computer, or nothing: then it is Playwright's own."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


async def _run(rounds: int, phase_s: float) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_playwright())
        try:
            browser = await playwright.chromium.launch(executable_path=_browser(), args=ARGUMENTS)
        except BrowserError as error:
            raise DashboardBenchError(
                "No Chromium starts here: install one (Debian: apt install chromium), "
                f"or run playwright install chromium-headless-shell ({_first_line(str(error))})."
            ) from error
        stack.push_async_callback(browser.close)
        plain = stack.enter_context(_serving())
        shown = stack.enter_context(_serving("--dashboard", "127.0.0.1:0"))
        page = await browser.new_page(viewport={"width": 1280, "height": 1000})
        bench = Bench(plain, shown, page)
        await bench.connect(stack)
        for _ in range(rounds):
            await bench.round(phase_s)
        return bench.report()


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def dashboard_report(*, rounds: int = ROUNDS, phase_s: float = PHASE_S) -> dict[str, Any]:
    """Measure the dashboard and give the report of schema bench-dashboard/1.

    Raises:
        DashboardBenchError: No browser or no server starts, or the machine cannot be filled.
    """
    return asyncio.run(_run(rounds, phase_s))


def lines(report: dict[str, Any]) -> Sequence[str]:
    """The report as text."""
    return [
        *(
            f"{row['name']:18} {100 * row['server_cores']:6.1f} % of one core,"
            f" {row['calls_per_s']} calls/s"
            for row in report["results"]
        ),
        f"more while watched: {100 * report['watching_cores']:.1f} % of one core; than without a"
        f" dashboard: {100 * report['dashboard_cores']:.1f} %",
        f"{report['updates_per_s']} updates/s in the page (least {report['updates_per_s_min']}),"
        f" {report['paints_per_s']} painted/s; {len(report['console'])} lines on its console;"
        f" {report['failed_calls']} calls failed",
    ]
