"""Servers of their own: without a token, of a folder, of other data sets, and those that may not start."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from histopipe.ingest.datasets import get_dataset
from tests.builders.paths import ROOT
from tests.builders.service import (
    PATIENCE,
    Server,
    picture,
    point_of,
    register,
    sample_patches,
    serving,
    surroundings,
    telling_network,
    tracking_kept,
    until_ended,
    zip_of,
)
from tests.builders.slides import square_of_tissue


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
