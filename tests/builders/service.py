"""A champion to serve, and real servers of it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from tests.builders.paths import ROOT

PATIENCE = 240.0  # seconds; a busy machine is slow, not broken
TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
IMAGE = BEARER | {"Content-Type": "image/png"}
IMAGES = 40
MOST_PIXELS = 10_000
LIMITS = (
    *("--max-images", str(IMAGES), "--max-body", "2", "--max-upload", "4", "--max-seconds", "5", "--poll", "0.5"),
    *("--max-pixels", str(MOST_PIXELS)),
)
POINT = {
    "temperature": 1.7,
    "offset": -0.4,
    "threshold": 0.45,
    "rule": "youden",
    "positive_class": "IDC",
    "negative_class": "benign",
    "data_set": "idc",
    "patch_size": [50, 50],
    "resized": False,
}
CARD = """# idc: cancernet

**Research use only.** Not a medical device; no clinical decision may rest on it.

## Results on test

| metric | value [95 % interval by case] |
| :-- | :-- |
| roc auc | 0.932 [0.907, 0.951] |
| f1 | 0.758 [0.650, 0.841] |

## Limits

- graded on 34 cases of the same source: how it does elsewhere isn't known
- <script>document.title = "planted"</script> is text
"""


def sample_patches(count: int = 5, seed: int = 0) -> np.ndarray:
    """Draw patches of different brightness, so that their probabilities differ."""
    noise = np.random.default_rng(seed).integers(0, 100, (count, 50, 50, 3))
    return (noise + np.linspace(0, 150, count).astype(int)[:, None, None, None]).astype(np.uint8)


def telling_network(seed: int = 1, patches: np.ndarray | None = None) -> Any:
    """Build an untrained network whose last layer is stretched until it tells the patches apart."""
    import keras

    from histopipe.networks.architectures import build
    from histopipe.networks.architectures.blocks import OUTPUT_LAYER

    keras.utils.set_random_seed(seed)
    network = build("cancernet", image_size=24)
    output = network.get_layer(OUTPUT_LAYER)
    shown = sample_patches(32) if patches is None else patches
    logits = keras.Model(network.inputs, output.output).predict_on_batch(shown)
    kernel, _ = output.get_weights()
    output.set_weights([kernel / logits.std(), -logits.mean(axis=0) / logits.std()])
    return network


def point_of(dataset: str) -> dict[str, Any]:
    """Return an operating point of another data set."""
    from histopipe.ingest.datasets import get_dataset

    known = get_dataset(dataset)
    own = {"data_set": dataset, "patch_size": list(known.patch_size), "resized": known.resized}
    return POINT | own | {"negative_class": known.classes[0], "positive_class": known.classes[1]}


def register(
    root: Path,
    network: Any,
    threshold: float = 0.45,
    alias: str = "champion",
    point: dict[str, Any] = POINT,
) -> str:
    """Log a network as `evaluate` does, and point the alias at it; return its version."""
    import mlflow

    from histopipe.evaluation.mlflow_run import log_calibrated_model

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    try:
        client = mlflow.MlflowClient()
        if (found := client.get_experiment_by_name("served")) is None:
            experiment = client.create_experiment("served", (root / "mlartifacts").as_uri())
        else:
            experiment = found.experiment_id
        with mlflow.start_run(experiment_id=experiment) as run:
            example = np.zeros((*point["patch_size"], 3), np.uint8)
            tags = {"dataset": point["data_set"]}
            model = log_calibrated_model(network, point | {"threshold": threshold}, example, tags)
        name = f"histopipe-{point['data_set']}"
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"models:/{model.model_id}"
        version = client.create_model_version(name, source, run.info.run_id, description=CARD)
        client.set_registered_model_alias(name, alias, version.version)
        return str(version.version)
    finally:
        mlflow.set_tracking_uri(before)


def picture(patch: np.ndarray, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """Encode a patch."""
    stream = io.BytesIO()
    Image.fromarray(patch).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@dataclass(frozen=True)
class Server:
    """A running `histopipe serve`."""

    address: str
    process: subprocess.Popen[str]
    scratch: Path
    log: Path

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return int(self.address.rpartition(":")[2])

    @property
    def left_on_disk(self) -> list[Path]:
        """List files of its clients in its scratch folder."""
        return [path for path in self.scratch.glob("histopipe-serve-*/**/*") if path.is_file()]


def surroundings(scratch: Path) -> dict[str, str]:
    """Return the environment of a command that keeps its files in `scratch`; it holds nothing of the tests' own."""
    unwanted = ("HISTOPIPE_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # of MLflow's when told a store
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return kept | {"TMPDIR": str(scratch), "PYTHONPATH": path}


@contextmanager
def serving(root: Path, *options: str, token: str | None = None) -> Iterator[Server]:
    """Run `histopipe serve` in the checkout, on a port of its own."""
    scratch = root / f"tmp-{time.monotonic_ns()}"
    scratch.mkdir()
    log = scratch.with_suffix(".log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "histopipe", "serve", "--port", "0", *options],
            cwd=root,
            env=surroundings(scratch) | ({"HISTOPIPE_TOKEN": token} if token else {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout
        said = process.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found, log.read_text()[-3000:]
        yield Server(found[0], process, scratch, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


def slide_zip(cases: int = 2, side: int = 6) -> bytes:
    """Return an archive in Kaggle's layout: whole small slides, brighter from one end to the other."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for case in range(cases):
            patches = sample_patches(side * side, seed=case)
            for number, patch in enumerate(patches):
                x, y = 50 * (number % side) + 1, 50 * (number // side) + 1
                archive.writestr(f"{8863 + case}/0/{8863 + case}_idx5_x{x}_y{y}_class0.png", picture(patch))
    return stream.getvalue()


def until_ended(ask: Any, address: str) -> dict[str, Any]:
    """Wait until a job ends and return its last state; `ask` gives the content at an address."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state: dict[str, Any] = ask(address)
        if state["state"] in ("done", "failed", "cancelled"):
            return state
        time.sleep(0.2)
    pytest.fail(f"the job didn't end: {json.dumps(state)}")


def make_checkout(folder: Path, tracking_database: Path) -> Path:
    """Give a folder the parameters, a tracking database and a champion."""
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(tracking_database, folder / "mlflow.db")
    assert register(folder, telling_network()) == "1"
    return folder


def parts(*contents: bytes, name: str = "images") -> list[tuple[str, tuple[str, bytes, str]]]:
    """Return images as parts of a form."""
    return [(name, (f"{number}.png", content, "image/png")) for number, content in enumerate(contents)]


def refused(answer: requests.Response, status: int, reason: str) -> dict[str, Any]:
    """Check that a request was refused with a reason; return the problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status and problem["title"]
    assert reason in problem["detail"], problem
    return problem


def zip_of(members: dict[str, bytes]) -> bytes:
    """Return a ZIP of these members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@contextmanager
def tracking_kept() -> Iterator[None]:
    """Restore where MLflow looks."""
    import mlflow

    before = mlflow.get_tracking_uri()
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.3)
