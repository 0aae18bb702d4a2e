"""The logged model from which a version is registered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from histopipe.core.cases.ids import is_among
from histopipe.core.errors import PromotionError
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.store import Patches, PatchStore, read_index
from histopipe.evaluation.drift.profiles import REFERENCE_FILE
from histopipe.evaluation.record import SERVED_MODEL_TAG
from histopipe.networks.weights.intact import find_model_fault, find_version_fault
from histopipe.promotion.candidate import Candidate
from histopipe.tracking.problems import store_error
from histopipe.tracking.runs import continued_run, find_run_of_training

if TYPE_CHECKING:
    from histopipe.tracking.entities import MlflowClient, ModelVersion, Run

_POINT: tuple[Literal["threshold", "temperature", "offset"], ...] = ("threshold", "temperature", "offset")


def served_run(candidate: Candidate, client: MlflowClient, workspace: Workspace, repair: bool = False) -> Run:
    """Return the run in this tracking store that holds a candidate's served model, with its calibration and threshold.

    If there is none, because the evaluation came from another machine's cache or its logged files are gone, the model
    is logged again from the checkout's files.

    Args:
        candidate: the model.
        client: the tracking store's client.
        workspace: the checkout with its files.
        repair: log it again also if its logged files exist but are damaged.

    Raises:
        PromotionError: the evaluation belongs to another training than the one recorded here.
    """
    run_id = find_run_of_training(workspace, candidate.dataset, candidate.training)
    _require_own_evaluation(candidate, run_id, workspace)
    if run_id is not None:
        run = client.get_run(run_id)
        if _serves(run, candidate, client, repair):
            return run
    return client.get_run(_log_from_files(candidate, workspace))


def _require_own_evaluation(candidate: Candidate, run_id: str | None, workspace: Workspace) -> None:
    """Check that the evaluation is of the candidate's training: a repeated one has the same digests but another run."""
    evaluated = find_run_of_training(workspace, candidate.dataset, str(candidate.metrics["run_id"]))
    if evaluated is not None and evaluated != run_id:
        stage = stage_name("evaluate", candidate.dataset, candidate.architecture)
        raise PromotionError(
            f"{candidate.architecture} was trained again since it was evaluated: run `dvc repro {stage}`"
        )


def _serves(run: Run, candidate: Candidate, client: MlflowClient, intact: bool) -> bool:
    """Return whether the run's newest logged model exists and has the candidate's operating point.

    An evaluation may have been killed, and files may have been lost since. With `intact`, damaged files don't count.
    """
    try:
        model_id = run.data.tags[SERVED_MODEL_TAG]
        tags = client.get_logged_model(model_id).tags
    except KeyError:
        return False
    except store_error() as problem:
        if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    address = f"models:/{model_id}"
    if any(tags.get(name) != str(candidate.point[name]) for name in _POINT):
        return False
    fault = find_model_fault(address, address, client)
    return fault is None or (fault.damaged and not intact)


def require_intact(version: ModelVersion, client: MlflowClient) -> None:
    """Check that a version's files exist and are as they were logged, so that a champion can be loaded.

    Raises:
        PromotionError: the files are missing or damaged.
    """
    if fault := find_version_fault(version, client):
        raise PromotionError(
            f"version {version.version} of {version.name} can't be served: {fault}; restore them from a backup "
            f"(run {version.run_id}), or promote another model"
        )


def _log_from_files(candidate: Candidate, workspace: Workspace) -> str:
    from histopipe.evaluation.mlflow_run import log_evaluation, log_files
    from histopipe.networks.logits import load_network

    dataset, architecture = candidate.dataset, candidate.architecture
    folder = workspace.evaluation(dataset, architecture)
    network = load_network(workspace.model(dataset, architecture) / "model.keras")
    with continued_run(workspace, dataset, architecture, candidate.training) as run_id:
        log_files(folder)
        reference = folder / REFERENCE_FILE  # evaluations made before there were any have none
        log_evaluation(
            network,
            candidate.point,
            candidate.metrics,
            _example(candidate, workspace),
            reference if reference.exists() else None,
            candidate.made_from.as_json(),
        )
    return run_id


def _example(candidate: Candidate, workspace: Workspace) -> Patches:
    """Return the first patch of a validation case: the served model's input example must not come from test."""
    store = workspace.store(candidate.dataset)
    validation = is_among(read_index(store)["case_id"], candidate.record["validation_cases"])
    example: Patches = PatchStore.open(store).gather(np.flatnonzero(validation.to_numpy())[:1])[0]
    return example
