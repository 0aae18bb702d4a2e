"""The MLflow run of a study's summary: one per study, next to those of its variants."""

from __future__ import annotations

from pathlib import Path

from histopipe.core.lineage import checkout_name, lineage_tags
from histopipe.core.workspace import Workspace
from histopipe.tracking.logging import active_run, log_file, set_tags
from histopipe.tracking.runs import find_run
from histopipe.tracking.stores import errors_in_one_line, prepare_experiment

SUMMARY = "summary"  # value of the tag `variant`, and the artifacts' folder
PICTURE_AND_TABLES = ("summary.json", "summary.md", "summary.png")


def log_summary(study: str, dataset: str, folder: Path, workspace: Workspace) -> str:
    """Log a study's summary into its own run, the same one each time; return its id.

    Args:
        study: `folds`, `seeds`, `schemes` or `sizes`.
        dataset: name of the data set.
        folder: folder of the summary's files.
        workspace: workspace of the tracking store.

    Raises:
        TrackingUnreachableError: MLflow can't be reached, or the connection breaks.
    """
    tags = {
        "dataset": dataset,
        "study": study,  # separates it, like the variants, from main runs
        "variant": SUMMARY,
        "checkout": checkout_name(workspace),
    }
    with errors_in_one_line(workspace):
        existing = find_run(prepare_experiment(workspace, dataset), tags)
        # the tags are set as the run is created: else a kill could leave a run that looks like a main run
        with active_run(run_id=existing) if existing else active_run(name=f"{study} {SUMMARY}", tags=tags) as run_id:
            set_tags({**lineage_tags(workspace, dataset), **tags})
            for name in PICTURE_AND_TABLES:
                log_file(folder / name, SUMMARY)
            return run_id
