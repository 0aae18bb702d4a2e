"""The model that asks to become champion: the best by validation, with all that `promote` reads of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histopipe.comparison.evaluations import Evaluated, Row, read_evaluations
from histopipe.comparison.table import reason
from histopipe.errors import PromotionError
from histopipe.files import read_json
from histopipe.params import Params
from histopipe.paths import Workspace, stage_name
from histopipe.store import read_index
from histopipe.weights.registered import cases_seen

CHOSEN_BY = "roc_auc"  # on validation


@dataclass(frozen=True)
class Candidate:
    """A trained and evaluated model.

    Attributes:
        metrics: content of `metrics.json`.
        record: content of the training's `run.json`: the cases it trained and validated on.
        point: content of `operating_point.json`.
        test: today's test patches: columns `file,case_id,label,probability,decision,digest` (of the pixels) and `row`
            (place in the store's index).
    """

    dataset: str
    architecture: str
    metrics: Row
    record: dict[str, Any]
    point: dict[str, Any]
    test: pd.DataFrame

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
    def leaky(self) -> bool:
        """Whether its split shares cases, by any of what says so."""
        return bool(
            self.metrics.get("leaky") or self.record.get("leaky") or self.record.get("split_scheme") == "random"
        )


def read_candidate(dataset: str, params: Params, workspace: Workspace) -> Candidate:
    """The best single architecture by validation among the evaluations that are up to date.

    Raises:
        PromotionError: there is none, or its training was repeated since.
    """
    evaluated, unranked = read_evaluations(dataset, params, workspace)
    if not evaluated:
        raise PromotionError(f"no architecture is evaluated on {dataset}: " + "; ".join(map(reason, unranked)))
    best = best_by_validation(evaluated)
    name = best.row["architecture"]
    record = read_json(workspace.training_record(dataset, name))
    _require_same_training(best.row, record, stage_name("evaluate", dataset, name))
    point = read_json(workspace.evaluation(dataset, name) / "operating_point.json")
    test = _test_patches(best.predictions, workspace.store(dataset))
    return Candidate(dataset, name, best.row, record, point, test)


def best_by_validation(evaluated: Sequence[Evaluated]) -> Evaluated:
    """The model with the highest ROC AUC on validation; of equals the one listed first."""
    return max(evaluated, key=lambda each: each.row["validation"][CHOSEN_BY] or 0.0)


def _require_same_training(row: Row, record: dict[str, Any], stage: str) -> None:
    """The digests are those of today's split and recipe already, see `read_evaluations`."""
    changed = [key for key in ("split_digest", "recipe_digest") if record.get(key) != row.get(key)]
    if changed or "train_cases" not in record:
        raise PromotionError(f"{row['architecture']} was trained again since it was evaluated: run `dvc repro {stage}`")


def _test_patches(predictions: pd.DataFrame, store: Path) -> pd.DataFrame:
    """The test predictions with what the store knows of the patches."""
    index = read_index(store)[["file", "digest"]].assign(row=lambda table: np.arange(len(table)))
    columns = ["file", "case_id", "label", "probability", "decision"]
    return predictions.loc[predictions["split"] == "test", columns].merge(index, on="file", validate="one_to_one")
