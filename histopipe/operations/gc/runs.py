"""MLflow: runs of this checkout that nothing names, and models that later evaluations replaced.

Removal has two steps, as MLflow has it. First a run is marked as deleted, which `mlflow runs restore` undoes; once it
has been so for the given age, its rows and files go. The second takes the tracking store's database: where only a
server can be asked, `mlflow gc` on the server does it.
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
from histopipe.evaluation.mlflow_run import SERVED_MODEL_TAG
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
KEPT_STUDIES = ("search",)  # trials hold no model, and their search's run refers to them all


@dataclass(frozen=True)
class Store:
    """The tracking store, as far as it is this checkout's.

    Attributes:
        history: what commits and outputs name.
        client: of the store.
        resumable: ids of the runs with which some killed training goes on.
    """

    history: History
    client: MlflowClient
    resumable: frozenset[str]

    @cached_property
    def experiments(self) -> list[str]:
        """Ids of the project's experiments."""
        return [str(one.experiment_id) for one in own_experiments(self.client)]

    @cached_property
    def versions(self) -> list[ModelVersion]:
        """Every version of every registered model, whoever registered it."""
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
        """Ids of the runs that somebody refers to."""
        tagged = [version.tags.get(name) for version in self.versions for name in ("training_run", "run_id")]
        behind = [model.source_run_id for model in self.models if model.model_id in self.registered_models]
        registered = filter(None, [*tagged, *behind, *(version.run_id for version in self.versions)])
        return self.history.runs | self.resumable | frozenset(registered)

    def runs(self, deleted: bool = False) -> list[Run]:
        """This checkout's runs: those that it tagged as its own."""
        if not self.experiments:
            return []
        return [run for run in iterate_runs(self.client, self.experiments, deleted) if self._is_own(run)]

    def _is_own(self, run: Run) -> bool:
        """Its tag names this checkout, or one of the folders in which DVC runs experiments."""
        return is_own_checkout(run.data.tags.get("checkout", ""), self.history.workspace)

    def is_needed(self, run: Run) -> bool:
        """Whether somebody refers to a run, or may."""
        tags = run.data.tags
        return self.is_named(run) or tags.get("variant") in KEPT_VARIANTS or tags.get("study") in KEPT_STUDIES

    def is_named(self, run: Run) -> bool:
        """Whether a version, an output, a commit or a checkpoint names a run, or may."""
        tags = run.data.tags
        known = run.info.run_id in self.named or tags.get("restored_from") in self.named
        return known or not self.history.absent.isdisjoint(_folders(tags))

    def may_be_of_another_clone(self, run: Run) -> bool:
        """Whether a flow had it made that may have run in another clone, which commits what names the run."""
        return self.is_shared and FLOW_RUN_TAG in run.data.tags

    @cached_property
    def is_shared(self) -> bool:
        """Whether other checkouts may use the store too: it isn't the checkout's own file."""
        return not is_embedded(self.history.workspace)

    def afresh(self) -> Store:
        """The same, looked up again."""
        return replace(self, history=self.history.afresh())

    def models_of(self, run_id: str) -> list[LoggedModel]:
        """The logged models of a run."""
        return [model for model in self.models if model.source_run_id == run_id]


def _folders(tags: dict[str, str]) -> list[tuple[str, ...]]:
    """Where the run's training has its record, by its tags; of a variant also where earlier versions had it."""
    own = (tags.get("dataset", ""), tags.get("architecture", ""))
    study, variant = tags.get("study"), tags.get("variant", "")
    if study:
        kind = study.removesuffix("s")
        return [("studies", *own, f"{kind}-{variant}"), ("studies", study, *own, variant)]
    return [("models", *own)]


