"""What a grading of new patches leaves in MLflow, beside the experiment of the trainings."""

from __future__ import annotations

from pathlib import Path

from histopipe.core.lineage import flow_run_tag
from histopipe.core.workspace import Workspace
from histopipe.inference.record import ScoreSummary
from histopipe.tracking.logging import active_run, log_file, log_metrics, set_tags
from histopipe.tracking.stores import errors_in_one_line, prepare_experiment

LOGGED_MAPS = 20  # of them all; the folder holds the rest
NOBODY = {"mlflow.user": "not told", "mlflow.source.name": "histopipe predict"}  # of a pseudonymised call


def log_score(dataset: str, summary: ScoreSummary, folder: Path, workspace: Workspace) -> str:
    """Log a grading into a run of the experiment `histopipe-D-scores`; returns the run's id.

    Args:
        dataset: the model's data set.
        summary: content of `summary.json`.
        folder: with the table of patches, that of cases, and the maps.
        workspace: whose tracking store is used.

    Raises:
        TrackingAwayError: MLflow can't be asked, or breaks off.
    """
    with errors_in_one_line(workspace):
        prepare_experiment(workspace, f"{dataset}-scores")
        hidden = NOBODY if summary["pseudonymised"] else None
        with active_run(name=folder.name, tags=hidden) as run_id:
            set_tags({"dataset": dataset, "model": summary["model"], **flow_run_tag()})
            aside = sum(reason["count"] for reason in summary["set_aside"].values())
            log_metrics({name: summary[name] for name in ("patches", "cases", "positive")} | {"set_aside": aside})
            for path in sorted(path for path in folder.glob("[!.]*") if path.is_file()):
                log_file(path)
            for picture in sorted(folder.glob("maps/*.png"))[:LOGGED_MAPS]:
                log_file(picture, "maps")
            return run_id
