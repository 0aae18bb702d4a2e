"""A served model that carries a reference, and cases that do or don't look like those behind it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from histopipe.evaluation.drift.profiles import new_profiles
from tests.builders.archives import patch_name

POINT = {
    "data_set": "idc",
    "positive_class": "IDC",
    "negative_class": "benign",
    "threshold": 0.5,
    "patch_size": [50, 50],
    "resized": False,
}


def new_cases(seed: int, count: int, first: int, factor: float = 1.0) -> dict[str, bytes]:
    """Draw eight patches of each of some cases that differ in colour, in Kaggle's layout; darker by a factor."""
    random = np.random.default_rng(seed)
    content = {}
    for case in range(first, first + count):
        stain = random.uniform((180, 130, 160), (210, 170, 190))
        for number in range(8):
            level = stain * random.uniform(0.85, 1.1)
            pixels = np.clip(random.normal(level, 15, (50, 50, 3)) * factor, 0, 255).astype(np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            content[patch_name(case, 50 * number + 1, 51, 0)] = stream.getvalue()
    return content


def save_model(folder: Path) -> None:
    """Save a small untrained network, laid out as MLflow keeps a served model."""
    from tests.builders.networks import settled

    (folder / "artifacts").mkdir(parents=True)
    settled("cancernet").save(folder / "artifacts/network.keras")
    (folder / "artifacts/operating_point.json").write_text(json.dumps(POINT))
    named = {"network": "network.keras", "operating_point": "operating_point.json"}
    write_description(folder, {name: {"path": f"artifacts/{file}"} for name, file in named.items()})


def write_description(folder: Path, artifacts: dict[str, dict[str, str]], model_id: str | None = None) -> None:
    """Write what MLflow says of a served model."""
    described = {"flavors": {"python_function": {"artifacts": artifacts}}, "model_id": model_id}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))


def give_profiles(folder: Path, scores: Path) -> None:
    """Let a served model carry the profiles of cases that were predicted."""
    profiles = new_profiles(pd.read_parquet(scores / "predictions.parquet"))
    profiles.to_parquet(folder / "artifacts/reference.parquet", index=False)
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["python_function"]["artifacts"]["reference"] = {"path": "artifacts/reference.parquet"}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