def unnamed(history: History, resumable: frozenset[str], age: Age) -> Iterator[Leftover]:
    """Runs and models that can go.

    Raises:
        TrackingAwayError: the store can't be asked.
        HistopipeError: git can't tell what commits name.
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
        why = "trained for flows: the clone that the flow ran in may name them; `mlflow runs delete` removes one"
        yield Leftover("MLflow runs of flows", why, len(runs), None, state="kept")


def _last_change(run: Run) -> float:
    return float(run.info.end_time or run.info.start_time or 0) / 1000


def _runs(store: Store, old: Sequence[Run], young: Sequence[Run], age: Age) -> Iterator[Leftover]:
    why = "no registered version, commit, output or checkpoint names them; `mlflow runs restore` undoes it"
    then = (
        f"a gc {age.written} later removes the files"
        if open_database(tracking_uri(store.history.workspace))
        else "`mlflow gc` on the server frees"
    )
    if old:
        removal = partial(_delete_runs, store, old)
        yield Leftover("MLflow runs", f"{why}; {then}", len(old), _run_room(store, old), removal, at_once=False)
    if young:
        said = f"nothing names them, but they are younger than {age.written}"
        yield Leftover("MLflow runs", said, len(young), _run_room(store, young), state="kept")


def _delete_runs(store: Store, runs: Iterable[Run]) -> None:
    """Mark as deleted, those of killed trainings closed first; what has come to be named since it was listed stays.

    Raises:
        BusyError: a stage has started meanwhile, which may go on with one of them.
    """
    with errors_in_one_line(store.history.workspace):
        again = store.afresh()
        for run in runs:
            if again.is_needed(run):
                continue
            if running := running_stages(store.history.workspace):
                raise BusyError(f"{running[0]} has started: wait for it to end, then run again")
            if run.info.status == "RUNNING":
                store.client.set_terminated(run.info.run_id, "KILLED")
            store.client.delete_run(run.info.run_id)


def _replaced(store: Store, age: Age) -> Iterator[Leftover]:
    """Models that an evaluation logged before it was done again."""
    served = {run.info.run_id: run.data.tags.get(SERVED_MODEL_TAG) for run in store.runs()}
    found = [
        model
        for model in store.models
        if served.get(str(model.source_run_id)) not in (None, model.model_id)
        and model.model_id not in store.registered_models
        and model.creation_timestamp / 1000 <= age.before
    ]
    if found:
        why = "their run was evaluated again since, and no registered version is made from them"
        removal = partial(_delete_models, store, found)
        yield Leftover(
            "MLflow models", why, len(found), _room(model.artifact_location for model in found), removal, at_once=False
        )


def _delete_models(store: Store, models: Iterable[LoggedModel]) -> None:
    with errors_in_one_line(store.history.workspace):
        for model in models:
            store.client.delete_logged_model(model.model_id)


def _deleted(store: Store, age: Age) -> Iterator[Leftover]:
    """Runs and models that have been marked as deleted for long enough."""
    database = open_database(tracking_uri(store.history.workspace))
    if database is None:
        return
    long_ago = set(database.deleted_runs(age.seconds))
    deleted = store.runs(deleted=True)
    candidates = [run for run in deleted if run.info.run_id in long_ago]
    runs = [run for run in candidates if not (store.is_named(run) or store.may_be_of_another_clone(run))]
    if runs:
        why = f"deleted at least {age.written} ago: rows and files go for good"
        removal = partial(_purge_runs, store, database, runs)
        yield Leftover("deleted MLflow runs", why, len(runs), _run_room(store, runs), removal)
    models = _deleted_models(store, database, {run.info.run_id for run in (*deleted, *store.runs())}, age)
    if models:
        why = f"deleted at least {age.written} ago: rows and files go for good"
        removal = partial(_purge_models, store, database, models)
        size = _room(model.artifact_location for model in models)
        yield Leftover("deleted MLflow models", why, len(models), size, removal)


def _deleted_models(store: Store, database: Database, own: set[str], age: Age) -> list[LoggedModel]:
    models = database.deleted_models(age.seconds)
    return [one for one in models if one.source_run_id in own and one.model_id not in store.registered_models]


def _purge_runs(store: Store, database: Database, runs: Iterable[Run]) -> None:
    """Files before rows, models before their run: what a kill leaves is still marked as deleted, and found again."""
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
        with suppress(OSError):  # other things lie in RUN, beside RUN/artifacts
            local.parent.rmdir()


def _run_room(store: Store, runs: Iterable[Run]) -> int | None:
    runs = list(runs)
    models = [model.artifact_location for run in runs for model in store.models_of(run.info.run_id)]
    return _room([*(run.info.artifact_uri for run in runs), *models])


def _room(addresses: Iterable[str]) -> int | None:
    """Bytes of artifacts on this machine; None where some lie elsewhere."""
    places = [_local(str(address)) for address in addresses]
    return None if None in places else room(place for place in places if place)


def _local(address: str) -> Path | None:
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path))
