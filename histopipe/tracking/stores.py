"""MLflow: one run per trained model, opened by `train` and continued by `evaluate`."""

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
from histopipe.core.errors import TrackingAwayError, TrackingError, one_line
from histopipe.core.locking import exclusive_lock
from histopipe.core.params import TrackingParams, read_params
from histopipe.core.workspace import Workspace
from histopipe.tracking.relocation import ARTIFACTS, follow_move

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_LOUD = ("mlflow.store.db.utils", "urllib3.connectionpool")  # print tracebacks and retries before we get the error

# what comes before a driver's own words, such as "(raised as a result of …) (sqlite3.OperationalError) "
_SQLALCHEMY = re.compile(r"^.*?\([\w.]+Error\) ")
_AFTER = re.compile(r" \[SQL:| \(Background on this error")  # what comes after them

# By name, since those of boto are there only where artifacts go to S3; base classes stand for all beneath them.
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
HTTP_RETRIES = (
    3  # of each question, 12 s all in all; MLflow's own 7 take 4 minutes, without a word: trainings have those
)

PAUSES = (0, 1, 4)  # seconds before each question whether the server is there: it may just be starting anew


def experiment_name(dataset: str) -> str:
    """The experiment that holds every run on a data set."""
    return f"histopipe-{dataset}"


def registered_model_name(dataset: str, workspace: Workspace) -> str:
    """The registered model that holds a data set's versions, by `tracking.registered_model` of `params.yaml`.

    Raises:
        ParamsError: the file can't be read.
    """
    if not workspace.params.exists():
        return TrackingParams().model_of(dataset)
    return read_params(workspace.params).tracking.model_of(dataset)


def tracking_uri(workspace: Workspace) -> str:
    """`MLFLOW_TRACKING_URI`, else a database file in the checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _embedded(workspace)


def _embedded(workspace: Workspace) -> str:
    return f"sqlite:///{workspace.home / 'mlflow.db'}"


def is_embedded(workspace: Workspace) -> bool:
    """Whether runs go to the database file in the checkout, which is nobody else's."""
    return tracking_uri(workspace) == _embedded(workspace)


def before_the_first_run(workspace: Workspace) -> bool:
    """Whether the embedded database is still to be made; asking for it would make it."""
    return is_embedded(workspace) and not (workspace.home / "mlflow.db").exists()


def own_experiments(client: MlflowClient) -> list[Experiment]:
    """The experiments that this project made in a tracking store, which may hold others' too."""
    return [one for one in client.search_experiments() if one.name.startswith(experiment_name(""))]


def require_server(uri: str) -> None:
    """See that a tracking server answers, whatever it answers: MLflow's client would try for minutes before it failed.

    Args:
        uri: of the tracking store; only one at http or https is asked.

    Raises:
        TrackingAwayError: nobody answers.
    """
    import requests

    if urlsplit(uri).scheme not in ("http", "https"):
        return
    for pause in PAUSES:
        time.sleep(pause)
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=10)
        except requests.exceptions.SSLError:  # somebody is there; whether to trust them is set for MLflow's client
            return
        except (requests.ConnectionError, requests.Timeout):
            continue
        return
    raise TrackingAwayError(
        f"no MLflow server answers at {public_url(uri)}: start it or set MLFLOW_TRACKING_URI right, then run again"
    )


@contextmanager
def told_in_one_line(workspace: Workspace) -> Iterator[None]:
    """Turn what MLflow, or the store of its artifacts, raises when it breaks off into one line that says what to do.

    Raises:
        TrackingAwayError: instead of it.
        TrackingError: the server is there, but refuses this account or address; trying again changes nothing.
    """
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as problem:
        if not _broke_off(problem):
            raise
        if remedy := _refusal(problem):
            raise TrackingError(f"MLflow at {_place(workspace)} refuses: {remedy}") from None
        raise TrackingAwayError(
            f"MLflow at {_place(workspace)} can't be used ({_reason(problem)}): "
            "see that it is up and can be written, then run the same command again, which carries on"
        ) from None
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _reason(problem: Exception) -> str:
    """In the words of the database's driver, where it was one, without SQLAlchemy's; short."""
    return _AFTER.split(_SQLALCHEMY.sub("", one_line(problem)))[0][:160]


def _broke_off(problem: Exception) -> bool:
    """Whether MLflow's store can't be reached or used; of broken connections only MLflow's own count."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(problem).__mro__}
    if kinds & _BROKEN_OFF:
        return True
    frames = (frame for frame, _ in traceback.walk_tb(problem.__traceback__))
    connection = isinstance(problem, ConnectionError | TimeoutError | socket.gaierror)
    return connection and any(frame.f_globals.get("__name__", "").startswith("mlflow.") for frame in frames)


def _refusal(problem: Exception) -> str | None:
    """What to do where a server answers but won't have this account or address; None where it is another matter."""
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


def _place(workspace: Workspace) -> str:
    """The tracking store's address without what opens it."""
    if is_embedded(workspace):
        return str(workspace.home / "mlflow.db")
    parts = urlsplit(tracking_uri(workspace))
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else parts.path.replace("//", "/")


@contextmanager
def _first_use(workspace: Workspace) -> Iterator[None]:
    """MLflow pointed at the tracking store, for one process of the checkout at a time.

    Those that start together race on migrating the database and on creating the experiment.
    """
    import mlflow

    from histopipe.core.stages.running import running_checkouts

    require_server(tracking_uri(workspace))
    mlflow.set_tracking_uri(tracking_uri(workspace))
    with exclusive_lock(workspace.home_lock("mlflow")):
        if is_embedded(workspace):
            follow_move(workspace.home / "mlflow.db", partial(running_checkouts, workspace))
            _begin_database(workspace)
        yield


def _begin_database(workspace: Workspace) -> None:
    """Make the embedded database, where it is still to be made.

    MLflow's client would put the current folder's path into its first row as it stands, and break at quotes and colons.
    """
    path = str(workspace.home)
    if before_the_first_run(workspace) or any(letter in path for letter in "'\":\\"):
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(_embedded(workspace), (workspace.home / "mlartifacts").as_uri())


def lose_patience_soon() -> None:
    """A server that went away is told of within seconds, but for trainings: they outlast its restart."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(HTTP_RETRIES))


def prepare_experiment(workspace: Workspace, dataset: str) -> str:
    """Point MLflow at the tracking store and see that the experiment exists; returns the experiment's id.

    Raises:
        TrackingAwayError: no server answers at its address.
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
    """A client of the tracking store, which holds the registered models too.

    Raises:
        TrackingAwayError: no server answers at its address.
    """
    import mlflow

    lose_patience_soon()
    with _first_use(workspace):  # makes the database
        mlflow.search_experiments(max_results=1)
    return current_client()


def _artifacts(workspace: Workspace) -> str | None:
    """Beside the embedded database; a server decides for itself."""
    if tracking_uri(workspace) != _embedded(workspace):
        return None
    return (workspace.home / ARTIFACTS).as_uri()


def current_client() -> MlflowClient:
    """Make a client of the store that MLflow points at now."""
    from mlflow import MlflowClient

    return MlflowClient()
