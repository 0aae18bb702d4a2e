"""MLflow's runs of this checkout that nothing refers to, and models that later evaluations replaced.

Removal has two steps in MLflow. First a run is marked as deleted, which `mlflow runs restore` undoes; after the given
age its rows and files are deleted. The second step needs the tracking store's database; if there is only a server,
`mlflow gc` on the server does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from histopipe.core.errors import BusyError
from histopipe.core.lineage import FLOW_RUN_TAG, is_own_checkout
from histopipe.core.stages.running import running_stages
from histopipe.evaluation.record import SERVED_MODEL_TAG
from histopipe.operations.gc.history import History
from histopipe.operations.gc.leftover import Age, Leftover, room
from histopipe.tracking.purging import Database, delete_artifacts, open_database
from histopipe.tracking.runs import iterate_pages, iterate_runs
from histopipe.tracking.stores import (
    errors_in_one_line,
    is_database_missing,
    is_embedded,
    open_client,
    own_experiments,
    tracking_uri,
)

if TYPE_CHECKING:
    from histopipe.tracking.entities import LoggedModel, MlflowClient, ModelVersion, Run

KEPT_VARIANTS = ("summary",)
KEPT_STUDIES = ("search",)  # trials have no model, and the run of their search refers to all of them


@dataclass(frozen=True)
class Store:
    """This checkout's part of the tracking store.

    Attributes:
        history: what commits and outputs refer to.
        client: the store's client.
        resumable: ids of the runs that killed trainings will resume.
    """

    history: History
    client: MlflowClient
    resumable: frozenset[str]

    @cached_property
    def experiments(self) -> list[str]:
        """Ids of the project's experiments."""
        return [str(experiment.experiment_id) for experiment in own_experiments(self.client)]

    @cached_property
    def versions(self) -> list[ModelVersion]:
        """All versions of all registered models, also those of other checkouts."""
        return list(iterate_pages(lambda token: self.client.search_model_versions(page_token=token)))

    @cached_property
    def registered_models(self) -> frozenset[str]:
        """Ids of the logged models behind registered versions."""
        sources = [str(version.source or "").removeprefix("models:/") for version in self.versions]
        return frozenset(filter(None, [*sources, *(version.model_id for version in self.versions)]))

    @cached_property
    def models(self) -> list[LoggedModel]:
        """The logged models of the project's experiments."""
        if not self.experiments:
            return []
        search = self.client.search_logged_models
        return list(iterate_pages(lambda token: search(experiment_ids=self.experiments, page_token=token)))

    @cached_property
    def named(self) -> frozenset[str]:
        """Ids of the runs that something refers to."""
        tagged = [version.tags.get(name) for version in self.versions for name in ("training_run", "run_id")]
        behind = [model.source_run_id for model in self.models if model.model_id in self.registered_models]
        registered = filter(None, [*tagged, *behind, *(version.run_id for version in self.versions)])
        return self.history.runs | self.resumable | frozenset(registered)

    def runs(self, deleted: bool = False) -> list[Run]:
        """Return this checkout's runs, which have its tag."""
        if not self.experiments:
            return []
        return [run for run in iterate_runs(self.client, self.experiments, deleted) if self._is_own(run)]

    def _is_own(self, run: Run) -> bool:
        """Return whether the run's tag names this checkout, or a folder in which DVC runs its experiments."""
        return is_own_checkout(run.data.tags.get("checkout", ""), self.history.workspace)

    def is_needed(self, run: Run) -> bool:
        """Return whether something refers to a run, or may refer to it."""
        tags = run.data.tags
        return self.is_named(run) or tags.get("variant") in KEPT_VARIANTS or tags.get("study") in KEPT_STUDIES

    def is_named(self, run: Run) -> bool:
        """Return whether a version, an output, a commit or a checkpoint refers to a run, or may refer to it."""
        tags = run.data.tags
        is_named = run.info.run_id in self.named or tags.get("restored_from") in self.named
        return is_named or not self.history.absent.isdisjoint(_folders(tags))

    def may_be_of_another_clone(self, run: Run) -> bool:
        """Return whether a flow made the run, perhaps in another clone, whose commits may refer to it."""
        return self.is_shared and FLOW_RUN_TAG in run.data.tags

    @cached_property
    def is_shared(self) -> bool:
        """Return whether other checkouts may use the store too, since it isn't a file of this checkout."""
        return not is_embedded(self.history.workspace)

    def reread(self) -> Store:
        """Return a new store, which reads everything again."""
        return replace(self, history=self.history.reread())

    def models_of(self, run_id: str) -> list[LoggedModel]:
        """Return the logged models of a run."""
        return [model for model in self.models if model.source_run_id == run_id]


