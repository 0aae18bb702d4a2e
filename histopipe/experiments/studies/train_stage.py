"""The train_variant stage: the main run's training, with a variant's split and seed."""

from __future__ import annotations

from histopipe.core.params import Params
from histopipe.core.training_record import TrainingRecord
from histopipe.core.variants import parse_variant
from histopipe.core.workspace import TRAINING_RECORD, Workspace
from histopipe.experiments.studies.workspace import VariantWorkspace, keep_files, settled_params

MODEL_FILES = ("model.keras", TRAINING_RECORD, "history.csv")


def train_variant(dataset: str, architecture: str, name: str, params: Params, workspace: Workspace) -> TrainingRecord:
    """Train one variant, from where a killed one left off; its curves are in its MLflow run.

    Args:
        dataset: the data set's name.
        architecture: the recipe's name.
        name: the variant's, such as `fold-0`.
        params: of the main run.
        workspace: of the main run.

    Returns:
        The content of `run.json`.

    Raises:
        HistopipeError: the variant has no split, or whatever a training complains of.
    """
    from histopipe.training.stage import train

    study, variant = parse_variant(name)
    own = VariantWorkspace(workspace.root, study, architecture, variant)
    record = train(dataset, architecture, settled_params(dataset, params, own), own)
    keep_files(own.model(dataset, architecture), own.folder(dataset), MODEL_FILES)
    return record
