"""Logging of predictions to MLflow, in an experiment separate from that of the trainings."""

from __future__ import annotations

from pathlib import Path

from histopipe.core.lineage import flow_run_tag
from histopipe.core.workspace import Workspace
from histopipe.inference.record import PredictionSummary
from histopipe.tracking.logging import active_run, log_file, log_metrics, set_tags
from histopipe.tracking.stores import errors_in_one_line, prepare_experiment

LOGGED_MAPS = 20  # at most; the folder holds all
ANONYMOUS = {"mlflow.user": "not recorded", "mlflow.source.name": "histopipe predict"}  # tags of a pseudonymised call


def log_predictions(dataset: str, summary: PredictionSummary, folder: Path, workspace: Workspace) -> str:
    """Log predictions into a run of the experiment `histopipe-DATASET-scores`; return the run's id.

    Args:
        dataset: the model's data set.
        summary: content of `summary.json`.
        folder: the folder with the table of patches, the table of cases, and the maps.
        workspace: the checkout with the settings of the tracking store.

    Raises:
        TrackingUnreachableError: MLflow can't be reached, or the connection breaks.
    """
    with errors_in_one_line(workspace):
        prepare_experiment(workspace, f"{dataset}-scores")
        hidden = ANONYMOUS if summary["pseudonymised"] else None
        with active_run(name=folder.name, tags=hidden) as run_id:
            set_tags({"dataset": dataset, "model": summary["model"], **flow_run_tag()})
            aside = sum(reason["count"] for reason in summary["set_aside"].values())
            log_metrics({name: summary[name] for name in ("patches", "cases", "positive")} | {"set_aside": aside})
            for path in sorted(path for path in folder.glob("[!.]*") if path.is_file()):
                log_file(path)
            for picture in sorted(folder.glob("maps/*.png"))[:LOGGED_MAPS]:
                log_file(picture, "maps")
            return run_id
