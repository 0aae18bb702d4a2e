"""The served model, logged, loaded and served for real."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit, logit

from histopipe.evaluation.mlflow_run import log_calibrated_model
from histopipe.ingest import images
from histopipe.ingest.tiff_pixels import TOO_DARK
from histopipe.networks.architectures import build
from histopipe.networks.architectures.blocks import OUTPUT_LAYER
from histopipe.networks.temperature import calibrated
from histopipe.tracking.served.packaging import CLASSIFIER
from tests.builders.pixel_formats import EMPTY_UPPER_BITS, PNGS, inked_jpeg

TEMPERATURE, OFFSET = 1.7, -0.4
POINT = {
    "temperature": TEMPERATURE,
    "offset": OFFSET,
    "threshold": 0.45,
    "rule": "youden",
    "positive_class": "IDC",
    "negative_class": "benign",
    "data_set": "idc",
    "patch_size": [50, 50],
    "resized": False,
}
START_SECONDS = 90


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """Patches of different brightness, so that their probabilities differ."""
    noise = np.random.default_rng(0).integers(0, 100, (5, 50, 50, 3))
    return (noise + np.arange(0, 150, 30)[:, None, None, None]).astype(np.uint8)


@pytest.fixture(scope="module")
def network(patches: np.ndarray) -> keras.Model:
    """An untrained network whose last layer is stretched until it tells the patches apart."""
    keras.utils.set_random_seed(1)
    network = build("cancernet", image_size=24)
    output = network.get_layer(OUTPUT_LAYER)
    logits = keras.Model(network.inputs, output.output).predict(patches, verbose=0)
    kernel, _ = output.get_weights()
    output.set_weights([kernel / logits.std(), -logits.mean(axis=0) / logits.std()])
    return network


@pytest.fixture(scope="module")
def expected(network: keras.Model, patches: np.ndarray) -> np.ndarray:
    """The network's own probabilities with the calibration applied to them."""
    raw = network.predict(patches, verbose=0)[:, 0].astype(np.float64)
    probabilities = expit(logit(raw) / TEMPERATURE + OFFSET)
    assert np.ptp(probabilities) > 0.2, "the patches must differ for the test to mean something"
    return probabilities


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("served", (folder / "artifacts").as_uri()))
    yield mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def uri(store: str, network: keras.Model, patches: np.ndarray) -> str:
    with mlflow.start_run() as run:
        log_calibrated_model(network, POINT, patches[0], {"dataset": "idc"})
    return f"runs:/{run.info.run_id}/model"


@pytest.fixture(scope="module")
def served(uri: str) -> Any:
    return mlflow.pyfunc.load_model(uri)


def png(patch: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(patch).save(stream, kind)
    return stream.getvalue()


def as_base64(patch: np.ndarray) -> str:
    return base64.b64encode(png(patch)).decode()


def check(answer: pd.DataFrame, expected: np.ndarray) -> None:
    assert list(answer.columns) == ["probability", "decision"]
    assert answer["probability"].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert answer["decision"].tolist() == (expected >= POINT["threshold"]).astype(int).tolist()


def test_the_calibration_is_inside_the_network(network: keras.Model, patches: np.ndarray, expected: np.ndarray) -> None:
    with calibrated(network, TEMPERATURE, OFFSET):
        assert network.predict(patches, verbose=0)[:, 0] == pytest.approx(expected, abs=1e-5)


def test_folding_leaves_the_trained_network_as_it_was(network: keras.Model) -> None:
    before = network.get_layer(OUTPUT_LAYER).get_weights()
    with pytest.raises(OSError, match="full"), calibrated(network, 3.0, 1.0):
        assert not np.array_equal(network.get_layer(OUTPUT_LAYER).get_weights()[0], before[0])
        raise OSError("the disk is full")
    after = network.get_layer(OUTPUT_LAYER).get_weights()
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda patches: patches, id="array"),
        pytest.param(lambda patches: patches.astype(np.int64), id="array of other integers"),
        pytest.param(lambda patches: {"image": patches}, id="named array"),
        pytest.param(lambda patches: pd.DataFrame({"image": [png(p) for p in patches]}), id="bytes"),
        pytest.param(lambda patches: pd.DataFrame({"image": [as_base64(p) for p in patches]}), id="base64"),
        pytest.param(
            lambda patches: pd.DataFrame({"file": "x.png", "image": [png(p) for p in patches]}),
            id="other columns too",
        ),
    ],
)
def test_every_form_of_input_gives_the_networks_answer(
    served: Any, patches: np.ndarray, expected: np.ndarray, form: Any
) -> None:
    check(served.predict(form(patches)), expected)


def test_a_single_patch_needs_no_list(served: Any, patches: np.ndarray, expected: np.ndarray) -> None:
    check(served.predict(patches[2]), expected[2:3])


def test_patches_of_several_sizes_are_treated_as_ingest_does(
    served: Any, network: keras.Model, patches: np.ndarray
) -> None:
    cut = patches[1][:31, :44]
    large = np.repeat(np.repeat(patches[2], 2, axis=0), 2, axis=1)
    mixed = np.empty(3, object)
    mixed[:] = [cut, patches[0], large]
    treated = [images.pad_patch(cut, (50, 50)), patches[0], large]
    with calibrated(network, TEMPERATURE, OFFSET):
        expected = [float(network.predict(patch[None], verbose=0)[0, 0]) for patch in treated]
    assert served.predict(mixed)["probability"].to_numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(460, 700), (456, 700), (230, 350), (100, 500)])
