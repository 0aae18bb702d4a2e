"""The report in a real browser: nothing fetched, nothing cut off, dark where the reader wants it dark."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histopipe.reporting.stage import compare
from tests.builders.browser import DESK, LUMINANCE, PAPER, PHONE, Driver, look, screenshot, started_browser
from tests.builders.reports import HOSTILE, MATHEMATICAL, make_reported, report_params

STRENGTHS = {"cancernet": 2.0, "resnet": 0.4}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two networks, with a case whose name is a script."""
    workspace = make_reported(tmp_path_factory.mktemp("report"), STRENGTHS)
    compare("idc", report_params(*STRENGTHS), workspace)
    return workspace.report("idc") / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Driver]:
    with started_browser() as started:
        yield started


@pytest.fixture
def served(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of a server for the page alone, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=page.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html", asked
    server.shutdown()
    server.server_close()


def requests(browser: Driver) -> list[str]:
    """Addresses asked for since the last look, without those that hold their own content."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [entry["request"]["url"] for entry in sent if not entry["request"]["url"].startswith("data:")]


def test_nothing_is_fetched_and_the_console_stays_silent(
    browser: Driver, page: Path, served: tuple[str, list[str]]
) -> None:
    address, asked = served
    look(browser, address)
    assert browser.get_log("browser") == []
    assert requests(browser) == [address]
    assert asked == ["/index.html"]
    look(browser, page.as_uri())
    assert browser.get_log("browser") == []
    assert requests(browser) == [page.as_uri()]


def test_the_log_would_tell_of_a_request(browser: Driver, tmp_path: Path) -> None:
    """The test above can fail: here a page asks for a picture that isn't there."""
    (tmp_path / "asking.html").write_text("<!doctype html><img src='absent.png'>")
    look(browser, (tmp_path / "asking.html").as_uri())
    assert (tmp_path / "absent.png").as_uri() in requests(browser)
    assert any("absent.png" in entry["message"] for entry in browser.get_log("browser"))


def test_names_from_archives_are_text(browser: Driver, page: Path) -> None:
    look(browser, page.as_uri())
    assert browser.execute_script("return document.scripts.length") == 0
    names = browser.execute_script("return [...document.querySelectorAll('th')].map(cell => cell.textContent)")
    assert {HOSTILE, MATHEMATICAL} <= set(names)
    assert any(HOSTILE in (alt or "") for alt in browser.execute_script("return [...document.images].map(i => i.alt)"))


def test_every_picture_is_there(browser: Driver, page: Path) -> None:
    look(browser, page.as_uri())
    sizes = browser.execute_script(
        "return Promise.all([...document.images].map(i => i.decode().then(() => [i.naturalWidth, i.alt.length])))"
    )
    assert len(sizes) == len(STRENGTHS) * 4
    assert all(width > 0 and described > 0 for width, described in sizes)
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert len(drawn) > 30 and min(drawn) > 50


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_hangs_over_the_edge(browser: Driver, page: Path, width: int) -> None:
    look(browser, page.as_uri(), width)
    root = "document.documentElement"
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script(f"return {root}.scrollWidth") <= width
    outside = browser.execute_script(
        "return [...document.querySelectorAll('body *')]"
        ".filter(e => !e.closest('.scroll > *') && e.getBoundingClientRect().right > window.innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 200))"
    )
    assert outside == []


def test_wide_tables_scroll_within_themselves_by_keyboard_too(browser: Driver, page: Path) -> None:
    look(browser, page.as_uri(), PHONE)
    moved = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        ".map(e => { e.scrollLeft = 9999; return [e.scrollLeft, e.tabIndex, e.getAttribute('aria-label').length]; })"
    )
    assert len(moved) >= 3
    assert all(left > 0 and tab == 0 and named > 0 for left, tab, named in moved)


def test_the_page_is_dark_where_the_reader_wants_it(browser: Driver, page: Path) -> None:
    shades = {}
    for theme in ("light", "dark"):
        look(browser, page.as_uri(), theme=theme)
        shades[theme] = float(np.median(screenshot(browser)))
    assert shades["light"] > 230
    assert shades["dark"] < 45


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Driver, page: Path, theme: str) -> None:
    """At least 4.5 to 1, level AA of WCAG 2.2."""
    look(browser, page.as_uri(), theme=theme)
    assert browser.execute_script(LUMINANCE) == []


def test_the_page_prints_in_full_on_white(browser: Driver, page: Path) -> None:
    look(browser, page.as_uri(), theme="dark")
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") > 3
    look(browser, page.as_uri(), PAPER)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert float(np.median(screenshot(browser))) > 230
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PAPER
