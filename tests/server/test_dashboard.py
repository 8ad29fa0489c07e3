"""The dashboard in a real Chromium: what it shows, how it is operated, what it does not say."""

import itertools
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from asking import ANON, DESCRIPTION, PAGE, RW
from browser import chromium, in_chromium, listened
from playwright.sync_api import Browser, Page
from sight_of_colours import SIGHTS, difference
from test_serve import serving

from contigmm.abi import MAP_CONTIG, MAP_POPULATE
from contigmm.client import connect
from contigmm.client.sync import Client, Machine

DASHBOARD = ("--machine", "spec:small", "--dashboard", "127.0.0.1:0")
APART = 0.13
"""Least difference of two colours, in OKLab: several times what is just seen (0.02)."""
BLACK = """() => {
    const map = document.getElementById("map");
    const { data } = map.getContext("2d").getImageData(0, 0, map.width, map.height);
    return new Uint32Array(data.buffer).filter((pixel) => pixel === 0xff000000).length;
}"""
"""Counts black pixels of the map: outlines of runs."""


@dataclass
class Shown:
    """A machine, and a page that shows it."""

    page: Page
    machine: Machine


@dataclass
class Served:
    """A server with a dashboard, and a browser."""

    browser: Browser
    client: Client
    url: str

    @contextmanager
    def shown(self, **options: str) -> Iterator[Shown]:
        """A new machine on a page that says nothing on its console."""
        machine = self.client.create_machine(DESCRIPTION)
        page = self.browser.new_page(viewport={"width": 400, "height": 900}, **options)
        said = listened(page)
        page.goto(f"{self.url}#{machine.name.removeprefix('machines/')}")
        page.wait_for_selector("#orders td")
        yield Shown(page, machine)
        page.close()
        assert said == []


def _url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().removeprefix("dashboard at ").strip()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with (
        serving(*DASHBOARD) as (process, address),
        connect(address) as client,
        chromium() as browser,
    ):
        yield Served(browser, client, _url(process))


@in_chromium
def test_a_browser_follows_a_machine_and_zooms_by_keyboard(served):
    with served.shown() as shown:
        page = shown.page
        child = shown.machine.spawn("x")
        child.mmap(0, PAGE, RW, ANON)
        with pytest.raises(OSError, match=r"length_is_zero"):
            child.mmap(0, 0, RW, ANON)
        page.wait_for_selector("#events .refused")
        assert "length_is_zero" in page.inner_text("#events .refused")
        page.get_by_text(" · 1 process · ").wait_for()
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


@in_chromium
def test_everything_that_can_be_operated_is_reached_by_the_tab_key(served):
    with served.shown() as shown:
        page = shown.page
        shown.machine.spawn("x").mmap(0, PAGE, RW, ANON)
        page.click("#refresh")
        page.wait_for_selector("#processes button")
        page.focus(".skip")
        reached = []
        while (
            name := page.evaluate("document.activeElement.id || document.activeElement.name")
        ) != ("load"):
            reached.append(name)
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('#processes button')"):
                page.keyboard.press("Enter")
                page.wait_for_selector("#maps:visible")
            assert len(reached) < 40
        wanted = {"machine", "pause", "colour", "zone", "map", "events", "refresh", "maps"}
        assert wanted | {"only-refusals", "tracepoints"} <= set(reached)
        assert "rw-p" in page.inner_text("#maps")
        assert page.inner_text("#maps-title") == "VMAs of process 1, x"


@in_chromium
def test_empty_panels_say_what_would_fill_them_and_no_two_rows_have_one_name(served):
    with served.shown() as shown:
        page = shown.page
        for panel in ("#events-none", "#processes-none", "#loads-none"):
            assert page.is_visible(panel)
        names = page.locator("#orders tbody th").all_inner_texts()
        assert len(names) == len(set(names))
        assert all(name.endswith((" free", " unusable")) for name in names)