def _folders(tags: dict[str, str]) -> list[tuple[str, ...]]:
    """Return the folders of the record of a run's training, from its tags; for a variant also the former folder."""
    own = (tags.get("dataset", ""), tags.get("architecture", ""))
    study, variant = tags.get("study"), tags.get("variant", "")
    if study:
        kind = study.removesuffix("s")
        return [("studies", *own, f"{kind}-{variant}"), ("studies", study, *own, variant)]
    return [("models", *own)]


def unnamed(history: History, resumable: frozenset[str], age: Age) -> Iterator[Leftover]:
    """Find runs and models that can be removed.

    Raises:
        TrackingUnreachableError: the store can't be reached.
        HistopipeError: git can't list what commits refer to.
    """
    workspace = history.workspace
    if is_database_missing(workspace):
        return
    with errors_in_one_line(workspace):
        store = Store(history, open_client(workspace), resumable)
        unneeded = [run for run in store.runs() if not store.is_needed(run)]
        yield from _of_flows([run for run in unneeded if store.may_be_of_another_clone(run)])
        runs = [run for run in unneeded if not store.may_be_of_another_clone(run)]
        old = [run for run in runs if _last_change(run) <= age.before]
        yield from _runs(store, old, [run for run in runs if run not in old], age)
        yield from _replaced(store, age)
        yield from _deleted(store, age)


def _of_flows(runs: Sequence[Run]) -> Iterator[Leftover]:
    if runs:
        reason = (
            "trained for flows: the clone in which the flow ran may refer to them; `mlflow runs delete` removes one"
        )
        yield Leftover("MLflow runs of flows", reason, len(runs), None, state="kept")


def _last_change(run: Run) -> float:
    return float(run.info.end_time or run.info.start_time or 0) / 1000


def _runs(store: Store, old: Sequence[Run], young: Sequence[Run], age: Age) -> Iterator[Leftover]:
    reason = "no registered version, commit, output or checkpoint refers to them; `mlflow runs restore` restores them"
    then = (
        f"a gc {age.written} later removes the files"
        if open_database(tracking_uri(store.history.workspace))
        else "`mlflow gc` on the server removes the files"
    )
    if old:
        removal = partial(_delete_runs, store, old)
        yield Leftover("MLflow runs", f"{reason}; {then}", len(old), _run_room(store, old), removal, at_once=False)
    if young:
        reason = f"nothing refers to them, but they are younger than {age.written}"
        yield Leftover("MLflow runs", reason, len(young), _run_room(store, young), state="kept")


def _delete_runs(store: Store, runs: Iterable[Run]) -> None:
    """Mark runs as deleted, after closing those of killed trainings; runs that are referred to by now stay.

    Raises:
        BusyError: a stage has started meanwhile and may resume one of them.
    """
    with errors_in_one_line(store.history.workspace):
        current = store.reread()
        for run in runs:
            if current.is_needed(run):
                continue
            if running := running_stages(store.history.workspace):
                raise BusyError(f"{running[0]} has started: wait for it to end, then run this again")
            if run.info.status == "RUNNING":
                store.client.set_terminated(run.info.run_id, "KILLED")
            store.client.delete_run(run.info.run_id)


