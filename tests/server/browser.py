"""A real Chromium for the tests of the dashboard, and what it said on its console."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from contigmm.bench.dashboard import ARGUMENTS, BROWSERS


def _executable() -> str | None:
    """One of this computer, or Playwright's own where that was downloaded."""
    for name in BROWSERS:
        if (path := shutil.which(name)) is not None:
            return path
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    shells = own.parents[2].glob("chromium_headless_shell-*/*/*headless-shell")
    return next((str(path) for path in (own, *shells) if path.is_file()), None)


EXECUTABLE = _executable()

in_chromium = pytest.mark.skipif(
    EXECUTABLE is None, reason="there is no Chromium here: run scripts/browser"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        yield browser
        browser.close()


def listened(page: Page) -> list[str]:
    """What a page will say on its console, errors included."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    return said