@in_chromium
def test_tracepoints_are_told_on_request_and_runs_are_outlined(served):
    with served.shown() as shown:
        page = shown.page
        page.check("#tracepoints")
        page.get_by_text("Listening to the allocator.").wait_for()
        child = shown.machine.spawn("x", rlimits={"MEMLOCK": (1 << 30, 1 << 30)})
        child.mmap(0, 4 << 20, RW, ANON | MAP_CONTIG)
        page.get_by_text("mm_page_alloc: page=").first.wait_for()
        page.get_by_text(" · 1 contiguous run · ").wait_for()
        assert page.evaluate(BLACK) > 0


@in_chromium
def test_who_wants_little_motion_is_shown_less_of_it(served):
    with served.shown(reduced_motion="reduce") as shown:
        page = shown.page
        child = shown.machine.spawn("x")
        before = page.evaluate("contigmmLooks")
        while (now := page.evaluate("contigmmLooks"))["count"] < before["count"] + 12:
            child.mmap(0, 4 << 20, RW, ANON | MAP_POPULATE)
        assert now["painted"] - before["painted"] < (now["count"] - before["count"]) / 2
        page.click("#pause")
        paused = page.evaluate("contigmmLooks.count")
        child.mmap(0, PAGE, RW, ANON)
        assert page.get_attribute("#pause", "aria-pressed") == "true"
        assert page.evaluate("contigmmLooks.count") == paused


@in_chromium
def test_a_deleted_machine_is_said_to_be_deleted(served):
    with served.shown() as shown:
        shown.machine.delete()
        shown.page.get_by_text(f"{shown.machine.name} was deleted.").wait_for()


def _tell(url: str, load: dict[str, object]) -> None:
    body = json.dumps(load).encode()
    request = urllib.request.Request(
        f"{url}api/loads/r1", body, {"Content-Type": "application/json"}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 204


@in_chromium
def test_a_load_is_shown_while_it_runs_and_afterwards(served):
    sizes = [{"bytes": 65536, "attempts": 8, "successes": 6}]
    with served.shown() as shown:
        page = shown.page
        progress = {"schema": "load-progress/1", "phase": "measuring", "done_s": 2, "of_s": 10}
        _tell(served.url, progress | {"attempts": 8, "successes": 6, "by_size": sizes})
        shown.machine.spawn("x")
        page.get_by_text("measuring, 2 of 10 s").wait_for()
        assert "25.0 %" in page.inner_text("#sizes")
        load = {"schema": "load/1", "attempts": 9, "refusals": {"ENOMEM": 3}, "by_size": sizes}
        _tell(served.url, load)
        shown.machine.spawn("y")
        page.get_by_text("3 ENOMEM").wait_for()
        assert page.locator("#loads tbody tr").count() == 1
        assert not page.is_visible("#loads-none")


@pytest.fixture(scope="module")
def apart(served: Served) -> dict[str, Any]:
    """The colours of the page."""
    page = served.browser.new_page()
    page.goto(served.url)
    colours: dict[str, Any] = page.evaluate("import('/assets/palette.js').then((p) => p.apart())")
    page.close()
    return colours


@in_chromium
@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("paper", ["light", "dark"])
def test_each_two_colours_of_a_map_differ_for_every_sight(apart, sight, paper):
    for colours in (apart["classes"], dict(enumerate(apart["migratetypes"]))):
        drawn = colours | {"free": apart["free"][paper]}
        for (one, a), (other, b) in itertools.combinations(drawn.items(), 2):
            assert difference(a, b, sight) >= APART, (one, other)


def test_no_other_name_leads_to_the_dashboard_and_nothing_foreign_may_run():
    with serving(*DASHBOARD) as (process, _):
        url = _url(process)
        with urllib.request.urlopen(url, timeout=10) as response:
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        foreign = urllib.request.Request(url, headers={"Host": "example.org"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(foreign, timeout=10)


def test_what_is_no_load_is_not_taken_for_one():
    with serving(*DASHBOARD) as (process, _):
        url = f"{_url(process)}api/loads/r1"
        for body in (b"[", b"[]", b'{"schema": "load/2"}', b"[" * 100_000):
            request = urllib.request.Request(
                url, body, {"Content-Type": "application/json"}, method="PUT"
            )
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(request, timeout=10)
