"""The evaluate_variant stage: evaluate a variant's network on the variant's own test cases."""

from __future__ import annotations

from histopipe.core.params import Params
from histopipe.core.variants import parse_variant
from histopipe.core.workspace import Workspace
from histopipe.evaluation.record import METRICS_FILE, MetricsRecord
from histopipe.experiments.studies.workspace import TrainedVariant, apply_variant_settings, keep_files

EVALUATION_FILES = (METRICS_FILE, "predictions.parquet", "operating_point.json")


def evaluate_variant(dataset: str, architecture: str, name: str, params: Params, workspace: Workspace) -> MetricsRecord:
    """Evaluate one trained variant; its figures and tables are in its MLflow run.

    Args:
        dataset: name of the data set.
        architecture: name of the recipe.
        name: name of the variant, such as `fold-0`.
        params: parameters of the main run.
        workspace: workspace of the main run.

    Returns:
        The content of `metrics.json`.

    Raises:
        HistopipeError: the variant has no split, or its evaluation fails.
    """
    from histopipe.evaluation.stage import evaluate

    study, variant = parse_variant(name)
    own = TrainedVariant(workspace.root, study, architecture, variant)
    changed = with_limited_outputs(apply_variant_settings(dataset, params, own))
    metrics = evaluate(dataset, architecture, changed, own, explain=False)
    keep_files(own.evaluation(dataset, architecture), own.folder(dataset), EVALUATION_FILES)
    return metrics


def with_limited_outputs(params: Params) -> Params:
    """Limit the evaluated slides to those that the MLflow run logs, and leave out the symmetries."""
    from histopipe.evaluation.mlflow_run import LOGGED_SLIDES

    requested = params.evaluate.slides
    most = LOGGED_SLIDES if requested == "all" else min(requested, LOGGED_SLIDES)
    kept = {"slides": most, "symmetries": False}
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=kept)})