def test_fields_that_are_no_squares_are_resized_as_by_ingest(shape: tuple[int, int]) -> None:
    field = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert load_classifier().resized(field, 230, 350).shape == (230, 350, 3)
    assert np.array_equal(load_classifier().resized(field, 230, 350), images.resize_patch(field, (230, 350)))


@pytest.mark.parametrize("shape", [(31, 44), (50, 50), (120, 90), (40, 90)])
def test_padding_and_resizing_are_those_of_ingest(shape: tuple[int, int]) -> None:
    classifier = load_classifier()
    patch = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(classifier.resized(patch, 50, 50), images.resize_patch(patch, (50, 50)))
    if max(shape) <= 50:
        assert np.array_equal(classifier.padded(patch, 50, 50), images.pad_patch(patch, (50, 50)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_every_colour_mode_is_decoded_as_ingest_does(mode: str) -> None:
    grey = np.random.default_rng(3).integers(0, 256, (20, 20), dtype=np.uint8)
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    assert np.array_equal(load_classifier().decode(stream.getvalue()), images.decode_patch(stream.getvalue()))


@pytest.mark.parametrize(("content", "expected"), PNGS)
def test_every_depth_and_transparency_is_read_as_by_the_pipeline(content: bytes, expected: np.ndarray) -> None:
    assert np.array_equal(load_classifier().decode(content), expected)


@pytest.mark.parametrize("content", EMPTY_UPPER_BITS)
def test_images_whose_upper_bits_are_empty_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=TOO_DARK):
        load_classifier().decode(content)


@pytest.mark.parametrize("inverted", [False, True])
def test_inks_are_read_as_by_the_pipeline(inverted: bool) -> None:
    content = inked_jpeg(inverted)
    assert np.array_equal(load_classifier().decode(content), images.decode_patch(content))


def load_classifier() -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("classifier", CLASSIFIER)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no image", "row 1: not a readable PNG or JPEG image"),
        ("***", "row 1: the text is not base64"),
        (png(np.zeros((2100, 2100, 3), np.uint8)), "row 1: 2100 x 2100 pixels are more than a patch has"),
        (png(np.zeros((50, 50, 3), np.uint8))[:60], "row 1: not a readable PNG or JPEG image"),
    ],
)
def test_a_bad_image_is_named_by_its_row(served: Any, patches: np.ndarray, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        served.predict(pd.DataFrame({"image": [png(patches[0]), image]}))


def test_arrays_that_are_no_pixels_are_refused(served: Any, patches: np.ndarray) -> None:
    with pytest.raises(ValueError, match="row 0: pixels must be whole numbers from 0 to 255"):
        served.predict(patches / 255)
    with pytest.raises(ValueError, match=r"row 0: an image is \(height, width, 3\), not \(50, 50, 1\)"):
        served.predict(patches[..., :1])


def test_the_logged_model_says_what_it_is(served: Any) -> None:
    assert served.metadata.metadata["threshold"] == POINT["threshold"]
    assert [field.name for field in served.metadata.signature.outputs] == ["probability", "decision"]
    assert list(served.input_example.columns) == ["image"]
    check_example = served.predict(served.input_example)
    assert len(check_example) == 1


def test_the_model_file_needs_nothing_of_this_project(uri: str) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(uri))
    with zipfile.ZipFile(next(folder.rglob("model.keras"))) as file:
        modules = set(re.findall(r'"module": "(\w+)', file.read("config.json").decode()))
    assert modules == {"keras"}
    assert "histopipe" not in (folder / "classifier.py").read_text().split('"""', 2)[2]
    assert f"keras=={keras.__version__}" in (folder / "requirements.txt").read_text()


def quiet() -> dict[str, str]:
    return os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}


@pytest.fixture(scope="module")
def server(uri: str, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve` in a process of its own, as a user would start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    environment = quiet() | {
        "MLFLOW_TRACKING_URI": store,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # where uvicorn lies
    }
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until_up(f"http://127.0.0.1:{port}/ping", process, folder / "log.txt")
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_up(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(START_SECONDS * 4):
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
    pytest.fail(f"the server did not come up within {START_SECONDS} s:\n{log.read_text()}")


def ask(address: str, content: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(content).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


def test_the_server_takes_pixels_and_encoded_images(server: str, patches: np.ndarray, expected: np.ndarray) -> None:
    records = [{"image": as_base64(patch)} for patch in patches]
    for content in (
        {"inputs": patches.tolist()},
        {"instances": patches.tolist()},
        {"inputs": {"image": [as_base64(patch) for patch in patches]}},
        {"dataframe_records": records},
        {"dataframe_split": {"columns": ["image"], "data": [[record["image"]] for record in records]}},
    ):
        check(pd.DataFrame(ask(server, content)), expected)


def test_the_server_answers_a_bad_image_with_its_row(server: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as problem:
        ask(server, {"dataframe_records": [{"image": base64.b64encode(b"no image").decode()}]})
    assert problem.value.code == 400
    assert "row 0: not a readable PNG or JPEG image" in json.load(problem.value)["message"]
