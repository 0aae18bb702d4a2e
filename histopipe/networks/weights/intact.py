"""Check that the files of a registered model are there, and as they were logged."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from histopipe.core.errors import EvaluationError, HistopipeError
from histopipe.core.files import file_digest, read_json, read_yaml
from histopipe.networks.weights.registered import NETWORK_ARTIFACT, NOT_THERE
from histopipe.tracking.artifacts import download
from histopipe.tracking.problems import store_error
from histopipe.tracking.served.packaging import NETWORK_DIGEST_TAG

if TYPE_CHECKING:
    from histopipe.tracking.entities import MlflowClient, ModelVersion

LOGGED_MODEL = "models:/m-"  # begins the address of a logged model; versions are made from those
POINT_ARTIFACT = "operating_point"
GONE = frozenset({*NOT_THERE, "NOT_FOUND", "ENDPOINT_NOT_FOUND"})
SHORT = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
)  # a full disk here doesn't mean that a model's files are gone


@dataclass(frozen=True)
class ModelFault:
    """The reason why a registered model can't be used.

    Attributes:
        reason: the reason in a few words.
        damaged: whether its files are there, but not as they were logged; else they are missing.
    """

    reason: str
    damaged: bool = False

    def __str__(self) -> str:
        return self.reason


def find_version_fault(version: ModelVersion, client: MlflowClient, load: bool = False) -> ModelFault | None:
    """Find out why a registered version can't be used; None where its files are intact.

    Args:
        version: version from the registry.
        client: client of the store that holds it.
        load: whether to load the network by Keras, too.

    Raises:
        MlflowException, RequestException, ConnectionError: the store can't be reached.
    """
    return find_model_fault(f"models:/{version.name}/{version.version}", str(version.source), client, load)


def find_model_fault(address: str, source: str, client: MlflowClient, load: bool = False) -> ModelFault | None:
    """Find out why the model at an address can't be used; None where its files are intact.

    Args:
        address: address such as `models:/NAME/3` or `models:/m-ID`.
        source: address of the logged model that it was made from.
        client: client of the store that holds it.
        load: whether to load the network by Keras, too.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logged = _logged_model(source, client)
    with TemporaryDirectory() as scratch:
        try:
            folder = download(address, scratch)
        except (store_error(), OSError) as problem:
            if not is_gone(problem):
                raise
            return _gone(logged, source)
        if not any(folder.iterdir()):
            return _gone(logged, source)
        return _find_fault_in(folder, logged.tags.get(NETWORK_DIGEST_TAG) if logged else None, load)


def is_gone(problem: Exception) -> bool:
    """Return whether an error of MLflow means that files are missing, rather than that the store can't be reached."""
    from requests import RequestException

    if isinstance(problem, store_error()):
        return problem.error_code in GONE
    if isinstance(problem, RequestException):
        return getattr(problem.response, "status_code", None) == 404
    return (
        isinstance(problem, OSError)
        and problem.errno not in SHORT
        and not isinstance(problem, ConnectionError | TimeoutError)
    )


def _logged_model(source: str, client: MlflowClient) -> Any:
    """Return the logged model at an address; None where it was made otherwise, or is deleted."""
    if not source.startswith(LOGGED_MODEL):
        return None
    try:
        return client.get_logged_model(source.removeprefix("models:/"))
    except store_error() as problem:
        if problem.error_code in GONE:
            return None
        raise


def _gone(logged: Any, source: str) -> ModelFault:
    location = logged.artifact_location if logged else source
    return ModelFault(f"its files are gone from {location}")


def _find_fault_in(folder: Path, digest: str | None, load: bool) -> ModelFault | None:
    try:
        described = read_yaml(folder / "MLmodel")["flavors"]["python_function"].get("artifacts") or {}
        paths = {name: folder / described[name]["path"] for name in (NETWORK_ARTIFACT, POINT_ARTIFACT)}
    except OSError:
        return ModelFault("its MLmodel is missing")
    except KeyError as missing:
        return ModelFault(
            f"it holds no {'Keras network' if missing.args[0] == NETWORK_ARTIFACT else missing.args[0]}", True
        )
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError):
        return ModelFault("its MLmodel is damaged", True)
    return _find_fault_of_files(paths[NETWORK_ARTIFACT], paths[POINT_ARTIFACT], digest, load)


def _find_fault_of_files(network: Path, point: Path, digest: str | None, load: bool) -> ModelFault | None:
    from histopipe.networks.logits import load_network

    if missing := [path.name for path in (network, point) if not path.is_file()]:
        return ModelFault(f"its {missing[0]} is missing")
    if digest not in (None, file_digest(network)):
        return ModelFault(f"its {network.name} is damaged: its bytes are not those that were logged", True)
    try:
        read_json(point)
        if load or digest is None:
            load_network(network)
    except EvaluationError:
        return ModelFault(f"its {network.name} can't be loaded by this Keras", True)
    except HistopipeError:
        return ModelFault(f"its {point.name} is damaged", True)
    return None
