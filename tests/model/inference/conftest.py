"""A served model for every test, and the network inside it."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import pytest

from tests.builders.networks import settled
from tests.builders.served_models import POINT


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return settled("cancernet")


@pytest.fixture
def model(tmp_path: Path, network: keras.Model) -> Path:
    """A folder laid out as MLflow keeps a served model."""
    folder = tmp_path / "model"
    (folder / "artifacts").mkdir(parents=True)
    network.save(folder / "artifacts/model.keras")
    (folder / "artifacts/operating_point.json").write_text(json.dumps(POINT))
    named = {"network": "model.keras", "operating_point": "operating_point.json"}
    lines = "".join(f"      {name}: {{path: artifacts/{file}}}\n" for name, file in named.items())
    (folder / "MLmodel").write_text(f"flavors:\n  python_function:\n    artifacts:\n{lines}")
    return folder
