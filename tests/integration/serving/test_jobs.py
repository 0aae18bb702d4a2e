"""Cases and slides as jobs: graded as the command grades them, cancelled, refused, or ended with a reason."""

from __future__ import annotations

import asyncio
import io
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import requests
from PIL import Image

from tests.builders.paths import ROOT
from tests.builders.service import (
    BEARER,
    PATIENCE,
    TOKEN,
    Server,
    picture,
    refused,
    sample_patches,
    slide_zip,
    tracking_kept,
    until_ended,
    zip_of,
)
from tests.builders.slides import square_of_tissue


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
        predict([path], version, "idc", tmp_path / "out", Workspace(root), slide_options=SlideOptions(4.0, 0.25))
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
