"""`histopipe serve` as users and others meet it: a real server, real requests, real misuse."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import psutil
import pytest
import requests
import yaml
from PIL import Image

from histopipe.ingest.datasets import get_dataset
from tests.builders.browser import LUMINANCE, PHONE, Driver, look, screenshot, set_window, started_browser
from tests.builders.paths import ROOT
from tests.builders.service import (
    PATIENCE,
    POINT,
    TOKEN,
    Server,
    picture,
    point_of,
    register,
    sample_patches,
    serving,
    slide_zip,
    surroundings,
    telling_network,
    until_ended,
)
from tests.builders.slides import slide_file

BEARER = {"Authorization": f"Bearer {TOKEN}"}
BODY = 2 * 2**20  # bytes that the server takes
IMAGES = 40
MOST_PIXELS = 10_000
LIMITS = ("--max-images", str(IMAGES), "--max-body", "2", "--max-upload", "4", "--max-seconds", "5", "--poll", "0.5")
LIMITS += ("--max-pixels", str(MOST_PIXELS))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tracking_database: Path) -> Path:
    """A checkout with a champion."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(tracking_database, folder / "mlflow.db")
    assert register(folder, telling_network()) == "1"
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with serving(root, *LIMITS, token=TOKEN) as started:
        yield started


@pytest.fixture
def post(server: Server) -> Callable[..., requests.Response]:
    def send(path: str = "/v1/predict", **options: Any) -> requests.Response:
        options["headers"] = BEARER | options.get("headers", {})
        return requests.post(server.address + path, timeout=PATIENCE, **options)

    return send


