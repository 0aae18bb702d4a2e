"""The page in a real browser: what it shows, says, asks for, and how it can be used."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml

from tests.builders.browser import LUMINANCE, PHONE, Driver, look, screenshot, set_window, started_browser
from tests.builders.service import (
    BEARER,
    IMAGE,
    PATIENCE,
    TOKEN,
    Server,
    picture,
    sample_patches,
    slide_zip,
    wait_until,
    zip_of,
)
from tests.builders.slides import square_of_tissue


def until(browser: Driver, true: str) -> Any:
    """What a line of JavaScript gives, once it gives something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := browser.execute_script(f"return {true}"):
            return found
        time.sleep(0.1)
    pytest.fail(f"never {true}; the page says: {browser.execute_script('return document.body.innerText')[:2000]}")


def drop_files(browser: Driver, *paths: Path) -> None:
    browser.find_element("id", "files").send_keys("\n".join(map(str, paths)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Driver]:
    with started_browser() as started:
        yield started


@pytest.fixture
def page(browser: Driver, server: Server) -> Driver:
    """The page, once its model is known."""
    look(browser, f"{server.address}/")
    until(browser, "document.readyState == 'complete'")
    browser.execute_script(f"sessionStorage.setItem('histopipe-token', '{TOKEN}')")
    browser.refresh()
    until(browser, "document.querySelectorAll('#example-list button').length == 7")
    return browser


def test_the_page_asks_for_the_token_and_says_when_it_is_wrong(browser: Driver, server: Server) -> None:
    look(browser, f"{server.address}/")
    until(browser, "!document.getElementById('token-form').hidden")
    browser.find_element("id", "token").send_keys("not-the-right-token\n")
    until(browser, "document.getElementById('problem').innerText.includes('accept this token')")
    browser.find_element("id", "token").send_keys(f"{TOKEN}\n")
    until(browser, "document.getElementById('model').innerText.includes('histopipe-idc, version 1')")
    assert browser.execute_script("return document.getElementById('problem').innerText") == ""
    assert browser.execute_script("return location.href") == f"{server.address}/"


def test_patches_are_graded_explained_and_refused_on_the_page(page: Driver, tmp_path: Path, post: Any) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(picture(sample_patches()[4]))
    bad.write_bytes(b"no image")
    drop_files(page, good, bad)
    until(page, "document.getElementById('problem').innerText.includes('bad.png')")
    assert "not a readable" in page.find_element("id", "problem").text
    (shown,) = page.find_elements("css selector", "#patches li")
    (one,) = post(data=good.read_bytes(), headers=IMAGE).json()["predictions"]
    assert f"{one['probability']:.3f}" in shown.text and one["label"] in shown.text
    width = page.execute_script("return document.querySelector('.bar i').style.width")
    assert float(width.rstrip("%")) == pytest.approx(100 * one["probability"], abs=0.01)
    page.find_element("css selector", "#patches button").send_keys(keys().ENTER)
    until(
        page,
        "document.querySelectorAll('#patches img[alt^=evidence]')[0]?.complete",
    )
    assert "1 patch predicted" in page.find_element("id", "results-sum").text
    assert violations(page) == []


def violations(page: Driver) -> list[str]:
    """What the console says of the content policy and of scripts; refused requests are part of the tests."""
    said = [one["message"] for one in page.get_log("browser")]
    return [one for one in said if "status of 4" not in one and "willReadFrequently" not in one]  # the latter: `PIXELS`


def test_a_cases_map_follows_the_threshold_on_the_page(page: Driver, tmp_path: Path) -> None:
    path = tmp_path / "case.zip"
    path.write_bytes(slide_zip(cases=2))
    drop_files(page, path)
    until(page, "!document.getElementById('job-result').hidden")
    assert re.match(r"Case 8863: \d+ of 36 patches", page.find_element("id", "case-sum").text)
    wait_until(lambda: len(page.execute_script(PIXELS)) > 50)  # tissue, and the patches over it
    assert "benign, not coloured" in page.find_element("id", "key").text
    page.find_element("id", "tissue").send_keys(keys().SPACE)
    wait_until(lambda: len(page.execute_script(PIXELS)) == 2)
    assert "not coloured" not in page.find_element("id", "key").text
    before = page.execute_script(PIXELS)
    positive = {}
    for threshold in (0.0, 1.0):
        page.execute_script(MOVE, threshold)
        until(page, f"document.getElementById('threshold-value').innerText == '{threshold:.3f}'")
        time.sleep(0.3)
        positive[threshold] = page.find_element("css selector", "#cases tr:nth-child(2) td:nth-child(3)").text
        colours = page.execute_script(PIXELS)
        assert len(colours) == 1 and len(before) == 2, "all patches have one colour at either end"
    assert positive == {0.0: "36", 1.0: "0"}
    page.find_element("id", "reset").send_keys(keys().ENTER)
    time.sleep(0.3)
    assert page.execute_script(PIXELS) == before
    page.find_element("id", "canvas").send_keys(keys().ARROW_RIGHT, keys().ARROW_DOWN)
    assert re.match(r"x \d+, y \d+: 0\.\d{3}, (IDC|benign)", page.find_element("id", "readout").text)
    page.find_element("css selector", "[value=probability]").send_keys(keys().SPACE)
    time.sleep(0.3)
    assert len(page.execute_script(PIXELS)) > 5
    assert violations(page) == []
    page.find_element("id", "cancel").send_keys(keys().ENTER)
    until(page, "document.getElementById('status').innerText.includes('deleted')")


PIXELS = """
const canvas = document.getElementById('canvas'), pen = canvas.getContext('2d');
const data = pen.getImageData(0, 0, canvas.width, canvas.height).data, found = new Set();
for (let i = 0; i < data.length; i += 4) if (data[i + 3] == 255) found.add(data.slice(i, i + 3).join());
return [...found].sort();
"""
MOVE = """
const slider = document.getElementById('threshold'); slider.value = arguments[0];
slider.dispatchEvent(new Event('input'));
"""


def keys() -> Any:
    from selenium.webdriver.common.keys import Keys

    return Keys


def problem_on(page: Driver) -> str:
    """What the page complains of, once it does."""
    until(page, "document.getElementById('problem').innerText")
    return str(page.find_element("id", "problem").text)


def test_a_slide_that_looks_like_a_patch_is_graded_once_its_pixel_size_is_filled_in(
    page: Driver, tmp_path: Path
) -> None:
    path = square_of_tissue(tmp_path / "small.tif")
    assert path.stat().st_size < 2**20
    drop_files(page, path)
    field = "Pixel size of the slide, µm per pixel"
    assert f"how to cut small.tif into patches: enter “{field}”" in problem_on(page)
    focused = page.switch_to.active_element
    assert page.execute_script(NAMED) == ["INPUT", field]
    focused.send_keys("0", keys().ENTER)
    until(page, "document.getElementById('problem').innerText.includes('not a valid pixel size')")
    focused.send_keys(keys().BACKSPACE, "4")
    page.find_element("id", "again").send_keys(keys().ENTER)
    until(page, "!document.getElementById('job-result').hidden")
    assert page.find_element("id", "problem").text == "" and not page.find_element("id", "again").is_displayed()
    assert re.match(r"Case small: \d+ of 576 patches", page.find_element("id", "case-sum").text)  # 24 x 24 of 50 pixels
    assert page.find_element("id", "used-sizes").text == f"{field}: 4, as you entered it."
    assert violations(page) == []
    page.find_element("id", "cancel").send_keys(keys().ENTER)
    until(page, "document.getElementById('status').innerText.includes('deleted')")


def test_a_pixel_size_that_only_the_model_lacks_can_be_filled_in_too(
    page: Driver, root: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    params = root / "params.yaml"
    before = params.read_text()
    params.write_text(yaml.safe_dump(content | {"idc": {"source": "x.zip", "manifest": "x.csv"}}))  # of any patches
    try:
        drop_files(page, square_of_tissue(tmp_path / "own.tif", mpp=4))
        assert "enter “Pixel size of the model's patches, µm per pixel”" in problem_on(page)
        page.switch_to.active_element.send_keys("8", keys().ENTER)
        until(page, "document.getElementById('case-sum').innerText.match(/Case own: .* of 144 patches/)")
    finally:
        params.write_text(before)
    page.find_element("id", "cancel").send_keys(keys().ENTER)
    until(page, "document.getElementById('status').innerText.includes('deleted')")


def test_a_result_outlives_an_unreachable_server_and_too_many_patches(
    page: Driver, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "case.zip"
    path.write_bytes(slide_zip(cases=1))
    page.execute_script(UNRELIABLE)
    drop_files(page, path)
    until(page, "!document.getElementById('job-result').hidden && document.getElementById('picture').naturalWidth > 0")
    assert re.match(r"Case 8863: \d+ of 36 patches", page.find_element("id", "case-sum").text)
    assert not page.find_element("id", "canvas").is_displayed() and page.find_element("id", "picture").is_displayed()
    assert page.find_element("css selector", "#cases td").text == "36"
    failed, address, deleted = page.execute_script("return [window.failed, window.job, window.deleted]")
    assert failed == 3 and not deleted
    assert requests.get(f"{server.address}/{address}/result", headers=BEARER, timeout=60).status_code == 200
    page.find_element("id", "cancel").send_keys(keys().ENTER)
    until(page, "document.getElementById('status').innerText.includes('deleted')")
    assert violations(page) == []


UNRELIABLE = """
const real = window.fetch;
window.failed = 0; window.deleted = false;
window.fetch = async (path, options) => {
  if (options.method === 'DELETE') window.deleted = true;
  if (/v1.slides.[^/?]+$/.test(path) && options.method !== 'DELETE') {
    window.job = path;
    if (window.failed < 3) { window.failed += 1; throw new TypeError('network'); }
  }
  if (path.includes('/patches?')) return new Response('{"detail": "too many patches"}', { status: 413 });
  return real(path, options);
};
"""


def test_what_a_slide_job_failed_of_is_said_on_the_page(page: Driver, tmp_path: Path) -> None:
    path = tmp_path / "empty.zip"
    path.write_bytes(zip_of({}))
    drop_files(page, path)
    until(page, "document.getElementById('problem').innerText.includes('othing to predict')")
    assert not page.find_element("id", "slide").is_displayed()


def test_the_card_is_text_and_nothing_comes_from_elsewhere(page: Driver, server: Server) -> None:
    assert "0.932 [0.907, 0.951]" in page.find_element("id", "card").text
    assert "<script>" in page.find_element("id", "card").text
    assert page.title != "planted"
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith((server.address, "data:", "blob:")) for url in asked)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_can_be_read_in_either_theme_and_on_a_phone(page: Driver, theme: str) -> None:
    page.find_element("css selector", "#example-list button").click()
    until(page, "document.querySelectorAll('#patches li').length == 1")
    set_window(page, PHONE, theme)
    time.sleep(0.3)
    assert page.execute_script(LUMINANCE) == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE
    assert (float(np.median(screenshot(page))) > 200) == (theme == "light")


def test_everything_on_the_page_can_be_reached_and_has_a_name(page: Driver) -> None:
    from selenium.webdriver import ActionChains

    focused = []
    for _ in range(14):
        ActionChains(page).send_keys(keys().TAB).perform()
        focused.append(page.execute_script(NAMED))
    assert all(name for _, name in focused), focused
    assert [kind for kind, _ in focused[:5]] == ["A", "A", "A", "A", "INPUT"]
    assert sum(kind == "BUTTON" for kind, _ in focused) >= 7
    assert page.execute_script("return document.querySelectorAll('img:not([alt])').length") == 0


NAMED = """
const e = document.activeElement;
return [e.tagName, e.getAttribute('aria-label') || e.innerText || [...(e.labels || [])].map(l => l.innerText).join()];
"""
