"""The logged model that a version is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from histopipe.core.cases.ids import are_known
from histopipe.core.errors import PromotionError
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.store import Patches, PatchStore, read_index
from histopipe.evaluation.drift.profiles import REFERENCE_FILE
from histopipe.evaluation.mlflow_run import SERVED_MODEL_TAG
from histopipe.networks.weights.intact import find_model_fault, find_version_fault
from histopipe.promotion.candidate import Candidate
from histopipe.tracking.problems import store_error
from histopipe.tracking.runs import continued_run, find_run_of_training

if TYPE_CHECKING:
    from histopipe.tracking.entities import MlflowClient, ModelVersion, Run

_POINT: tuple[Literal["threshold", "temperature", "offset"], ...] = ("threshold", "temperature", "offset")


def served_run(candidate: Candidate, client: MlflowClient, workspace: Workspace, anew: bool = False) -> Run:
    """The run here that holds a candidate's served model, with its calibration and threshold.

    Where there is none, since the evaluation came from another machine's cache or its files are gone, it is logged from
    the files here.

    Args:
        candidate: the model.
        client: of the tracking store.
        workspace: where its files lie.
        anew: also where its logged files are there, but damaged.

    Raises:
        PromotionError: the evaluation was made from another training than the one whose record lies here.
    """
    run_id = find_run_of_training(workspace, candidate.dataset, candidate.training)
    _require_own_evaluation(candidate, run_id, workspace)
    if run_id is not None:
        run = client.get_run(run_id)
        if _serves(run, candidate, client, anew):
            return run
    return client.get_run(_log_from_files(candidate, workspace))


def _require_own_evaluation(candidate: Candidate, run_id: str | None, workspace: Workspace) -> None:
    """A repeated training has the same digests, but another run."""
    evaluated = find_run_of_training(workspace, candidate.dataset, str(candidate.metrics["run_id"]))
    if evaluated is not None and evaluated != run_id:
        stage = stage_name("evaluate", candidate.dataset, candidate.architecture)
        raise PromotionError(
            f"{candidate.architecture} was trained again since it was evaluated: run `dvc repro {stage}`"
        )


def _serves(run: Run, candidate: Candidate, client: MlflowClient, whole: bool) -> bool:
    """Whether the run's newest logged model is there, or even `whole`, and has the candidate's operating point.

    An evaluation may have been killed, and files may have been lost since.
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
    return fault is None or (fault.damaged and not whole)


def require_whole(version: ModelVersion, client: MlflowClient) -> None:
    """Check that a version's files are there and as they were logged: a champion that can't be loaded helps nobody.

    Raises:
        PromotionError: they are missing or damaged.
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
    """The first patch of a validation case: the served model's input example must not come from test."""
    store = workspace.store(candidate.dataset)
    validation = are_known(read_index(store)["case_id"], candidate.record["validation_cases"])
    example: Patches = PatchStore.open(store).gather(np.flatnonzero(validation.to_numpy())[:1])[0]
    return example