def _replaced(store: Store, age: Age) -> Iterator[Leftover]:
    """Find models whose evaluation was repeated and logged another model."""
    served = {run.info.run_id: run.data.tags.get(SERVED_MODEL_TAG) for run in store.runs()}
    models = [
        model
        for model in store.models
        if served.get(str(model.source_run_id)) not in (None, model.model_id)
        and model.model_id not in store.registered_models
        and model.creation_timestamp / 1000 <= age.before
    ]
    if models:
        reason = "their run was evaluated again since, and no registered version is made from them"
        removal = partial(_delete_models, store, models)
        yield Leftover(
            "MLflow models",
            reason,
            len(models),
            _room(model.artifact_location for model in models),
            removal,
            at_once=False,
        )


def _delete_models(store: Store, models: Iterable[LoggedModel]) -> None:
    with errors_in_one_line(store.history.workspace):
        for model in models:
            store.client.delete_logged_model(model.model_id)


def _deleted(store: Store, age: Age) -> Iterator[Leftover]:
    """Find runs and models that have been marked as deleted for long enough."""
    database = open_database(tracking_uri(store.history.workspace))
    if database is None:
        return
    long_ago = set(database.deleted_runs(age.seconds))
    deleted = store.runs(deleted=True)
    candidates = [run for run in deleted if run.info.run_id in long_ago]
    runs = [run for run in candidates if not (store.is_named(run) or store.may_be_of_another_clone(run))]
    if runs:
        reason = f"deleted at least {age.written} ago: rows and files are removed permanently"
        removal = partial(_purge_runs, store, database, runs)
        yield Leftover("deleted MLflow runs", reason, len(runs), _run_room(store, runs), removal)
    models = _deleted_models(store, database, {run.info.run_id for run in (*deleted, *store.runs())}, age)
    if models:
        reason = f"deleted at least {age.written} ago: rows and files are removed permanently"
        removal = partial(_purge_models, store, database, models)
        size = _room(model.artifact_location for model in models)
        yield Leftover("deleted MLflow models", reason, len(models), size, removal)


def _deleted_models(store: Store, database: Database, own: set[str], age: Age) -> list[LoggedModel]:
    models = database.deleted_models(age.seconds)
    return [model for model in models if model.source_run_id in own and model.model_id not in store.registered_models]


def _purge_runs(store: Store, database: Database, runs: Iterable[Run]) -> None:
    """Delete files before rows, and models before their run, so that what a killed process leaves is found again."""
    with errors_in_one_line(store.history.workspace):
        for run in runs:
            if store.client.get_run(run.info.run_id).info.lifecycle_stage != "deleted":
                continue  # restored since it was listed
            _purge_models(store, database, store.models_of(run.info.run_id))
            _delete_files(str(run.info.artifact_uri))
            database.purge_run(run.info.run_id)


def _purge_models(store: Store, database: Database, models: Iterable[LoggedModel]) -> None:
    with errors_in_one_line(store.history.workspace):
        for model in models:
            _delete_files(str(model.artifact_location))
            database.purge_model(model.model_id)


def _delete_files(address: str) -> None:
    local = _local(address)
    if local is None or local.exists():
        delete_artifacts(address)
    if local is not None:
        with suppress(OSError):  # the run's folder may hold other files
            local.parent.rmdir()


def _run_room(store: Store, runs: Iterable[Run]) -> int | None:
    runs = list(runs)
    models = [model.artifact_location for run in runs for model in store.models_of(run.info.run_id)]
    return _room([*(run.info.artifact_uri for run in runs), *models])


def _room(addresses: Iterable[str]) -> int | None:
    """Compute the bytes of artifacts on this machine; None if some are elsewhere."""
    paths = [_local(str(address)) for address in addresses]
    return None if None in paths else room(path for path in paths if path)


def _local(address: str) -> Path | None:
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path))
