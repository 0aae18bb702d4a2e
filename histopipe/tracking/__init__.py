"""MLflow: one run per trained model, opened by `train` and continued by `evaluate`."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock

from histopipe.core.addresses import public_url
from histopipe.core.errors import ChangedInputError, TrackingAwayError, TrackingError
from histopipe.core.files import file_digest
from histopipe.core.lineage import lineage_tags
from histopipe.core.params import TrackingParams, read_params
from histopipe.core.workspace import Workspace
from histopipe.tracking.relocation import ARTIFACTS, follow_move

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

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

VARIANT_TAGS = ("study", "variant")  # runs of the main pipeline have neither
SYSTEM_METRICS_SECONDS = 2  # MLflow's own 10 s would miss a short training altogether
DROPPED = "dropped"  # tag of a run whose result was not kept, with the reason
TRAINED = "trained"  # tag of a run whose training came to its end, whatever became of its evaluation
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
    said = " ".join(str(problem).split())
    return _AFTER.split(_SQLALCHEMY.sub("", said))[0][:160]


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

    from histopipe.core.stages.running import running_places

    require_server(tracking_uri(workspace))
    mlflow.set_tracking_uri(tracking_uri(workspace))
    lock = Workspace(workspace.home).lock("mlflow")  # one for all of a checkout's experiment folders
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if is_embedded(workspace):
            follow_move(workspace.home / "mlflow.db", partial(running_places, workspace))
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


def _lose_patience_soon() -> None:
    """A server that went away is told of within seconds, but for trainings: they outlast its restart."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(HTTP_RETRIES))


def prepare(workspace: Workspace, dataset: str) -> str:
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


def registry(workspace: Workspace) -> MlflowClient:
    """A client of the tracking store, which holds the registered models too.

    Raises:
        TrackingAwayError: no server answers at its address.
    """
    import mlflow

    _lose_patience_soon()
    with _first_use(workspace):  # makes the database
        mlflow.search_experiments(max_results=1)
    return _client()


def _artifacts(workspace: Workspace) -> str | None:
    """Beside the embedded database; a server decides for itself."""
    if tracking_uri(workspace) != _embedded(workspace):
        return None
    return (workspace.home / ARTIFACTS).as_uri()


@contextmanager
def training_run(
    workspace: Workspace, dataset: str, architecture: str, run_id: str | None, tags: Mapping[str, str]
) -> Iterator[str]:
    """Open a run for a training, or go on with the one a killed training left; yields its id.

    Args:
        run_id: the run that the training's checkpoint names, if there is one.
        tags: lineage and all else; must hold `training_key`: what was left under another key in this checkout is
            closed as killed.

    Raises:
        TrackingAwayError: MLflow can't be asked, or breaks off before the run ends.
    """
    with told_in_one_line(workspace), _training_run(workspace, dataset, architecture, run_id, tags) as opened:
        yield opened


@contextmanager
def _training_run(
    workspace: Workspace, dataset: str, architecture: str, run_id: str | None, tags: Mapping[str, str]
) -> Iterator[str]:
    import mlflow

    experiment = prepare(workspace, dataset)
    own = {**_identity(workspace, dataset, architecture), "checkout": checkout(workspace)}
    unfinished = _unfinished(experiment, own, tags["training_key"])
    known = run_id if run_id and run_exists(run_id) else unfinished
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
    mlflow.set_system_metrics_samples_before_logging(1)
    # the tags go in with the run itself, so that a kill at any moment leaves one that can be found again
    start = {"run_id": known} if known else {"run_name": workspace.run_name(architecture), "tags": own | dict(tags)}
    with mlflow.start_run(**start, log_system_metrics=True) as run:
        mlflow.set_tags(dict(tags))
        with _told_if_dropped(run):
            yield run.info.run_id


@contextmanager
def _told_if_dropped(run: Run) -> Iterator[None]:
    """Tag a run whose result isn't kept, since what it was made from changed; the one that goes on with it loses that.

    Raises:
        ChangedInputError: as it came.
    """
    import mlflow

    if DROPPED in run.data.tags:
        mlflow.delete_tag(DROPPED)
    try:
        yield
    except ChangedInputError as problem:
        mlflow.set_tag(DROPPED, str(problem))
        raise


def checkout(workspace: Workspace) -> str:
    """Which machine's folder a run is made in: several may share a server."""
    return f"{socket.gethostname()}:{workspace.root}"


def _unfinished(experiment: str, own: Mapping[str, str], key: str) -> str | None:
    """The run of the same training that didn't come to its end; those of other ones are closed as killed.

    Main run and variants leave one another alone: they may well be training side by side.
    """
    found = None
    for run in runs_tagged([experiment], own):
        if any(run.data.tags.get(name) != own.get(name) for name in VARIANT_TAGS):
            continue  # a filter can't ask for the absence of a tag
        over = run.info.status == "FINISHED" or TRAINED in run.data.tags  # a killed evaluation leaves it running
        if run.data.tags.get("training_key") == key and not over:
            found = found or str(run.info.run_id)
        elif run.info.status == "RUNNING":
            _client().set_terminated(run.info.run_id, "KILLED")
    return found


