"""The fold, seed, scheme and size stages: the main run's training and evaluation, with another split or seed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from histopipe.core.files import replaced_folder, write_text
from histopipe.core.params import Params
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.stage import as_csv
from histopipe.experiments.studies.definition import variant_params, variant_split
from histopipe.experiments.studies.workspace import STAGES, VariantName, VariantWorkspace

MODEL_FILES = ("model.keras", "run.json", "history.csv")
EVALUATION_FILES = ("metrics.json", "predictions.parquet", "operating_point.json")


def run_variant(
    study: str, dataset: str, architecture: str, variant: VariantName, params: Params, workspace: Workspace
) -> dict[str, Any]:
    """Train and evaluate one variant, from where a killed one left off, into `studies/STUDY/D/A/VARIANT/`.

    Returns:
        The content of `metrics.json`.

    Raises:
        HistopipeError: there is no such fold, or whatever a split, a training or an evaluation complains of.
    """
    from histopipe.evaluation.stage import evaluate
    from histopipe.training import train

    own = VariantWorkspace(workspace.root, study, architecture, variant)
    changed = _with_what_is_kept(variant_params(study, variant, params))
    write_text(own.split(dataset), as_csv(variant_split(study, dataset, variant, params, workspace)))
    train(dataset, architecture, changed, own)
    metrics = evaluate(dataset, architecture, changed, own, explained=False)
    _put_together(
        STAGES[study], own.folder(dataset), own.model(dataset, architecture), own.evaluation(dataset, architecture)
    )
    return metrics


def _with_what_is_kept(params: Params) -> Params:
    """Of the slides only those that the MLflow run holds, and no further rows: nothing else of them is kept."""
    from histopipe.evaluation.mlflow_run import LOGGED_SLIDES

    asked = params.evaluate.slides
    most = LOGGED_SLIDES if asked == "all" else min(asked, LOGGED_SLIDES)
    kept = {"slides": most, "symmetries": False}
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=kept)})


def _put_together(stage: str, folder: Path, model: Path, evaluation: Path) -> None:
    """Gather what is kept of a variant; its curves and pictures are in its MLflow run."""
    with replaced_folder(folder, stage_check(stage)) as beside:
        shutil.copy2(folder / "split.csv", beside)
        for origin, names in ((model, MODEL_FILES), (evaluation, EVALUATION_FILES)):
            for name in names:
                shutil.copy2(origin / name, beside)
        require_unchanged_inputs()
    for origin in (model, evaluation):
        shutil.rmtree(origin, ignore_errors=True)
