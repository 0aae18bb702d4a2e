"""Runs of trainings, which survive a kill, and logging into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from histopipe.core.errors import ChangedInputError
from histopipe.core.files import file_digest
from histopipe.core.lineage import checkout_name, lineage_tags
from histopipe.core.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

from histopipe.tracking.stores import current_client, errors_in_one_line, limit_retries, prepare_experiment

VARIANT_TAGS = ("study", "variant")  # runs of the main pipeline have neither
SYSTEM_METRICS_SECONDS = 2  # MLflow's default of 10 s would miss short trainings
DROPPED = "dropped"  # tag of a run whose result was dropped, with the reason
TRAINED = "trained"  # tag of a run whose training was completed, evaluated or not


@contextmanager
def training_run(
    workspace: Workspace, dataset: str, architecture: str, run_id: str | None, tags: Mapping[str, str]
) -> Iterator[str]:
    """Open a run for a training, or continue the one that a killed training left; yield its id.

    Args:
        workspace: workspace of the training.
        dataset: name of the data set.
        architecture: name of the recipe.
        run_id: id of the run in the training's checkpoint, if there is one.
        tags: lineage and other tags, with `training_key`; this checkout's unfinished runs with another key are closed
            as killed.

    Raises:
        TrackingUnreachableError: MLflow can't be reached, or the connection breaks before the run ends.
    """
    with errors_in_one_line(workspace), _training_run(workspace, dataset, architecture, run_id, tags) as opened_run:
        yield opened_run


@contextmanager
def _training_run(
    workspace: Workspace, dataset: str, architecture: str, run_id: str | None, tags: Mapping[str, str]
) -> Iterator[str]:
    import mlflow

    experiment = prepare_experiment(workspace, dataset)
    own = {**_identity(workspace, dataset, architecture), "checkout": checkout_name(workspace)}
    unfinished = _unfinished(experiment, own, tags["training_key"])
    continued = run_id if run_id and run_exists(run_id) else unfinished
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
    mlflow.set_system_metrics_samples_before_logging(1)
    # the tags are set as the run is created, so that a kill at any moment leaves a run that can be found again
    start = (
        {"run_id": continued} if continued else {"run_name": workspace.run_name(architecture), "tags": own | dict(tags)}
    )
    with mlflow.start_run(**start, log_system_metrics=True) as run:
        mlflow.set_tags(dict(tags))
        with _tag_if_dropped(run):
            yield run.info.run_id


@contextmanager
def _tag_if_dropped(run: Run) -> Iterator[None]:
    """Tag a run whose result is dropped because its inputs changed; continuing the run removes the tag.

    Raises:
        ChangedInputError: raised again.
    """
    import mlflow

    if DROPPED in run.data.tags:
        mlflow.delete_tag(DROPPED)
    try:
        yield
    except ChangedInputError as problem:
        mlflow.set_tag(DROPPED, str(problem))
        raise


def _unfinished(experiment: str, own: Mapping[str, str], key: str) -> str | None:
    """Find the unfinished run of the same training; unfinished runs of other trainings are closed as killed.

    The main run and variants don't close one another: they may train in parallel.
    """
    unfinished = None
    for run in find_runs([experiment], own):
        if any(run.data.tags.get(name) != own.get(name) for name in VARIANT_TAGS):
            continue  # a filter can't require that a tag is absent
        over = run.info.status == "FINISHED" or TRAINED in run.data.tags  # a killed evaluation leaves its run running
        if run.data.tags.get("training_key") == key and not over:
            unfinished = unfinished or str(run.info.run_id)
        elif run.info.status == "RUNNING":
            current_client().set_terminated(run.info.run_id, "KILLED")
    return unfinished


@contextmanager
def continued_run(workspace: Workspace, dataset: str, architecture: str, run_id: str) -> Iterator[str]:
    """Continue the run that trained a model; yield its id.

    Where that run isn't in this tracking store (the model came from another machine's cache), a new one tagged
    `restored_from` takes its place; the next evaluation continues that one.

    Raises:
        TrackingUnreachableError: MLflow can't be reached, or the connection breaks before the run ends.
    """
    import mlflow

    with errors_in_one_line(workspace):
        existing = find_run_of_training(workspace, dataset, run_id)
        with mlflow.start_run(run_id=existing, run_name=None if existing else workspace.run_name(architecture)) as run:
            if not existing:
                mlflow.set_tags({**_identity(workspace, dataset, architecture), "restored_from": run_id})
                mlflow.set_tags(lineage_tags(workspace, dataset))
            with _tag_if_dropped(run):
                yield run.info.run_id


def find_run_of_training(workspace: Workspace, dataset: str, run_id: str) -> str | None:
    """Find the run of a training in this tracking store: its own, or the one restored from it; None for neither."""
    limit_retries()
    experiment = prepare_experiment(workspace, dataset)
    return run_id if run_exists(run_id) else find_run(experiment, {"restored_from": run_id})


def _identity(workspace: Workspace, dataset: str, architecture: str) -> dict[str, str]:
    return {"dataset": dataset, "architecture": architecture, **workspace.run_tags}


def run_exists(run_id: str) -> bool:
    """Return whether the current tracking store has the run, and it wasn't deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return str(current_client().get_run(run_id).info.lifecycle_stage) == "active"
    except MlflowException as problem:
        if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def find_run(experiment: str, tags: Mapping[str, str]) -> str | None:
    """Return the id of the newest run of an experiment that has all these tags; None if there is none."""
    runs = find_runs([experiment], tags)
    return str(runs[0].info.run_id) if runs else None


