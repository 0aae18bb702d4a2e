"""The model that grades: from the registry, a run, or a folder; nothing in its files is run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from yaml import YAMLError

from histopipe.core.errors import EvaluationError, HistopipeError, ScoringError, one_line
from histopipe.core.files import read_json, read_yaml
from histopipe.core.operating_point import OperatingPoint
from histopipe.core.workspace import Workspace
from histopipe.evaluation.drift.profiles import read_profiles
from histopipe.inference.origin import data_in, require_own_data
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
class Served:
    """A calibrated network and what it needs to know of its patches.

    Attributes:
        name: what people call it, such as `models:/histopipe-idc@champion`.
        network: gives calibrated probabilities.
        point: content of `operating_point.json`.
        logged: `run_id` and `model_id` under which MLflow has it, as far as its folder says.
        reference: profiles of the cases behind it (histopipe/monitoring); None of a model that carries none.
        made_from: the data of its training.
        data: how that and the data of this checkout are related.
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


def load_served(asked: str, dataset: str, workspace: Workspace, followed: bool | None = None) -> Served:
    """Load a model that `evaluate` logged, if it is one of the data set.

    Args:
        asked: `champion` (of the data set), an address such as `models:/NAME/3` or `runs:/ID/model`, or the path of
            such a model's folder.
        dataset: the data set's name.
        workspace: whose tracking store is asked, and whose data the model must be of.
        followed: whether the champion of the data set is meant, whichever that is; told by `asked` where None.

    Raises:
        ScoringError: there is no such model, it isn't one of this project's, or it is one of other data.
        TrackingAwayError: the tracking store can't be asked.
    """
    with model_folder(asked, dataset, workspace) as (folder, address):
        try:
            point, network_file = point_in(folder, address), _path(folder, NETWORK_ARTIFACT, address)
            made_from, data = check_data(folder, point, address, dataset, workspace, followed)
            network = _network(network_file, address)
        except UnreadableModelError as problem:
            raise _lost_or(problem, address, dataset, workspace) from None
        logged, (_, reference) = _logged(folder), reference_in(folder)
    return Served(address, network, point, logged, reference, made_from, data)


def check_data(
    folder: Path, point: OperatingPoint, address: str, dataset: str, workspace: Workspace, followed: bool | None = None
) -> tuple[Provenance, Relation]:
    """Check that a model is one of a data set, by name, classes and what is known of its data.

    Args:
        folder: of the model.
        point: content of its `operating_point.json`.
        address: by which it was asked for.
        dataset: the data set's name.
        workspace: whose data the model must be of.
        followed: as of `load_served`.

    Returns:
        Its data, and how that and the data of this checkout are related.

    Raises:
        ScoringError: it isn't.
    """
    if point.get("data_set") != dataset:
        raise ScoringError(f"{address} is a model of {point.get('data_set')}, not of {dataset}: name its --dataset")
    made_from, version = data_in(folder, point), _version_at(address, workspace)
    if version is not None and not len(made_from.labels):
        with errors_in_one_line(workspace):
            registered = data_of_version(version, open_client(workspace))
        made_from = replace(registered, dataset=dataset, classes=made_from.classes)
    if followed is None:
        followed = address == champion_address(dataset, workspace)
    title = f"{address} (version {version.version})" if version and "@" in address else address
    return made_from, require_own_data(made_from, title, version, followed, workspace)


def champion_address(dataset: str, workspace: Workspace) -> str:
    """The address of a data set's champion."""
    return f"models:/{registered_model_name(dataset, workspace)}@{CHAMPION}"


def _version_at(address: str, workspace: Workspace) -> ModelVersion | None:
    """The registered version at an address; None of any other model."""
    found = REGISTERED.fullmatch(address)
    if found is None:
        return None
    with errors_in_one_line(workspace):
        client = open_client(workspace)
        try:
            return version_at(client, **found.groupdict())
        except store_error() as problem:
            if problem.error_code not in NOT_THERE:
                raise
            return None


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
    address = champion_address(dataset, workspace) if asked == CHAMPION else asked
    with _folder_of(address, dataset, workspace) as folder:
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
def _folder_of(address: str, dataset: str, workspace: Workspace) -> Iterator[Path]:
    if not address.startswith(SCHEMES):
        if not Path(address).is_dir():
            raise ScoringError(f"{address} is no folder of a model: give champion, models:/NAME/VERSION or a path")
        yield Path(address)
        return
    with TemporaryDirectory() as scratch:
        with errors_in_one_line(workspace):
            folder = _downloaded(address, dataset, workspace, scratch)
        yield folder


def _downloaded(address: str, dataset: str, workspace: Workspace, scratch: str) -> Path:
    """Copy a model's files; a model that is registered or logged, but whose files aren't there, is told of as that."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = open_client(workspace)  # points MLflow at the store, and sees that it answers
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
        raise ScoringError(lost(version, dataset, find_version_fault(version, client)))
    remedy = "name one that MLflow lists"
    if address == champion_address(dataset, workspace):
        remedy = "promote a model first (`dvc repro`)"
    raise ScoringError(f"{address} can't be had ({reason or 'there are no files of it'}): {remedy}")


def lost(version: ModelVersion, dataset: str, fault: ModelFault | None) -> str:
    """What people are told of a registered version whose files are gone or damaged, with what brings them back."""
    return (
        f"version {version.version} of {version.name} can't be loaded: {fault or 'its files were gone just now'}: "
        f"restore them from a backup, or run `histopipe promote {dataset}` in the checkout that trained it, "
        f"which registers it again; `histopipe rollback {dataset}` goes back to the champion before"
    )


class UnreadableModelError(ScoringError):
    """A model's files are there, but not those that `evaluate` logs."""


def point_in(folder: Path, address: str) -> OperatingPoint:
    """The operating point of a model in a folder.

    Raises:
        ScoringError: there is none; it is no model that `evaluate` logged.
    """
    try:
        point = dict(read_json(_path(folder, POINT_ARTIFACT, address)))
    except ScoringError:
        raise
    except (HistopipeError, OSError, TypeError, ValueError) as problem:
        raise UnreadableModelError(f"{address}: {problem}") from None
    return cast(OperatingPoint, point)  # of models that other releases logged, some keys may be missing


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


def _lost_or(problem: ScoringError, address: str, dataset: str, workspace: Workspace) -> ScoringError:
    """What to say of files that can't be read: of a registered model that was whole once, what brings it back."""
    version = _version_at(address, workspace)
    if version is None:
        return problem
    with errors_in_one_line(workspace):
        fault = find_version_fault(version, open_client(workspace))
    return ScoringError(lost(version, dataset, fault)) if fault else problem
