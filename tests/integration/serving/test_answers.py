"""`histopipe serve` as users and others meet it: a real server, real requests, real misuse."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from tests.builders.service import (
    BEARER,
    IMAGE,
    IMAGES,
    MOST_PIXELS,
    POINT,
    TOKEN,
    Server,
    parts,
    picture,
    refused,
    sample_patches,
    until_ended,
    zip_of,
)


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