def find_runs(experiments: Sequence[str], tags: Mapping[str, str], further: str = "") -> list[Run]:
    """List the runs that have all these tags, the newest first.

    A value may be a path with quotes of both kinds, which MLflow's filter can't express; such tags are compared here.

    Args:
        experiments: ids of the experiments.
        tags: values by name.
        further: another condition, in MLflow's filter language.
    """
    conditions = [condition for name, value in tags.items() if (condition := _condition(name, value))]
    client, token, runs = current_client(), None, []
    while True:
        page = client.search_runs(
            list(experiments), " and ".join([*conditions, *filter(None, [further])]), page_token=token
        )
        runs += [run for run in page if all(run.data.tags.get(name) == value for name, value in tags.items())]
        if not (token := page.token):
            return runs


def _condition(name: str, value: str) -> str | None:
    quote = next((quote for quote in "'\"" if quote not in value), None)
    return f"tags.`{name}` = {quote}{value}{quote}" if quote else None


def log_if_changed(client: MlflowClient, run_id: str, path: Path, folder: str) -> None:
    """Log a file into a folder of a run's artifacts, unless the same file is there.

    A kill during copying leaves a partial file, which differs and is replaced.
    """
    address = f"{folder}/{path.name}"
    if address in {file.path for file in client.list_artifacts(run_id, folder)}:
        with TemporaryDirectory() as scratch:
            logged = Path(client.download_artifacts(run_id, address, scratch))
            if file_digest(logged) == file_digest(path):
                return
    client.log_artifact(run_id, str(path), folder)


def log_epochs(run_id: str, history: Sequence[Mapping[str, float]]) -> None:
    """Log the epochs that the run doesn't have yet: a kill can happen between a checkpoint and its logging."""
    import mlflow

    logged = {metric.step for metric in current_client().get_metric_history(run_id, "train/loss")}
    for row in history:
        epoch = int(row["epoch"])
        if epoch not in logged:
            mlflow.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=epoch)


def log_params(params: Mapping[str, Any]) -> None:
    """Log nested parameters under dotted names."""
    import mlflow

    mlflow.log_params(flatten(params))


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: `{"a": {"b": 1}}` becomes `{"a.b": 1}`; None is left out."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


def log_dataset_inputs(sources: Mapping[str, tuple[str, str]]) -> None:
    """Log the data that a run used.

    Args:
        sources: path and digest of each input, by its role (`training`, `split`).
    """
    import mlflow
    from mlflow.data import sources as mlflow_sources
    from mlflow.data.meta_dataset import MetaDataset

    for role, (path, digest) in sources.items():
        source = mlflow_sources.LocalArtifactDatasetSource(path)  # type: ignore[attr-defined]  # created at run time
        used = MetaDataset(source, name=path, digest=digest[:36])  # type: ignore[abstract]
        mlflow.log_input(used, context=role)


def iterate_runs(client: MlflowClient, experiments: Sequence[str], deleted: bool = False) -> Iterator[Run]:
    """Iterate over the runs of some experiments, page by page.

    Args:
        client: client of the store.
        experiments: ids of the experiments, at least one.
        deleted: whether to return the runs marked as deleted, instead of the others.
    """
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    yield from iterate_pages(lambda token: client.search_runs(list(experiments), "", view, page_token=token))


def iterate_pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Iterate over the results of one of MLflow's searches, page by page.

    Args:
        search: returns the page of a token, the first page for None.
    """
    token = None
    while True:
        page = search(token)
        yield from page
        if not (token := page.token):
            return
