"""The origin of an exported model: its run, its registered version and the cases that it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histopipe.core.errors import ExportError, HistopipeError
from histopipe.core.training_record import read_training_record
from histopipe.core.workspace import Workspace, stage_name
from histopipe.evaluation.record import METRICS_FILE, SERVED_MODEL_TAG, read_metrics
from histopipe.export.record import ModelFacts
from histopipe.inference.model import ServedModel
from histopipe.networks.weights.registered import cases_seen_by_version
from histopipe.networks.weights.seen_data import cases_seen
from histopipe.tracking.runs import find_run_of_training, run_exists
from histopipe.tracking.stores import errors_in_one_line, open_client

if TYPE_CHECKING:
    from histopipe.tracking.entities import MlflowClient, ModelVersion, Run


@dataclass(frozen=True)
class Origin:
    """The origin of a served model; each attribute is None if the tracking store doesn't have it.

    Attributes:
        run: the run that logged it.
        version: its registered version.
        seen: ids of cases that it was trained or validated on.
    """

    run: Run | None
    version: ModelVersion | None
    seen: list[str] | None

    def facts(self, served: ServedModel) -> ModelFacts:
        """Describe the model for the exported file; unknown entries are left out."""
        tags = self.run.data.tags if self.run else {}
        facts: ModelFacts = {"model": self.version.name if self.version else served.name}
        if self.version:
            facts["version"] = str(self.version.version)
        facts["architecture"] = tags.get("architecture", served.network.name)
        if self.run:
            facts["run_id"] = self.run.info.run_id
        if commit := tags.get("git_commit"):
            facts["git_commit"] = commit
        return facts


def logged_model_address(dataset: str, architecture: str, workspace: Workspace) -> str:
    """Return the address of the model that the evaluation of a recipe logged.

    Raises:
        ExportError: there is no evaluation here, or its run isn't in this tracking store.
        TrackingUnreachableError: the tracking store can't be reached.
    """
    folder = workspace.evaluation(dataset, architecture)
    path = folder / METRICS_FILE
    remedy = f"run `dvc repro {stage_name('evaluate', dataset, architecture)}`"
    if not path.is_file():
        raise ExportError(f"{path} is missing, so there is no model of {architecture}: {remedy}")
    with errors_in_one_line(workspace):
        run_id = find_run_of_training(workspace, dataset, str(read_metrics(folder)["run_id"]))
        run = open_client(workspace).get_run(run_id) if run_id else None
    if run is None or SERVED_MODEL_TAG not in run.data.tags:
        raise ExportError(f"{path} was made under another tracking store, which has its model: {remedy}")
    return f"models:/{run.data.tags[SERVED_MODEL_TAG]}"


def find_origin(served: ServedModel, dataset: str, workspace: Workspace) -> Origin:
    """Look up a model's origin in the tracking store.

    Raises:
        TrackingUnreachableError: the tracking store can't be reached.
    """
    run_id, model_id = served.logged.get("run_id"), served.logged.get("model_id")
    with errors_in_one_line(workspace):
        client = open_client(workspace)
        if not run_id or not run_exists(run_id):
            return Origin(None, None, None)
        run, version = client.get_run(run_id), _version(client, run_id, model_id)
        seen = cases_seen_by_version(version, client).get(dataset) if version else None
    return Origin(run, version, seen or _seen_here(run, dataset, workspace))


def _version(client: MlflowClient, run_id: str, model_id: str | None) -> ModelVersion | None:
    """Find the newest registered version of a logged model."""
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    own = [version for version in versions if str(version.source) == f"models:/{model_id}"]
    return max(own, key=lambda version: int(version.version), default=None)


def _seen_here(run: Run, dataset: str, workspace: Workspace) -> list[str] | None:
    """Return the cases that this checkout's training record lists; None if it is of another run."""
    try:
        record = read_training_record(workspace.training_record(dataset, run.data.tags.get("architecture", "")))
        own = record["run_id"] in (run.info.run_id, run.data.tags.get("restored_from"))
        return cases_seen(record)[dataset] if own else None
    except (HistopipeError, OSError, KeyError):
        return None
