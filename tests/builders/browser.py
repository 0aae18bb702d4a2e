"""Pages in a real browser: Chromium, by selenium."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

PHONE, PAPER, DESK = 390, 720, 1280  # pixels wide; on paper nothing can be scrolled
Driver = Any  # selenium's classes come without types


@contextmanager
def started_browser() -> Iterator[Driver]:
    """Start headless Chromium, which keeps a log of its console and of its requests."""
    from selenium import webdriver

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs Chromium: on Debian, `apt-get install chromium chromium-driver`")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


def set_window(browser: Driver, width: int = DESK, theme: str = "light") -> None:
    """Give the window a width and a preferred colour scheme."""
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < DESK}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def look(browser: Driver, address: str, width: int = DESK, theme: str = "light") -> None:
    """Open an address in such a window, with empty logs."""
    browser.get_log("browser"), browser.get_log("performance")
    set_window(browser, width, theme)
    browser.get(address)


def screenshot(browser: Driver, whole: bool = False) -> np.ndarray:
    """Return the pixels of the window, or of the whole page."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
    with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as image:
        return np.asarray(image.convert("RGB"))


LUMINANCE = """
const shade = text => text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = e => { const c = getComputedStyle(e).backgroundColor;
  return e.parentElement && /, 0\\)|transparent/.test(c) ? behind(e.parentElement) : c; };
return [...document.querySelectorAll('p, td, th, dt, dd, a, caption, figcaption, li, h1, h2, h3')]
  .filter(e => !/color\\(/.test(getComputedStyle(e).backgroundColor))
  .map(e => { const [a, b] = [shade(getComputedStyle(e).color), shade(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)]; })
  .filter(([ratio]) => ratio < 4.5);
"""
