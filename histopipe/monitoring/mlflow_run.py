"""Logging of drift reports into MLflow, in an experiment separate from that of the trainings."""

from __future__ import annotations

from pathlib import Path

from histopipe.core.lineage import flow_run_tag
from histopipe.core.workspace import Workspace
from histopipe.monitoring.record import DriftSummary
from histopipe.tracking.logging import active_run, log_file, log_metrics, set_tags
from histopipe.tracking.stores import errors_in_one_line, prepare_experiment


def log_drift(dataset: str, summary: DriftSummary, folder: Path, workspace: Workspace) -> str:
    """Log a drift report into a run of the experiment `histopipe-DATASET-drift`.

    Args:
        dataset: the model's data set.
        summary: content of `drift.json`.
        folder: folder with the drift report.
        workspace: the workspace whose tracking store is used.

    Returns:
        The id of the run.

    Raises:
        TrackingUnreachableError: MLflow can't be reached, or fails.
    """
    with errors_in_one_line(workspace):
        prepare_experiment(workspace, f"{dataset}-drift")
        with active_run(name=folder.name) as run_id:
            tags = {"dataset": dataset, "model": summary["model"], "verdict": summary["verdict"]}
            set_tags(tags | flow_run_tag())
            for feature in summary["features"]:
                named = {name: feature[name] for name in ("distance", "chance", "new")}
                log_metrics({f"{feature['feature']}/{name}": value for name, value in named.items()})
            log_metrics({name: summary[name] for name in ("cases", "patches", "set_aside")})
            for path in sorted(path for path in folder.glob("[!.]*") if path.is_file()):
                log_file(path)
            return run_id
