"""The dashboard in a real Chromium: what it shows, how it is operated, what it does not say."""

import shutil
import urllib.error
import urllib.request

import pytest
from asking import ANON, PAGE, RW
from playwright.sync_api import sync_playwright
from test_serve import serving

from contigmm.client import connect

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DASHBOARD = ("--machine", "spec:small", "--dashboard", "127.0.0.1:0")


@pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH (Debian: apt install chromium)"
)
def test_a_browser_follows_a_machine_and_zooms_by_keyboard():
    with serving(*DASHBOARD) as (process, address), sync_playwright() as playwright:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("dashboard at ").strip()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 400, "height": 900})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#orders td")
        with connect(address) as client:
            child = client.machine("default").spawn("x")
            child.mmap(0, PAGE, RW, ANON)
            with pytest.raises(OSError, match=r"length_is_zero"):
                child.mmap(0, 0, RW, ANON)
        page.wait_for_selector("#events .refused")
        assert "length_is_zero" in page.inner_text("#events .refused")
        page.focus("#map")
        page.keyboard.press("End")
        assert "Pageblock 127" in page.inner_text("#map-cell")
        page.keyboard.press("Enter")
        page.wait_for_selector("#back:enabled")
        assert "Frame 65024: " in page.inner_text("#map-cell")
        page.keyboard.press("Escape")
        assert page.is_disabled("#back")
        page.check("input[value=migratetype]")
        assert "Movable" in page.inner_text("#legend")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        browser.close()
    assert said == []


def test_no_other_name_leads_to_the_dashboard_and_nothing_foreign_may_run():
    with serving(*DASHBOARD) as (process, _):
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("dashboard at ").strip()
        with urllib.request.urlopen(url, timeout=10) as response:
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        foreign = urllib.request.Request(url, headers={"Host": "example.org"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(foreign, timeout=10)
