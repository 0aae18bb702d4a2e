"""The logged model that a version is made from."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from histopipe.case_ids import are_known
from histopipe.errors import PromotionError
from histopipe.evaluation.mlflow_run import SERVED_MODEL_TAG
from histopipe.files import file_digest
from histopipe.monitoring.profiles import REFERENCE_FILE
from histopipe.paths import Workspace, stage_name
from histopipe.promotion.candidate import Candidate
from histopipe.serving.packaging import NETWORK_DIGEST_TAG
from histopipe.store import Patches, PatchStore, read_index
from histopipe.tracking import continued_run, known_run
from histopipe.weights.registered import copy_network

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

LOGGED_MODEL = "models:/m-"  # how the source of a version begins that was made from a logged model
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


def require_whole(version: ModelVersion, client: MlflowClient) -> None:
    """Check that a version's network is there and as it was logged: a champion that can't be loaded helps nobody.

    Raises:
        PromotionError: it is missing or damaged.
    """
    with TemporaryDirectory() as folder:
        try:
            file = copy_network(version, Path(folder))
        except OSError as problem:
            raise _broken(version, " ".join(str(problem).split())[:160]) from None
        if file is None:
            raise _broken(version, "it holds no Keras network")
        if _logged_digest(version, client) not in (None, file_digest(file)):
            raise _broken(version, "its bytes are not those that were logged")


def _logged_digest(version: ModelVersion, client: MlflowClient) -> str | None:
    """None for a version that wasn't made from a logged model, or from one without a digest."""
    source = str(version.source)
    if not source.startswith(LOGGED_MODEL):
        return None
    digest: str | None = client.get_logged_model(source.removeprefix("models:/")).tags.get(NETWORK_DIGEST_TAG)
    return digest


def _broken(version: ModelVersion, reason: str) -> PromotionError:
    return PromotionError(
        f"version {version.version} of {version.name} can't be served, its network is missing or damaged ({reason}): "
        f"restore the artifacts of its run {version.run_id}, or delete the version and evaluate again"
    )


def _log_from_files(candidate: Candidate, workspace: Workspace) -> str:
    from histopipe.evaluation.logits import load_network
    from histopipe.evaluation.mlflow_run import log_evaluation, log_files

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
        )
    return run_id


def _example(candidate: Candidate, workspace: Workspace) -> Patches:
    """The first patch of a validation case: the served model's input example must not come from test."""
    store = workspace.store(candidate.dataset)
    validation = are_known(read_index(store)["case_id"], candidate.record["validation_cases"])
    example: Patches = PatchStore.open(store).gather(np.flatnonzero(validation.to_numpy())[:1])[0]
    return example
