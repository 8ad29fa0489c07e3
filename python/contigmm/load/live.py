"""Runs a load in the foreground of a terminal: live progress, and an orderly end on a signal."""

import asyncio
import signal
from typing import Final

from rich.console import Console
from rich.live import Live

from contigmm.load.console import progress_view
from contigmm.load.coordinator import Plan, Tick, Watch, run
from contigmm.load.process import LoadError
from contigmm.load.report import Report

_REFRESH_PER_S: Final = 4


def run_live(plan: Plan, progress: Console, tell: Watch | None = None) -> Report:
    """Run ``plan`` and return its report; progress is shown on ``progress`` if that is a terminal.

    Whoever else wants to know how far it is gets it by ``tell``.
    Ctrl-C and SIGTERM end the run and everything that it started.

    Raises:
        LoadError: The run failed, or was told to end.
        KeyboardInterrupt: Ctrl-C, after everything has been cleaned up.
    """
    phase = ""

    def show(tick: Tick) -> None:
        nonlocal phase
        if tell is not None:
            tell(tick)
        if progress.is_terminal:
            live.update(progress_view(tick))
        elif tick.phase != phase:
            progress.print(f"{tick.phase} ...", highlight=False)
        phase = tick.phase

    with Live(console=progress, refresh_per_second=_REFRESH_PER_S, transient=True) as live:
        return asyncio.run(_run(plan, show))


async def _run(plan: Plan, show: Watch) -> Report:
    ended_by: list[str] = []
    running = asyncio.current_task()

    def end(number: signal.Signals) -> None:
        ended_by.append(number.name)
        if running is not None:
            running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await run(plan, show)
    except asyncio.CancelledError:
        if ended_by:
            raise LoadError(f"ended by {ended_by[0]}") from None
        raise
