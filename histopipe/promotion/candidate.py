"""The model that asks to become champion: the best by validation, with all that `promote` reads of it."""

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
from histopipe.networks.weights.behind import cases_seen, starts_from_unknown
from histopipe.reporting.comparison.evaluations import EvaluatedModel, read_evaluations
from histopipe.reporting.comparison.record import ModelRow
from histopipe.reporting.comparison.table import unranked_text
from histopipe.tracking.provenance import Provenance, data_of_training

CHOSEN_BY = "roc_auc"  # on validation


@dataclass(frozen=True)
class Candidate:
    """A trained and evaluated model.

    Attributes:
        metrics: content of `metrics.json`.
        record: content of the training's `run.json`: the cases it trained and validated on.
        point: content of `operating_point.json`.
        test: today's test patches: `patch_columns`, `probability`, `decision`, `digest` (of the pixels) and `row`
            (place in the store's index).
        made_from: the data of its training.
        graded: ids of the runs of all models that were graded on the same test cases for the comparison.
    """

    dataset: str
    architecture: str
    metrics: ModelRow
    record: TrainingRecord
    point: OperatingPoint
    test: pd.DataFrame
    made_from: Provenance
    graded: tuple[str, ...] = ()

    @property
    def training(self) -> str:
        """The run that trained it, in whatever tracking store that is."""
        return str(self.record["run_id"])

    @property
    def identity(self) -> str:
        """What tells a version from every other: the training, and calibration and threshold on top of it."""
        point = json.dumps(self.point, sort_keys=True).encode()
        return f"{self.training}-{hashlib.sha256(point).hexdigest()[:16]}"

    @property
    def seen(self) -> list[str]:
        """The cases that it, and what its weights come from, trained or validated on."""
        return cases_seen(self.record)[self.dataset]

    @property
    def leaky(self) -> Leaky:
        """Whether it was trained on cases it is tested on, by any of what says so; `unknown` where its weights' are."""
        behind = UNKNOWN if starts_from_unknown(self.record) else False
        scheme = self.record.get("split_scheme") == "random"
        return worst_state([self.metrics.get("leaky"), self.record.get("leaky"), scheme, behind])


def read_candidate(dataset: str, params: Params, workspace: Workspace) -> Candidate:
    """The best single architecture by validation among the evaluations that are up to date.

    Raises:
        PromotionError: there is none, or its training was repeated since.
    """
    evaluated, unranked = read_evaluations(dataset, params, workspace)
    if not evaluated:
        raise PromotionError(f"no architecture is evaluated on {dataset}: " + "; ".join(map(unranked_text, unranked)))
    graded = tuple(str(each.row["run_id"]) for each in evaluated if "run_id" in each.row)
    return replace(_read(dataset, best_by_validation(evaluated), workspace), graded=graded)


def read_twin(dataset: str, identity: str | None, params: Params, workspace: Workspace) -> Candidate | None:
    """The model of this checkout that a version of this identity was made from; None where it isn't here any more."""
    evaluated, _ = read_evaluations(dataset, params, workspace)
    for each in evaluated:
        try:
            candidate = _read(dataset, each, workspace)
        except HistopipeError:  # trained again since, or a file is missing: that isn't it
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
    """The model with the highest ROC AUC on validation; of equals the one listed first."""
    return max(evaluated, key=lambda each: each.row["validation"][CHOSEN_BY] or 0.0)


def _require_same_training(row: ModelRow, record: TrainingRecord, stage: str) -> None:
    """The digests are those of today's split and recipe already, see `read_evaluations`."""
    changed = [key for key in ("split_digest", "recipe_digest") if record.get(key) != row.get(key)]
    if changed or "train_cases" not in record:
        raise PromotionError(f"{row['architecture']} was trained again since it was evaluated: run `dvc repro {stage}`")


def _made_from(dataset: str, record: TrainingRecord, workspace: Workspace) -> Provenance:
    """As its training recorded it; of a training from before there was that, as it lies here."""
    try:
        return Provenance.from_json(record["data"] or {})
    except (KeyError, TypeError, ValueError, AttributeError):
        cases = cases_seen(record)[dataset]
        made_from = data_of_training(dataset, cases, read_index(workspace.store(dataset)), workspace)
        return replace(made_from, capped=bool(record.get("quick")))


def _test_patches(predictions: pd.DataFrame, store: Path) -> pd.DataFrame:
    """The test predictions with what the store knows of the patches."""
    index = read_index(store)[["file", "digest"]].assign(row=lambda table: np.arange(len(table)))
    columns = [*patch_columns(predictions), "probability", "decision"]
    return predictions.loc[predictions["split"] == "test", columns].merge(index, on="file", validate="one_to_one")