@contextmanager
def continued_run(workspace: Workspace, dataset: str, architecture: str, run_id: str) -> Iterator[str]:
    """Go on with the run that trained a model; yields its id.

    Where that run isn't in this tracking store (the model came from another machine's cache), a new one tagged
    `restored_from` takes its place; evaluated again, the same one is continued.

    Raises:
        TrackingAwayError: MLflow can't be asked, or breaks off before the run ends.
    """
    import mlflow

    with told_in_one_line(workspace):
        known = known_run(workspace, dataset, run_id)
        with mlflow.start_run(run_id=known, run_name=None if known else workspace.run_name(architecture)) as run:
            if not known:
                mlflow.set_tags({**_identity(workspace, dataset, architecture), "restored_from": run_id})
                mlflow.set_tags(lineage_tags(workspace, dataset))
            with _told_if_dropped(run):
                yield run.info.run_id


def known_run(workspace: Workspace, dataset: str, run_id: str) -> str | None:
    """The run in this tracking store that holds a training: its own, or the one restored from it; None for neither."""
    _lose_patience_soon()
    experiment = prepare(workspace, dataset)
    return run_id if run_exists(run_id) else find_run(experiment, {"restored_from": run_id})


def _identity(workspace: Workspace, dataset: str, architecture: str) -> dict[str, str]:
    return {"dataset": dataset, "architecture": architecture, **workspace.run_tags}


def run_exists(run_id: str) -> bool:
    """Whether the tracking store that MLflow points at has the run, and it wasn't deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return str(_client().get_run(run_id).info.lifecycle_stage) == "active"
    except MlflowException as problem:
        if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def find_run(experiment: str, tags: Mapping[str, str]) -> str | None:
    """Id of the newest run of an experiment that has all these tags; None if there is none."""
    found = runs_tagged([experiment], tags)
    return str(found[0].info.run_id) if found else None


def runs_tagged(experiments: Sequence[str], tags: Mapping[str, str], further: str = "") -> list[Run]:
    """The runs that have all these tags, the newest first.

    A value may be a path, with quotes of both kinds in it: MLflow can't be asked for such a one.

    Args:
        experiments: ids of those to look in.
        tags: values by name.
        further: another condition, in MLflow's own language.
    """
    asked = [condition for name, value in tags.items() if (condition := _condition(name, value))]
    client, token, runs = _client(), None, []
    while True:
        page = client.search_runs(list(experiments), " and ".join([*asked, *filter(None, [further])]), page_token=token)
        runs += [run for run in page if all(run.data.tags.get(name) == value for name, value in tags.items())]
        if not (token := page.token):
            return runs


def _condition(name: str, value: str) -> str | None:
    quote = next((quote for quote in "'\"" if quote not in value), None)
    return f"tags.`{name}` = {quote}{value}{quote}" if quote else None


def _client() -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient()


def log_if_changed(client: MlflowClient, run_id: str, path: Path, folder: str) -> None:
    """Log a file into a folder of a run's artifacts, unless the very same lies there.

    A kill in the midst of copying leaves part of a file, which differs; what is whole isn't written over with itself.
    """
    address = f"{folder}/{path.name}"
    if address in {file.path for file in client.list_artifacts(run_id, folder)}:
        with TemporaryDirectory() as scratch:
            logged = Path(client.download_artifacts(run_id, address, scratch))
            if file_digest(logged) == file_digest(path):
                return
    client.log_artifact(run_id, str(path), folder)


def log_epochs(run_id: str, history: Sequence[Mapping[str, float]]) -> None:
    """Log the epochs that the run doesn't have yet: a kill can come between a checkpoint and its logging."""
    import mlflow

    logged = {metric.step for metric in _client().get_metric_history(run_id, "train/loss")}
    for row in history:
        epoch = int(row["epoch"])
        if epoch not in logged:
            mlflow.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=epoch)


def log_params(params: Mapping[str, Any]) -> None:
    """Log nested parameters under dotted names."""
    import mlflow

    mlflow.log_params(flattened(params))


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; None is left out."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


def log_dataset_inputs(sources: Mapping[str, tuple[str, str]]) -> None:
    """Log which data a run used.

    Args:
        sources: path and digest of each input, by its role (`training`, `split`).
    """
    import mlflow
    from mlflow.data import sources as known_sources
    from mlflow.data.meta_dataset import MetaDataset

    for role, (path, digest) in sources.items():
        source = known_sources.LocalArtifactDatasetSource(path)  # type: ignore[attr-defined]  # made at run time
        used = MetaDataset(source, name=path, digest=digest[:36])  # type: ignore[abstract]
        mlflow.log_input(used, context=role)
