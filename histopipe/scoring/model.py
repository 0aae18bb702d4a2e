"""The model that grades: from the registry, a run, or a folder; nothing in its files is run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from histopipe import tracking
from histopipe.errors import EvaluationError, HistopipeError, ScoringError
from histopipe.files import read_json, read_yaml
from histopipe.monitoring.profiles import read_profiles
from histopipe.paths import Workspace
from histopipe.serving.packaging import REFERENCE_ARTIFACT
from histopipe.weights.registered import NETWORK_ARTIFACT, NOT_THERE

if TYPE_CHECKING:
    import keras
    import pandas as pd

CHAMPION = "champion"
POINT_ARTIFACT = "operating_point"
SCHEMES = ("models:/", "runs:/")


@dataclass(frozen=True)
class Served:
    """A calibrated network and what it needs to know of its patches.

    Attributes:
        name: what people call it, such as `models:/histopipe-idc@champion`.
        network: gives calibrated probabilities.
        point: content of `operating_point.json`.
        logged: `run_id` and `model_id` under which MLflow has it, as far as its folder says.
        reference: profiles of the cases behind it (histopipe/monitoring); None of a model that carries none.
    """

    name: str
    network: keras.Model
    point: dict[str, Any]
    logged: dict[str, str] = field(default_factory=dict)
    reference: pd.DataFrame | None = None

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of the patches it was trained on, in pixels."""
        height, width = self.point["patch_size"]
        return int(height), int(width)


def load_served(asked: str, dataset: str, workspace: Workspace) -> Served:
    """Load a model that `evaluate` logged.

    Args:
        asked: `champion` (of the data set), an address such as `models:/NAME/3` or `runs:/ID/model`, or the path of
            such a model's folder.
        dataset: the data set's name.
        workspace: whose tracking store is asked.

    Raises:
        ScoringError: there is no such model, or it isn't one of this project's.
        TrackingAwayError: the tracking store can't be asked.
    """
    with model_folder(asked, dataset, workspace) as (folder, address):
        network, point = _read(folder, address)
        logged, (_, reference) = _logged(folder), reference_in(folder)
    if point.get("data_set") != dataset:
        raise ScoringError(f"{address} is a model of {point.get('data_set')}, not of {dataset}: name its --dataset")
    return Served(address, network, point, logged, reference)


def model_paths(*asked: str | None) -> list[Path]:
    """Those of the models asked for that are folders on disk rather than names of the tracking store."""
    return [Path(model) for model in asked if model and model != CHAMPION and not model.startswith(SCHEMES)]


@contextmanager
def model_folder(asked: str, dataset: str, workspace: Workspace) -> Iterator[tuple[Path, str]]:
    """The folder of a model, copied from the tracking store where it lies there, and the model's address.

    Raises:
        ScoringError: there is no such model.
        TrackingAwayError: the tracking store can't be asked.
    """
    address = f"models:/{tracking.experiment_name(dataset)}@{CHAMPION}" if asked == CHAMPION else asked
    with _folder_of(address, asked, workspace) as folder:
        yield folder, address


def reference_in(folder: Path) -> tuple[str | None, pd.DataFrame | None]:
    """A served model's id in MLflow, and the profiles of the cases behind it, as far as its folder holds them.

    Raises:
        MonitoringError: the profiles can't be read.
    """
    try:
        described = read_yaml(folder / "MLmodel")
        place = described["flavors"]["python_function"]["artifacts"].get(REFERENCE_ARTIFACT)
    except (OSError, KeyError, TypeError, AttributeError):
        return None, None
    return described.get("model_id"), read_profiles(folder / place["path"]) if place else None


def _logged(folder: Path) -> dict[str, str]:
    try:
        described = read_yaml(folder / "MLmodel")
        return {name: str(described[name]) for name in ("run_id", "model_id") if described.get(name)}
    except (OSError, AttributeError):
        return {}


@contextmanager
def _folder_of(address: str, asked: str, workspace: Workspace) -> Iterator[Path]:
    if not address.startswith(SCHEMES):
        if not Path(address).is_dir():
            raise ScoringError(f"{address} is no folder of a model: give champion, models:/NAME/VERSION or a path")
        yield Path(address)
        return
    with TemporaryDirectory() as scratch:
        with tracking.told_in_one_line(workspace):
            folder = _downloaded(address, asked, workspace, scratch)
        yield folder


def _downloaded(address: str, asked: str, workspace: Workspace, folder: str) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    tracking.registry(workspace)  # points MLflow at the store, and sees that it answers
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=folder))
    except MlflowException as problem:
        if problem.error_code not in NOT_THERE:
            raise
        remedy = "promote a model first (`dvc repro`)" if asked == CHAMPION else "name one that MLflow lists"
        said = " ".join(str(problem).split())[:160]
        raise ScoringError(f"{address} can't be had ({said}): {remedy}") from None


def _read(folder: Path, address: str) -> tuple[keras.Model, dict[str, Any]]:
    from histopipe.evaluation.logits import load_network

    try:
        described = read_yaml(folder / "MLmodel")["flavors"]["python_function"]["artifacts"]
        paths = {name: folder / described[name]["path"] for name in (NETWORK_ARTIFACT, POINT_ARTIFACT)}
        return load_network(paths[NETWORK_ARTIFACT]), read_json(paths[POINT_ARTIFACT])
    except (OSError, KeyError, TypeError):
        raise ScoringError(f"{address} is no model that histopipe's `evaluate` logged: name another") from None
    except EvaluationError as problem:
        raise ScoringError(f"{address}: {str(problem).rpartition(': ')[0]}: name another model") from None
    except HistopipeError as problem:
        raise ScoringError(f"{address}: {problem}") from None
