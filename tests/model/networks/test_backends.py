"""The same code under other Keras backends, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from histopipe.networks.architectures import list_architectures
from tests.builders.networks import HASTE
from tests.builders.paths import ROOT

DEEP = "densenet201"  # XLA takes minutes over its 700 layers


def works_on(backend: str, folder: Path, names: list[str]) -> None:
    """Run the checks of `on_backend.py`; skips where the backend isn't installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}: install the `dev` extra" if backend == "jax" else f"{backend} is not installed")
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": HASTE}
    command = [sys.executable, "-m", "tests.model.networks.on_backend", str(folder), *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"backend: {backend}" in done.stdout


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_two_architectures_train_and_predict_on(backend: str, tmp_path: Path) -> None:
    works_on(backend, tmp_path, ["cancernet", "histonet"])


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_architecture_trains_and_predicts_on(backend: str, tmp_path: Path) -> None:
    works_on(backend, tmp_path, [name for name in list_architectures() if name != DEEP])


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_deepest_architecture_trains_and_predicts_on(backend: str, tmp_path: Path) -> None:
    works_on(backend, tmp_path, [DEEP])
