"""Loading of a model for prediction from the registry, a run or a folder; no code in its files is executed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from yaml import YAMLError

from histopipe.core.errors import EvaluationError, HistopipeError, PredictionError, one_line
from histopipe.core.files import read_json, read_yaml
from histopipe.core.operating_point import OperatingPoint
from histopipe.core.workspace import Workspace
from histopipe.evaluation.drift.profiles import read_profiles
from histopipe.inference.origin import read_provenance, require_own_data
from histopipe.networks.weights.intact import POINT_ARTIFACT, ModelFault, find_version_fault, is_gone
from histopipe.networks.weights.registered import NETWORK_ARTIFACT, NOT_THERE, REGISTERED, data_of_version, version_at
from histopipe.tracking.artifacts import download
from histopipe.tracking.problems import store_error
from histopipe.tracking.provenance import Provenance, Relation
from histopipe.tracking.served.packaging import REFERENCE_ARTIFACT
from histopipe.tracking.stores import errors_in_one_line, open_client, registered_model_name

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from histopipe.tracking.entities import ModelVersion

CHAMPION = "champion"
SCHEMES = ("models:/", "runs:/")


@dataclass(frozen=True)
class ServedModel:
    """A calibrated network with its operating point and origin.

    Attributes:
        name: its address, such as `models:/histopipe-idc@champion`.
        network: the network, which returns calibrated probabilities.
        point: the operating point, content of `operating_point.json`.
        logged: `run_id` and `model_id` in MLflow, if its folder holds them.
        reference: reference profiles for drift (`histopipe.evaluation.drift.profiles`): colours of training cases,
            probabilities of validation and test cases; None if it has none.
        made_from: the data that it was trained on.
        data: the relation of that data to the data of this checkout.
    """

    name: str
    network: keras.Model
    point: OperatingPoint
    logged: dict[str, str] = field(default_factory=dict)
    reference: pd.DataFrame | None = None
    made_from: Provenance | None = None
    data: Relation | None = None

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of the patches it was trained on, in pixels."""
        height, width = self.point["patch_size"]
        return int(height), int(width)


def load_served_model(
    model: str, dataset: str, workspace: Workspace, follows_champion: bool | None = None
) -> ServedModel:
    """Load a model that `evaluate` logged for a data set.

    Args:
        model: `champion` (of the data set), an address such as `models:/NAME/3` or `runs:/ID/model`, or the path of
            such a model's folder.
        dataset: the data set's name.
        workspace: the checkout, with the settings of the tracking store and the data that the model must be of.
        follows_champion: whether the champion is requested, whichever version that is, rather than one version; None
            to derive it from `model`.

    Returns:
        The model, ready to predict.

    Raises:
        PredictionError: there is no such model, it wasn't logged by histopipe, or it is of other data.
        TrackingUnreachableError: the tracking store can't be reached.

    Example:
        >>> served = load_served_model("champion", "idc", Workspace(Path.cwd()))
        >>> served.patch_size
        (50, 50)
    """
    with model_folder(model, dataset, workspace) as (folder, address):
        try:
            point, network_file = read_served_point(folder, address), _path(folder, NETWORK_ARTIFACT, address)
            made_from, data = require_data_set(folder, point, address, dataset, workspace, follows_champion)
            network = _network(network_file, address)
        except UnreadableModelError as problem:
            raise _explain(problem, address, dataset, workspace) from None
        logged, (_, reference) = _logged(folder), read_reference(folder)
    return ServedModel(address, network, point, logged, reference, made_from, data)


def require_data_set(
    folder: Path,
    point: OperatingPoint,
    address: str,
    dataset: str,
    workspace: Workspace,
    follows_champion: bool | None = None,
) -> tuple[Provenance, Relation]:
    """Check that a model is of a data set, by its name, its classes and the record of its data.

    Args:
        folder: the model's folder.
        point: content of its `operating_point.json`.
        address: the address by which it was requested.
        dataset: the data set's name.
        workspace: the checkout with the data that the model must be of.
        follows_champion: whether the champion is requested, whichever version that is, rather than one version; None
            to derive it from `address`.

    Returns:
        The model's data, and its relation to the data of this checkout.

    Raises:
        PredictionError: the model is of another data set.
    """
    if point.get("data_set") != dataset:
        raise PredictionError(f"{address} is a model of {point.get('data_set')}, not of {dataset}: name its --dataset")
    made_from, version = read_provenance(folder, point), _version_at(address, workspace)
    if version is not None and not len(made_from.labels):
        with errors_in_one_line(workspace):
            registered = data_of_version(version, open_client(workspace))
        made_from = replace(registered, dataset=dataset, classes=made_from.classes)
    if follows_champion is None:
        follows_champion = address == champion_address(dataset, workspace)
    title = f"{address} (version {version.version})" if version and "@" in address else address
    return made_from, require_own_data(made_from, title, version, follows_champion, workspace)


def champion_address(dataset: str, workspace: Workspace) -> str:
    """Return the address of a data set's champion."""
    return f"models:/{registered_model_name(dataset, workspace)}@{CHAMPION}"


