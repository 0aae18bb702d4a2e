"""The tracking store of MLflow: its address, its experiments, and its errors in one line."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from histopipe.core.addresses import public_url
from histopipe.core.errors import TrackingError, TrackingUnreachableError, one_line
from histopipe.core.locking import exclusive_lock
from histopipe.core.params import TrackingParams, read_params
from histopipe.core.workspace import Workspace
from histopipe.tracking.relocation import ARTIFACTS, follow_move

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_LOUD = (
    "mlflow.store.db.utils",
    "urllib3.connectionpool",
)  # they print tracebacks and retries before raising the error

# the text before a driver's message, such as "(raised as a result of …) (sqlite3.OperationalError) "
_SQLALCHEMY = re.compile(r"^.*?\([\w.]+Error\) ")
_AFTER = re.compile(r" \[SQL:| \(Background on this error")  # the text after it

# By name, since boto is installed only where artifacts go to S3; base classes represent all their subclasses.
_BROKEN_OFF = frozenset(
    {
        "mlflow.exceptions.MlflowException",
        "requests.exceptions.RequestException",
        "sqlalchemy.exc.SQLAlchemyError",
        "boto3.exceptions.Boto3Error",
        "botocore.exceptions.BotoCoreError",
        "botocore.exceptions.ClientError",
    }
)
HTTP_RETRIES = 3  # of a request, 12 s in total; MLflow's default of 7 takes 4 minutes in silence and is for trainings
PAUSES = (0, 1, 4)  # seconds before each attempt to reach the server, which may just be restarting


def experiment_name(dataset: str) -> str:
    """Return the name of the experiment that holds every run on a data set."""
    return f"histopipe-{dataset}"


def registered_model_name(dataset: str, workspace: Workspace) -> str:
    """Return the name of the registered model that holds a data set's versions, from `params.yaml`.

    It is set by `tracking.registered_model`.

    Raises:
        ParamsError: the file can't be read.
    """
    if not workspace.params.exists():
        return TrackingParams().model_of(dataset)
    return read_params(workspace.params).tracking.model_of(dataset)


def tracking_uri(workspace: Workspace) -> str:
    """Return `MLFLOW_TRACKING_URI`, else the address of the database file in the checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _embedded(workspace)


def _embedded(workspace: Workspace) -> str:
    return f"sqlite:///{workspace.checkout / 'mlflow.db'}"


def is_embedded(workspace: Workspace) -> bool:
    """Return whether runs are stored in the checkout's own database file."""
    return tracking_uri(workspace) == _embedded(workspace)


def is_database_missing(workspace: Workspace) -> bool:
    """Return whether the embedded database doesn't exist yet; opening it would create it."""
    return is_embedded(workspace) and not (workspace.checkout / "mlflow.db").exists()


def own_experiments(client: MlflowClient) -> list[Experiment]:
    """List the experiments of this project in a tracking store, which may hold other projects' too."""
    prefix = experiment_name("")
    return [experiment for experiment in client.search_experiments() if experiment.name.startswith(prefix)]


def require_server(uri: str) -> None:
    """Check that a tracking server responds: MLflow's client would retry for minutes before it fails.

    Args:
        uri: address of the tracking store; only http and https are checked.

    Raises:
        TrackingUnreachableError: the server doesn't respond.
    """
    import requests

    if urlsplit(uri).scheme not in ("http", "https"):
        return
    for pause in PAUSES:
        time.sleep(pause)
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=10)
        except requests.exceptions.SSLError:  # the server is there; MLflow's client is configured to trust it or not
            return
        except (requests.ConnectionError, requests.Timeout):
            continue
        return
    raise TrackingUnreachableError(
        f"no MLflow server answers at {public_url(uri)}: start it or set MLFLOW_TRACKING_URI right, then run again"
    )


@contextmanager
def errors_in_one_line(workspace: Workspace) -> Iterator[None]:
    """Turn an error of MLflow, or of its store of artifacts, into one line with the remedy.

    Raises:
        TrackingUnreachableError: the store can't be reached or used.
        TrackingError: the server refuses this account or address; trying again doesn't help.
    """
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as problem:
        if not _is_unavailable(problem):
            raise
        if remedy := _refusal(problem):
            raise TrackingError(f"MLflow at {_public_address(workspace)} refuses: {remedy}") from None
        raise TrackingUnreachableError(
            f"MLflow at {_public_address(workspace)} can't be used ({_reason(problem)}): "
            "check that it runs and is writable, then run the same command again, which continues"
        ) from None
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _reason(problem: Exception) -> str:
    """Shorten an error to the message of the database's driver, where it was one, without SQLAlchemy's text."""
    return _AFTER.split(_SQLALCHEMY.sub("", one_line(problem)))[0][:160]


