"""Runs: those of trainings, which survive a kill, and what is logged into them."""

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

from histopipe.tracking.stores import current_client, lose_patience_soon, prepare_experiment, told_in_one_line

VARIANT_TAGS = ("study", "variant")  # runs of the main pipeline have neither
SYSTEM_METRICS_SECONDS = 2  # MLflow's own 10 s would miss a short training altogether
DROPPED = "dropped"  # tag of a run whose result was not kept, with the reason
TRAINED = "trained"  # tag of a run whose training came to its end, whatever became of its evaluation


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

    experiment = prepare_experiment(workspace, dataset)
    own = {**_identity(workspace, dataset, architecture), "checkout": checkout_name(workspace)}
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
            current_client().set_terminated(run.info.run_id, "KILLED")
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
    lose_patience_soon()
    experiment = prepare_experiment(workspace, dataset)
    return run_id if run_exists(run_id) else find_run(experiment, {"restored_from": run_id})


def _identity(workspace: Workspace, dataset: str, architecture: str) -> dict[str, str]:
    return {"dataset": dataset, "architecture": architecture, **workspace.run_tags}


def run_exists(run_id: str) -> bool:
    """Whether the tracking store that MLflow points at has the run, and it wasn't deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return str(current_client().get_run(run_id).info.lifecycle_stage) == "active"
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
    client, token, runs = current_client(), None, []
    while True:
        page = client.search_runs(list(experiments), " and ".join([*asked, *filter(None, [further])]), page_token=token)
        runs += [run for run in page if all(run.data.tags.get(name) == value for name, value in tags.items())]
        if not (token := page.token):
            return runs


def _condition(name: str, value: str) -> str | None:
    quote = next((quote for quote in "'\"" if quote not in value), None)
    return f"tags.`{name}` = {quote}{value}{quote}" if quote else None


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

    logged = {metric.step for metric in current_client().get_metric_history(run_id, "train/loss")}
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


def runs_of(client: MlflowClient, experiments: Sequence[str], deleted: bool = False) -> Iterator[Run]:
    """Give every run of some experiments, page by page.

    Args:
        client: of the store.
        experiments: their ids, one at least.
        deleted: whether those marked as deleted are meant, instead of the others.
    """
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    yield from pages(lambda token: client.search_runs(list(experiments), "", view, page_token=token))


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Give all that one of MLflow's searches finds, page by page.

    Args:
        search: finds the page that a token stands for, the first one for None.
    """
    token = None
    while True:
        page = search(token)
        yield from page
        if not (token := page.token):
            return