@pytest.fixture
def ask(server: Server) -> Callable[[str], Any]:
    def content(path: str) -> Any:
        answer = requests.get(server.address + path, headers=BEARER, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return content


@pytest.fixture(autouse=True)
def _goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the server still grades, and holds no file."""
    yield
    if "server" not in request.fixturenames:
        return
    server = request.getfixturevalue("server")
    if server.process.poll() is None:
        good = requests.post(
            server.address + "/v1/predict", data=picture(sample_patches()[0]), headers=IMAGE, timeout=60
        )
        assert good.status_code == 200, good.text
        assert server.left_on_disk == []


IMAGE = BEARER | {"Content-Type": "image/png"}


def parts(*contents: bytes, name: str = "images") -> list[tuple[str, tuple[str, bytes, str]]]:
    return [(name, (f"{number}.png", content, "image/png")) for number, content in enumerate(contents)]


def refused(answer: requests.Response, status: int, reason: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status and problem["title"]
    assert reason in problem["detail"], problem
    return problem


def test_the_api_the_command_and_mlflow_give_one_probability(
    root: Path, server: Server, post: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas as pd

    patches = sample_patches(20, seed=4)
    files = [picture(patch) for patch in patches]
    answer = post(files=parts(*files)).json()
    found = np.array([one["probability"] for one in answer["predictions"]])
    assert np.ptp(found) > 0.2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    served = mlflow.pyfunc.load_model("models:/histopipe-idc/1").predict(pd.DataFrame({"image": files}))
    np.testing.assert_allclose(found, served["probability"], rtol=0, atol=1e-4)
    assert [one["decision"] for one in answer["predictions"]] == served["decision"].tolist()
    alone = [post(data=file, headers=IMAGE).json()["predictions"][0]["probability"] for file in files[:3]]
    np.testing.assert_allclose(alone, found[:3], rtol=0, atol=1e-4)
    job = post("/v1/slides", files={"file": ("patches.zip", zip_of({f"{i:02}.png": f for i, f in enumerate(files)}))})
    address = job.headers["Location"]
    assert until_ended(ask, address)["state"] == "done"  # the same function as the command
    rows = ask(f"{address}/patches?case=patches")
    np.testing.assert_allclose(rows["probability"], found, rtol=0, atol=1e-4)
    requests.delete(server.address + address, headers=BEARER, timeout=60)


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_every_answer_says_which_model_gave_it(post: Any, ask: Any) -> None:
    answer = post(files=parts(picture(sample_patches()[0]))).json()
    assert answer["model"] == {"name": "histopipe-idc", "version": "1"}
    assert (answer["threshold"], answer["positive_class"]) == (POINT["threshold"], "IDC")
    (one,) = answer["predictions"]
    assert one["name"] == "0.png" and one["decision"] == (one["probability"] >= answer["threshold"])
    assert one["label"] == ("IDC" if one["decision"] else "benign")
    described = ask("/v1/model")
    assert "Research use only" in described["card"] and described["patch_size"] == [50, 50]


def test_an_explanation_is_a_picture_of_the_patch(post: Any) -> None:
    import base64

    patch = sample_patches()[2]
    answer = post("/v1/explain", files=parts(picture(patch), name="image")).json()
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["overlay"]))).convert("RGB"))
    assert overlay.shape == patch.shape and np.ptp(overlay) > 20
    graded = post(data=picture(patch), headers=IMAGE).json()["predictions"][0]
    assert answer["probability"] == pytest.approx(graded["probability"], abs=1e-4)


def test_a_case_is_graded_as_a_job_and_forgotten_on_request(server: Server, post: Any, ask: Any) -> None:
    sent = post("/v1/slides?name=two.zip", data=slide_zip(), headers={"Content-Type": "application/zip"})
    assert sent.status_code == 202
    address = sent.headers["Location"]
    assert until_ended(ask, address)["error"] is None
    result = ask(f"{address}/result")
    assert {case["case_id"]: (case["patches"], case["map"], case["tissue"]) for case in result["cases"]} == {
        "8863": (36, True, True),
        "8864": (36, True, True),
    }
    rows = ask(f"{address}/patches?case=8864")
    assert len(rows["x"]) == 36 and sum(p >= 0.45 for p in rows["probability"]) == result["cases"][1]["positive"]
    get = requests.Session()
    get.headers.update(BEARER)
    assert Image.open(io.BytesIO(get.get(f"{server.address}{address}/map?case=8863", timeout=60).content)).width > 500
    with ThreadPoolExecutor(4) as pool:  # at the same time: one of them writes it
        tables = list(pool.map(lambda _: get.get(f"{server.address}{address}/table?format=csv", timeout=60), range(4)))
    (table,) = {(one.status_code, one.text) for one in tables}
    assert table[0] == 200 and len(table[1].splitlines()) == 73 and "probability" in table[1].splitlines()[0]
    tissue = Image.open(io.BytesIO(get.get(f"{server.address}{address}/tissue?case=8863", timeout=60).content))
    assert (tissue.format, tissue.size) == ("JPEG", (300, 300))
    brightness = np.asarray(tissue).reshape(6, 50, 6, 50, 3).mean(axis=(1, 3, 4)).ravel()
    assert np.abs(brightness - sample_patches(36).mean(axis=(1, 2, 3))).max() < 3  # one brighter than the other
    assert requests.get(f"{server.address}{address}/tissue?case=8863", timeout=60).status_code == 401
    for kind in ("map", "tissue"):
        assert get.get(f"{server.address}{address}/{kind}?case=nobody", timeout=60).status_code == 404
    assert get.delete(server.address + address, timeout=60).status_code == 204
    for path in ("", "/tissue?case=8863"):
        assert get.get(server.address + address + path, timeout=60).status_code == 404


def test_a_job_can_be_cancelled(server: Server, post: Any) -> None:
    first, second = (post("/v1/slides", files={"file": ("a.zip", slide_zip())}).headers["Location"] for _ in range(2))
    for address in (second, first):
        assert requests.delete(server.address + address, headers=BEARER, timeout=60).status_code == 204
        assert requests.get(server.address + address, headers=BEARER, timeout=60).status_code == 404


def test_only_the_token_opens(server: Server) -> None:
    for wrong in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Authorization": b"Bearer \xff\xfe\x00garbage".replace(b"\0", b"")},
    ):
        for path in ("/v1/predict", "/v1/model", "/metrics", "/v1/slides/none"):
            answer = requests.get(server.address + path, headers=wrong, timeout=60)
            refused(answer, 401, "token")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/", "/page.js", "/healthz", "/readyz", "/openapi.json"):
        assert requests.get(server.address + path, timeout=60).status_code == 200


MODES = {
    "grey": picture(sample_patches()[1], mode="L"),
    "transparent": picture(sample_patches()[1], mode="RGBA"),
    "palette": picture(sample_patches()[1], mode="P"),
    "two colours": picture(sample_patches()[1], mode="1"),
    "ink": picture(sample_patches()[1], "JPEG", "CMYK"),
    "tiff": picture(sample_patches()[1], "TIFF"),
    "one pixel": picture(sample_patches()[1][:1, :1]),
}


@pytest.mark.parametrize("kind", MODES)
def test_odd_images_are_graded(post: Any, kind: str) -> None:
    answer = post(files=parts(MODES[kind]))
    assert answer.status_code == 200, answer.text
    assert 0 < answer.json()["predictions"][0]["probability"] < 1


def test_deep_and_turned_images_are_graded_as_what_they_show(post: Any) -> None:
    grey = sample_patches()[3][..., 0]
    stream = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(stream, "PNG")
    turned, exif = Image.fromarray(sample_patches()[3]), Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    tagged = io.BytesIO()
    turned.save(tagged, "PNG", exif=exif)
    upright = io.BytesIO()
    turned.rotate(-90, expand=True).save(upright, "PNG")
    files = [stream.getvalue(), picture(np.repeat(grey[..., None], 3, axis=2)), tagged.getvalue(), upright.getvalue()]
    deep, plain, rotated, expected = (one["probability"] for one in post(files=parts(*files)).json()["predictions"])
    assert deep == pytest.approx(plain, abs=1e-4)
    assert rotated == pytest.approx(expected, abs=1e-4)


def bomb(side: int = 50_000) -> bytes:
    """A PNG of gigabytes that takes a few hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


BAD = {
    "no image": (b"hello", "not a readable"),
    "nothing": (b"", "not a readable"),
    "truncated": (picture(sample_patches()[0])[:900], "not a readable"),
    "bomb": (bomb(), "more pixels"),
    "too large": (picture(np.zeros((80, 80, 3), np.uint8)), "larger than a patch of 50 x 50"),
    "page": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable"),
    "gif": (picture(sample_patches()[0], "GIF", "P"), "not a readable"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_patch_is_refused_by_name(post: Any, kind: str) -> None:
    content, reason = BAD[kind]
    good = picture(sample_patches()[0])
    problem = refused(post(files=parts(good, content)), 422, reason)
    assert [one["name"] for one in problem["errors"]] == ["1.png"]
    assert post("/v1/explain", files=parts(content, name="image")).status_code in (400, 422)


@pytest.mark.parametrize(("path", "field"), [("/v1/predict", "images"), ("/v1/explain", "image")])
def test_no_image_may_have_more_pixels_than_the_server_was_told(path: str, field: str, post: Any, ask: Any) -> None:
    assert ask("/v1/model")["limits"]["pixels"] == MOST_PIXELS
    taken, beyond = (picture(np.zeros((100, MOST_PIXELS // 100 + more, 3), np.uint8)) for more in (0, 1))
    refused(post(path, files=parts(taken, name=field)), 422, "larger than a patch of 50 x 50")  # found once decoded
    refused(post(path, files=parts(beyond, name=field)), 422, "more pixels than an image may have")


def test_forms_that_are_none_are_refused(post: Any) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=X"}
    refused(post(files=parts(*[b"x"] * (IMAGES + 1))), 413, f"{IMAGES} files")
    refused(post(files=parts(*[b"x"] * 1000)), 413, f"{IMAGES} files")
    refused(post(data={"images": "text"}, files={"more": b"x"}), 400, "is not a file")
    refused(post(data=b"--Y\r\n", headers=form), 400, "not a form")
    refused(
        post(data=b"--X\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\nabc", headers=form),
        400,
        "incomplete",
    )
    refused(post(data=b"", headers={"Content-Type": "multipart/form-data"}), 400, "boundary")
    refused(post(data=b"--X--\r\n", headers=form), 400, "no file")
    refused(post(data=b"{}", headers={"Content-Type": "application/json"}), 415, "multipart/form-data")
    refused(post(data=b"", headers={"Content-Type": "image/png"}), 400, "empty")


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/explain", "/v1/slides"])
@pytest.mark.parametrize("declared", [True, False])
def test_oversized_bodies_are_refused_with_and_without_their_length(post: Any, path: str, declared: bool) -> None:
    content = bytes(9 * 2**20)
    kind = {"Content-Type": "application/octet-stream"}
    body = content if declared else (content[start : start + 2**16] for start in range(0, len(content), 2**16))
    refused(post(path, data=body, headers=kind), 413, "bytes")


def test_unusable_archives_end_with_a_reason(server: Server, post: Any, ask: Any) -> None:
    climbing = io.BytesIO()
    with tarfile.open(fileobj=climbing, mode="w:gz") as archive:
        for name in ("../../../tmp/evil.png", "/etc/evil.png"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"evil"))
    sent = {
        "empty.zip": (zip_of({}), "nothing to predict"),
        "climbing.tar.gz": (climbing.getvalue(), "unsafe path"),
        "cut.zip": (slide_zip()[:-100], "truncated"),
        "../../etc/passwd": (b"root", "is no image, slide, folder or archive of patches"),
    }
    addresses = {n: post("/v1/slides", files={"file": (n, c)}).headers["Location"] for n, (c, _) in sent.items()}
    for name, address in addresses.items():
        state = until_ended(ask, address)
        assert state["state"] == "failed" and sent[name][1] in state["error"], state
        assert str(server.scratch) not in state["error"]
        refused(requests.get(f"{server.address}{address}/result", headers=BEARER, timeout=60), 409, sent[name][1])
        requests.delete(server.address + address, headers=BEARER, timeout=60)
    refused(post("/v1/slides", files={"file": ("nothing.zip", b"")}), 400, "empty")


def test_odd_names_in_an_archive_break_no_table(server: Server, post: Any, ask: Any) -> None:
    """A carriage return in a folder's name was a row of an invented case, and no result at all."""
    image = picture(sample_patches()[0])
    odd = {"Icon\r": b"", "P1\r99,1,1,1,0.9,1/a.png": image, "P1/._a.png": b"\0", "__MACOSX/P1/._a.png": b"\0"}
    files = {"file": ("a\r.zip", zip_of({"P1/a.png": image, "P1\\b.png": image, **odd}))}
    address = post("/v1/slides", files=files).headers["Location"]
    assert until_ended(ask, address)["error"] is None
    result = ask(f"{address}/result")
    assert [(case["case_id"], case["patches"]) for case in result["cases"]] == [("P1", 2)]
    assert result["summary"]["set_aside"] == {
        "name holds a line break or another control character": {
            "count": 1,
            "files": ["P1\\x0d99,1,1,1,0.9,1/a.png"],
        }
    }
    requests.delete(server.address + address, headers=BEARER, timeout=60)


def dribble(server: Server, start: bytes) -> bytes:
    """Send a beginning, then a byte now and then; returns what the server says before it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(start)
        deadline = time.monotonic() + 60
        connection.settimeout(0.5)
        said = b""
        while time.monotonic() < deadline:
            try:
                connection.sendall(b"x")
                received = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return said
            if not received:
                return said
            said += received
    pytest.fail("the server waits for ever")


def test_slow_clients_are_let_go(server: Server) -> None:
    opening = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    slow = {"body": opening + "Content-Length: 100000\r\n\r\n", "headers": "GET / HTTP/1.1\r\nX-Slow: ", "nothing": ""}
    slow["upload"] = slow["body"].replace("/v1/predict", "/v1/slides?name=a.zip")  # a piece now and then is too little
    with_answers: dict[str, bytes] = {}

    def let(name: str) -> None:
        with_answers[name] = dribble(server, slow[name].encode())

    threads = [threading.Thread(target=let, args=(name,)) for name in slow]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    assert requests.get(server.address + "/healthz", timeout=60).status_code == 200  # the others don't wait
    assert time.monotonic() - began < 4
    for thread in threads:
        thread.join(90)
    for name in ("body", "upload"):
        assert b" 408 " in with_answers[name] and b"too slowly" in with_answers[name]
    assert set(with_answers) == set(slow)


ENDLESS = {
    "one long header": ["GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + "x" * 60_000, "x" * 6_000],
    "a long address": ["GET /" + "x" * 60_000, "x" * 6_000],
    "many headers": ["GET / HTTP/1.1\r\n" + "X-Many: x\r\n" * 5_400, "X-Many: x\r\n" * 800 + "\r\n"],
    "trailers": [
        "POST /nowhere HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: " + "x" * 60_000,
        "x" * 6_000,
        "x" * 6_000,
    ],
}


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_headers_without_end_are_refused(server: Server, kind: str, before: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        if before:
            connection.sendall(before)
            first = b""
            while not first.endswith(b"}"):  # headers and content may come apart
                first += connection.recv(65536)
            assert b" 200 " in first
        said = b""
        try:
            for piece in ENDLESS[kind]:
                connection.sendall(piece.encode())
                time.sleep(0.3)
            while received := connection.recv(65536):
                said += received
        except OSError:  # hung up while more was sent
            pass
    assert said.startswith(b"HTTP/1.1 431 ") or kind == "trailers", said[:200]  # those come after the answer


async def rush(port: int, clients: int, each: int) -> list[tuple[int, bool]]:
    """Status of every request of many clients at once, and whether it says when to come back."""
    body = picture(sample_patches()[0])
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    found = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(each):
            writer.write(request)
            headers = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next(line for line in headers.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            found.append((int(headers[9:12]), b"retry-after:" in headers))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


def test_too_many_clients_at_once_are_told_to_come_back(server: Server) -> None:
    found = asyncio.run(rush(server.port, 200, 4))
    assert len(found) == 800
    assert {status for status, _ in found} == {200, 429}
    assert all(retry == (status == 429) for status, retry in found)


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.long)])
def test_memory_stays_what_it_was_over_many_requests(server: Server, count: int) -> None:
    process = psutil.Process(server.process.pid)
    held = []
    for _ in range(8):
        asyncio.run(rush(server.port, 8, count // 64))
        held.append(process.memory_info().rss / 2**20)
    assert max(held[4:]) < 1.05 * max(held[:4]), held


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


def test_metrics_count_what_happened(server: Server) -> None:
    text = requests.get(server.address + "/metrics", headers=BEARER, timeout=60).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines['histopipe_requests_total{method="POST",route="/v1/predict",status="200"}']) > 0
    assert float(lines['histopipe_model_info{name="histopipe-idc",version="1"}']) == 1
    assert float(lines["histopipe_batch_patches_count"]) > 0


def explored(server: Server, examples: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """What schemathesis finds when it reads the description and sends whatever that allows, and what it doesn't."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json"]
    options = ["--max-examples", str(examples), "--seed", "7", "--header", f"Authorization: Bearer {TOKEN}"]
    options += ["--request-timeout", "60", "--no-color", "--phases", "examples,coverage,fuzzing"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command += [*options, "--checks", checks]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("examples", [3, pytest.param(300, marks=pytest.mark.long)])
def test_the_api_is_as_its_description_says(server: Server, examples: int, tmp_path: Path) -> None:
    done = explored(server, examples, tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "/v1/slides" in requests.get(server.address + "/openapi.json", timeout=60).text
    for job in list(server.scratch.glob("histopipe-serve-*/*")):
        requests.delete(f"{server.address}/v1/slides/{job.name}", headers=BEARER, timeout=60)


def test_a_new_champion_takes_over_and_a_broken_one_does_not(root: Path, server: Server, ask: Any) -> None:
    statuses, stop = [], threading.Event()

    def keep_asking() -> None:
        body = picture(sample_patches()[0])
        while not stop.is_set():
            answer = requests.post(server.address + "/v1/predict", data=body, headers=IMAGE, timeout=PATIENCE)
            statuses.append((answer.status_code, answer.json().get("model", {}).get("version")))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        assert register(root, telling_network(seed=2), threshold=0.3) == "2"
        wait_until(lambda: ask("/readyz")["model"]["version"] == "2")
        assert ask("/v1/model")["threshold"] == 0.3
        broken_version(root)
        wait_until(lambda: "version 3 can't be loaded" in (ask("/readyz")["problem"] or ""))
        assert ask("/readyz")["status"] == "ok"
    finally:
        stop.set()
        asking.join()
    assert {status for status, _ in statuses} == {200}
    assert [version for _, version in statuses] == sorted(version for _, version in statuses)
    assert statuses[-1][1] == "2"
    text = requests.get(server.address + "/metrics", headers=BEARER, timeout=60).text
    assert 'histopipe_reloads_total{outcome="loaded"} 1.0' in text
    assert 'histopipe_reloads_total{outcome="failed"} 1.0' in text


def broken_version(root: Path) -> None:
    """Champion 3, whose network is cut short."""
    assert register(root, telling_network(seed=3)) == "3"
    network = max(root.rglob("*.keras"), key=lambda path: path.stat().st_mtime)
    network.write_bytes(network.read_bytes()[:1000])


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_slide_is_graded_as_the_command_grades_it(
    root: Path, server: Server, post: Any, ask: Any, real: Callable[[str], Path], tmp_path: Path
) -> None:
    import pandas as pd

    from histopipe.core.workspace import Workspace
    from histopipe.inference.slide_prediction import SlideOptions
    from histopipe.inference.stage import predict

    path = real("CMU-1-Small-Region.svs")
    form = {"files": {"file": (path.name, path.read_bytes())}, "data": {"slide_mpp": "0.25"}}
    address = post("/v1/slides", **form).headers["Location"]
    state = until_ended(ask, address)
    assert state["state"] == "done", state
    version = f"models:/histopipe-idc/{ask(address)['model']['version']}"
    with tracking_kept():
        predict([path], version, "idc", tmp_path / "out", Workspace(root), reading=SlideOptions(4.0, 0.25))
    expected = pd.read_parquet(tmp_path / "out/predictions.parquet")
    found = ask(f"{address}/patches?case=CMU-1-Small-Region")
    assert len(expected) > 3
    for name in ("x", "y", "width", "height"):
        assert found[name] == expected[name].tolist()
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=0, atol=1e-4)
    (case,) = ask(f"{address}/result")["cases"]
    assert case["map"] and case["tissue"] and case["patches"] == len(expected)
    shown = requests.get(f"{server.address}{address}/tissue?case={case['case_id']}", headers=BEARER, timeout=60)
    assert same_picture(shown.content, path, expected)
    requests.delete(server.address + address, headers=BEARER, timeout=60)


def same_picture(picture: bytes, slide: Path, tiles: Any) -> bool:
    """Whether a picture shows what lies around the tiles: the slide has a label and a macro image too."""
    import openslide

    left, top = (int(tiles[name].min()) for name in "xy")
    right, bottom = (int((tiles[name] + tiles[side]).max()) for name, side in (("x", "width"), ("y", "height")))
    with openslide.OpenSlide(slide) as opened, Image.open(io.BytesIO(picture)) as shown:
        assert {"label", "macro"} <= set(opened.associated_images)
        region = opened.read_region((left, top), 0, (right - left, bottom - top)).convert("RGB").resize(shown.size)
        return bool(np.abs(np.asarray(region, int) - np.asarray(shown, int)).mean() < 6 and max(shown.size) <= 1000)


@contextmanager
def tracking_kept() -> Iterator[None]:
    """Where MLflow looks is the same afterwards."""
    import mlflow

    before = mlflow.get_tracking_uri()
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def square_of_tissue(path: Path, mpp: float | None = None) -> Path:
    """A slide that doesn't say how much tissue a pixel shows, unless it is told to."""
    drawn = np.full((2100, 2100, 3), 240, np.uint8)
    drawn[400:1600, 400:1600] = (170, 90, 160)
    return slide_file(path, drawn, mpp=mpp, compression="zlib")


def test_a_slide_of_unknown_pixel_size_names_the_parameter(server: Server, post: Any, ask: Any, tmp_path: Path) -> None:
    content = square_of_tissue(tmp_path / "sizeless.tif").read_bytes()
    for wrong in ("nonsense", "-1", "inf", "nan"):
        refused(post("/v1/slides", files={"file": ("a.tif", content)}, data={"slide_mpp": wrong}), 422, "micrometres")
        assert post(f"/v1/slides?slide_mpp={wrong}", files={"file": ("a.tif", content)}).status_code == 422
    refused(post("/v1/slides", files={"file": ("a.tif", content)}, data={"other": "x"}), 400, "is not a file")
    address = post("/v1/slides", files={"file": ("a.tif", content)}).headers["Location"]
    assert "give the parameter `slide_mpp`" in until_ended(ask, address)["error"]
    requests.delete(server.address + address, headers=BEARER, timeout=60)
    address = post("/v1/slides?slide_mpp=4", files={"file": ("a.tif", content)}).headers["Location"]
    assert until_ended(ask, address)["state"] == "done"
    requests.delete(server.address + address, headers=BEARER, timeout=60)


@pytest.mark.usefixtures("server")
def test_told_to_stop_it_finishes_what_it_began(server: Server) -> None:
    """The last test of this server."""
    requests.post(server.address + "/v1/slides", files={"file": ("a.zip", slide_zip())}, headers=BEARER, timeout=60)
    body = picture(sample_patches()[0])
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1000])
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        with pytest.raises(requests.ConnectionError):
            requests.get(server.address + "/healthz", timeout=10)
        connection.sendall(body[1000:])
        assert b" 200 " in connection.recv(65536)
    assert server.process.wait(PATIENCE) == 0
    assert list(server.scratch.glob("histopipe-serve-*")) == []
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def model_of_a_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from histopipe.core.workspace import Workspace
    from histopipe.inference.model import model_folder

    folder = tmp_path_factory.mktemp("folder") / "model"
    with pytest.MonkeyPatch.context() as surroundings, tracking_kept():
        surroundings.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow's own, of the store it was told last
        with model_folder("models:/histopipe-idc/1", "idc", Workspace(root)) as (found, _):
            shutil.copytree(found, folder)
    return folder


@pytest.fixture(scope="module")
def open_one(root: Path, model_of_a_folder: Path) -> Iterator[Server]:
    """A server that asks for no token, of a model in a folder, whose patches it takes for coarser than they are."""
    with serving(root, "--model", str(model_of_a_folder), "--mpp", "8") as started:
        yield started


@pytest.mark.parametrize(("query", "side"), [("", 200), ("&mpp=4", 100)])
def test_slides_are_cut_up_at_the_pixel_size_that_the_server_or_the_client_says(
    query: str, side: int, open_one: Server, tmp_path: Path
) -> None:
    def ask(path: str) -> Any:
        return requests.get(open_one.address + path, timeout=60).json()

    content = square_of_tissue(tmp_path / "slide.tif").read_bytes()
    address = f"{open_one.address}/v1/slides?slide_mpp=2{query}"
    job = requests.post(address, files={"file": ("slide.tif", content)}, timeout=PATIENCE).headers["Location"]
    assert until_ended(ask, job)["state"] == "done"
    patches = ask(f"{job}/patches?case=slide")
    assert set(patches["width"]) == set(patches["height"]) == {side}  # 50 pixels of 8 or 4 um, on a slide of 2
    assert ask(f"{job}/result")["summary"]["patch_mpp"] == side * 2 / 50
    requests.delete(open_one.address + job, timeout=60)


def test_other_web_pages_cannot_use_a_server_without_token_and_its_folder_may_change(
    open_one: Server, model_of_a_folder: Path
) -> None:
    body, address, port = picture(sample_patches()[0]), open_one.address, open_one.port
    kind = {"Content-Type": "image/png"}
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "[2001:db8::1]:80"}, 421),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://localhost:{port + 1}", "Host": f"localhost:{port}"}, 403),
        ({"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": f"[::1]:{port}"}, 200),
        ({}, 200),
    ):
        answer = requests.post(f"{address}/v1/predict", data=body, headers=kind | headers, timeout=PATIENCE)
        assert answer.status_code == status, (headers, answer.text)
    assert requests.get(f"{address}/", headers={"Host": "evil.example"}, timeout=60).status_code == 421
    assert requests.get(f"{address}/", headers={"Sec-Fetch-Site": "cross-site"}, timeout=60).status_code == 200
    assert requests.delete(f"{address}/v1/slides/x", headers={"Origin": "null"}, timeout=60).status_code == 403
    requests.request("PROPFIND", f"{address}/v1/predict", timeout=60)
    assert 'method="other"' in requests.get(f"{address}/metrics", timeout=60).text
    shutil.rmtree(model_of_a_folder)  # as `dvc repro` does, before it writes the next one
    graded = requests.post(f"{address}/v1/slides?name=a.zip", data=zip_of({"a.png": body}), headers=ZIP, timeout=60)
    state = until_ended(lambda path: requests.get(address + path, timeout=60).json(), graded.headers["Location"])
    assert state["state"] == "done", state
    rows = requests.get(f"{address}{graded.headers['Location']}/patches?case=a", timeout=60).json()
    one = requests.post(f"{address}/v1/predict", data=body, headers=kind, timeout=PATIENCE).json()["predictions"][0]
    assert rows["probability"] == pytest.approx([one["probability"]], abs=1e-4)


ZIP = {"Content-Type": "application/zip"}


@pytest.mark.long
@pytest.mark.parametrize("dataset", ["malaria", "breakhis"])
def test_real_images_that_are_resized_get_what_the_command_gives_them(
    dataset: str, real: Callable[[str], Path], tracking_database: Path, tmp_path: Path
) -> None:
    import pandas as pd

    folder = some_images(real(f"{dataset}-sample.zip"), tmp_path / "images")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(tracking_database, tmp_path / "mlflow.db")
    with tracking_kept():
        register(tmp_path, telling_network(patches=resized(folder, dataset)), point=point_of(dataset))
    command = [sys.executable, "-m", "histopipe", "predict", str(folder), "--dataset", dataset, "--out", "scores"]
    done = subprocess.run(
        command, cwd=tmp_path, env=surroundings(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = pd.read_parquet(tmp_path / "scores/predictions.parquet").set_index("file")
    assert np.ptp(expected["probability"]) > 0.2 and expected["width"].nunique() > 1
    with serving(tmp_path, "--dataset", dataset) as started:
        for some in np.array_split(expected.index, 8):
            sent = [("images", (name, (folder / name).read_bytes(), "image/png")) for name in some]
            answer = requests.post(f"{started.address}/v1/predict", files=sent, timeout=PATIENCE).json()
            for one in answer["predictions"]:
                row = expected.loc[one["name"]]
                assert one["probability"] == pytest.approx(row["probability"], abs=1e-4)
                assert one["label"] == get_dataset(dataset).classes[int(row["decision"])]


def some_images(archive: Path, folder: Path, most: int = 200) -> Path:
    """Real images from all over an archive, every tenth of them without its right-hand quarter."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.endswith(".png")]
        for number, name in enumerate(names[:: max(1, len(names) // most)][:most]):
            image = Image.open(io.BytesIO(opened.read(name)))
            kept = image.width if number % 10 else image.width * 3 // 4
            image.crop((0, 0, kept, image.height)).save(folder / f"{number:03}.png")
    return folder


def resized(folder: Path, dataset: str) -> np.ndarray:
    height, width = get_dataset(dataset).patch_size
    images = [Image.open(path).convert("RGB").resize((width, height)) for path in sorted(folder.iterdir())[:32]]
    return np.stack([np.asarray(image) for image in images])


def test_a_job_ends_whatever_befalls_its_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No server: what is given to the process here no client can give it."""
    from histopipe.service import worker
    from histopipe.service.jobs import Jobs
    from histopipe.service.limits import Limits
    from histopipe.service.models import Model, ModelRequest

    monkeypatch.setenv("HISTOPIPE_TOKEN", TOKEN)
    monkeypatch.setattr(worker, "LONGEST_LINE", 1000)
    nothing: Any = None

    async def run() -> tuple[list[dict[str, Any]], str, str | None, bytes]:
        request = ModelRequest("none", "idc", Workspace(tmp_path))
        jobs = Jobs(request, Limits(), tmp_path, lambda _: None)
        heard: list[dict[str, Any]] = []
        assert await jobs._worker.run({"scratch": str(tmp_path)}, heard.append)
        process = await jobs._worker._starting  # type: ignore[misc]
        surroundings = Path(f"/proc/{process.pid}/environ").read_bytes()
        served: Any = SimpleNamespace(point={})
        job = jobs.open(Model("m" * 100, "1", "x/" * 1500, served, nothing, ""))
        job.create("a.zip").close()
        jobs.start(job)
        assert job.task
        await asyncio.wait_for(job.task, PATIENCE)
        await jobs.close()
        return heard, job.state, job.error, surroundings

    from histopipe.core.workspace import Workspace

    shutil.copy(ROOT / "params.yaml", tmp_path)
    heard, state, error, surroundings = asyncio.run(run())
    assert heard[-1] == {"error": "it could not be predicted: see the service's log"}
    assert "KeyError" in capfd.readouterr().err
    assert state == "failed" and error == "it could not be predicted: see the service's log"
    assert "the job a.zip failed" in caplog.text  # its last line is longer than is read
    assert b"HISTOPIPE_TOKEN" not in surroundings


def test_a_full_disk_ends_an_upload_with_507() -> None:
    from starlette.requests import Request

    from histopipe.service.problems import RequestError
    from histopipe.service.reading import TransferLimits, save_file

    sent = iter([{"type": "http.request", "body": bytes(2**16), "more_body": more} for more in (True, False)])

    async def receive() -> Any:
        return next(sent)

    def create(_: str) -> BinaryIO:
        return Path("/dev/full").open("wb")

    headers = [(b"content-type", b"application/zip")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(RequestError) as problem:
        asyncio.run(save_file(request, 2**20, TransferLimits(60, 60), ("application/",), create))
    assert problem.value.status == 507


@pytest.mark.parametrize(
    ("options", "token", "said"),
    [
        (["--host", "0.0.0.0"], None, "set HISTOPIPE_TOKEN, or say --no-token"),
        (["--host", "::"], None, "set HISTOPIPE_TOKEN, or say --no-token"),
        (["--host", "0.0.0.0"], "short", "16 or more"),
        (["--host", "no.such.host.invalid", "--no-token"], None, "can't listen"),
        (["--model", "models:/nothing/1"], None, "can't be loaded"),
    ],
)
def test_a_server_that_may_not_start_says_why_in_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], token: str | None, said: str
) -> None:
    from click.testing import CliRunner

    from histopipe.cli import main

    monkeypatch.chdir(root)
    monkeypatch.delenv("HISTOPIPE_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HISTOPIPE_TOKEN", token)
    done = CliRunner().invoke(main, ["serve", "--port", "0", *options])
    assert done.exit_code == 2, done.output
    assert said in done.stderr and done.stderr.count("\n") == 1
