"""The MLflow run of a search: the parent of its trials' runs, which records the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from histopipe.core.lineage import lineage_tags
from histopipe.data.leakage import leaky_tags
from histopipe.experiments.search.study import Search, study_lock
from histopipe.tracking.runs import find_runs
from histopipe.tracking.stores import current_client, prepare_experiment

if TYPE_CHECKING:
    from histopipe.tracking.entities import Run


def parent_run(search: Search) -> str:
    """Return the id of the search's run, which its first trial creates."""
    experiment = prepare_experiment(search.workspace, search.dataset)
    tags = {
        "dataset": search.dataset,
        "architecture": search.architecture,
        "study": "search",  # separates it, like its trials, from main runs
        "variant": search.study.study_name,
    }
    with study_lock(search.workspace):
        runs = _runs(experiment, {key: tags[key] for key in ("study", "variant")})
        if runs:
            return str(runs[0].info.run_id)
        tags |= {"quick": "true"} if search.training.capped else {}
        tags |= leaky_tags(search.training.leaky)
        tags |= {"unlisted_train": "true"} if search.params.split.adds_unlisted else {}
        tags |= lineage_tags(search.workspace, search.dataset)
        run = current_client().create_run(experiment, run_name=search.title, tags=tags)
        for key, value_range in search.searched.items():
            shown = value_range.model_dump(exclude_defaults=True)
            current_client().log_param(
                run.info.run_id, f"search.{key}", ", ".join(f"{k} {v}" for k, v in shown.items())
            )
        return str(run.info.run_id)


def trial_runs(search: Search, parent: str) -> dict[int, str]:
    """Return the run id of each trial; the latest one where a trial had several."""
    experiment = prepare_experiment(search.workspace, search.dataset)
    runs = reversed(_runs(experiment, {"mlflow.parentRunId": parent}))  # they are listed newest first
    return {int(run.data.tags["trial"]): str(run.info.run_id) for run in runs if "trial" in run.data.tags}


def close_pruned(run_id: str) -> None:
    """End a pruned trial's run as finished, with a tag."""
    current_client().set_tag(run_id, "pruned", "true")
    current_client().set_terminated(run_id, "FINISHED")


def close_failed(search: Search, parent: str, number: int, reason: str) -> None:
    """End a failed trial's run, with the reason as a tag."""
    run_id = trial_runs(search, parent).get(number)
    if run_id:
        current_client().set_tag(run_id, "failure", reason)
        current_client().set_terminated(run_id, "FAILED")


def log_result(parent: str, best: Mapping[str, object], metrics: Mapping[str, float], folder: Path) -> None:
    """Log the best trial, the counts, and the search's files; further trials may change all of them.

    Args:
        parent: id of the search's run.
        best: run and values of the best trial.
        metrics: metric of the best trial, and numbers of trials by state.
        folder: folder whose files become artifacts.
    """
    for name, value in best.items():
        current_client().set_tag(parent, f"best.{name}", str(value))
    for name, value in metrics.items():
        current_client().log_metric(parent, name, value)
    for path in sorted(folder.iterdir()):
        current_client().log_artifact(parent, str(path), "search")
    current_client().set_terminated(parent, "FINISHED")


def _runs(experiment: str, tags: Mapping[str, str]) -> list[Run]:
    return find_runs([experiment], tags)