def _version_at(address: str, workspace: Workspace) -> ModelVersion | None:
    """Return the registered version at an address; None for other models."""
    match = REGISTERED.fullmatch(address)
    if match is None:
        return None
    with errors_in_one_line(workspace):
        client = open_client(workspace)
        try:
            return version_at(client, **match.groupdict())
        except store_error() as problem:
            if problem.error_code not in NOT_THERE:
                raise
            return None


def model_paths(*models: str | None) -> list[Path]:
    """Return the paths of those models that are folders on disk, not names in the tracking store."""
    return [Path(model) for model in models if model and model != CHAMPION and not model.startswith(SCHEMES)]


@contextmanager
def model_folder(model: str, dataset: str, workspace: Workspace) -> Iterator[tuple[Path, str]]:
    """Provide the folder of a model, downloaded from the tracking store if necessary, and the model's address.

    Raises:
        PredictionError: there is no such model.
        TrackingUnreachableError: the tracking store can't be asked.
    """
    address = champion_address(dataset, workspace) if model == CHAMPION else model
    with _folder_of(address, dataset, workspace) as folder:
        yield folder, address


def read_reference(folder: Path) -> tuple[str | None, pd.DataFrame | None]:
    """Read a model's id in MLflow and its reference profiles for drift from its folder; None for what is missing.

    Raises:
        MonitoringError: the profiles can't be read.
    """
    try:
        content = read_yaml(folder / "MLmodel")
        entry = content["flavors"]["python_function"]["artifacts"].get(REFERENCE_ARTIFACT)
    except (OSError, KeyError, TypeError, AttributeError):
        return None, None
    return content.get("model_id"), read_profiles(folder / entry["path"]) if entry else None


def _logged(folder: Path) -> dict[str, str]:
    try:
        described = read_yaml(folder / "MLmodel")
        return {name: str(described[name]) for name in ("run_id", "model_id") if described.get(name)}
    except (OSError, AttributeError):
        return {}


@contextmanager
def _folder_of(address: str, dataset: str, workspace: Workspace) -> Iterator[Path]:
    if not address.startswith(SCHEMES):
        if not Path(address).is_dir():
            raise PredictionError(f"{address} is no folder of a model: give champion, models:/NAME/VERSION or a path")
        yield Path(address)
        return
    with TemporaryDirectory() as scratch:
        with errors_in_one_line(workspace):
            folder = _download(address, dataset, workspace, scratch)
        yield folder


def _download(address: str, dataset: str, workspace: Workspace, scratch: str) -> Path:
    """Download a model's files; the error distinguishes registered models whose files are missing from unknown ones."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = open_client(workspace)  # points MLflow at the store, and checks that it responds
    reason = ""
    try:
        folder = download(address, scratch)
        if (folder / "MLmodel").is_file():
            return folder
    except (store_error(), OSError) as problem:
        if not is_gone(problem):
            raise
        reason = one_line(problem, 160)
    version = _version_at(address, workspace)
    if version is not None:
        raise PredictionError(describe_loss(version, dataset, find_version_fault(version, client)))
    remedy = "name one that MLflow lists"
    if address == champion_address(dataset, workspace):
        remedy = "promote a model first (`dvc repro`)"
    raise PredictionError(f"{address} can't be loaded ({reason or 'it has no files'}): {remedy}")


def describe_loss(version: ModelVersion, dataset: str, fault: ModelFault | None) -> str:
    """Describe a registered version whose files are missing or damaged, and how to restore them."""
    return (
        f"version {version.version} of {version.name} can't be loaded: {fault or 'its files have just disappeared'}: "
        f"restore them from a backup, or run `histopipe promote {dataset}` in the checkout that trained it, "
        f"which registers it again; `histopipe rollback {dataset}` returns to the previous champion"
    )


class UnreadableModelError(PredictionError):
    """A model's folder doesn't hold the files that `evaluate` logs."""


def read_served_point(folder: Path, address: str) -> OperatingPoint:
    """Read the operating point of a model in a folder.

    Raises:
        PredictionError: there is no operating point, so `evaluate` didn't log the model.
    """
    try:
        point = dict(read_json(_path(folder, POINT_ARTIFACT, address)))
    except PredictionError:
        raise
    except (HistopipeError, OSError, TypeError, ValueError) as problem:
        raise UnreadableModelError(f"{address}: {problem}") from None
    return cast(OperatingPoint, point)  # models that other releases logged may lack some keys


def _path(folder: Path, artifact: str, address: str) -> Path:
    try:
        described = read_yaml(folder / "MLmodel")["flavors"]["python_function"]["artifacts"]
        return folder / described[artifact]["path"]
    except (OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError, YAMLError):
        raise UnreadableModelError(f"{address} is no model that histopipe's `evaluate` logged: name another") from None


def _network(path: Path, address: str) -> keras.Model:
    from histopipe.networks.logits import load_network

    try:
        return load_network(path)
    except EvaluationError as problem:
        raise UnreadableModelError(f"{address}: {str(problem).rpartition(': ')[0]}: name another model") from None


def _explain(problem: PredictionError, address: str, dataset: str, workspace: Workspace) -> PredictionError:
    """Return the error of unreadable files; for a registered model, which was complete once, with how to restore it."""
    version = _version_at(address, workspace)
    if version is None:
        return problem
    with errors_in_one_line(workspace):
        fault = find_version_fault(version, open_client(workspace))
    return PredictionError(describe_loss(version, dataset, fault)) if fault else problem
