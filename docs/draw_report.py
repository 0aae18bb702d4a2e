"""Drawing of docs/images/report.png: the report of the last run on idc in light, in dark and on a phone.

python -m docs.draw_report            # or `make pictures`; needs Chromium, and `make repro` first
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.builders.browser import PHONE, Driver, look, screenshot, set_window, started_browser

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "reports/idc/index.html", ROOT / "docs/images/report.png"
WIDTH, HEIGHT, GAP = 740, 844, 15  # pixels
MODEL = "wide_resnet"
COLOURS = 256  # a palette keeps the file small
SHOW_MODEL = f"""
const link = [...document.querySelectorAll('a[href^="#"]')].find(link => link.textContent.trim() == '{MODEL}');
document.querySelector(link.hash).scrollIntoView();
"""


def photograph(browser: Driver, width: int, theme: str, script: str = "") -> NDArray[np.uint8]:
    """Return the pixels (height, width, 3) of the top of the page, or of the part that a script scrolls to."""
    look(browser, PAGE.as_uri(), width, theme)
    set_window(browser, width, theme)
    if script:
        browser.execute_script(script)
    return screenshot(browser)[:HEIGHT]


def main() -> None:
    """Draw the picture."""
    with started_browser() as browser:
        parts = [
            photograph(browser, WIDTH, "light"),
            photograph(browser, WIDTH, "dark", SHOW_MODEL),
            photograph(browser, PHONE, "light"),
        ]
    gap = np.full((HEIGHT, GAP, 3), 128, np.uint8)
    joined = np.hstack([parts[0], gap, parts[1], gap, parts[2]])
    Image.fromarray(joined).quantize(COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
