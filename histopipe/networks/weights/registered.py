"""Weights of models that this project registered itself."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from histopipe.core.errors import HistopipeError, WeightsError, one_line
from histopipe.core.files import read_yaml
from histopipe.core.training_record import TrainingRecord, read_training_record
from histopipe.core.workspace import TRAINING_RECORD, Workspace
from histopipe.networks.weights.seen_data import Cases, SeenData, cases_seen, read_seen_data
from histopipe.tracking.artifacts import download
from histopipe.tracking.problems import store_error
from histopipe.tracking.provenance import Provenance, kind_of, labels_by_digest, no_labels
from histopipe.tracking.stores import errors_in_one_line, open_client

if TYPE_CHECKING:
    from histopipe.tracking.entities import MlflowClient, ModelVersion

NETWORK_ARTIFACT = "network"  # as the served model names it
KEPT = "promotion"  # folder among the run's artifacts that holds the training's record
PREDICTIONS = "test_predictions.parquet"  # next to the record: columns `file,digest,probability`
EVALUATED = "predictions.parquet"  # logged by `evaluate`: columns `file,label` among others
KEPT_TAG = "kept"  # tag of a version: its own folder within that one, which versions of one run don't share

NOT_THERE = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})  # MLflow's codes for missing things

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def bring_registered(
    choice: str, key: str, workspace: Workspace, folder: Path
) -> tuple[Path, dict[str, str], SeenData | None]:
    """Copy the network of a registered model into `folder`.

    Args:
        choice: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        key: key of the recipe, for messages.
        workspace: workspace of the tracking store.
        folder: folder for the file.

    Returns:
        The file; the model's name, version and run; and the data that its trainings have seen, None where its run
        doesn't record it.

    Raises:
        WeightsError: there is no such model, or it holds no Keras network.
        TrackingUnreachableError: the tracking store or its artifacts can't be reached.
    """
    address = REGISTERED.fullmatch(choice)
    if address is None:
        raise WeightsError(
            f"{key}: {choice} is not the address of a model: write models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    with errors_in_one_line(workspace):
        try:
            client = open_client(workspace)
            version = version_at(client, **address.groupdict())
            file = copy_network(version, folder)
            record = _training_record(version, client)
            seen = None if record is None else read_seen_data(record)
        except (store_error(), OSError) as problem:
            if _is_unreachable(problem):
                raise
            reason = one_line(problem, 200)
            raise WeightsError(
                f"{key}: {choice} can't be read from the tracking store ({reason}): "
                "promote a model first, or give imagenet, random or a file's path"
            ) from None
    if file is None:
        raise WeightsError(f"{key}: {choice} holds no Keras network: name a model that `evaluate` logged")
    return file, {"model": version.name, "version": str(version.version), "run_id": str(version.run_id)}, seen


def seen_data_of_version(name: str, version: str, workspace: Workspace) -> SeenData | None:
    """Return the data that the trainings of a registered version have seen.

    None where its run doesn't record it or can't be reached.
    """
    try:
        with errors_in_one_line(workspace):
            client = open_client(workspace)
            record = _training_record(client.get_model_version(name, version), client)
            return None if record is None else read_seen_data(record)
    except (store_error(), HistopipeError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _is_unreachable(problem: Exception) -> bool:
    """Return whether the tracking store couldn't be reached, rather than having no such model."""
    from requests import RequestException

    if isinstance(problem, store_error()):
        return problem.error_code not in NOT_THERE
    return isinstance(problem, RequestException | ConnectionError | TimeoutError)


def cases_seen_by_version(version: ModelVersion, client: MlflowClient) -> Cases:
    """Return the cases that a version's trainings have seen, by data set; none for one registered by hand."""
    record = _training_record(version, client)
    return {} if record is None else cases_seen(record)


