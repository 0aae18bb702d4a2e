"""Read the outputs of a study's variants, and refuse those that don't belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from histopipe.core.errors import EvaluationError
from histopipe.core.params import Params
from histopipe.core.stages.inputs import is_up_to_date, rerun_command
from histopipe.core.training_record import CopiedTrainingFields, read_training_record
from histopipe.core.variants import KINDS, Study, VariantValue
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.splitting.stage import as_csv
from histopipe.evaluation.metrics import Predictions
from histopipe.evaluation.predictions import predictions_of, read_predictions
from histopipe.evaluation.record import METRICS_FILE, MetricsRecord, read_metrics
from histopipe.experiments.studies.definition import variant_params, variant_split
from histopipe.experiments.studies.workspace import VariantWorkspace
from histopipe.networks.weights.record import weights_digest
from histopipe.training.recipe import recipe_digest


@dataclass(frozen=True)
class Variant:
    """A variant that is up to date.

    Attributes:
        name: its fold, seed, scheme or number of training cases.
        folder: folder of its files.
        metrics: content of `metrics.json`.
    """

    name: VariantValue
    folder: Path
    metrics: MetricsRecord

    @cached_property
    def tested(self) -> Predictions:
        """The predictions on the test patches.

        Raises:
            EvaluationError: the table can't be read.
        """
        return predictions_of(read_predictions(self.folder / "predictions.parquet"), "test")


def split_digests(study: Study, dataset: str, params: Params, workspace: Workspace) -> dict[VariantValue, str]:
    """Compute the digest of the split file that each variant must have been made with.

    Raises:
        HistopipeError: the cases can't be divided that way.
    """
    listed = params.studies.listed(study)
    texts = {variant: as_csv(variant_split(study, dataset, variant, params, workspace)) for variant in listed}
    return {variant: hashlib.sha256(text.encode()).hexdigest() for variant, text in texts.items()}


def read_variant(
    study: Study,
    dataset: str,
    architecture: str,
    variant: VariantValue,
    split: str,
    params: Params,
    workspace: Workspace,
) -> Variant:
    """Read one variant, if it was made with today's recipe, parameters and split (given by its digest).

    Raises:
        EvaluationError: the variant is missing or out of date.
    """
    own = VariantWorkspace(workspace.root, study, architecture, variant)
    folder, stage = own.folder(dataset), stage_name("evaluate_variant", dataset, architecture, own.name)
    if not (folder / METRICS_FILE).is_file():
        raise EvaluationError(f"{KINDS[study]} {variant}: not trained, run `dvc repro {stage}`")
    metrics = read_metrics(folder)
    weights = weights_digest(architecture, params, workspace)
    recipe = recipe_digest(variant_params(study, variant, params), architecture, weights)
    today = {"split": ("split_digest", split), "recipe": ("recipe_digest", recipe)}
    changed = [name for name, (key, digest) in today.items() if metrics.get(key) != digest]
    if changed:
        raise EvaluationError(
            f"{KINDS[study]} {variant}: the {' and the '.join(changed)} changed since: "
            f"run `{_remedy(own, dataset, dict(today.values()), workspace)}`"
        )
    return Variant(variant, folder, metrics)


def _remedy(own: VariantWorkspace, dataset: str, today: Mapping[str, str], workspace: Workspace) -> str:
    """Return the command that updates a variant: all of it, or its evaluation alone where its training is current."""
    evaluation = stage_name("evaluate_variant", dataset, own.architecture, own.name)
    record_file = own.training_record(dataset, own.architecture)
    record: CopiedTrainingFields = read_training_record(record_file) if record_file.is_file() else {}
    if all(record.get(key) == digest for key, digest in today.items()):
        return rerun_command(evaluation, workspace)
    training = own.training_stage(dataset, own.architecture)
    return rerun_command(training, workspace) if is_up_to_date(training, workspace) else f"dvc repro {evaluation}"
