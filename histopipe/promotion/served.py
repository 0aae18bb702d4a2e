"""The logged model that a version is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histopipe.errors import PromotionError
from histopipe.evaluation.mlflow_run import SERVED_MODEL_TAG
from histopipe.paths import Workspace, stage_name
from histopipe.promotion.candidate import Candidate
from histopipe.store import Patches, PatchStore, read_index
from histopipe.tracking import continued_run, known_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_POINT = ("threshold", "temperature", "offset")


def served_run(candidate: Candidate, client: MlflowClient, workspace: Workspace) -> Run:
    """The run here that holds a candidate's served model, with its calibration and threshold.

    Where there is none, since the evaluation came from another machine's cache, it is logged from the files.

    Raises:
        PromotionError: the evaluation was made from another training than the one whose record lies here.
    """
    run_id = known_run(workspace, candidate.dataset, candidate.training)
    _require_own_evaluation(candidate, run_id, workspace)
    if run_id is not None:
        run = client.get_run(run_id)
        if _serves(run, candidate, client):
            return run
    return client.get_run(_log_from_files(candidate, workspace))


def _require_own_evaluation(candidate: Candidate, run_id: str | None, workspace: Workspace) -> None:
    """A repeated training has the same digests, but another run."""
    evaluated = known_run(workspace, candidate.dataset, str(candidate.metrics["run_id"]))
    if evaluated is not None and evaluated != run_id:
        stage = stage_name("evaluate", candidate.dataset, candidate.architecture)
        raise PromotionError(
            f"{candidate.architecture} was trained again since it was evaluated: run `dvc repro {stage}`"
        )


def _serves(run: Run, candidate: Candidate, client: MlflowClient) -> bool:
    """Whether the run's newest logged model has the candidate's operating point: an evaluation may have been killed."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_logged_model(run.data.tags[SERVED_MODEL_TAG]).tags
    except KeyError:
        return False
    except MlflowException as problem:
        if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return all(tags.get(name) == str(candidate.point[name]) for name in _POINT)


def _log_from_files(candidate: Candidate, workspace: Workspace) -> str:
    from histopipe.evaluation.logits import load_network
    from histopipe.evaluation.mlflow_run import log_evaluation, log_files

    dataset, architecture = candidate.dataset, candidate.architecture
    folder = workspace.evaluation(dataset, architecture)
    network = load_network(workspace.model(dataset, architecture) / "model.keras")
    with continued_run(workspace, dataset, architecture, candidate.training) as run_id:
        log_files(folder)
        log_evaluation(network, candidate.point, candidate.metrics, _example(candidate, workspace))
    return run_id


def _example(candidate: Candidate, workspace: Workspace) -> Patches:
    """The first patch of a validation case: the served model's input example must not come from test."""
    store = workspace.store(candidate.dataset)
    validation = read_index(store)["case_id"].isin(candidate.record["validation_cases"])
    example: Patches = PatchStore.open(store).gather(np.flatnonzero(validation.to_numpy())[:1])[0]
    return example