def _training_record(version: ModelVersion, client: MlflowClient) -> TrainingRecord | None:
    """Read the record of a version's training; None for one registered by hand."""
    run_id, folder = version.run_id, kept_folder(version)
    path = f"{folder}/{TRAINING_RECORD}"
    if not run_id or path not in {file.path for file in client.list_artifacts(run_id, folder)}:
        return None
    with TemporaryDirectory() as scratch:
        return read_training_record(Path(client.download_artifacts(run_id, path, scratch)))


def kept_folder(version: ModelVersion) -> str:
    """Return the folder of a version's training record among its run's artifacts; earlier versions shared one."""
    return version.tags.get(KEPT_TAG, KEPT)


def data_of_version(version: ModelVersion, client: MlflowClient) -> Provenance:
    """Describe the data that a registered version was made from, as far as its run and its tags record it."""
    folder = kept_folder(version)
    with TemporaryDirectory() as scratch:
        try:
            kept = Path(client.download_artifacts(str(version.run_id), folder, scratch))
            record = read_training_record(kept / TRAINING_RECORD)
        except (store_error(), HistopipeError, OSError):  # registered by hand, or its files are gone
            return describe_by_tags(version, None, None, client)
        logged = kept / PREDICTIONS
        return data_of_record(version, record, logged if logged.exists() else None, client)


def data_of_record(
    version: ModelVersion, record: TrainingRecord, logged: Path | None, client: MlflowClient
) -> Provenance:
    """Describe a version's data by its training's record and the file of its test predictions.

    Versions whose records don't describe their data are described by their tags.
    """
    try:
        return Provenance.from_json(record["data"] or {})
    except (KeyError, TypeError, ValueError, AttributeError):
        return describe_by_tags(version, record, logged, client)


def describe_by_tags(
    version: ModelVersion, record: TrainingRecord | None, logged: Path | None, client: MlflowClient
) -> Provenance:
    """Describe the data of a version whose record doesn't, by its tags and the test patches it was evaluated on."""
    tags, run_tags = version.tags, {}
    with suppress(store_error()):
        run_tags = client.get_run(str(version.run_id)).data.tags
    archives = {f"{name}:{tags[tag]}" for name, tag in (("dvc", "dvc_raw"), ("index", "data_digest")) if tag in tags}
    capped = tags["quick"] == "true" if "quick" in tags else None
    source = run_tags.get("source", "")
    return Provenance(
        str((record and record.get("dataset")) or run_tags.get("dataset") or ""),
        kind_of(source) if source else None,
        source,
        ("", tags.get("positive_class", "")),
        frozenset(archives),
        capped,
        _evaluated_labels(version, logged, client),
    )


def _evaluated_labels(version: ModelVersion, logged: Path | None, client: MlflowClient) -> pd.Series:
    """Return the label by digest of a version's test patches; empty where either file is gone."""
    try:
        if logged is None:
            return no_labels()
        with TemporaryDirectory() as scratch:
            evaluated = pd.read_parquet(client.download_artifacts(str(version.run_id), EVALUATED, scratch))
        return labels_by_digest(pd.read_parquet(logged).merge(evaluated[["file", "label"]], on="file"))
    except (store_error(), OSError, KeyError, ValueError):
        return no_labels()


def version_at(client: MlflowClient, name: str, alias: str | None, version: str | None) -> ModelVersion:
    """Return the version that an alias points to, or that has a number."""
    if alias:
        return client.get_model_version_by_alias(name, alias)
    return client.get_model_version(name, str(version))


def copy_network(version: ModelVersion, folder: Path) -> Path | None:
    """Copy the network of a registered version into `folder`; None where the version holds no Keras network.

    Raises:
        MlflowException, OSError: the version's files can't be read.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with TemporaryDirectory() as scratch:
        address = f"models:/{version.name}/{version.version}"
        model = download(address, scratch)
        described = read_yaml(model / "MLmodel")
        artifacts = described.get("flavors", {}).get("python_function", {}).get("artifacts") or {}
        if NETWORK_ARTIFACT not in artifacts:
            return None
        return Path(shutil.copyfile(model / artifacts[NETWORK_ARTIFACT]["path"], folder / "model.keras"))
