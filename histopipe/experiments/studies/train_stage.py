"""The train_variant stage: the main run's training, with a variant's split and seed."""

from __future__ import annotations

from histopipe.core.params import Params
from histopipe.core.training_record import TrainingRecord
from histopipe.core.variants import parse_variant
from histopipe.core.workspace import TRAINING_RECORD, Workspace
from histopipe.experiments.studies.workspace import VariantWorkspace, apply_variant_settings, keep_files

MODEL_FILES = ("model.keras", TRAINING_RECORD, "history.csv")


def train_variant(dataset: str, architecture: str, name: str, params: Params, workspace: Workspace) -> TrainingRecord:
    """Train one variant, resuming where a killed one stopped; its curves are in its MLflow run.

    Args:
        dataset: name of the data set.
        architecture: name of the recipe.
        name: name of the variant, such as `fold-0`.
        params: parameters of the main run.
        workspace: workspace of the main run.

    Returns:
        The content of `run.json`.

    Raises:
        HistopipeError: the variant has no split, or its training fails.
    """
    from histopipe.training.stage import train

    study, variant = parse_variant(name)
    own = VariantWorkspace(workspace.root, study, architecture, variant)
    record = train(dataset, architecture, apply_variant_settings(dataset, params, own), own)
    keep_files(own.model(dataset, architecture), own.folder(dataset), MODEL_FILES)
    return record
