"""The candidate for promotion: the best model by validation, with all that `promote` reads about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from histopipe.core.errors import HistopipeError, PromotionError
from histopipe.core.operating_point import OperatingPoint, read_operating_point
from histopipe.core.params import Params
from histopipe.core.training_record import TrainingRecord, read_training_record
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.leakage import UNKNOWN, Leaky, worst_state
from histopipe.data.store import read_index
from histopipe.evaluation.cases import patch_columns
from histopipe.networks.weights.seen_data import cases_seen, starts_from_unknown
from histopipe.reporting.comparison.evaluations import EvaluatedModel, read_evaluations
from histopipe.reporting.comparison.record import ModelRow
from histopipe.reporting.comparison.table import unranked_text
from histopipe.tracking.provenance import Provenance, data_of_training

CHOSEN_BY = "roc_auc"  # on validation


@dataclass(frozen=True)
class Candidate:
    """A trained and evaluated model.

    Attributes:
        dataset, architecture: names of the data set and of the recipe.
        metrics: content of `metrics.json`.
        record: content of the training's `run.json`: the cases it trained and validated on.
        point: the operating point, content of `operating_point.json`.
        test: the current test patches: `patch_columns`, `probability`, `decision`, `digest` (of the pixels) and `row`
            (position in the store's index).
        made_from: the data that it was trained on.
        compared_runs: ids of the runs of all models that the comparison evaluated on the same test cases.
    """

    dataset: str
    architecture: str
    metrics: ModelRow
    record: TrainingRecord
    point: OperatingPoint
    test: pd.DataFrame
    made_from: Provenance
    compared_runs: tuple[str, ...] = ()

    @property
    def training(self) -> str:
        """The id of the run that trained it, in whichever tracking store that is."""
        return str(self.record["run_id"])

    @property
    def identity(self) -> str:
        """An identifier of the model: its training's id, with a digest of its calibration and threshold."""
        point = json.dumps(self.point, sort_keys=True).encode()
        return f"{self.training}-{hashlib.sha256(point).hexdigest()[:16]}"

    @property
    def seen(self) -> list[str]:
        """The cases that this model, or a model that its weights come from, was trained or validated on."""
        return cases_seen(self.record)[self.dataset]

    @property
    def leaky(self) -> Leaky:
        """Return whether it was trained on its test cases; `unknown` if the cases behind its initial weights are.

        A split that divides patches instead of cases (`random`) counts as training on test cases.
        """
        behind = UNKNOWN if starts_from_unknown(self.record) else False
        scheme = self.record.get("split_scheme") == "random"
        return worst_state([self.metrics.get("leaky"), self.record.get("leaky"), scheme, behind])


def read_candidate(dataset: str, params: Params, workspace: Workspace) -> Candidate:
    """Read the best single model by validation among the evaluations that are up to date.

    Raises:
        PromotionError: no evaluation is up to date, or the best model has been trained again since it was evaluated.
    """
    evaluated, unranked = read_evaluations(dataset, params, workspace)
    if not evaluated:
        raise PromotionError(f"no architecture is evaluated on {dataset}: " + "; ".join(map(unranked_text, unranked)))
    runs = tuple(str(evaluation.row["run_id"]) for evaluation in evaluated if "run_id" in evaluation.row)
    return replace(_read(dataset, best_by_validation(evaluated), workspace), compared_runs=runs)


def find_source_model(dataset: str, identity: str | None, params: Params, workspace: Workspace) -> Candidate | None:
    """Find the model in this checkout whose `identity` this is; None if there is none any more."""
    evaluated, _ = read_evaluations(dataset, params, workspace)
    for evaluation in evaluated:
        try:
            candidate = _read(dataset, evaluation, workspace)
        except HistopipeError:  # trained again since, or a file is missing: it isn't this one
            continue
        if candidate.identity == identity:
            return candidate
    return None


def _read(dataset: str, evaluated: EvaluatedModel, workspace: Workspace) -> Candidate:
    name = evaluated.row["architecture"]
    record = read_training_record(workspace.training_record(dataset, name))
    _require_same_training(evaluated.row, record, stage_name("evaluate", dataset, name))
    point = read_operating_point(workspace.evaluation(dataset, name))
    test = _test_patches(evaluated.predictions, workspace.store(dataset))
    return Candidate(dataset, name, evaluated.row, record, point, test, _made_from(dataset, record, workspace))


def best_by_validation(evaluated: Sequence[EvaluatedModel]) -> EvaluatedModel:
    """Return the model with the highest ROC AUC on validation; of equal ones the first."""
    return max(evaluated, key=lambda evaluation: evaluation.row["validation"][CHOSEN_BY] or 0.0)


def _require_same_training(row: ModelRow, record: TrainingRecord, stage: str) -> None:
    """Check that the evaluated training is the one recorded here; `read_evaluations` has checked split and recipe."""
    changed = [key for key in ("split_digest", "recipe_digest") if record.get(key) != row.get(key)]
    if changed or "train_cases" not in record:
        raise PromotionError(f"{row['architecture']} was trained again since it was evaluated: run `dvc repro {stage}`")


def _made_from(dataset: str, record: TrainingRecord, workspace: Workspace) -> Provenance:
    """Return the data that a training recorded; of older trainings, which recorded none, the data of this checkout."""
    try:
        return Provenance.from_json(record["data"] or {})
    except (KeyError, TypeError, ValueError, AttributeError):
        cases = cases_seen(record)[dataset]
        made_from = data_of_training(dataset, cases, read_index(workspace.store(dataset)), workspace)
        return replace(made_from, capped=bool(record.get("quick")))


def _test_patches(predictions: pd.DataFrame, store: Path) -> pd.DataFrame:
    """Return the test predictions, joined with the digests and rows of the store's index."""
    index = read_index(store)[["file", "digest"]].assign(row=lambda table: np.arange(len(table)))
    columns = [*patch_columns(predictions), "probability", "decision"]
    return predictions.loc[predictions["split"] == "test", columns].merge(index, on="file", validate="one_to_one")
