"""The evaluate_variant stage: a variant's network graded on the variant's own test cases."""

from __future__ import annotations

from histopipe.core.params import Params
from histopipe.core.variants import parse_variant
from histopipe.core.workspace import Workspace
from histopipe.evaluation.record import METRICS_FILE, MetricsRecord
from histopipe.experiments.studies.workspace import TrainedVariant, keep_files, settled_params

EVALUATION_FILES = (METRICS_FILE, "predictions.parquet", "operating_point.json")


def evaluate_variant(dataset: str, architecture: str, name: str, params: Params, workspace: Workspace) -> MetricsRecord:
    """Grade one trained variant; its pictures and tables are in its MLflow run.

    Args:
        dataset: the data set's name.
        architecture: the recipe's name.
        name: the variant's, such as `fold-0`.
        params: of the main run.
        workspace: of the main run.

    Returns:
        The content of `metrics.json`.

    Raises:
        HistopipeError: the variant has no split, or whatever an evaluation complains of.
    """
    from histopipe.evaluation.stage import evaluate

    study, variant = parse_variant(name)
    own = TrainedVariant(workspace.root, study, architecture, variant)
    changed = with_what_is_kept(settled_params(dataset, params, own))
    metrics = evaluate(dataset, architecture, changed, own, explained=False)
    keep_files(own.evaluation(dataset, architecture), own.folder(dataset), EVALUATION_FILES)
    return metrics


def with_what_is_kept(params: Params) -> Params:
    """Of the slides only those that the MLflow run holds, and no further rows: nothing else of them is kept."""
    from histopipe.evaluation.mlflow_run import LOGGED_SLIDES

    asked = params.evaluate.slides
    most = LOGGED_SLIDES if asked == "all" else min(asked, LOGGED_SLIDES)
    kept = {"slides": most, "symmetries": False}
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=kept)})
