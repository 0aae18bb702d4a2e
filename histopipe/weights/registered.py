"""Weights of models that this project registered itself."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from histopipe import tracking
from histopipe.errors import WeightsError
from histopipe.files import read_yaml
from histopipe.paths import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

NETWORK_ARTIFACT = "network"  # as the served model names it

_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def bring_registered(asked: str, key: str, workspace: Workspace, folder: Path) -> tuple[Path, dict[str, str]]:
    """Copy the network of a registered model into `folder`.

    Args:
        asked: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        key: of the recipe, for messages.
        workspace: says where the tracking store is.
        folder: where the file goes.

    Returns:
        The file, and the model's name, version and run.

    Raises:
        WeightsError: there is no such model, or it holds no network of Keras.
    """
    from mlflow.exceptions import MlflowException

    address = _ADDRESS.fullmatch(asked)
    if address is None:
        raise WeightsError(f"{key}: {asked} is no model's address: write models:/NAME@ALIAS or models:/NAME/VERSION")
    try:
        version = _version(tracking.registry(workspace), **address.groupdict())
        file = copy_network(version, folder)
    except (MlflowException, OSError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise WeightsError(
            f"{key}: {asked} can't be had from the tracking store ({reason}): "
            "promote a model first, or give imagenet, random or a file's path"
        ) from None
    if file is None:
        raise WeightsError(f"{key}: {asked} holds no Keras network: name a model that `evaluate` logged")
    return file, {"model": version.name, "version": str(version.version), "run_id": str(version.run_id)}


def _version(client: MlflowClient, name: str, alias: str | None, version: str | None) -> ModelVersion:
    if alias:
        return client.get_model_version_by_alias(name, alias)
    return client.get_model_version(name, str(version))


def copy_network(version: ModelVersion, folder: Path) -> Path | None:
    """Copy the network of a registered version into `folder`; None where the version holds none of Keras.

    Raises:
        MlflowException, OSError: the version's files can't be had.
    """
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with TemporaryDirectory() as scratch:
        address = f"models:/{version.name}/{version.version}"
        model = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=scratch))
        described = read_yaml(model / "MLmodel")
        artifacts = described.get("flavors", {}).get("python_function", {}).get("artifacts") or {}
        if NETWORK_ARTIFACT not in artifacts:
            return None
        return Path(shutil.copyfile(model / artifacts[NETWORK_ARTIFACT]["path"], folder / "model.keras"))