def _is_unavailable(problem: Exception) -> bool:
    """Return whether MLflow's store can't be reached or used; other connections' errors don't count."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(problem).__mro__}
    if kinds & _BROKEN_OFF:
        return True
    frames = (frame for frame, _ in traceback.walk_tb(problem.__traceback__))
    connection = isinstance(problem, ConnectionError | TimeoutError | socket.gaierror)
    return connection and any(frame.f_globals.get("__name__", "").startswith("mlflow.") for frame in frames)


def _refusal(problem: Exception) -> str | None:
    """Return the remedy where a server refuses this account or address; None for any other error."""
    status = getattr(getattr(problem, "response", None), "status_code", None)
    code = getattr(problem, "error_code", None)
    if "Invalid Host header" in str(problem):
        return "it doesn't know itself by this name; start it with this name among its --allowed-hosts"
    if status == 401 or code == "UNAUTHENTICATED":
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that it knows"
    if status == 403 or code == "PERMISSION_DENIED":
        return (
            "this account may not do that; ask its administrator for permission on histopipe's experiments and models"
        )
    return None


def _public_address(workspace: Workspace) -> str:
    """Return the tracking store's address without credentials."""
    if is_embedded(workspace):
        return str(workspace.checkout / "mlflow.db")
    parts = urlsplit(tracking_uri(workspace))
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else parts.path.replace("//", "/")


@contextmanager
def _first_use(workspace: Workspace) -> Iterator[None]:
    """Point MLflow at the tracking store, for one process of the checkout at a time.

    Processes that start together would race to migrate the database and to create the experiment.
    """
    import mlflow

    from histopipe.core.stages.running import checkouts_of_running_stages

    require_server(tracking_uri(workspace))
    mlflow.set_tracking_uri(tracking_uri(workspace))
    with exclusive_lock(workspace.checkout_lock("mlflow")):
        if is_embedded(workspace):
            follow_move(workspace.checkout / "mlflow.db", partial(checkouts_of_running_stages, workspace))
            _create_database(workspace)
        yield


def _create_database(workspace: Workspace) -> None:
    """Create the embedded database, where it doesn't exist yet.

    MLflow's client would insert the current folder's path into its first row unescaped, and break at quotes and colons.
    """
    path = str(workspace.checkout)
    if is_database_missing(workspace) or any(character in path for character in "'\":\\"):
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(_embedded(workspace), (workspace.checkout / "mlartifacts").as_uri())


def limit_retries() -> None:
    """Report a lost server within seconds, except to trainings, which outlast its restart."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(HTTP_RETRIES))


def prepare_experiment(workspace: Workspace, dataset: str) -> str:
    """Point MLflow at the tracking store and create the experiment if needed; return the experiment's id.

    Raises:
        TrackingUnreachableError: no server responds at its address.
        TrackingError: the experiment was deleted.
    """
    import mlflow

    with _first_use(workspace):
        name = experiment_name(dataset)
        experiment = mlflow.get_experiment_by_name(name)
        if experiment and experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"MLflow's experiment {name} was deleted: run "
                f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
            )
        identifier = experiment.experiment_id if experiment else mlflow.create_experiment(name, _artifacts(workspace))
    mlflow.set_experiment(experiment_id=identifier)
    return str(identifier)


def open_client(workspace: Workspace) -> MlflowClient:
    """Open a client of the tracking store, which holds the registered models too.

    Raises:
        TrackingUnreachableError: no server responds at its address.
    """
    import mlflow

    limit_retries()
    with _first_use(workspace):  # makes the database
        mlflow.search_experiments(max_results=1)
    return current_client()


def _artifacts(workspace: Workspace) -> str | None:
    """Return the folder of artifacts next to the embedded database; None for a server, which chooses itself."""
    if tracking_uri(workspace) != _embedded(workspace):
        return None
    return (workspace.checkout / ARTIFACTS).as_uri()


def current_client() -> MlflowClient:
    """Create a client of the store that MLflow points at now."""
    from mlflow import MlflowClient

    return MlflowClient()
