"""The MLflow run of a study's summary: one per study, beside those of its variants."""

from __future__ import annotations

from pathlib import Path

from histopipe.core.lineage import checkout_name, lineage_tags
from histopipe.core.workspace import Workspace
from histopipe.tracking.logging import active_run, log_file, set_tags
from histopipe.tracking.runs import find_run
from histopipe.tracking.stores import errors_in_one_line, prepare_experiment

SUMMARY = "summary"  # as the variant, and as the artifacts' folder
PICTURE_AND_TABLES = ("summary.json", "summary.md", "summary.png")


def log_summary(study: str, dataset: str, folder: Path, workspace: Workspace) -> str:
    """Log a study's summary into a run of its own, the same one each time; returns its id.

    Args:
        study: `folds`, `seeds`, `schemes` or `sizes`.
        dataset: the data set's name.
        folder: where the summary's files are.
        workspace: says where the tracking store is.

    Raises:
        TrackingAwayError: MLflow can't be asked, or breaks off.
    """
    tags = {
        "dataset": dataset,
        "study": study,  # keeps it, like the variants, apart from main runs
        "variant": SUMMARY,
        "checkout": checkout_name(workspace),
    }
    with errors_in_one_line(workspace):
        known = find_run(prepare_experiment(workspace, dataset), tags)
        # the tags go in with the run itself: without, a kill between would leave what looks like a main run
        with active_run(run_id=known) if known else active_run(name=f"{study} {SUMMARY}", tags=tags) as run_id:
            set_tags({**lineage_tags(workspace, dataset), **tags})
            for name in PICTURE_AND_TABLES:
                log_file(folder / name, SUMMARY)
            return run_id
